"""Chapter 09: the best tree of all, by force; and accuracies by rank."""
import math
from fractions import Fraction as F
from functools import lru_cache

import numpy as np
import pytest

from enumeration import trees
from specdec_nb import Draft, Verdict
from specdec_nb.shape import accuracy_by_rank, static_tree


def dynamic_programme(acc, n):
    @lru_cache(None)
    def best(depth, rank, m):
        if not m or depth == len(acc) or rank == len(acc[depth]): return 0
        return max(best(depth, rank + 1, m), *(acc[depth][rank] * (1 + best(depth + 1, 0, j - 1)) + best(depth, rank + 1, m - j)
                                               for j in range(1, m + 1)))
    return best(0, 0, n)


@pytest.mark.parametrize("seed", range(6))
def test_greedy_growth_equals_the_dynamic_programme_and_force(seed):
    gen = np.random.default_rng(seed)
    acc = [[F(int(x), 100) for x in row] for row in gen.integers(1, 33, (3, 3))]
    for n in (1, 4, 8): assert sum(static_tree(acc, n)[1]) == dynamic_programme(acc, n)
    def worth(tree): return sum(math.prod(acc[d][r] for d, r in enumerate(path)) if len(path) <= 3 else 0 for path in tree)
    assert max(map(worth, trees(4, 3))) == sum(static_tree(acc, 4)[1])
    chain = sum(static_tree([row[:1] for row in acc], 4)[1])
    assert chain < sum(static_tree(acc, 4)[1]), "the control: a chain is not the best tree here"


def test_accuracy_by_rank_counts_what_was_judged():
    draft = Draft([5, 6, 7, 8], [-1, -1, 0, 0])
    steps = [(draft, Verdict.of(draft, path, token)) for path, token in (((0, 3), 9), ((0,), 9), ((1,), 9), ((), 9))]
    assert accuracy_by_rank(steps, 2, 2) == [[.5, .25], [0., .5]]
    cut = (draft, Verdict.of(draft, (0,), None))                     # a stop inside the path: below node 0 nothing was judged
    assert accuracy_by_rank([*steps, cut], 2, 2) == [[.6, .2], [0., .5]]
    static_tree(accuracy_by_rank(steps, 2, 2), 4)                    # and it is a table that static_tree takes
