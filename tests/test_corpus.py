"""Documents that a model writes: the same in any company, and ended where its window ends."""
import numpy as np
import pytest
import torch

from learners import build
from specdec_nb import Dice, Keyed, Law, Stop, Trace
from specdec_nb.decode import decode
from specdec_nb.roles import as_target
from specdec_nb.training import corpus as writing
from specdec_nb.training.corpus import Part, write_documents


@pytest.fixture(scope="module")
def model(): return build(seed=4, dtype=torch.float32)


def of_parts(rng, n):
    "Plans of one part and of two, some of which words end, drawn and not"
    def part(i): return Part(rng.integers(0, 16, 1 + i % 4).tolist(), 5 + i % 7, (0., .7, 1.)[i % 3], frozenset({3, 5} if i % 2 else ()))
    return [[part(i), part(i + 1)][:1 + i % 2] for i in range(n)]


@pytest.mark.parametrize("kind", ["own", "hf"])
def test_a_document_is_the_same_in_any_company(kind, monkeypatch):
    "And the same as its parts, decoded one by one; noise without addresses is seen"
    if kind == "hf": monkeypatch.setattr(writing.Llama, "refuses", lambda config: "let it be padded rows")
    model, plans, counted = build(seed=4), of_parts(np.random.default_rng(1), 20), []
    def written(rows, plans=plans, tick=counted.append): return write_documents(model, plans, rows, seed=7, tick=tick)
    together = written(20)
    assert sorted(counted) == sorted(len(tokens) for tokens, _ in together)
    assert written(1) == written(7) == together and written(5, plans[:11]) == together[:11]
    for n, parts in enumerate(plans):
        tokens, rng = [], Keyed(7, n)
        for part in parts:
            begin = len(tokens := tokens + part.given)
            law, stop = Law(temperature=part.temperature, top_k=64 if part.temperature else 0), Stop(part.limit, part.ends)
            said = Trace(decode(model, "none", tokens, law=law, rng=rng, stop=stop)).tokens
            tokens = tokens + (said[:-1] if said[-1] in part.ends and part is not parts[-1] else said)
        assert together[n] == (tokens, begin)
    dice = Dice(3)
    monkeypatch.setattr(writing, "Keyed", lambda *key: dice)
    assert written(1) != written(20)


def test_a_plan_without_words_of_the_model(model):
    plans = [[Part([1, 2], 0, 0.)], [Part([4], 0, 0.), Part([5], 3, 0.)]]
    (short, begin), (long, second) = write_documents(model, plans)
    assert (short, begin) == ([1, 2], 2) and long[:2] == [4, 5] and len(long) == 5 and second == 2


def test_a_document_ends_where_the_window_does(model):
    window = as_target(model).window
    [(cut, begin), (said, second)] = write_documents(model, [[Part([1] * (window - 4), 9, 0.), Part([2, 3], 9, 0.)], [Part([1] * (window - 4), 50, 0.)]])
    assert len(cut) == window == begin and second == window - 4 and len(said) == window + 1, "the last token need not be read"
