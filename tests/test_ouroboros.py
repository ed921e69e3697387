"""Ouroboros: the same text under every switch, a draft model that is never out of step, and the defects of the published code."""
from copy import deepcopy

import numpy as np
import pytest
import torch
import transformers as hf

from drafters import Wild
from specdec_nb import HFTarget, Keyed, Law, Llama, Stop, TableLM, Trace, Verdict, exact_law as law
from specdec_nb.draft import Budget
from specdec_nb.sampling import Scores
from specdec_nb.verify import Step
from specdec_nb.roles import Context, NoDrafter, Tokens, as_target, make_drafter
from specdec_nb.decode import Request, answered, decode, serve
from specdec_nb.drafters.lookahead import Lookahead, node_at
from specdec_nb.drafters.layerskip import some_layers
from specdec_nb.drafters.pool import PhrasePool
from specdec_nb.phrases.ouroboros import Ouroboros

OFF = dict(phrases=False, lengthen=0, discarded=False, corrected=False, history=False)
SWITCHES = [OFF, {**OFF, "phrases": True}, {**OFF, "lengthen": 2, "discarded": True}, {**OFF, "phrases": True, "lengthen": 3, "corrected": True},
            {**OFF, "unsure": 2, "lengthen": 1, "discarded": True, "history": True}, {}, dict(phrases=True), dict(phrases=True, unsure=3, text=True), dict(k=0, lengthen=4, text=True)]
GREEDY = Law(temperature=0)


def llama(layers=3, noise=0., **sizes):
    torch.manual_seed(0)
    config = hf.LlamaConfig(**{**dict(vocab_size=24, hidden_size=16, intermediate_size=32, num_hidden_layers=layers, num_attention_heads=2, num_key_value_heads=1,
                                      max_position_embeddings=64, initializer_range=.6, bos_token_id=None, eos_token_id=None), **sizes})
    model = hf.LlamaForCausalLM(config).double().eval()
    with torch.no_grad(): [p.add_(noise * torch.randn_like(p)) for p in model.parameters()]
    return model


WRAPS = {"own": lambda m: as_target(Llama.from_hf(m)), "hf": HFTarget}

@pytest.fixture(scope="module", params=WRAPS)
def pair(request):
    "A target, and a draft model that is the target with noise in its weights"
    return tuple(WRAPS[request.param](m) for m in (llama(2), llama(2, noise=.03)))


def cycle(n, slips=()):
    return TableLM({(): [1] * n, **{(i,): np.eye(n, dtype=int)[0 if i in slips else (i + 1) % n].tolist() for i in range(n)}})


def context(text, depth=99): return Context(Tokens(text), Budget(999, depth), Law(), vocab_size=99)


# -- the draft model, resumed

@pytest.mark.parametrize("wrap", WRAPS)
def test_a_resumed_request_is_a_fresh_one(wrap):
    "Grown, cut back, both, unchanged, cut to a beginning: what is written is always what a new request would write"
    target, gen, text = WRAPS[wrap](llama(2)), np.random.default_rng(0), [1, 2, 3]
    request = Request(target, Wild(1), text, GREEDY, stop=Stop(1 << 60))
    for _ in range(20):
        text = text[:max(2, len(text) - gen.integers(0, 5))] + gen.integers(0, 24, gen.integers(0, 5)).tolist()
        text = text[:30]
        request.resume(text)
        made = [t for _ in range(gen.integers(1, 4)) for t in answered(request.round()).verdict.tokens]
        assert made == Trace(decode(target, "none", text, limit=len(made), law=GREEDY)).tokens
        assert request.state.length < len(request.tokens) == len(text) + len(made)


def test_a_resumed_request_reads_only_what_is_new():
    small = as_target(Llama.from_hf(llama(2)))
    fed, forward = [], small.forward
    small.forward = lambda feeds: fed.append(len(feeds[0].tokens)) or forward(feeds)
    request = Request(small, "none", [0] * 30, GREEDY, stop=Stop(1 << 60))
    for text in ([0] * 30, [0] * 30 + [1, 2], [0] * 29 + [3]):
        request.resume(text)
        answered(request.round())
    assert fed == [29, 1, 2, 1] or fed == [29, 1, 2, 2]


# -- the same text

