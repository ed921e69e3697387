"""Training: what a kill, another target, other settings, bad files and bad numbers do to it."""
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import transformers as hf

from specdec_nb.cli import main
from specdec_nb.roles import as_target
from specdec_nb.training.corpus import Corpus, Part, write_corpus, write_documents
from specdec_nb.training.distill import Batches, DraftModel, Features, Lender, Trained, fingerprint, fit_drafter, forward_kl, held_out
from specdec_nb.training.train import train
from specdec_nb.drafters.heads import Medusa
from test_heads import SIZES, WORDS, build


@pytest.fixture(scope="module")
def model(): return build(seed=4, dtype=torch.float32)


@pytest.fixture(scope="module")
def data(model, tmp_path_factory):
    "A folder of two shards that the model wrote"
    folder, gen = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for number in range(2):
        plans = [[Part(gen.integers(0, 16, 4).tolist(), 16, float(i % 2))] for i in range(40)]
        written = write_documents(model, plans, rows=20, seed=number)
        np.savez(folder / f"{number:04d}.npz", tokens=np.concatenate([np.array(t, np.uint16) for t, _ in written]),
                 lengths=[len(t) for t, _ in written], begins=[b for _, b in written], kinds=["continued"] * 40)
    return folder


def trained(model, data, out, steps=12, **options): return train("medusa", data, out, model, steps=steps, words=16, size=2, apart=8, **options)


class Killed(Exception): ...


def test_killed_and_resumed(model, data, tmp_path):
    "The same weights, for a real kind of drafter, and whatever the checkpoint"
    corpus = Corpus(data, apart=8)
    features = Features(model, corpus.train, [4], tmp_path / "f")
    def fit(name, kill=None, **more):
        torch.manual_seed(0)
        net = Medusa.of(model, WORDS, heads=2).join(Lender(model))
        def tick(record):
            if record["step"] == kill: raise Killed
        fit_drafter(net, Batches(features, net, 2), Batches(features, net, 2), tmp_path / name, 50, save_every=7, tick=tick, **more)
        return net.state_dict()
    whole = fit("whole")
    with pytest.raises(Killed): fit("cut", kill=20)
    cut = fit("cut", resume=True)
    assert all(torch.equal(whole[k], cut[k]) for k in whole)
    assert any(not torch.equal(whole[k], w) for k, w in fit("other", lr=1e-4).items())
    for changed in (dict(lr=1e-4), dict(objective=lambda z, p: forward_kl(z, p))):
        with pytest.raises(ValueError, match="was begun with .* resume with the same settings"): fit("cut", resume=True, **changed)
    with pytest.raises(ValueError, match="--resume to go on"): fit("cut")
    saved = tmp_path / "cut" / "training.pt"
    saved.write_bytes(saved.read_bytes()[:1000])
    with pytest.raises(ValueError, match="training.pt is damaged"): fit("cut", resume=True)


@pytest.mark.parametrize("poison", ["loss", "gradient"])
def test_not_finite(model, data, tmp_path, poison):
    "A loss or a gradient that is no number ends the run before it reaches the weights, and the last checkpoint stays"
    corpus, step = Corpus(data, apart=8), [0]
    features = Features(model, corpus.train, [4], tmp_path / "f")
    net = Medusa.of(model, WORDS, heads=2).join(Lender(model))
    def objective(z, p):
        step[0] += 1
        if step[0] < 11: return forward_kl(z, p)                 # two heads: the sixth step
        return forward_kl(z, p) * float("nan") if poison == "loss" else (z - z.detach()).abs().sqrt().sum(-1)
    with pytest.raises(ValueError, match="at step 6.*last checkpoint in .* is of step 5"):
        fit_drafter(net, Batches(features, net, 2), Batches(features, net, 2), tmp_path / "run", 20, save_every=5, objective=objective)
    assert torch.load(tmp_path / "run" / "training.pt", weights_only=True)["step"] == 5
    assert all(w.isfinite().all() for w in net.parameters())


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
    with pytest.raises(ValueError, match="holds a medusa drafter: a eagle3 drafter cannot begin with it"):
        train("eagle3", data, tmp_path / "third", model, begin=tmp_path / "first", apart=8)


def test_another_model(model, data, tmp_path):
    "Is refused by its matrices; and states that another model read are not taken for this one's"
    other = build(seed=9, dtype=torch.float32)
    assert fingerprint(Lender(model)) == fingerprint(as_target(build(seed=4, dtype=torch.bfloat16))) != fingerprint(Lender(other))
    shifted = build(seed=4, dtype=torch.float32)
    with torch.no_grad(): shifted.get_input_embeddings().weight[:, 1:] *= -1                 # the first column is the same
    assert fingerprint(Lender(shifted)) != fingerprint(Lender(model))
    trained(model, data, tmp_path / "out")
    with pytest.raises(ValueError, match="another model"): trained(other, data, tmp_path / "new", begin=tmp_path / "out")
    documents = Corpus(data, apart=8).train
    mine, theirs = (Features(m, documents, [4], tmp_path / "shared").hidden[:50].clone() for m in (model, other))
    assert not torch.equal(mine, theirs)


