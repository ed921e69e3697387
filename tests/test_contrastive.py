"""Two models' difference: what the expert finds improbable has no mass; one text, whoever drafts, in beams and in searches."""
from fractions import Fraction as F

import numpy as np
import pytest

from decoders import DRAFTERS, MODELS, small, told
from drafters import Wild
from specdec_nb import Draft, Law
from specdec_nb.decoding.beams import BeamSearch, beam_search
from specdec_nb.decoding.contrastive import Contrastive, contrasted
from specdec_nb.decoding.hidden import ContrastiveSearch
from specdec_nb.decoding.methods import Mirostat
from specdec_nb.roles import as_target
from specdec_nb.sampling import softmax
from specdec_nb.stops import Stop


@pytest.mark.parametrize("alpha", [F(101, 1000), F(499, 1000), F(907, 1000)])
def test_plausible_is_what_the_expert_finds(alpha):
    "In logits and in fractions: what the expert finds improbable has no mass, whatever the amateur says"
    gen, masked = np.random.default_rng(0), 0
    for _ in range(20):
        p, q = (np.array([F(int(w), int(ws.sum())) for w in ws], dtype=object) for ws in gen.integers(1, 30, (2, 7)))
        exact, logits = contrasted(p, q, alpha, (2, 1)), contrasted(np.log(p.astype(float)), np.log(q.astype(float)), float(alpha), (2, 1))
        assert np.allclose(softmax(logits), exact.astype(float)) and [x > 0 for x in exact] == [x >= alpha * max(p) for x in p]
        masked += [x >= alpha * max(p) for x in p] != [x >= alpha * max(q) for x in q]
    assert masked > 5, "the amateur's mask is another"


def test_beams_and_searches_of_two_models():
    "Li et al. search their difference with beams; whoever has rows can be searched"
    pair, begin = Contrastive(MODELS["gpt2"], small("own", 5), beta=.7), [5, 9, 7, 9, 5]
    rows = lambda words: softmax(pair.score([(pair.open([*begin, *words]), Draft())])[0].row(0))
    groups, search, stop = BeamSearch(3).start(), BeamSearch(3), Stop(7, frozenset({7, 21}))
    def logs(words):
        with np.errstate(divide="ignore"): return np.log(rows(words))
    while not groups[0].done: groups = search.step(groups, logs, stop)
    for drafter in ("none", *(d() for d in DRAFTERS.values()), Wild(2, truth=[*begin, *groups[0].finished[0][1]])):
        assert [t for _, t in beam_search(pair, begin, 7, {7, 21}, drafter, width=3).texts] == [t for _, t in groups[0].finished]
    searched = ContrastiveSearch(pair, k=3)
    plain = told(searched, Law(temperature=0), "none", n=8)
    assert plain != told(ContrastiveSearch(MODELS["gpt2"], k=3), Law(temperature=0), "none", n=8)
    assert all(told(searched, Law(temperature=0), d(), n=8) == plain for d in DRAFTERS.values())


@pytest.mark.parametrize("kind, likelihood", [("own", False), ("gpt2", True)])
def test_contrastive_decoding(kind, likelihood):
    both = Contrastive(MODELS[kind], small("own", 5), beta=.7, likelihood=likelihood)
    for law in (Law(temperature=0), Mirostat(surprise=2.)):
        plain = told(both, law, "none", n=14)
        assert all(told(both, law, d, n=14) == plain for d in ("amateur", "amateur:tree=5:k=3", *(d() for d in DRAFTERS.values())))
        assert told(both, law, Wild(0, truth=[5, 9, 7, 9, 5, *plain]), n=14) == plain
        assert plain != told(MODELS[kind], law, "none", n=14)


@pytest.mark.parametrize("wrong, says", [
    (lambda t: Contrastive(t, t, alpha=2), "alpha"),
    (lambda t: Contrastive(t, t, beta=-1), "beta"),
])
def test_numbers_that_mean_nothing(wrong, says):
    with pytest.raises(ValueError, match=says): wrong(as_target(MODELS["own"]))
