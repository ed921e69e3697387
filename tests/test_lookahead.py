"""Lookahead: any window's mask, the original's bookkeeping, nothing lost at the ends, and the same text in every case."""
from copy import deepcopy

import numpy as np
import pytest
import torch
import transformers as hf

from specdec_nb import Draft, HFTarget, Keyed, Law, Llama, Stop, TableLM, Trace, Verdict, exact_law as law
from specdec_nb.draft import Budget
from specdec_nb.sampling import Scores
from specdec_nb.verify import Step
from specdec_nb.roles import Context, Tokens, as_target, make_drafter
from specdec_nb.decode import decode
from specdec_nb.drafters.lookahead import Lookahead, node_at
from specdec_nb.drafters.pool import PhrasePool

SETTINGS = [dict(window=1, n=2, guesses=1), dict(window=3, n=3, guesses=2, text=False), dict(window=2, n=5, guesses=3), dict(window=6, n=2, guesses=0)]
GREEDY = Law(temperature=0)


@pytest.fixture(scope="module", params=["own", "hf"])
def model(request):
    torch.manual_seed(0)
    config = hf.LlamaConfig(vocab_size=24, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
                            max_position_embeddings=64, initializer_range=.6, bos_token_id=None, eos_token_id=None)
    made = hf.LlamaForCausalLM(config).double().eval()
    return as_target(Llama.from_hf(made)) if request.param == "own" else HFTarget(made)


def at_work(drafter, columns, text, vocab_size=9999):
    drafting = drafter.begin(Context(Tokens(text), Budget(999, 999), None, vocab_size=vocab_size), None)
    drafting.columns = [list(c) for c in columns]
    return drafting, drafting.propose(Context(Tokens(text), Budget(999, 999), None, vocab_size=vocab_size), None)


# -- the window