@pytest.mark.parametrize("rule", ["walk", "rejection"])
@pytest.mark.parametrize("options", SWITCHES, ids=str)
def test_exact_by_enumeration(options, rule):
    lm, small = TableLM.random(3, 2, 5), TableLM.random(3, 1, 6)
    options = {"k": 2, "window": 2, "n": 3, **options}
    warm = Ouroboros(small, **options)
    for prompt in ([2, 0], [0, 0, 1]): list(decode(lm, warm, prompt, limit=12))
    for drafter in (Ouroboros(small, **options), warm):
        made = law(lambda rng: tuple(Trace(decode(lm, deepcopy(drafter), [0, 1], limit=4, rng=rng, rule=rule)).tokens))
        assert made == lm.law([0, 1], 4)


def test_a_rule_that_believes_the_chain_is_caught():
    def credulous(draft, p, rng):
        path = draft.path(0) if len(draft) else ()
        return Verdict.of(draft, path, rng.at(0, "target").categorical(p[path[-1] + 1 if path else 0]))
    lm = TableLM.random(3, 2, 5)
    made = law(lambda rng: tuple(Trace(decode(lm, Ouroboros(TableLM.random(3, 1, 6)), [0, 1], limit=3, rng=rng, rule=credulous)).tokens))
    assert made != lm.law([0, 1], 3)


def test_eos_inside_drafts_by_enumeration():
    lm, small = TableLM.random(3, 1, 1), TableLM.random(3, 1, 2)
    def stopped(make): return law(lambda rng: tuple(Trace(decode(lm, make(), [0, 1, 0, 1], rng=rng, stop=Stop(4, eos={2}))).tokens))
    plain = stopped(lambda: "none")
    assert all(stopped(lambda: Ouroboros(small, **o)) == plain for o in SWITCHES)
    assert any(2 in t for t in plain) and all(2 not in t[:-1] for t in plain)


@pytest.mark.parametrize("options", SWITCHES, ids=str)
def test_models(pair, options):
    model, small = pair
    drafter, own = Ouroboros(small, **{"k": 3, **options}), not isinstance(model, HFTarget)
    for wanted, rng, stop in ((GREEDY, lambda: Keyed(0), Stop(20)), (Law(temperature=.8, top_p=.9), lambda: Keyed(5), Stop(20, eos={11})),
                              (Law(), lambda: Keyed(7), Stop(58)))[:3 if own else 2]:       # 6 + 58 tokens: the models' whole window
        plain, fast = (Trace(decode(model, d, [3, 1, 4, 1, 5, 9], law=wanted, rng=rng(), stop=stop)) for d in ("none", drafter))
        assert fast.tokens == plain.tokens and fast.stopped == plain.stopped
        assert len(set(plain.tokens)) > 3, "a model that repeats itself passes everything"
    assert not options.get("k", 3) or sum(fast.drafted) > 0, "a draft model that is never right tests little"


def test_the_hundredth_request(pair):
    model, small = pair
    drafter, gen = Ouroboros(small, k=2, phrases=True, unsure=1, pool=PhrasePool(capacity=60)), np.random.default_rng(0)
    for request in range(100):
        prompt = gen.integers(0, 24, gen.integers(1, 8)).tolist()
        plain, fast = (Trace(decode(model, d, prompt, limit=3 if 1 < request < 98 else 15, rng=Keyed(1, request))) for d in ("none", drafter))
        assert fast.tokens == plain.tokens
    assert len(drafter.pool) == 60
    shelves = [drafter.pool.after([t], None) for t in range(24)]
    assert all(len(set(s)) == len(s) for s in shelves), "no phrase twice"


def test_two_requests_at_once(pair):
    model, small = pair
    drafter, prompts = Ouroboros(small, k=3), ([1, 2, 3], [4, 5, 6, 7])
    plain = [Trace(decode(model, "none", p, limit=15, law=GREEDY)).tokens for p in prompts]
    mixed, texts = [decode(model, drafter, p, limit=15, law=GREEDY) for p in prompts], [[], []]
    while any(len(t) < 15 for t in texts):
        for text, steps in zip(texts, mixed):
            for step in [s for s in [next(steps, None)] if s]: text += step.verdict.tokens
    assert texts == plain


def test_a_draft_model_with_a_shorter_window(pair):
    model, small = pair[0], as_target(Llama.from_hf(llama(2, noise=.03, max_position_embeddings=20)))
    for prompt in ([1, 2, 3], list(range(19)), list(range(22))):
        plain, fast = (Trace(decode(model, d, prompt, limit=22, law=GREEDY)) for d in ("none", Ouroboros(small, text=True)))
        assert fast.tokens == plain.tokens


