"""What tests by enumeration share: the exact law of texts, a model and a crude guesser of three words, pairs of laws, all trees of a size."""
import numpy as np

from specdec_nb import TableLM, Trace, exact_law as law
from specdec_nb.decode import decode


def texts(model, drafter, n, **settings):
    return law(lambda rng: tuple(Trace(decode(model, drafter, [0], limit=n, rng=rng, **settings)).tokens))


MODEL = TableLM({(): [3, 2, 1], (0,): [3, 2, 1], (1,): [1, 2, 1], (2,): [1, 2, 3]})
CRUDE = TableLM({(): [1, 1, 1], (0,): [2, 1, 1]})


def pairs(n, V, seed=0):
    gen = np.random.default_rng(seed)
    for _ in range(n):
        yield [TableLM({(): [1, *gen.integers(0, 7, V - 1).tolist()]}).p([]) for _ in range(2)]


def trees(n, width):
    found = {frozenset()}
    for _ in range(n): found = {t | {p + (x,)} for t in found for p in t | {()} for x in range(width) if p + (x,) not in t}
    return found