def test_a_head_that_is_more_than_a_matrix(tmp_path):
    capped = hf.Gemma2Config(**{**SIZES, "pad_token_id": 0}, vocab_size=16, num_hidden_layers=2, head_dim=8, final_logit_softcapping=.5)
    model = hf.AutoModelForCausalLM.from_config(capped).eval()
    with pytest.raises(ValueError, match="a cap"): Features(model, [np.arange(12)], [2], tmp_path / "f")


def test_a_model_without_layers_to_take():
    gpt = hf.AutoModelForCausalLM.from_config(hf.GPT2Config(vocab_size=16, n_embd=32, n_layer=2, n_head=4)).eval()
    with pytest.raises(ValueError, match="no draft model can be made of its layers: gpt2"): DraftModel.of(gpt, WORDS)


def test_weights_of_another_save(model, data, tmp_path):
    "A description and weights that do not belong together are refused"
    trained(model, data, tmp_path / "a")
    trained(model, data, tmp_path / "b", steps=13)
    shutil.copy(tmp_path / "a" / "model.safetensors", tmp_path / "b" / "model.safetensors")
    with pytest.raises(ValueError, match="not the weights that it describes"): Trained.from_pretrained(tmp_path / "b")


def test_data_killed_and_resumed(tmp_path, monkeypatch):
    "The same shards, none half there, none twice; and a trial's shard is not taken for a whole one"
    import specdec_nb.training.corpus as corpus
    model, gen = build(seed=4, dtype=torch.float32), []
    def plan(rng, tokenizer, files): return "continued", [Part(rng.integers(0, 16, 4).tolist(), 8, 1.)]
    monkeypatch.setattr(corpus, "plan_document", plan)
    monkeypatch.setattr(corpus, "passages", list)
    options = dict(documents=6, rows=3)
    write_corpus(model, None, tmp_path / "whole", 3, **options)
    def kill(n):
        gen.append(n)
        if len(gen) == 9: raise Killed
    with pytest.raises(Killed): write_corpus(model, None, tmp_path / "cut", 3, tick=kill, **options)
    assert [p.name for p in (tmp_path / "cut").glob("*.npz")] == ["0000.npz"]
    write_corpus(model, None, tmp_path / "cut", 3, **options)
    for number in range(3):
        a, b = (np.load(tmp_path / name / f"000{number}.npz") for name in ("whole", "cut"))
        assert all(np.array_equal(a[k], b[k]) for k in ("tokens", "lengths", "begins", "kinds"))
    with pytest.raises(ValueError, match="holds 6 documents, not 7"): write_corpus(model, None, tmp_path / "whole", 3, documents=7, rows=3)


@pytest.mark.parametrize("harm,message", [
    (lambda d: [p.unlink() for p in d.glob("*.npz")], "no data in"),
    (lambda d: (d / "0001.npz").write_bytes((d / "0001.npz").read_bytes()[:200]), "0001.npz is damaged"),
], ids=["empty", "truncated"])
def test_bad_data(model, data, tmp_path, harm, message):
    folder = shutil.copytree(data, tmp_path / "data")
    harm(folder)
    with pytest.raises(ValueError, match=message): trained(model, folder, tmp_path / "out")
    with pytest.raises(ValueError, match="unknown kind"): train("hydra", data, tmp_path / "out", model)
    with pytest.raises(ValueError, match="unknown loss"): trained(model, data, tmp_path / "out", objective="hinge")
    for bad in (dict(apart=0), dict(apart=300), dict(shards=0)):
        with pytest.raises(ValueError, match="need apart from 1 to 256"): Corpus(data, **bad)


def test_on_the_command_line(model, data, tmp_path, monkeypatch, capsys):
    "A trial; and two processes of torchrun, which average their gradients and leave one drafter"
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    hf.PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({f"w{i}": i for i in range(16)}, unk_token="w0"))).save_pretrained(folder)
    train_it = ["train", "medusa", "--model", str(folder), "--data", str(data), "--smoke", "--batch", "2"]
    monkeypatch.setattr(sys, "argv", ["specdec", *train_it, "--out", str(tmp_path / "one")])
    assert main(sys.argv[1:]) == 0
    crew = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "specdec_nb.cli"]
    done = subprocess.run([*crew, *train_it, "--out", str(tmp_path / "two")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    for said in (capsys.readouterr().out, done.stdout): assert said.count("favourite is the target's") == 1
    one, two = (Trained.from_pretrained(tmp_path / name).record for name in ("one", "two"))
    assert (one["steps"], one["batch"], two["batch"]) == (20, 2, 4) and one["command"].startswith("specdec train medusa --model")
    assert (tmp_path / "two" / "log.json").exists() and "device" in one
