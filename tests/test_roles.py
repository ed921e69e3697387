"Who takes part: an object that has what is asked for and nothing else serves as any other; what it leaves unsaid is said in one place"
from copy import copy
from dataclasses import dataclass

import pytest
import torch
from families import build
from specdec_nb import ContrastiveSearch, Draft, Engine, Keyed, Law, Llama, Stop, TableLM, Trace, generate, verify_walk
from specdec_nb.decode import Request, decode, serve
from specdec_nb.decoding.beams import Beams, BeamSearch
from specdec_nb.decoding.contrastive import Contrastive
from specdec_nb.decoding.samples import samples
from specdec_nb.models.maps import why_not_native
from specdec_nb.models.native import Native
from specdec_nb.phrases.price import cost_of
from specdec_nb.roles import BaseTarget, Drafter, as_target, introduce, make_drafter
from specdec_nb.sampling import Asks, RepetitionPenalty
from specdec_nb.trees.lossy import verify_typical
from specdec_nb.verify import said_of

LM = TableLM.random(4, 2, 3)


class Text:
    "A state of no class of ours, with what the protocol asks for"
    def __init__(self, tokens): self.tokens, self.unread, self.draft = list(tokens), (), Draft()
    length = property(lambda self: len(self.tokens) - 1)
    position = property(lambda self: len(self.tokens))
    def keep(self, verdict): self.tokens += verdict.tokens
    def follow(self, tokens): self.tokens = list(tokens)
    def rewind(self, length): del self.tokens[length:]
    def fork(self): return Text(self.tokens)
    def retain(self, nodes): return [Text(self.tokens + [self.draft.tokens[j] for j in self.draft.path(i)]) for i in nodes]


@dataclass(frozen=True)
class Bare:
    "A target of no class of ours: it cannot even be told anything"
    lm: TableLM
    vocab_size = 4
    def open(self, prompt, asks=Asks()): return Text(prompt)
    def score(self, pairs):
        for state, draft in pairs: state.draft = draft
        return [as_target(self.lm)._rows(state, draft) for state, draft in pairs]


class Bold(Bare): branches, decides, window, max_nodes = False, True, 12, 2


def tokens(target, drafter="none", n=9, **more): return Trace(decode(target, drafter, [0, 1, 2], n, **more)).tokens


def test_a_target_of_three_members():
    bare = Bare(LM)
    for settings in (dict(law=Law(temperature=0)), dict(rng=Keyed(1)), dict(rng=Keyed(2), rule="rejection")):
        for drafter in ("none", "lookup", "recycling", "lookahead", "model"):
            if drafter == "model": drafter = make_drafter("model", model=Bare(TableLM.random(4, 1, 3)), k=2)
            if settings.get("rule"): assert len(tokens(bare, drafter, **settings)) == 9
            else: assert tokens(bare, drafter, **settings) == tokens(LM, drafter, **settings) == tokens(LM, **settings)


def test_what_it_leaves_unsaid():
    bare = as_target(Bare(LM))
    assert (bare.window, bare.max_nodes, bare.branches, bare.decides, bare.parts, bare.model, bare.embed) == (None, 256, True, False, (), None, None)
    assert bare.row_bytes() == 8 and bare.priced_by() is None and cost_of(bare).seconds
    with pytest.raises(AttributeError, match="nonsense"): bare.nonsense
    bold = as_target(Bold(LM))
    assert (bold.branches, bold.decides, bold.window, bold.max_nodes) == (False, True, 12, 2), "what it says holds"
    assert Trace(decode(Bold(LM), "none", [0, 1, 2], 99)).stopped == "window"
    with pytest.raises(ValueError, match="Bold has chosen|has chosen before"): tokens(Bold(LM), law=Law(processors=(RepetitionPenalty(2.),)))
    with pytest.raises(ValueError, match="cannot score"): Beams(Bold(LM), "none", [0], BeamSearch(2), Stop(3))


def test_one_target_as_long_as_anybody_holds_it():
    class Counting(Bare):
        calls = []
        def score(self, pairs):
            self.calls.append(len(pairs))
            return super().score(pairs)
    counting = Counting(LM)
    held = as_target(counting)
    assert as_target(counting) is held and as_target(held) is held and held.inner is counting
    requests = [Request(counting, "none", [i], rng=Keyed(0, i), stop=Stop(5)) for i in range(3)]
    assert len([*serve(requests)]) == 15 and counting.calls == [3] * 5, "their forwards are shared"


