"""Truncation, Mirostat and frustratingly simple decoding are what their papers and the library say; a law that moves with guesses is seen."""
import numpy as np
import pytest
import torch
from transformers.generation import EpsilonLogitsWarper, EtaLogitsWarper, TypicalLogitsWarper

from decoders import MODELS, along, told
from drafters import Wild
from specdec_nb.decoding.methods import FSD, Mirostat, Truncated, keep_above, keep_eta, keep_typical
from specdec_nb.roles import as_target
from specdec_nb.sampling import softmax


@pytest.mark.parametrize("surprise, rate", [(1.2, 1.), (3., .4)])
def test_mirostat_is_the_papers(surprise, rate):
    "Algorithm 1 word by word: k of the paper's formula, the surprise of a word before truncation"
    model, begin, law, mu = MODELS["gpt2"], [5, 9, 7, 9, 5], Mirostat(surprise=surprise, rate=rate), 2 * surprise
    cut = 0
    for got, p, word in along(model, law, begin, told(model, law, "none", begin, 30)):
        top = np.sort(p)[::-1]
        t, b = np.log(np.arange(2, 49) / np.arange(1, 48)), np.log(top[:-1] / top[1:])
        s = (t * b).sum() / (t * t).sum()
        k = max(1, min(48, round((((s - 1) * 2 ** mu) / (1 - 48 ** (1 - s))) ** (1 / s))))
        kept = np.where(p >= top[k - 1], p, 0)
        assert np.allclose(got, kept / kept.sum())
        mu, cut = mu - rate * (-np.log2(p[word]) - surprise), cut + (k < 48)
    assert cut > 5, "the bar does something"


def test_fsd_is_the_definition():
    model, begin, law = MODELS["gpt2"], [5, 9, 7, 9, 5, 9, 7], FSD(alpha=.5, n=3)
    words = told(model, law, "none", begin, 24)
    for i, (got, p, _) in enumerate(along(model, law, begin, words)):
        text = [*begin, *words[:i]]
        def share(x, order):
            seen = [text[j + order - 1] for j in range(len(text) - order + 1) if text[j:j + order - 1] == text[len(text) - order + 1:]]
            return seen.count(x) / (len(seen) + (order > 1))
        value = {int(x): .5 * p[x] - .5 * (.9 * share(x, 3) + .09 * share(x, 2) + .01 * share(x, 1)) for x in np.argsort(-p)[:5]}
        assert int(got.argmax()) == max(value, key=value.get)


@pytest.mark.parametrize("theirs, ours", [(TypicalLogitsWarper, keep_typical), (EpsilonLogitsWarper, keep_above), (EtaLogitsWarper, keep_eta)])
@pytest.mark.parametrize("x", [1e-6, .01, .2, .7, .999])
def test_filters_are_the_librarys(theirs, ours, x):
    rows = torch.randn(40, 48, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * torch.linspace(.1, 4, 40)[:, None]
    warped = theirs(x)(None, rows.clone()).softmax(-1).numpy()
    assert all(np.allclose(ours(softmax(z), x), w) for z, w in zip(rows.numpy(), warped))


@pytest.mark.parametrize("wrong, says", [
    (lambda t: FSD(k=0), "k must be"),
    (lambda t: FSD(alpha=2), "alpha must be"),
    (lambda t: FSD(alpha=-.1), "alpha must be"),
    (lambda t: FSD(beta=1.1), "beta must be"),
    (lambda t: Mirostat(surprise=-1), "surprise must be"),
    (lambda t: Mirostat(surprise=np.nan), "surprise must be"),
    (lambda t: Mirostat(rate=-1), "rate must be"),
    (lambda t: Truncated(epsilon=-.1), "epsilon must be"),
    (lambda t: Truncated(eta=2, top_p=.5), "eta must be"),
    (lambda t: FSD(temperature=-1), "temperature must be"),
])
def test_numbers_that_mean_nothing(wrong, says):
    with pytest.raises(ValueError, match=says): wrong(as_target(MODELS["own"]))


def test_a_law_that_moves_with_guesses_is_seen():
    class Leaky(Mirostat):
        mu = {}
        def start(self, prompt): self.mu[0] = 2 * self.surprise; return super().start(prompt)
        def step(self, s, token, scores=None, i=0):
            s = super().step((s[0], self.mu[0]), token, scores, i)
            self.mu[0] = s[1]
            return s
        def row(self, s, scores, i): return super().row((s[0], self.mu[0]), scores, i)
    law, model = Leaky(surprise=1.5), MODELS["own"]
    plain = told(model, law, "none", n=40)
    assert plain == told(model, Mirostat(surprise=1.5), "none", n=40)
    assert told(model, law, Wild(0, truth=[5, 9, 7, 9, 5, *plain]), n=40) != plain