def test_chains_only():
    target = as_target(cycle(4))
    target.branches = False
    trace = Trace(decode(target, Ouroboros(cycle(4), k=2), [0], limit=40, law=GREEDY))
    assert trace.tokens == [(1 + i) % 4 for i in range(40)] and all(d.is_chain for d, _ in trace.steps)
    assert max(len(d) for d, _ in trace.steps) > 3, "a chain, too, may be lengthened"


def test_the_real_model(smollm2):
    "In fp32, greedy and sampled, lookahead and Ouroboros; the draft model is the target without two of its layers"
    model, tokenizer = smollm2
    prompt = tokenizer("def add(a, b):\n    return a + b\n\ndef sub(a, b):").input_ids
    for wanted, seed in ((GREEDY, 0), (Law(temperature=.7, top_p=.95), 3)):
        drafters = ("none", Lookahead(n=4), Ouroboros(some_layers(model, [*range(12), 13, *range(15, 30)]), k=2, phrases=True, unsure=1))
        plain, ahead, fast = (Trace(decode(model, d, prompt, limit=10, law=wanted, rng=Keyed(seed))) for d in drafters)
        assert plain.tokens == ahead.tokens == fast.tokens
        assert sum(fast.drafted) > 0


# -- the mechanisms

def one_round(phrase, answers, chain=(1, 2), **options):
    "A drafting that has drafted `chain`, then `phrase` below it, and been told the target's answers row by row"
    pool = PhrasePool()
    pool.add((chain[-1], *phrase), "history")
    lm = TableLM({(): [1] * 30, **{(a,): np.eye(30, dtype=int)[b].tolist() for a, b in zip((0, *chain), chain)}})
    drafter = Ouroboros(lm, k=len(chain), phrases=False, pool=pool, **options)
    drafter.bind(as_target(lm))
    drafting = drafter.begin(context([0]), None)
    draft = answered(drafting.propose(context([0]), None))
    scores, path, row = Scores(np.eye(30)[list(answers)]), [], 0
    while (node := next((i for i in draft.children(row - 1) if draft.tokens[i] == answers[row]), None)) is not None: path, row = [*path, node], node + 1
    step = Step(draft, Verdict.of(draft, path, answers[row]), scores)
    drafting.observe(step)
    return draft, step.verdict, pool


def test_a_whole_phrase_keeps_its_bonus():
    draft, verdict, _ = one_round((3, 4, 5), (1, 2, 3, 4, 5, 6))
    assert draft.is_chain and draft.tokens == (1, 2, 3, 4, 5) and verdict.tokens == (1, 2, 3, 4, 5, 6)


@pytest.mark.parametrize("answers", [(1, 2, 7, 8, 9, 6), (20, 2, 7, 8, 9, 6)], ids=["accepted", "rejected"])
def test_phrases_are_corrected_also_after_a_rejection(answers):
    _, verdict, pool = one_round((3, 4, 5), answers, discarded=False)
    assert (len(verdict.path) == 2) == (answers[0] == 1)
    assert pool.after([2])[0] == (7, 8, 9) and pool.by_source()["corrected"] == 1
    _, _, pool = one_round((3, 4, 5), answers, discarded=False, corrected=False)
    assert pool.after([2]) == [(3, 4, 5)]


def test_discarded_guesses_leave_phrases():
    _, _, pool = one_round((3, 4, 5), (20, 2, 3, 4, 9, 9), corrected=False)
    assert pool.after([1]) == [(2, 3, 4, 9)] and pool.by_source()["discarded"] == 3
    assert len(one_round((3, 4, 5), (20, 2, 3, 4, 9, 9), corrected=False, discarded=False)[2]) == 1


def test_phrases_share_their_beginnings():
    pool = PhrasePool()
    for phrase in ((2, 3, 4), (2, 3, 5), (2, 6)): pool.add(phrase, "history")
    drafter = Ouroboros(cycle(9), k=2, phrases=False, pool=pool)
    drafter.bind(as_target(cycle(9)))
    draft = answered(drafter.begin(context([0]), None).propose(context([0]), None))
    assert sorted(draft.tokens) == [1, 2, 3, 4, 5, 6] and node_at(draft, [1, 2, 3, 5]) is not None


def test_unsure_places_branch():
    "The draft model tosses a coin after 2; the pool knows better, and the branch is there"
    small = TableLM({**cycle(9).rows, (2,): [0, 0, 0, 5, 0, 0, 0, 4, 0]})
    pool = PhrasePool()
    pool.add((2, 7, 8), "history")
    for unsure in (0, 1):
        drafter = Ouroboros(small, k=5, phrases=False, unsure=unsure, pool=deepcopy(pool))
        drafter.bind(as_target(small))
        draft = answered(drafter.begin(context([0]), None).propose(context([0]), None))
        assert (node_at(draft, [1, 2, 7, 8]) is not None) == bool(unsure)