def test_everybody_takes_it():
    bare = Bare(LM)
    assert [t.tokens for t in samples(bare, [0, 1], 3, Stop(6), seed=5)] == [t.tokens for t in samples(LM, [0, 1], 3, Stop(6), seed=5)]
    both = Contrastive(bare, Bare(TableLM.random(4, 1, 3)), alpha=0)
    assert both.row_bytes() == 16 and tokens(both, rng=Keyed(1)) == tokens(Contrastive(LM, TableLM.random(4, 1, 3), alpha=0), "lookup", rng=Keyed(1))
    beams = [Beams(x, "none", [0, 1], BeamSearch(2), Stop(5)) for x in (bare, LM)]
    for b in beams: [*serve([b])]
    assert beams[0].texts == beams[1].texts
    ids = torch.tensor([[0, 1, 2]])
    made = generate(as_target(bare), ids, max_new_tokens=6, drafter="lookup", return_dict_in_generate=True)
    assert made.sequences.tolist() == generate(LM, ids, max_new_tokens=6, drafter="none").tolist()


def test_an_engine_may_set_it_up():
    "A copy of it, whose chunk is another; the user's own is as it was"
    class Plain(Bare): chunk = 64
    Plain.__setattr__ = object.__setattr__
    mine = Plain(LM)
    engine = Engine(mine, "lookup", chunk=7)
    assert engine.target.chunk == engine.target.inner.chunk == 7 and mine.chunk == as_target(mine).chunk == 64
    r = engine.submit([0, 1, 2], stop=Stop(6), law=Law(temperature=0))
    engine.run()
    assert r.tokens[3:] == tokens(LM, n=6, law=Law(temperature=0))
    assert Engine(Contrastive(LM, LM, alpha=0), "none", chunk=7).target.chunk == 7


class Changing:
    "A drafter of no class of ours, which knows its vocabulary once it is bound"
    vocab_size = None
    def bind(self, target): self.vocab_size = target.vocab_size
    def begin(self, ctx, state): pass
    def propose(self, ctx, rng): return Draft.chain([ctx.tokens[-1]])
    def observe(self, step): pass


def test_a_drafter_of_three_methods():
    inner = Changing()
    drafter = make_drafter(inner)
    assert isinstance(drafter, Drafter) and (drafter.name, drafter.learns, drafter.asks, drafter.pace) == ("Changing", False, Asks(), None)
    introduce(drafter, as_target(LM))
    assert drafter.vocab_size == inner.vocab_size == 4, "asked each time"
    with pytest.raises(ValueError, match="Changing has a vocabulary of 4"): introduce(drafter, as_target(TableLM.random(3, 1, 0)))
    assert tokens(LM, inner, rng=Keyed(3)) == tokens(LM, rng=Keyed(3)) and copy(drafter).inner is not inner
    class Wrong(Changing):
        def propose(self, ctx, rng): return [1]
    with pytest.raises(TypeError, match="Wrong.propose returned"): tokens(LM, Wrong())


def test_what_a_rule_says_of_itself():
    def mine(draft, p, rng): return verify_walk(draft, p, rng)
    assert said_of(mine) == said_of(verify_walk) == (False, False) and said_of(verify_typical) == (True, True)
    assert tokens(LM, "lookup", rule=mine, rng=Keyed(1)) == tokens(LM, rng=Keyed(1))
    mine.lossy = True
    assert Trace(decode(LM, "none", [0], 2, rule=mine)).lossy


@pytest.fixture(scope="module")
def own_targets():
    model = build("llama")
    own, theirs = as_target(Llama.from_hf(model)), as_target(model)
    return [as_target(LM), own, theirs, Contrastive(own, theirs), ContrastiveSearch(own),
            *([] if why_not_native() else [as_target(Native.from_hf(model.float()))])]


def test_bases_answer_for_our_own(own_targets):
    "Whatever may be asked of a target is there on each, without a probe"
    asked = [n for n in (*vars(BaseTarget), *BaseTarget.__annotations__) if n[0] != "_"]
    for target in own_targets:
        assert isinstance(target, BaseTarget)
        for name in asked: getattr(target, name)
        assert target.row_bytes() > 0
        state = target.open([1, 2, 3])
        for name in ("source", "given", "prefilled", "close", "finished"): getattr(state, name)
