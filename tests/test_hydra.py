"""Hydra: told by the text and not by its beginning, and as large as Medusa."""
import pytest
import torch

from learners import WORDS, batch_of, build, network, texts
from specdec_nb.learned.hydra import Hydra, HydraDrafter
from specdec_nb.roles import as_target
from specdec_nb.workshop.registry import find


@pytest.fixture(scope="module")
def model(): return build()


def test_hydra_is_told_by_the_text_and_not_by_its_beginning(model):
    "The last rows of a text have no words to be told: with torch.roll they would be told its first"
    net, text = network("hydra", model), texts(8)[0]
    batches = [batch_of(as_target(model), net, [t]) for t in (text, [(text[0] + 1) % 16, *text[1:]])]
    batches[1]["hidden"] = batches[0]["hidden"]
    for (a, _), (b, _) in zip(*(net.guessed(b) for b in batches)): assert torch.equal(a, b)
    h, rolled = batches[0]["hidden"][4], torch.stack([batches[0]["tokens"].roll(-1 - i, 1) for i in range(2)], -1)
    moved = torch.stack([batches[1]["tokens"].roll(-1 - i, 1) for i in range(2)], -1)
    assert not torch.equal(net.after(h[:, :, None], rolled), net.after(h[:, :, None], moved)), "a row that is told the beginning would show"


def test_hydra_has_medusas_size():
    model = build(dtype=torch.float32)
    def weights(net): return sum(w.numel() for name, w in net.named_parameters() if w.dim() == 2)
    medusa, hydra, full = (find("networks", n).of(model, WORDS, heads=4, **o) for n, o in (("medusa", {}), ("hydra", {}), ("hydra", dict(rank=0))))
    assert weights(hydra) <= weights(medusa) < weights(full)
    with pytest.raises(ValueError, match="at least one head"): Hydra.of(model, WORDS, heads=0)
    with pytest.raises(ValueError, match="width >= 1"): HydraDrafter(hydra, width=0)
