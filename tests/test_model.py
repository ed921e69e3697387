"""A draft model: exact, never one behind, and the bugs that must be caught."""
from fractions import Fraction as F

import numpy as np
import pytest
import torch
import transformers as hf

from learners import near
from draftmodels import PROMPT, build
from enumeration import texts
from specdec_nb import Draft, Dice, Keyed, Law, Llama, TableLM, Trace, generate
from specdec_nb.roles import as_target, make_drafter
from specdec_nb.decode import decode
from specdec_nb.drafters.model import Mapped, ModelDrafter, ModelDrafting, shipped
from specdec_nb.sampling import Asks, FrequencyPenalty, NoRepeatNgram, Scores

SETTINGS = [dict(k=0), dict(k=1), dict(k=3), dict(k=2, least=.5), dict(k=2, tree=3, width=2), dict(k=3, tree=4, width=1), dict(k=2, tree=Draft([0, 1, 0, 1], [-1, -1, 0, 0]))]
PLAN = Draft([0, 1, 2, 0, 1, 0, 0], [-1, -1, -1, 0, 0, 1, 3])


@pytest.fixture(scope="module")
def model(): return build()


@pytest.fixture(scope="module")
def own(model): return Llama.from_hf(model)


# -- exact, by enumeration

@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("rule", ["walk", "rejection"])
def test_exact(settings, rule):
    for seed in range(3):
        target, crude = TableLM.random(3, 2, seed), TableLM.random(3, 1, seed + 50)
        assert texts(target, ModelDrafter(crude, **settings), 3, rule=rule) == target.law([0], 3)


@pytest.mark.parametrize("wanted", [Law(top_k=2), Law(top_p=F(3, 4)), Law(min_p=F(1, 2)), Law(temperature=F(1, 2)), Law(temperature=0),
                                    Law(processors=(FrequencyPenalty(F(1, 3)),)), Law(processors=(NoRepeatNgram(2),), top_k=2)], ids=str)
def test_exact_under_every_law(wanted):
    target, crude = TableLM({(): [1, 2, 3], (0,): [3, 2, 1], (1,): [1, 4, 2], (2,): [3, 2, 1]}), TableLM.random(3, 1, 7)
    plain = texts(target, "none", 3, law=wanted)
    for settings in (dict(k=2), dict(k=2, tree=3, width=2)):
        for rule in ("walk", "rejection"): assert texts(target, ModelDrafter(crude, **settings), 3, law=wanted, rule=rule) == plain


class WrongQ(ModelDrafting):
    "Draws from a sharpened law and records the plain one"
    def draw(self, depth, rng):
        self.law = Law(temperature=F(1, 2))
        draft = yield from super().draw(depth, rng)
        plain = [self.state.target.lm.p(self.state.tokens + list(draft.tokens[:d])) for d in range(len(draft))]
        return Draft.chain(draft.tokens, plain)


class LooksAtTheToken(ModelDrafting):
    "Drops a token whose own probability was low"
    def draw(self, depth, rng):
        draft = yield from super().draw(depth, rng)
        kept = next((d for d in range(len(draft)) if draft.q(d)[draft.tokens[d]] < F(1, 3)), len(draft))
        return draft.take(range(kept))


@pytest.mark.parametrize("broken", [WrongQ, LooksAtTheToken])
def test_a_wrong_q_is_caught(broken):
    target, crude = TableLM({(): [3, 2, 1], (1,): [1, 2, 1], (2,): [1, 2, 3]}), TableLM({(): [1, 1, 1], (0,): [2, 1, 1], (1,): [1, 3, 1]})
    drafter = ModelDrafter(crude, k=2)
    assert texts(target, drafter, 2, rule="rejection") == target.law([0], 2)
    drafter.drafting = broken
    assert texts(target, drafter, 2, rule="rejection") != target.law([0], 2)
    assert texts(target, drafter, 2, rule="walk") == target.law([0], 2)               # walk asks for no q


# -- never one behind

def one_behind(self, text, follow=ModelDrafting.follow):
    "Takes for read what was accepted but never fed"
    room, known = follow(self, text), self.state.length
    if known: self.state.tokens = self.state.tokens[:known] + self.state.tokens[-1:]
    return room


