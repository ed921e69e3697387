"""Training by a kind's name: a corpus that grows, the card, what it begins with, and bad data."""
import json, shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from learners import build, trained
from specdec_nb import Law, Trace
from specdec_nb.decode import decode
from specdec_nb.learned.fingerprint import Lender
from specdec_nb.learned.network import Trained
from specdec_nb.roles import as_target
from specdec_nb.training.corpus import Corpus
from specdec_nb.training.features import Batches, Features
from specdec_nb.training.fit import held_out
from specdec_nb.training.train import train


@pytest.fixture(scope="module")
def model(): return build(seed=4, dtype=torch.float32)


def test_a_corpus_that_grows(model, data, tmp_path):
    "A run goes on with more documents, and keeps its words; not with fewer"
    first = train("medusa", data, tmp_path / "out", model, steps=12, draft_vocab_size=14, size=2, apart=8, shards=1)
    assert first.record["documents"] < train("medusa", data, tmp_path / "out", model, steps=16, size=2, apart=8, resume=True).record["documents"]
    again = Trained.from_pretrained(tmp_path / "out")
    assert torch.equal(again.draft_vocab, first.draft_vocab) and again.record["steps"] == 16
    with pytest.raises(ValueError, match="begun with documents"): train("medusa", data, tmp_path / "out", model, steps=20, size=2, apart=8, shards=1, resume=True)


def test_the_card_tells_of_what_was_saved(model, data, tmp_path):
    "The figures are those of the eight-bit weights, and of what the model itself wrote"
    net = trained(model, data, tmp_path / "out")
    again, corpus = Trained.from_pretrained(tmp_path / "out").join(Lender(model)), Corpus(data, apart=8)
    layers = sorted({4, 2, 1})
    held = Batches(Features(model, corpus.held, layers, tmp_path / "held"), again, 2, begins=corpus.begins["held"])
    assert held_out(again, held, 200) == net.record["held"] == json.loads((tmp_path / "out" / "config.json").read_text())["record"]["held"]
    assert f"{net.record['held']['top1'][0]:.3f}" in (tmp_path / "out" / "README.md").read_text()


def test_begun_with_another_run(model, data, tmp_path):
    first = trained(model, data, tmp_path / "first", shards=1)
    second = trained(model, data, tmp_path / "second", steps=1, lr=1e-9, begin=tmp_path / "first")
    assert all((a - b).abs().max() < 1e-3 for a, b in zip(first.state_dict().values(), second.state_dict().values()))
    assert second.record["begun_with"]["tokens"] == first.record["tokens"] < second.record["tokens"]
    again = trained(model, data, tmp_path / "second", steps=2, lr=1e-9, begin=tmp_path / "second", resume=True)
    assert again.record["begun_with"] == second.record["begun_with"], "another drafter stands in the place where it began"
    with pytest.raises(ValueError, match="holds a medusa drafter: a eagle3 drafter cannot begin with it"):
        train("eagle3", data, tmp_path / "third", model, begin=tmp_path / "first", apart=8)


def test_weights_of_another_save(model, data, tmp_path):
    "A description and weights that do not belong together are refused"
    trained(model, data, tmp_path / "a")
    trained(model, data, tmp_path / "b", steps=13)
    shutil.copy(tmp_path / "a" / "model.safetensors", tmp_path / "b" / "model.safetensors")
    with pytest.raises(ValueError, match="not the weights that it describes"): Trained.from_pretrained(tmp_path / "b")


def test_weights_that_are_no_numbers(model, data, tmp_path):
    net = trained(model, data, tmp_path / "a")
    with torch.no_grad(): net.mix[0].bias[3] = float("nan")
    net.save_pretrained(tmp_path / "a")
    with pytest.raises(ValueError, match="mix.0.bias is no number everywhere"): Trained.from_pretrained(tmp_path / "a")
    broken = build(seed=4, dtype=torch.float32)
    with torch.no_grad(): broken.model.layers[2].mlp.down_proj.weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match="are no numbers in document"): trained(broken, data, tmp_path / "b")


def test_saved_by_many_at_once(model, data, tmp_path):
    "Eight threads and one folder: what is there afterwards is whole"
    net = trained(model, data, tmp_path / "a", steps=1)
    with ThreadPoolExecutor(8) as pool: list(pool.map(lambda _: net.save_pretrained(tmp_path / "b"), range(40)))
    assert sorted(p.name for p in (tmp_path / "b").iterdir()) == ["config.json", "model.safetensors"]
    Trained.from_pretrained(tmp_path / "b")


def test_the_callers_dice(model, data, tmp_path):
    "Training leaves the global generator as it was, whatever the seed; and the seed decides"
    torch.manual_seed(3)
    before = torch.get_rng_state()
    kinds = {seed: train("eagle3", data, tmp_path / str(seed), model, steps=1, draft_vocab_size=16, size=2, apart=8, seed=seed) for seed in (0, 1)}
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(kinds[0].qkv.weight, kinds[1].qkv.weight)


@pytest.mark.parametrize("harm,message", [
    (lambda d: [p.unlink() for p in d.glob("*.npz")], "no data in"),
    (lambda d: (d / "0001.npz").write_bytes((d / "0001.npz").read_bytes()[:200]), "0001.npz is damaged"),
], ids=["empty", "truncated"])
def test_bad_data(model, data, tmp_path, harm, message):
    folder = shutil.copytree(data, tmp_path / "data")
    harm(folder)
    with pytest.raises(ValueError, match=message): trained(model, folder, tmp_path / "out")
    with pytest.raises(ValueError, match="unknown network 'chimaera'; known: .*draft"): train("chimaera", data, tmp_path / "out", model)
    with pytest.raises(ValueError, match="unknown loss"): trained(model, data, tmp_path / "out", objective="hinge")
    for bad in (dict(apart=0), dict(apart=300), dict(shards=0)):
        with pytest.raises(ValueError, match="need apart from 1 to 256"): Corpus(data, **bad)


@pytest.mark.parametrize("kind", ["hydra", "eagle", "block", "prophet", "chimera"])
def test_a_kind_is_trained_by_its_name(kind, model, data, tmp_path):
    "From a corpus to a folder, its card, and a drafter that leaves the text as it is; a run that is done is not begun again"
    from specdec_nb.workshop.registry import find
    options = dict(steps=3, draft_vocab_size=16, size=2, apart=8)
    net = train(kind, data, tmp_path / kind, model, **options)
    assert type(net) is find("networks", kind) and net.record["steps"] == 3 and "| 3 |" in (tmp_path / kind / "README.md").read_text()
    weights = (tmp_path / kind / "model.safetensors").read_bytes()
    train(kind, data, tmp_path / kind, model, resume=True, **options)
    assert (tmp_path / kind / "model.safetensors").read_bytes() == weights
    train(kind, data, tmp_path / kind, model, resume=True, **{**options, "steps": 5})
    assert (tmp_path / kind / "model.safetensors").read_bytes() != weights, "asked for more, it goes on"
    drafter = find("drafters", kind)(tmp_path / kind, k=3)
    plain, ours = (Trace(decode(as_target(model), d, [3, 1, 4], limit=16, law=Law(temperature=0))) for d in ("none", drafter))
    assert ours.tokens == plain.tokens and sum(ours.drafted) > 0