def test_an_end_of_text_in_a_losing_phrase_ends_nothing():
    pool = PhrasePool()
    for phrase in ((5, 0, 9, 3), (5, 9), (5, 6, 7, 9)): pool.add(phrase, "history")      # 9 ends the text; after 5 comes 6, 7, 8, 0
    lm = TableLM({**cycle(10).rows, (8,): np.eye(10, dtype=int)[0].tolist()})
    trace = Trace(decode(lm, Ouroboros(lm, k=4, lengthen=3, unsure=4, pool=pool), [1], stop=Stop(40, eos={9}), law=GREEDY))
    assert trace.tokens == [(2 + i) % 9 for i in range(40)] and trace.stopped == "limit"
    assert any(9 in d.tokens for d, _ in trace.steps)


def test_the_draft_model_writes_several_tokens_a_forward():
    forwards = {}
    for phrases in (False, True):
        drafter = Ouroboros(cycle(12), k=6, phrases=phrases, n=4)
        trace = Trace(decode(cycle(12), drafter, [0], limit=120, law=GREEDY))
        forwards[phrases] = drafter.forwards / trace.calls
    assert forwards[False] > 5 and forwards[True] < 3


def test_on_a_cpu_it_writes_word_by_word_unless_told_otherwise(pair):
    for given, words in ((None, True), (True, False), (False, True)):
        drafter = Ouroboros(pair[1], phrases=given)
        drafter.bind(pair[0])
        assert (type(drafter.begin(context([1, 2]), None).request.drafter) is NoDrafter) == words
    drafter = Ouroboros(cycle(3))
    drafter.bind(as_target(cycle(3)))
    assert type(drafter.begin(context([1, 2]), None).request.drafter) is not NoDrafter


def test_history_and_forgetting(tmp_path):
    target, small, sizes = cycle(24), cycle(24, [5, 6, 16]), dict(k=3, n=3)
    kept, forgets = Ouroboros(small, **sizes), Ouroboros(small, **sizes, history=False)
    calls = {d: [Trace(decode(target, d, [0], limit=100, law=GREEDY)).calls for _ in range(3)] for d in (kept, forgets)}
    assert calls[kept][1] < calls[kept][0] and len(set(calls[forgets])) == 1
    assert kept.learns and not forgets.learns and len(forgets.pool) == 0 < len(kept.pool)
    again = Ouroboros(small, **sizes, pool=PhrasePool.load(kept.pool.save(tmp_path / "pool.npz")))
    assert Trace(decode(target, again, [0], limit=100, law=GREEDY)).calls < calls[kept][0]


# -- bad input

def test_clear_errors(monkeypatch):
    small = cycle(5)
    for options, says in ((dict(k=-1), "k must"), (dict(lengthen=1.5), "lengthen"), (dict(unsure=-2), "unsure"), (dict(window=0), "W, the columns"),
                          (dict(n=0), "N, "), (dict(history="False"), "history must be true or false"), (dict(history=False, pool=PhrasePool()), "drop one of them")):
        with pytest.raises(ValueError, match=says): make_drafter("ouroboros", model=small, **options)
    with pytest.raises(ValueError, match="vocabulary of 5 tokens, the target of 6"): list(decode(cycle(6), Ouroboros(small), [0], limit=3))
    monkeypatch.setattr("specdec_nb.drafters.model.shipped", lambda: None)
    with pytest.raises(ValueError, match="no draft model"): make_drafter("ouroboros")


def test_a_draft_model_at_the_end_of_its_window_goes_on_after_a_rejection():
    "The request within the request has ended there, and its place among others was free"
    target, small = HFTarget(llama(2, max_position_embeddings=128)), HFTarget(llama(2, noise=.3, max_position_embeddings=40))
    prompts = [[1 + i % 7 for i in range(33)], [2 + i % 5 for i in range(34)]]
    plain = [Trace(decode(target, "none", p, 24, law=GREEDY)).tokens for p in prompts]
    requests = [Request(target, Ouroboros(small, k=4, lengthen=2, phrases=True), p, law=GREEDY, stop=Stop(24)) for p in prompts]
    texts, ended = {r: [] for r in requests}, 0
    for r, step in serve(requests):
        texts[r] += step.verdict.tokens
        if not r.done: ended += r.drafting.request.done and len(step.verdict.path) < len(step.draft)
    assert [*texts.values()] == plain and ended
