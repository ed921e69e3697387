"""Noise by address: the same text whoever drafts, the right law under rejection; and noise that is shared, which is refused."""
from fractions import Fraction as F

import numpy as np
import pytest

from drafters import Sampled, Wild
from enumeration import CRUDE, MODEL
from specdec_nb import Keyed, TableLM, Trace, Verdict, exact_law as law
from specdec_nb.chance import Dice
from specdec_nb.decode import decode


class SharedNoise:
    "Deals one grid-uniform number a position to draft, coin and target alike"
    def __init__(self, rng, n=60): self.rng, self.n, self.base, self.dealt = rng, n, 0, {}
    def since(self, position):
        view = SharedNoise(self.rng, self.n)
        view.base, view.dealt = self.base + position, self.dealt
        return view
    def at(self, position, purpose):
        key = self.base + position
        if key not in self.dealt:
            self.dealt[key] = F(self.rng.categorical(np.array([F(1, self.n)] * self.n, dtype=object)), self.n)
        self.u = self.dealt[key]
        return self
    def bernoulli(self, p): return self.u < p
    def categorical(self, p): return int(np.searchsorted(np.cumsum(np.asarray([p[x] for x in range(len(p))])), self.u, side="right"))


def test_shared_noise_is_caught():
    def shared(rng): return tuple(Trace(decode(MODEL, Sampled(CRUDE, (1,)), [0], limit=2, rng=SharedNoise(rng, 12), rule="rejection")).tokens)
    assert law(shared) != MODEL.law([0], 2)


def test_keyed_equals_plain_for_every_drafter():
    for seed in range(20):
        model, crude = TableLM.random(5, 2, seed), TableLM.random(5, 1, seed + 50)
        drafters = ["none", "lookup", Sampled(crude, (2, 1)), Sampled(crude, (1, 1, 1)), Wild(seed)]
        runs = [Trace(decode(model, d, [0, 1], limit=25, rng=Keyed(seed))).tokens for d in drafters]
        assert all(r == runs[0] for r in runs)
    assert Trace(decode(model, "none", [0, 1], limit=25, rng=Keyed(seed + 1))).tokens != runs[0]


def test_keyed_rejection_is_exact_in_distribution():
    """Counter-based noise under the rejection rule: 4 000 texts of two tokens, chi-square with 8 degrees of freedom. Above 40 it is by
    chance 3 times in a million; resampling from p, the control, is far above."""
    def chi_square(rule, n=4000):
        counts = {}
        for request in range(n):
            t = tuple(Trace(decode(MODEL, Sampled(CRUDE, (2,)), [0], limit=2, rng=Keyed(3, request), rule=rule)).tokens)
            counts[t] = counts.get(t, 0) + 1
        return sum((counts.get(t, 0) - n * float(w)) ** 2 / (n * float(w)) for t, w in MODEL.law([0], 2).items())
    assert chi_square("rejection") < 40 < chi_square(resample_from_p_first)


def resample_from_p_first(draft, p, rng):
    for i in draft.children(-1)[:1]:
        if not rng.at(0, "coin").bernoulli(p[0][draft.tokens[i]] / draft.q(i)[draft.tokens[i]]): break
        return Verdict.of(draft, (i,), rng.at(1, "target").categorical(p[i + 1]))
    return Verdict.of(draft, (), rng.at(0, "target").categorical(p[0]))


@pytest.mark.parametrize("call,says", [
    (lambda: Dice().categorical(np.array([.5, np.nan])), "NaN"),
    (lambda: Keyed(0).at(0, "target").categorical(np.array([.5, np.nan])), "NaN"),
])
def test_clear_errors(call, says):
    with pytest.raises(ValueError, match=says): call()
