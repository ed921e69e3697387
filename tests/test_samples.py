"""Many answers to one prompt, and the best of them."""
import numpy as np
import pytest
import torch

from decoders import MODELS, small
from specdec_nb import Draft, Keyed, Law, Trace
from specdec_nb.decode import decode
from specdec_nb.decoding.contrastive import Contrastive
from specdec_nb.decoding.hidden import ContrastiveSearch
from specdec_nb.decoding.samples import best_of, samples
from specdec_nb.roles import as_target
from specdec_nb.stops import Stop


@pytest.mark.parametrize("kind", MODELS)
def test_the_best_of_many(kind):
    "Ranked by what the model thinks of each text by itself, not by the law that was sampled from; or as a judge says; whoever drafts"
    model, begin, law = MODELS[kind], [5, 9, 7, 9, 5], Law(temperature=.5, top_k=9)
    ranked = {d: best_of(model, begin, 5, Stop(9, frozenset({7})), law=law, seed=2, drafter=d) for d in ("none", "siblings", "lookup")}
    assert all([t.tokens for _, t in r] == [t.tokens for _, t in ranked["none"]] for r in ranked.values())
    def opinion(tokens):
        target = as_target(model)
        rows = target.score([(target.open(begin), Draft.chain(tokens))])[0].rows[:-1].double().log_softmax(-1)
        return float(rows.gather(-1, torch.tensor(tokens)[:, None]).mean())
    marks = [mark for mark, _ in ranked["siblings"]]
    assert np.allclose(marks, [opinion(t.tokens) for _, t in ranked["siblings"]], atol=1e-4) and marks == sorted(marks, reverse=True) and marks[0] > marks[-1]
    judged = best_of(model, begin, 5, Stop(9, frozenset({7})), lambda tokens: -len(tokens) - tokens[0] / 100, law=law, seed=2)
    assert [len(t.tokens) for _, t in judged] == sorted(len(t.tokens) for _, t in judged)


@pytest.mark.parametrize("composed", [lambda: Contrastive(MODELS["gpt2"], small("own", 5), beta=.7), lambda: ContrastiveSearch(MODELS["gpt2"], k=4)], ids=["contrastive", "search"])
def test_samples_of_targets_of_two_parts(composed):
    "A copy of a state is the whole target's: both of its models are asked"
    target, law = composed(), Law(.9)
    for begin in ([5, 9, 7, 9, 5], [3]):
        wanted = [Trace(decode(target, "none", begin, limit=10, law=law, rng=Keyed(4, i))).tokens for i in range(3)]
        assert all([t.tokens for t in samples(target, begin, 3, Stop(10), law, d, seed=4)] == wanted for d in ("none", "siblings", "lookup"))
