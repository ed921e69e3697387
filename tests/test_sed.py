"""Self-evaluation decoding, against itself written word by word."""
import numpy as np
import pytest

from decoders import MODELS, small
from drafters import Wild
from specdec_nb import Draft
from specdec_nb.decoding.sed import Chaos, sed
from specdec_nb.roles import as_target
from specdec_nb.sampling import softmax
from specdec_nb.stops import Stop


class Chain:
    "Self-evaluation decoding, word by word; its judge: how probable word 7 is after the answer"
    def __init__(self, model, stop, k, branchings, chaos, least): self.target, self.stop, self.k, self.branchings, self.chaos, self.least = as_target(model), stop, k, branchings, chaos, least
    def p(self, words): return softmax(self.target.score([(self.target.open(words), Draft())])[0].row(0))
    def judge(self, begin, answers): return [self.p([*begin, *a])[7] for a in answers]
    def greedy(self, begin, new):
        while not (new and self.stop.why(new[-1], len(new), None)): new = (*new, int(self.p([*begin, *new]).argmax()))
        return new
    def write(self, begin):
        new, used = (), 0
        while not (new and self.stop.why(new[-1], len(new), None)):
            p = self.p([*begin, *new])
            order = np.argsort(-p, kind="stable").tolist()
            word = order[0]
            if used < self.branchings and self.chaos(p):
                worth = self.judge(begin, [self.greedy(begin, (*new, c)) for c in order[:self.k]])
                best = int(np.argmax([.8 * e + (1 - .8) * p[c] for e, c in zip(worth, order)]))
                word, used = order[self.k] if max(worth) < self.least else order[best], used + 1
            new = (*new, word)
        return new


@pytest.mark.parametrize("kind", ["own", "gpt2", "chains"])
@pytest.mark.parametrize("settings", [dict(k=2, branchings=3, chaos=Chaos(), least=1e-3), dict(k=3, branchings=2, chaos=Chaos(entropy=1.), least=.03)])
def test_self_evaluation(kind, settings):
    model, stop = MODELS[kind] if kind in MODELS else small(kind), Stop(10, frozenset({21, 30}))
    assert as_target(model).branches == (kind != "chains"), "who takes no trees can be asked all the same"
    plain = Chain(model, stop, **settings)
    for begin in ([5, 9, 7, 9, 5], [3]):
        wanted = plain.write(begin)
        for drafter in ("none", "recycling", Wild(1)):
            assert sed(model, begin, lambda answers: plain.judge(begin, answers), stop, drafter=drafter, **settings).tokens == wanted


@pytest.mark.parametrize("wrong, says", [
    (lambda t: sed(t, [5], lambda a: [.5], Stop(4), k=3, chaos=Chaos(ratio=0.)), "of each"),
    (lambda t: sed(t, [5], lambda a: [np.nan] * len(a), Stop(4), chaos=Chaos(ratio=0.)), "of each"),
    (lambda t: sed(t, [5], lambda a: [.5] * len(a), Stop(4), k=48), "48 words"),
])
def test_numbers_that_mean_nothing(wrong, says):
    with pytest.raises(ValueError, match=says): wrong(as_target(MODELS["own"]))