def test_a_model_that_drafts_for_itself_is_never_rejected(own, monkeypatch):
    def calls(**settings):
        drafter = ModelDrafter(own, k=4)
        return Trace(decode(own, drafter, PROMPT[0].tolist(), limit=50, **settings))
    greedy, processors = dict(law=Law(temperature=0)), (FrequencyPenalty(F(1, 2)), NoRepeatNgram(3))
    for settings in (greedy, dict(rule="rejection", rng=Dice(1)), dict(law=Law(temperature=.7, top_p=.9), rule="rejection", rng=Keyed(1)),
                     dict(law=Law(processors=processors), rule="rejection", rng=Dice(2)), dict(law=Law(temperature=0, processors=processors))):
        assert calls(**settings).calls == 10, "k + 1 tokens a call, full acceptance after full acceptance"
    monkeypatch.setattr(ModelDrafting, "follow", one_behind)
    assert calls(**greedy).calls > 12


def test_what_is_fed(own):
    target, fed = as_target(own), []
    plain = target.forward
    target.forward = lambda feeds: fed.append(len(feeds[0].tokens)) or plain(feeds)
    Trace(decode(own, ModelDrafter(target, k=3), PROMPT[0].tolist(), limit=12, law=Law(temperature=0)))
    assert fed == [7, 8, 1, 1, 4, 2, 1, 1, 4, 2, 1, 1, 4], "after a full acceptance the last guess and the target's own token go together"


# -- the same text

def drafters(model, own):
    yield ModelDrafter(near(model), k=4)
    for draft in (Llama.from_hf(near(model)), build(9, layers=1)): yield ModelDrafter(draft, k=3, tree=6, least=.05)
    yield ModelDrafter(Llama.from_hf(near(model)), k=3, tree=PLAN)


@pytest.mark.parametrize("runtime", ["hf", "own"])
@pytest.mark.filterwarnings("ignore")
def test_same_text(model, own, runtime):
    target = model if runtime == "hf" else own
    for options in ({}, dict(repetition_penalty=1.3), dict(eos_token_id=[2, 7, 30])):
        plain = model.generate(PROMPT, max_new_tokens=24, do_sample=False, **options)
        for drafter in drafters(model, own):
            for _ in range(2): assert torch.equal(generate(target, PROMPT, drafter=drafter, max_new_tokens=24, do_sample=False, **options), plain)
    for options in (dict(temperature=.8), dict(top_p=.8, repetition_penalty=1.2)):
        outs = [generate(target, PROMPT, drafter=d, max_new_tokens=24, do_sample=True, seed=3, return_dict_in_generate=True, **options) for d in ("none", *drafters(model, own))]
        assert all(torch.equal(o.sequences, outs[0].sequences) for o in outs) and min(o.trace.calls for o in outs) < 16
    end = torch.arange(115)[None] % 48                                                 # up to the window's last position
    long = generate(target, end, drafter="none", max_new_tokens=500, do_sample=False)
    for drafter in drafters(model, own): assert torch.equal(generate(target, end, drafter=drafter, max_new_tokens=500, do_sample=False), long)
    assert long.shape[1] == 129


def test_a_hundred_requests_through_one_drafter(own, model):
    drafter = ModelDrafter(Llama.from_hf(near(model)), k=3)
    for i in range(100):
        prompt, settings = [i % 48, 3 * i % 48], dict(limit=4, rng=Keyed(i), law=Law(temperature=i % 3 / 2))
        assert Trace(decode(own, drafter, prompt, **settings)).tokens == Trace(decode(own, "none", prompt, **settings)).tokens


def test_a_smaller_window(model, own):
    short = near(build(max_position_embeddings=20))
    plain = model.generate(PROMPT, max_new_tokens=24, do_sample=False)
    for k in (1, 5):
        out = generate(own, PROMPT, drafter=ModelDrafter(short, k=k), max_new_tokens=24, do_sample=False, return_dict_in_generate=True)
        assert torch.equal(out.sequences, plain) and not len(out.trace.steps[-1][0]) and len(out.trace.steps[0][0]) == k
    long = torch.arange(30)[None] % 48
    assert torch.equal(generate(own, long, drafter=ModelDrafter(short), max_new_tokens=5, do_sample=False), model.generate(long, max_new_tokens=5, do_sample=False))


