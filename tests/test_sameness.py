"Chapter 14k: rows that depend on their number are caught, excuses are checked, and odds are those of the noise."
import numpy as np
import pytest
import torch

from specdec_nb.models.sameness import near_ties_of, parting, variant_widths


def test_variant_widths_sees_one_bit_at_one_width():
    x = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    def odd(rows): return torch.nextafter(rows, rows + 1) if len(rows) == 5 else rows
    assert variant_widths(odd, x) == [5] and variant_widths(lambda rows: rows * 2, x) == []
    assert variant_widths(lambda rows: rows - rows.mean(0), x.numpy()) == [2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("seed", range(20))
def test_parting_is_the_definition(seed):
    gen = np.random.default_rng(seed)
    p, q = gen.dirichlet(np.ones(6), 2) * (gen.random((2, 6)) > .3)
    if not p.sum() or not q.sum(): p, q = np.ones(6), np.ones(6)
    p, q = p / p.sum(), q / q.sum()
    def one(x): return 1 / sum(max(p[y] / p[x], q[y] / q[x]) for y in range(6)) if p[x] and q[x] else 0
    assert abs(parting(p, q) - (1 - sum(map(one, range(6))))) < 1e-12
    assert abs(p - q).sum() / 2 - 1e-12 <= parting(p, q) <= 1           # no coupling does better than TV


def test_only_near_ties_are_excused():
    base = torch.tensor([[0., 1., .5], [3., 3.0005, 0.], [2., 0., 0.]])
    tie = base.clone(); tie[1, 0] = 3.001
    fault = tie.clone(); fault[2] = torch.tensor([0., 9., 0.])
    assert near_ties_of(base, base).excused and not near_ties_of(base, base).flips
    assert [i for i, _ in near_ties_of(base, tie).flips] == [1] and near_ties_of(base, tie).excused
    assert not near_ties_of(base, fault).excused and "NOT rounding" in repr(near_ties_of(base, fault))
    assert near_ties_of(base, fault, within=3).excused                    # what rounding is, is told
    with pytest.raises(ValueError, match="one text"): near_ties_of(base, base[:2])
