"""Rejection: keep or owe, exactly the target's law, as often as two laws allow; points, ends and what cannot have been drawn."""
from fractions import Fraction as F

import numpy as np
import pytest

from enumeration import pairs
from specdec_nb.chance import Point
from specdec_nb.rejection import accept_probability, overlap, residual, total_variation


def kept_and_owed(p, q, owed):
    "The law of a token that was drawn from q, and drawn again from `owed` where it was turned down"
    keeps = [accept_probability(p, q, x) if q[x] else 0 for x in range(len(p))]
    lost = sum(q[x] * (1 - keeps[x]) for x in range(len(p)))
    return [q[x] * keeps[x] + lost * owed[x] for x in range(len(p))], 1 - lost


@pytest.mark.parametrize("V", [2, 3, 7])
def test_what_is_kept_and_what_is_owed_are_the_target(V):
    wrong = 0
    for p, q in pairs(40, V, seed=V):
        law, kept = kept_and_owed(p, q, residual(p, q))
        assert law == list(p) and kept == overlap(p, q) == 1 - total_variation(p, q)
        wrong += kept_and_owed(p, q, p)[0] != list(p)
    assert wrong > 20, "the control: drawing again from p itself"


def test_points():
    p, q = np.array([F(1, 2), F(1, 3), F(1, 6)]), np.array([F(1, 4), F(1, 4), F(1, 2)])
    for x in range(3):
        point, dense = Point(x, 3), np.array([F(y == x) for y in range(3)])
        for a, b, c, d in ((p, point, p, dense), (point, q, dense, q)):
            assert kept_and_owed(a, b, residual(a, b))[0] == list(c)
            assert overlap(a, b) == overlap(c, d) == 1 - total_variation(c, d) == pytest.approx(1 - total_variation(a, b))
            assert list(np.asarray(residual(a, b))) == list(residual(c, d))


def test_where_nothing_is_owed_and_what_was_never_drawn():
    p = np.array([.25, .75])
    assert residual(p, p) is p and accept_probability(p, p, 0) == 1
    assert accept_probability(np.array([0., 1.]), p, 0) == 0
    with pytest.raises(ValueError, match=r"token 1 cannot have been drawn from q: q\(1\) = 0"): accept_probability(p, np.array([1., 0.]), 1)
