"""Several guesses at a place: no rule beats the optimum, and K-SEQ's factor is the smallest lawful one."""
from fractions import Fraction as F

import numpy as np
import pytest

from enumeration import pairs
from specdec_nb import Draft, exact_law as law, verify_rejection, verify_walk
from specdec_nb.trees.blocks import verify_traversal
from specdec_nb.trees.multidraft import iid_optimum, kseq_factor, optimal_acceptance, verify_kseq


def test_no_rule_beats_the_optimum_and_kseq_keeps_its_promise():
    for p, q in pairs(12, 4):
        for k in (1, 2):
            def draw(rng): return Draft([rng.categorical(q) for _ in range(k)], [-1] * k, [q] * k)
            def keeps(rule): return law(lambda rng: bool(rule(draw(rng), [p] * (k + 1), rng).path)).get(True, 0)
            best = optimal_acceptance(p, law(lambda rng: draw(rng).tokens))
            kept = [keeps(rule) for rule in (verify_walk, verify_rejection, verify_kseq, verify_traversal)]
            assert max(kept) <= best and abs(float(best) - iid_optimum(p, q, k)) < 1e-12
            assert kept[2] >= best * (1 - F(1, 3)) and (k > 1 or kept[1] == kept[2] == best)              # 1 - 1/e is below 2/3
    assert optimal_acceptance(p, {(0, 0): F(1)}) == p[0], "one tuple, one token: all it can bring is that token's due"
    with pytest.raises(ValueError, match="sets are too many"): optimal_acceptance([F(1, 20)] * 20, {})


def test_the_factor_of_kseq_is_the_smallest_lawful():
    for p, q in pairs(40, 5, seed=1):
        p, q = p.astype(float), q.astype(float)
        for k in (2, 3, 5):
            def slack(rho, b=None):
                b = np.minimum(q, p / rho).sum()
                return rho * b - (1 - (1 - b)**k)
            rho = kseq_factor(p, q, k)
            assert 1 <= rho <= k and slack(rho) >= -1e-12 and (rho == 1 or slack(rho - 1e-6) < 1e-12)