@pytest.mark.filterwarnings("ignore")
def test_a_draft_model_that_cannot_branch(own):
    bloom = hf.AutoModelForCausalLM.from_config(hf.BloomConfig(vocab_size=48, hidden_size=32, n_layer=1, n_head=4)).to(torch.float64).eval()
    trace = Trace(decode(own, ModelDrafter(bloom, k=3, tree=6), [1, 2], limit=9, law=Law(temperature=0)))
    assert trace.tokens == Trace(decode(own, "none", [1, 2], limit=9, law=Law(temperature=0))).tokens and trace.steps[0][0].is_chain


def test_rows_of_other_words_answer_whatever_rows_do(own):
    "Against a matrix written out: what the draft model says of the shared words, its hidden states and its seconds"
    target = as_target(own)
    [inner] = target.score([(target.open([3, 14, 15], Asks(hidden=(1,))), Draft([5, 9], [-1, -1]))])
    mine, theirs = np.array([0, 5, 9, 40]), np.array([2, 3, 0, 50])
    mapped, full = Mapped(inner, mine, theirs, 60), np.full((3, 60), -np.inf)
    full[:, theirs] = inner.array[:, mine]
    plain = Scores(full)
    assert mapped.hidden is inner.hidden and mapped.hidden[1].shape[0] == 3 and mapped.seconds == inner.seconds > 0
    for scores, expected in ((mapped, plain), (mapped.some([2, 0]), plain.some([2, 0]))):
        assert np.array_equal(scores.rows, expected.rows) and np.array_equal(scores.top(3), expected.top(3)) and scores.best(0) == expected.best(0)
        assert [x for x, _ in scores.likely(1, 3)] == [x for x, _ in expected.likely(1, 3)]
    assert type(mapped.some([1])) is Mapped


def test_vocabularies_padded_differently():
    for rows, draft_rows in ((128, 126), (126, 128)):
        target, draft = build(vocab=rows), near(build(vocab=draft_rows))
        with torch.no_grad(): target.lm_head.weight[-2:] *= 2                            # the target often says what the draft model lacks
        prompt = PROMPT[0].tolist()
        for settings in (dict(law=Law(temperature=0)), dict(rng=Keyed(1)), dict(rng=Keyed(2), law=Law(top_p=.9))):
            plain = Trace(decode(target, "none", prompt, limit=20, **settings)).tokens
            for options in (dict(k=3), dict(k=2, tree=4)):
                assert Trace(decode(target, ModelDrafter(draft, **options), prompt, limit=20, **settings)).tokens == plain
        if rows > draft_rows: assert {126, 127} & {*plain}
    small, large = TableLM({(): [1, 2] + [0] * 47 + [5]}), TableLM({(): [2, 1] + [0] * 47 + [3, 2]})
    for one, other in ((small, large), (large, small)): assert texts(one, ModelDrafter(other, k=1), 2, rule="rejection") == one.law([0], 2)


def test_stops_by_the_law_alone(own, model):
    "With `least` the drafted length depends on the prefix, and what is drafted is still drawn from q"
    draft, lengths = Llama.from_hf(near(model, .5)), set()
    for seed in range(20):
        trace = Trace(decode(own, ModelDrafter(draft, k=4, least=.3), [seed, 5], limit=12, rng=Keyed(seed)))
        lengths |= {len(d) for d, _ in trace.steps}
    assert {0, 4} <= lengths


# -- bad input

@pytest.mark.parametrize("call,says", [
    (lambda: ModelDrafter(TableLM.random(3), k=-1), "k=-1"),
    (lambda: ModelDrafter(TableLM.random(3), tree=-2), "tree=-2"),
    (lambda: ModelDrafter(TableLM.random(3), least=2), "least=2"),
    (lambda: ModelDrafter(TableLM.random(3), tree=4, width=0), "width=0"),
    (lambda: list(decode(TableLM.random(5), ModelDrafter(TableLM.random(3)), [0], limit=3)), "3 tokens, the target of 5.*TokenBridge"),
])
def test_clear_errors(call, says):
    with pytest.raises(ValueError, match=says): call()


def test_no_model_is_named():
    with pytest.raises(TypeError, match="float"): ModelDrafter(1.5)
    if shipped() is None:
        with pytest.raises(ValueError, match="ModelDrafter"): make_drafter("model")