@pytest.mark.parametrize("W,N,G", [(w, n, g) for w in (1, 2, 3, 7) for n in (2, 3, 4, 8) for g in (0, 1, 3)])
def test_mask_of_any_size(W, N, G):
    """The rule as published, written down for rows and columns: a head sees the heads before it; below, a token sees the pending one, the heads up
    to its column's, and its own column; a phrase sees the pending token and its own beginning. All tokens differ, so nothing merges."""
    pool = PhrasePool(per_key=4)
    for g in range(G): pool.add([1, *range(5000 + 10 * g, 5000 + 10 * g + N - 1)], "history")
    columns = [[100 * (i + 1) + r for r in range(N - 1)] for i in range(W)]
    _, draft = at_work(Lookahead(W, N, G, text=False, pool=pool), columns, [7, 1])
    assert len(draft) == (W - 1) + W * (N - 2) + G * (N - 1)
    def sees(a, b): # token a sees token b
        if b == 1 or a == b: return True
        if a == 1 or (a >= 5000) != (b >= 5000): return False
        if a >= 5000: return a // 10 == b // 10 and b < a
        (i, r), (j, s) = ((x // 100 - 1, x % 100) for x in (a, b))
        return s == 0 and 0 < j <= i if i != j else s < r and (s, j) != (0, 0)
    tokens = [1, *draft.tokens]
    assert (draft.mask() == [[sees(a, b) for b in tokens] for a in tokens]).all()
    depth = {t: d for t, d in zip(draft.tokens, draft.depth)}
    assert all(depth[100 * (i + 1) + r] == i + r for i in range(W) for r in range(N - 1) if i or r)


def test_the_originals_bookkeeping():
    """Rows instead of columns, as the authors keep them: row 0 is one shorter, the new row is what the last one predicts, rows move up."""
    gen = np.random.default_rng(1)
    W, N, V = 4, 4, 30
    columns = gen.integers(0, V, (W, N - 1)).tolist()
    rows = [[columns[i + 1][0] for i in range(W - 1)]] + [[c[r] for c in columns] for r in range(1, N - 1)]
    pool, text, drafter = {}, [3, 9], Lookahead(W, N, 4, text=False)
    drafting, draft = at_work(drafter, columns, text, V)
    for _ in range(6):
        answers = gen.integers(0, V, len(draft) + 1)
        new = []
        for i in range(W):
            path = rows[0][:i] + [row[i] for row in rows[1:]]
            new.append(int(answers[node_at(draft, path) + 1]))
            key, phrase = text[-1] if i == 0 else rows[0][i - 1], (*(row[i] for row in rows[1:]), new[-1])
            shelf = pool.setdefault(key, [])
            if phrase in shelf: shelf.remove(phrase)
            shelf.append(phrase)
        rows = [rows[1][1:], *rows[2:], new]
        drafting.observe(Step(draft, Verdict.of(draft, (), 5), Scores(np.eye(V)[answers])))
        assert [c[0] for c in drafting.columns[1:]] == rows[0] and [[c[r] for c in drafting.columns] for r in range(1, N - 1)] == rows[1:]
        assert all(drafting.pool.after([key]) == shelf[::-1][:4] for key, shelf in pool.items())
        text.append(int(gen.integers(V)))
        draft = drafting.propose(Context(Tokens(text), Budget(999, 999), None, vocab_size=V), None)


def test_columns_beyond_the_room_wait():
    drafting, _ = at_work(Lookahead(3, 3, 1, text=False), [[1, 2], [3, 4], [5, 6]], [9])
    draft = drafting.propose(Context(Tokens([9]), Budget(99, 1), None, vocab_size=50), None)
    assert draft.tokens == (2, 3)
    drafting.observe(Step(draft, Verdict.of(draft, (), 7), Scores(np.eye(50)[[7, 8, 10]])))
    assert drafting.columns == [[2, 8], [3, 4], [5, 6]]


def test_a_whole_phrase_brings_its_bonus():
    loop = TableLM({(): [1, 0, 0, 0, 0], **{(i,): np.eye(5, dtype=int)[(i + 1) % 5].tolist() for i in range(5)}})
    for n in (2, 3, 4):
        trace = Trace(decode(loop, Lookahead(3, n, 2, text=False), [0, 1, 2], limit=60))
        assert max(len(v.tokens) for _, v in trace.steps) == n, "n - 1 drafted and one more"
        assert trace.tokens == [(3 + i) % 5 for i in range(60)]


# -- the same text

@pytest.mark.parametrize("options", SETTINGS, ids=str)
@pytest.mark.parametrize("rule", ["walk", "rejection"])
def test_exact_by_enumeration(options, rule):
    for seed in range(2):
        lm, pool = TableLM.random(3, 2, seed), PhrasePool()
        list(decode(lm, Lookahead(**options, pool=pool), [2, 0], limit=20))
        for cold in (True, False):                              # a run's coins must decide all of it: each begins with the same memory
            def run(rng):
                drafter = Lookahead(**options, pool=PhrasePool() if cold else deepcopy(pool))
                return tuple(Trace(decode(lm, drafter, [0, 1], limit=4, rng=rng, rule=rule)).tokens)
            assert law(run) == lm.law([0, 1], 4)


def test_a_rule_that_believes_its_draft_is_caught():
    def credulous(draft, p, rng):
        path = draft.path(len(draft) - 1)[:1] if len(draft) else ()
        return Verdict.of(draft, path, rng.at(0, "target").categorical(p[path[-1] + 1 if path else 0]))
    lm = TableLM.random(3, 2, 0)
    made = law(lambda rng: tuple(Trace(decode(lm, Lookahead(2, 3, 1), [0, 1], limit=3, rng=rng, rule=credulous)).tokens))
    assert made != lm.law([0, 1], 3)


def test_eos_inside_drafts_by_enumeration():
    lm = TableLM.random(3, 1, 1)
    def stopped(drafter):
        return law(lambda rng: tuple(Trace(decode(lm, drafter, [0, 1, 0, 1], rng=rng, stop=Stop(4, eos={2}))).tokens))
    assert all(stopped(Lookahead(**o)) == stopped("none") for o in SETTINGS)
    assert all(2 not in t[:-1] for t in stopped("none"))


@pytest.mark.parametrize("options", SETTINGS, ids=str)
def test_models(model, options):
    for wanted, rng in ((GREEDY, lambda: Keyed(0)), (Law(temperature=.8, top_p=.9), lambda: Keyed(5))):
        for stop in (Stop(30), Stop(99, eos={11}), Stop(58)):                   # 6 + 58 tokens: the model's whole window
            plain, fast = (Trace(decode(model, d, [3, 1, 4, 1, 5, 9], law=wanted, rng=rng(), stop=stop)) for d in ("none", Lookahead(**options)))
            assert fast.tokens == plain.tokens and fast.stopped == plain.stopped
    assert len(set(plain.tokens)) > 3, "a model that repeats itself passes everything"


def test_the_hundredth_request(model):
    drafter, gen = Lookahead(3, 4, 3, pool=PhrasePool(capacity=100)), np.random.default_rng(0)
    for request in range(100):
        prompt = gen.integers(0, 24, gen.integers(1, 8)).tolist()
        plain, fast = (Trace(decode(model, d, prompt, limit=6 if 1 < request < 98 else 20, rng=Keyed(1, request))) for d in ("none", drafter))
        assert fast.tokens == plain.tokens
    assert len(drafter.pool) == 100


def test_two_requests_at_once(model):
    "One drafter, two draftings, in turns"
    drafter, prompts = Lookahead(2, 3, 2), ([1, 2, 3], [4, 5, 6, 7])
    plain = [Trace(decode(model, "none", p, limit=12, law=GREEDY)).tokens for p in prompts]
    mixed = [decode(model, drafter, p, limit=12, law=GREEDY) for p in prompts]
    texts = [[], []]
    while any(len(t) < 12 for t in texts):
        for text, steps in zip(texts, mixed):
            for step in [s for s in [next(steps, None)] if s]: text += step.verdict.tokens
    assert texts == plain


def test_chains_only():
    lm = TableLM.random(4, 1, 3)
    target = as_target(lm)
    target.branches = False
    trace = Trace(decode(target, Lookahead(2, 3, 2), [0, 1, 2, 3] * 3, limit=40, law=GREEDY))
    assert trace.tokens == Trace(decode(lm, "none", [0, 1, 2, 3] * 3, limit=40, law=GREEDY)).tokens
    assert all(draft.is_chain for draft, _ in trace.steps) and trace.calls < 40


# -- bad input

@pytest.mark.parametrize("options,says", [(dict(window=0), "W, the columns.*got 0"), (dict(n=0), "N, .*at least 2, got 0"), (dict(n=1), "at least 2"),
                                          (dict(guesses=-1), "guesses"), (dict(window=2.5), "whole number"), (dict(k=-1), "k "), (dict(text="False"), "true or false")])
def test_clear_errors(options, says):
    with pytest.raises(ValueError, match=says): make_drafter("lookahead", **options)
    assert make_drafter("lookahead", k=3).k == 3


def test_node_at():
    draft = Draft.merge([[1, 2], [1, 3]])[0]
    assert node_at(draft, []) == -1 and draft.tokens[node_at(draft, [1, 3])] == 3 and node_at(draft, [2]) is None


def test_a_pool_with_long_keys_is_refused():
    with pytest.raises(ValueError, match="keys of 3 tokens, and an n-gram of n=3 must be longer"): Lookahead(n=3, pool=PhrasePool(key=3))
