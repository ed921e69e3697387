"""Table models: which row answers, the law of whole texts, and what is no distribution."""
from fractions import Fraction as F
from itertools import product

import numpy as np
import pytest

from specdec_nb.lm import TableLM, distribution, weather


@pytest.mark.parametrize("seed", range(4))
def test_the_longest_suffix_answers(seed):
    full = TableLM.random(3, 3, seed)
    kept = [s for i, s in enumerate(full.rows) if not s or i % 3]                           # a table with holes
    lm = TableLM({s: full.rows[s] for s in kept})
    others = 0
    for prefix in product(range(3), repeat=4):
        known = [prefix[i:] for i in range(5) if prefix[i:] in lm.rows]
        assert (lm.p(prefix) == lm.rows[max(known, key=len)]).all()
        others += any((lm.p(prefix) != lm.rows[s]).any() for s in known)
    assert others, "the control: a shorter suffix would have said something else"


def test_the_law_is_the_product_formula():
    for lm in (TableLM.random(3, 2, 5), *weather()):
        law = lm.law([0], 3)
        for text in product(range(3), repeat=3):
            chance = F(1)
            for i, x in enumerate(text): chance *= lm.p((0, *text[:i]))[x]
            assert law.get(text, 0) == chance
        assert sum(law.values()) == 1 and 0 not in law.values() and law != lm.law([1], 3)


def test_weights_are_exact_and_what_is_no_distribution_is_told():
    assert list(distribution([1, 2, F(1, 2)])) == [F(2, 7), F(4, 7), F(1, 7)]
    for weights in ([0, 0], [1, -1, 5], []):
        with pytest.raises(ValueError): distribution(weights)
    with pytest.raises(ValueError, match="empty suffix"): TableLM({(0,): [1, 2]})
    with pytest.raises(ValueError, match=r"2 weights.*\(0,\)"): TableLM({(): [1, 2], (0,): [1, 2, 3]})
    assert TableLM.random(4, 2, 9).rows.keys() == {s for n in range(3) for s in product(range(4), repeat=n)}
    assert all((np.asarray(a) == b).all() for a, b in zip(TableLM.random(4, 1, 9).rows.values(), TableLM.random(4, 1, 9).rows.values()))
