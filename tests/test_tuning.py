"""Prices, hedges and the drafter without knobs: exact cold and warm, calibrated, silent where nothing can be known."""
import math

import numpy as np
import pytest

from specdec_nb import Keyed, Law, TableLM, Trace, exact_law as law
from specdec_nb.roles import make_drafter
from specdec_nb.decode import decode
from specdec_nb.drafters.lookup import PromptLookup
from specdec_nb.drafters.copying import Suffix
from specdec_nb.drafters.recycling import Recycling
from specdec_nb.phrases.tuning import Auto, Hedge, Tuned
from specdec_nb.speedup import CostCurve

CPU = CostCurve((1, 4, 8, 16, 32, 64), (.0167, .0197, .0241, .0300, .0446, .0757))
GREEDY = Law(temperature=0)


def gain(trace, curve=CPU): return len(trace.tokens) / sum(curve.relative(1 + len(draft)) for draft, _ in trace.steps)


def test_hedge_finds_the_best_and_follows_a_change():
    hedge, gen = Hedge((0, 1, 2), eta=.5, memory=40), np.random.default_rng(0)
    for _ in range(60): hedge.learn(gen.normal([0, .5, -.5], 1))
    assert hedge.weights[1] > .9
    for _ in range(150): hedge.learn(gen.normal([0, -.5, .5], 1))
    assert hedge.weights[2] > .9


def drafters():
    return {"auto": lambda: Auto(curve=CPU), "auto, one source": lambda: Auto(curve=CPU, sources=["ranks"]), "tuned": lambda: Tuned(curve=CPU),
            "rule": lambda: Tuned(Suffix(), "rule", curve=CPU), "tuned recycling": lambda: Tuned(Recycling(), curve=CPU)}


@pytest.mark.parametrize("name", drafters())
@pytest.mark.parametrize("mode", ["greedy", "keyed"])
def test_warm_drafters_change_nothing(name, mode):
    model, drafter, drafted = TableLM.random(3, 2, 5), drafters()[name](), 0
    for i in range(100):
        run = dict(law=GREEDY) if mode == "greedy" else dict(rng=Keyed(1, i))
        plain, ours = (Trace(decode(model, d, [i % 3, 1, 2], limit=20, **run)) for d in ("none", drafter))
        assert ours.tokens == plain.tokens
        drafted += sum(ours.drafted)
    assert drafted, "it drafted and was right at times"


@pytest.mark.parametrize("name", drafters())
def test_exact_laws(name):
    model = TableLM.random(3, 1, 4)
    def run(rng): return tuple(Trace(decode(model, drafters()[name](), [0, 1, 0, 1, 0, 1], limit=3, rng=rng)).tokens)
    assert law(run) == model.law([0, 1, 0, 1, 0, 1], 3)


def test_silent_where_nothing_can_be_known():
    "Sampling from a uniform law over 500 words: after a hundred tokens at most one node in ten calls, and in all at most 3 % dearer than plain"
    class Uniform:
        vocab_size, max_nodes, branches, window, chunk = 500, 256, True, None, 1024
        def open(self, prompt, asks=None):
            from specdec_nb.roles import TableState
            return TableState(self, prompt)
        def score(self, pairs):
            from specdec_nb.sampling import Scores
            return [Scores(np.random.default_rng(len(s.tokens)).normal(0, 1e-3, (1 + len(d), 500))) for s, d in pairs]
    drafter = Auto(curve=CPU)
    trace = Trace(decode(Uniform(), drafter, list(range(100)) * 2, limit=300, rng=Keyed(5)))
    nodes = [len(draft) for draft, _ in trace.steps]
    assert sum(nodes[100:]) <= len(nodes[100:]) / 10
    assert gain(trace) > .97
    control = Trace(decode(Uniform(), Recycling(least=0), list(range(100)) * 2, limit=300, rng=Keyed(5)))
    assert gain(control) < .9, "the control: a drafter that does not know when to be silent"


