"""What speculation brings: tokens a call by enumeration, the best length by search, Lambert's W, and curves of cost."""
import math
from fractions import Fraction as F
from itertools import product

import numpy as np
import pytest

from specdec_nb.speedup import CostCurve, best_k, expected_tokens, lambert_w_minus1, peak_k, speedup, this_machine, three_machines


@pytest.mark.parametrize("alpha", [F(0), F(1, 3), F(4, 5), F(1)])
def test_tokens_a_call_by_enumeration(alpha):
    for k in range(5):
        mean = F(0)
        for coins in product((True, False), repeat=k):
            kept = next((i for i, yes in enumerate(coins) if not yes), k)
            mean += math.prod((alpha if yes else 1 - alpha for yes in coins), start=F(1)) * (kept + 1)
        assert expected_tokens(alpha, k) == mean
        assert not k or expected_tokens(alpha, k - 1) != mean or alpha == 0
    for wrong in ((-.1, 3), (1.1, 3), (.5, -1)):
        with pytest.raises(ValueError): expected_tokens(*wrong)


def test_the_best_length_is_the_best_of_all():
    lost = 0
    for alpha in (.05, .3, .5, .7, .9, .99):
        for c in (.001, .01, .05, .2, .5, .9):
            force = max(range(700), key=lambda k: speedup(alpha, k, c))
            k = best_k(alpha, c)
            assert k == force and (not k or abs(peak_k(alpha, c) - k) < 1)
            lost += speedup(alpha, k + 1, c) < speedup(alpha, k, c)
            assert k < 600, "the search has seen beyond it"
        assert best_k(alpha, alpha) == 0 and speedup(alpha, 1, alpha) <= 1
    assert lost > 30, "the control: one more costs, but for ties"
    steps = three_machines()["CPU (measured)"].v
    assert best_k(.8, .01, steps, most=20) == max(range(21), key=lambda k: speedup(.8, k, .01, steps)) != best_k(.8, .01)
    assert best_k(1, .1, most=7) == 7 == best_k(.5, 0, most=7)
    with pytest.raises(ValueError, match="most="): best_k(1, .1)


def test_lambert_is_the_lower_branch():
    for log_y in (-1, -1 - 1e-12, -1 - 1e-6, -1.1, -2, -30, -1000):
        w = lambert_w_minus1(log_y)
        assert w <= -1 and math.isclose(math.log(-w) + w, log_y, rel_tol=1e-12, abs_tol=1e-12)
    assert abs(math.log(.2) - .2 - -2) > .1, "the control: a value of the other branch solves another equation"
    for wrong in (-.5, math.inf, -math.inf):
        with pytest.raises(ValueError, match="log_y"): lambert_w_minus1(wrong)


def test_a_curve_between_its_points_and_beyond(tmp_path):
    curve = CostCurve((1, 2, 6), (2., 3., 5.), {"kind": "told"})
    assert [curve(n) for n in (1, 1.5, 4, 6, 8)] == [2, 2.5, 4, 5, 6] and np.allclose(curve.v([0, 1, 7]), [1, 1.5, 3])
    falling = CostCurve((1, 2, 3), (2., 4., 3.))
    assert falling(9) == 3, "it does not go on falling"
    assert CostCurve.load(curve.save(tmp_path / "c.json")) == curve != falling and CostCurve.load(tmp_path / "c.json").provenance == {"kind": "told"}
    for rows, seconds in (((1,), (1.,)), ((2, 3), (1., 1.)), ((1, 1), (1., 1.)), ((1, 2), (1., 0.)), ((1, 2), (1., math.nan)), ((1, 2), (1.,))):
        with pytest.raises(ValueError): CostCurve(rows, seconds)
    with pytest.raises(ValueError, match="at least one row"): curve([1, 0])


def test_a_roofline_is_flat_up_to_its_ridge():
    curve = CostCurve.roofline(weights=1e9, bandwidth=1e11, flops=1e13, flops_per_row=1e10, overhead=.001)
    assert curve.provenance["ridge"] == pytest.approx(10)
    for n in (1, 5, 10, 11, 40): assert curve(n) == pytest.approx(.001 + max(.01, n * .001))
    assert this_machine()["cores"] and {"machine", "processor", "date"} <= this_machine().keys()