def test_not_below_the_best_of_its_sources():
    "A text that copies, one that follows second choices, one of both: auto, warm, against each alone"
    gen, n = np.random.default_rng(0), 40
    follow = {(x,): [0] * n for x in range(n)}
    for x in range(n):
        for y, w in zip(gen.permutation(n)[:4], (12, 3, 1, 1)): follow[(x,)][y] = w
    model = TableLM({(): [1] * n, **follow})
    prompt = gen.integers(0, n, 50).tolist() * 2
    def total(drafter): return sum(len(t.tokens) for t in ts) / sum(len(t.tokens) / gain(t) for t in ts) if (
        ts := [Trace(decode(model, drafter, prompt, limit=80, rng=Keyed(3, i))) for i in range(6)]) else 0
    each = {"suffix": total(Suffix()), "recycling": total(Recycling()), "lookup": total(PromptLookup()), "auto": total(Auto(curve=CPU))}
    assert each["auto"] >= .98 * max(each.values()) and each["auto"] > 1.2, each


def test_beliefs_are_calibrated():
    "Of the nodes sent, the share accepted is within .1 of what was believed on average"
    model, believed, came = TableLM.random(4, 2, 9, largest=9), [], []
    class Watched(Auto):
        def begin(self, ctx, state):
            drafting = super().begin(ctx, state)
            observe = drafting.observe
            def watched(step):
                values = getattr(drafting, "values", ())
                believed.extend(values[:len(step.draft)])
                came.extend(i in step.verdict.path for i in range(len(step.draft)))
                observe(step)
            drafting.observe = watched
            return drafting
    drafter = Watched(curve=CPU)
    for i in range(40): list(decode(model, drafter, [0, 1, 2], limit=30, rng=Keyed(4, i)))
    half = len(came) // 2
    assert half > 200 and abs(np.mean(believed[half:]) - np.mean(came[half:])) < .1


@pytest.fixture(scope="module")
def targets():
    "One random model in float64, as our own runtime and as Hugging Face's"
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from specdec_nb.models.llama import Llama
    torch.manual_seed(1)
    hf = LlamaForCausalLM(LlamaConfig(vocab_size=60, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                                      num_key_value_heads=2, max_position_embeddings=256)).double().eval()
    return Llama.from_hf(hf), hf


@pytest.mark.parametrize("name", ["lookup", "suffix", "reference", "rest", "pool", "recycling", "auto", "tuned"])
def test_every_drafter_without_training_on_both_runtimes(targets, name):
    for model in targets:
        drafter = Auto(curve=CPU) if name == "auto" else Tuned(curve=CPU) if name == "tuned" else make_drafter(name)
        for i in range(3):
            for run in (dict(law=GREEDY), dict(rng=Keyed(i))):
                plain, ours = (Trace(decode(model, d, [1, 5, 9, 5, 9, 5 + i], limit=24, **run)) for d in ("none", drafter))
                assert ours.tokens == plain.tokens


@pytest.mark.parametrize("call,error,says", [
    (lambda: Auto(k=-1), ValueError, "k >= 0"), (lambda: Auto(nodes=0), ValueError, "nodes"), (lambda: Auto(sources=["tea leaves"]), ValueError, "tea leaves"),
    (lambda: Auto(sources=()), ValueError, "sources"), (lambda: Auto(speed=0), ValueError, "speed"),
    (lambda: Tuned(how="hope"), ValueError, "hope"), (lambda: Tuned(lengths=(-1, 2)), ValueError, "-1"), (lambda: Tuned(object()), TypeError, "cannot draft"),
])
def test_bad_input(call, error, says):
    with pytest.raises(error, match=says): call()


@pytest.mark.parametrize("name", ["auto", "tuned"])
def test_by_name(name):
    drafter = make_drafter(name, k=0)
    assert Trace(decode(TableLM.random(3, 1, 0), drafter, [0, 1, 0, 1], limit=9)).calls == 9
    assert math.isfinite(drafter.pace.price)
