"""Training: what a kill, another target, other settings, bad files and bad numbers do to it."""
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as hf

from specdec_nb.cli import main
from specdec_nb import Dice, Keyed, Law, Llama, Stop, Trace
from specdec_nb.decode import decode
from specdec_nb.roles import as_target
from specdec_nb.training import corpus as writing
from specdec_nb.training.corpus import Corpus, Part, write_documents
from specdec_nb.learned.draft_model import DraftModel
from specdec_nb.learned.losses import forward_kl
from specdec_nb.learned.network import Trained
from specdec_nb.learned.fingerprint import Lender, apart, fingerprint
from specdec_nb.training.features import Batches, Features
from specdec_nb.training.fit import fit_drafter, held_out
from specdec_nb.training.many import write_corpus
from specdec_nb.training.train import train
from specdec_nb.learned.eagle import EagleDrafter
from specdec_nb.learned.medusa import Medusa, MedusaDrafter
from specdec_nb.drafters.model import ModelDrafter
from learners import SIZES, WORDS, build


@pytest.fixture(scope="module")
def model(): return build(seed=4, dtype=torch.float32)


@pytest.fixture(scope="module")
def data(model, tmp_path_factory):
    "A folder of two shards that the model wrote"
    folder, gen = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for number in range(2):
        plans = [[Part(gen.integers(0, 16, 4).tolist(), 16, float(i % 2))] for i in range(40)]
        written = write_documents(model, plans, batch=20, seed=number)
        np.savez(folder / f"{number:04d}.npz", tokens=np.concatenate([np.array(t, np.uint16) for t, _ in written]),
                 lengths=[len(t) for t, _ in written], begins=[b for _, b in written], kinds=["continued"] * 40)
    return folder


def of_parts(rng, n):
    "Plans of one part and of two, some of which words end, drawn and not"
    def part(i): return Part(rng.integers(0, 16, 1 + i % 4).tolist(), 5 + i % 7, (0., .7, 1.)[i % 3], frozenset({3, 5} if i % 2 else ()))
    return [[part(i), part(i + 1)][:1 + i % 2] for i in range(n)]


@pytest.mark.parametrize("kind", ["own", "hf"])
def test_a_document_is_the_same_in_any_company(kind, monkeypatch):
    "And the same as its parts, decoded one by one; noise without addresses is seen"
    if kind == "hf": monkeypatch.setattr(writing.Llama, "refuses", lambda config: "let it be padded rows")
    model, plans, counted = build(seed=4), of_parts(np.random.default_rng(1), 20), []
    def written(rows, plans=plans, tick=counted.append): return write_documents(model, plans, rows, seed=7, tick=tick)
    together = written(20)
    assert sorted(counted) == sorted(len(tokens) for tokens, _ in together)
    assert written(1) == written(7) == together and written(5, plans[:11]) == together[:11]
    for n, parts in enumerate(plans):
        tokens, rng = [], Keyed(7, n)
        for part in parts:
            begin = len(tokens := tokens + part.given)
            law, stop = Law(temperature=part.temperature, top_k=64 if part.temperature else 0), Stop(part.limit, part.ends)
            said = Trace(decode(model, "none", tokens, law=law, rng=rng, stop=stop)).tokens
            tokens = tokens + (said[:-1] if said[-1] in part.ends and part is not parts[-1] else said)
        assert together[n] == (tokens, begin)
    dice = Dice(3)
    monkeypatch.setattr(writing, "Keyed", lambda *key: dice)
    assert written(1) != written(20)


def test_a_plan_without_words_of_the_model(model):
    plans = [[Part([1, 2], 0, 0.)], [Part([4], 0, 0.), Part([5], 3, 0.)]]
    (short, begin), (long, second) = write_documents(model, plans)
    assert (short, begin) == ([1, 2], 2) and long[:2] == [4, 5] and len(long) == 5 and second == 2


def test_a_document_ends_where_the_window_does(model):
    window = as_target(model).window
    [(cut, begin), (said, second)] = write_documents(model, [[Part([1] * (window - 4), 9, 0.), Part([2, 3], 9, 0.)], [Part([1] * (window - 4), 50, 0.)]])
    assert len(cut) == window == begin and second == window - 4 and len(said) == window + 1, "the last token need not be read"


def trained(model, data, out, steps=12, **options): return train("medusa", data, out, model, steps=steps, draft_vocab_size=16, size=2, apart=8, **options)


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


def test_stopped_and_prolonged(model, data, tmp_path):
    "Asked to stop, a run saves the step under way; and a finished one goes on to more steps: the weights of a run that was meant to be as long"
    corpus = Corpus(data, apart=8)
    features = Features(model, corpus.train, [4], tmp_path / "f")
    def fit(name, steps, stop_at=None, **more):
        torch.manual_seed(0)
        net, stop, seen = Medusa.of(model, WORDS, heads=2).join(Lender(model)), threading.Event(), []
        def objective(z, p):
            seen.append(0)
            if len(seen) == 2 * (stop_at or 0): stop.set()                  # two heads
            return forward_kl(z, p)
        objective.__name__ = "forward_kl"
        fit_drafter(net, Batches(features, net, 2), Batches(features, net, 2), tmp_path / name, steps, objective=objective, stop=stop, **more)
        return net.state_dict()
    whole = fit("whole", 50)
    with pytest.raises(KeyboardInterrupt): fit("cut", 23, stop_at=13)
    saved = torch.load(tmp_path / "cut" / "training.pt", weights_only=True)
    assert saved["step"] == 13 and saved["log"] == []
    shorter = fit("cut", 23, resume=True)
    assert any(not torch.equal(whole[k], shorter[k]) for k in whole)
    longer = fit("cut", 50, resume=True)
    assert all(torch.equal(whole[k], longer[k]) for k in whole)


def test_the_mean_of_the_latest_weights(model, data, tmp_path):
    "What is left is calmer than the last weights: nearer to those of the steps before"
    corpus = Corpus(data, apart=8)
    net = Medusa.of(model, WORDS, heads=1).join(Lender(model))
    batches, seen = Batches(Features(model, corpus.train, [4], tmp_path / "f"), net, 2), []
    fit_drafter(net, batches, batches, tmp_path / "run", 40, tick=lambda r: None, objective=lambda z, p: seen.append(net.mix[0].weight.detach().clone()) or forward_kl(z, p))
    before = torch.stack([w for w in seen[1:40]])                            # a batch sees the weights of the step before; held_out sees the mean
    mean, expected = net.mix[0].weight.detach(), before[0]
    last = torch.load(tmp_path / "run" / "training.pt", weights_only=True)["module"]["mix.0.weight"]
    for t, w in enumerate([*before[1:], last], 2): expected = expected.lerp(w, min(1, 8 / (t + 7)))
    assert torch.allclose(mean, expected, atol=1e-6) and not torch.allclose(mean, last, atol=1e-5)


def test_a_corpus_that_grows(model, data, tmp_path):
    "A run goes on with more documents, and keeps its words; not with fewer"
    first = train("medusa", data, tmp_path / "out", model, steps=12, draft_vocab_size=14, size=2, apart=8, shards=1)
    assert first.record["documents"] < train("medusa", data, tmp_path / "out", model, steps=16, size=2, apart=8, resume=True).record["documents"]
    again = Trained.from_pretrained(tmp_path / "out")
    assert torch.equal(again.draft_vocab, first.draft_vocab) and again.record["steps"] == 16
    with pytest.raises(ValueError, match="begun with documents"): train("medusa", data, tmp_path / "out", model, steps=20, size=2, apart=8, shards=1, resume=True)


# -- hidden states on disk

def test_a_store_is_read_once(model, data, tmp_path):
    "A shorter list finds its part, a longer one reads on, another model or other documents begin where they differ"
    documents, read = Corpus(data, apart=8).train, []
    def states(documents, of=model):
        read.clear()
        f = Features(of, documents, [2, 4], tmp_path / "f", tick=lambda n: read.append(n))
        return f.hidden.clone(), f.logz.clone(), list(read)
    whole, z, ticks = states(documents[:40])
    assert ticks
    n = sum(map(len, documents[:10]))
    part, z10, ticks = states(documents[:10])
    assert torch.equal(part, whole[:n]) and torch.equal(z10, z[:n]) and not ticks
    again, _, ticks = states(documents[:40])
    assert torch.equal(again, whole) and not ticks, "the longer store is still there"
    changed, _, ticks = states([*documents[:10], documents[11], documents[10]])
    assert ticks == [sum(map(len, documents[:12]))] and torch.equal(changed[:n], whole[:n])
    other, _, ticks = states(documents[:10], build(seed=9, dtype=torch.float32))
    assert ticks and not torch.equal(other, part)


def test_a_store_that_was_cut(model, data, tmp_path):
    "Files of other lengths than they claim are read anew, none is mapped beyond its end"
    documents = Corpus(data, apart=8).train[:20]
    whole = Features(model, documents, [4], tmp_path / "f").hidden.clone()
    for kind in ("hidden", "logz", "marks"):
        path = tmp_path / f"f.{kind}"
        path.write_bytes(path.read_bytes()[:-8])
        assert torch.equal(Features(model, documents, [4], tmp_path / "f").hidden, whole)


def test_a_full_disk(model, data, tmp_path, monkeypatch):
    "Is told before anything is read, with the bytes that are missing; one that fills up meanwhile raises, and reading goes on later"
    documents, usage = Corpus(data, apart=8).train, shutil.disk_usage
    need = sum(map(len, documents)) * (2 * 32 + 4)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(path)._replace(free=need - 1))
    with pytest.raises(OSError, match="GB more for hidden states, 0.00 GB are free: make room"): Features(model, documents, [4], tmp_path / "f")
    assert not (tmp_path / "f.hidden").stat().st_size
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(path)._replace(free=need))
    assert len(Features(model, documents, [4], tmp_path / "f").hidden) == sum(map(len, documents))


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="needs a limit on the size of files")
def test_a_disk_that_fills_up(model, data, tmp_path):
    documents = Corpus(data, apart=8).train
    code = """if True:
        import resource, signal, sys, torch
        sys.path[:0] = [{tests!r}]
        from learners import build
        from specdec_nb.training.corpus import Corpus
        from specdec_nb.training.features import Features
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
        try: Features(build(seed=4, dtype=torch.float32), Corpus({data!r}, apart=8).train, [4], {path!r})
        except OSError as e: print("OSError", e)
        """
    done = subprocess.run([sys.executable, "-c", code.format(tests=str(Path(__file__).parent), data=str(data), path=str(tmp_path / "f"), limit=len(documents) * 20 * 68 // 4)],
                          capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("OSError"), done.stderr[-1000:]
    assert torch.equal(Features(model, documents, [4], tmp_path / "f").hidden, Features(model, documents, [4], tmp_path / "g").hidden)


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
    assert max(apart(fingerprint(Lender(model)), fingerprint(Lender(other))).values()) > .5
    shifted = build(seed=4, dtype=torch.float32)
    with torch.no_grad(): shifted.get_input_embeddings().weight[:, 1:] *= -1                 # the first column is the same
    assert apart(fingerprint(Lender(shifted)), fingerprint(Lender(model)))["embedding"] > 1
    assert not apart(fingerprint(Lender(build(seed=4, layers=3))), fingerprint(Lender(model))), "another shape"
    trained(model, data, tmp_path / "out")
    with pytest.raises(ValueError, match="another model"): trained(other, data, tmp_path / "new", begin=tmp_path / "out")
    documents = Corpus(data, apart=8).train
    mine, theirs = (Features(m, documents, [4], tmp_path / "shared").hidden[:50].clone() for m in (model, other))
    assert not torch.equal(mine, theirs)


@pytest.mark.parametrize("kind,changes", [("Llama", {}), ("Qwen3", dict(head_dim=16)), ("GPT2", dict(n_inner=None)), ("GPTNeoX", {})])
def test_the_same_model_otherwise(kind, changes, tmp_path, recwarn):
    "Another precision, another runtime, an embedding in eight bits: the same model, without a word. A fine-tuned twin: a warning; another model: an error"
    model = build(seed=4, kind=kind, dtype=torch.float32, **changes)
    net = Medusa.of(model, WORDS, heads=1).join(Lender(model))
    def copied(seed=4, dtype=torch.float32, change=lambda name, w: w):
        twin = build(seed=seed, kind=kind, dtype=torch.float32, **changes)
        for name, w in twin.named_parameters(): w.data.copy_(change(name, w.data))
        return twin.to(dtype)
    def rounded(name, w):
        if "emb" not in name and "wte" not in name: return w
        scale = w.abs().amax(1, keepdim=True) / 127
        return (w / scale).round() * scale
    same = [copied(), copied(dtype=torch.float64), copied(dtype=torch.bfloat16), copied(dtype=torch.float16), copied(change=rounded)]
    for twin in [*map(as_target, same), *(Llama.from_hf(m) for m in same[:4] if Llama.refuses(m.config) is None)]: net.join(twin)
    assert not [w for w in recwarn if "relative" in str(w.message)]
    noise = torch.Generator().manual_seed(0)
    def tuned(name, w): return w if "emb" in name or "wte" in name or w.dim() < 2 else w + .03 * w.std() * torch.randn(w.shape, generator=noise)
    with pytest.warns(UserWarning, match="trained for a relative of this model, [1-5][.].% apart"): net.join(as_target(copied(change=tuned)))
    with pytest.raises(ValueError, match="trained for another model"): net.join(as_target(copied(seed=5)))


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


def test_data_killed_and_resumed(tmp_path, monkeypatch):
    "The same shards, none half there, none twice; and a trial's shard is not taken for a whole one"
    import specdec_nb.training.corpus as corpus
    model, gen = build(seed=4, dtype=torch.float32), []
    def plan(rng, tokenizer, files): return "continued", [Part(rng.integers(0, 16, 4).tolist(), 8, 1.)]
    monkeypatch.setattr(corpus, "plan_document", plan)
    monkeypatch.setattr(corpus, "passages", list)
    options = dict(documents=6, batch=3)
    write_corpus(model, None, tmp_path / "whole", 3, **options)
    def kill(*far):
        gen.append(far)
        if len(gen) == 9: raise Killed
    with pytest.raises(Killed): write_corpus(model, None, tmp_path / "cut", 3, tick=kill, **options)
    assert [p.name for p in (tmp_path / "cut").glob("*.npz")] == ["0000.npz"]
    (tmp_path / "cut" / ".0001.npz.999.part").write_bytes(b"half")
    write_corpus(model, None, tmp_path / "cut", 3, **options)
    assert sorted(p.name for p in (tmp_path / "cut").iterdir()) == ["0000.npz", "0001.npz", "0002.npz"], "what a killed run left is gone"
    for number in range(3):
        a, b = (np.load(tmp_path / name / f"000{number}.npz") for name in ("whole", "cut"))
        assert all(np.array_equal(a[k], b[k]) for k in ("tokens", "lengths", "begins", "kinds"))
    with pytest.raises(ValueError, match="holds 6 documents, not 7"): write_corpus(model, None, tmp_path / "whole", 3, documents=7, batch=3)


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


def shell(*argv): return main([str(a) for a in argv])


def test_every_verb(on_disk, tmp_path, capsys):
    "From nothing to three drafters, as a reader would type it; each then drafts for its model"
    small = ("--model", on_disk, "--smoke", "--dtype", "float32")
    data = tmp_path / "data"
    assert shell("train", "data", *small, "--out", data) == 0 and "kept apart)" in said(capsys)
    for kind, others in (("draft", ()), ("medusa", ()), ("eagle3", ("--features", tmp_path / "draft" / "features"))):
        assert shell("train", kind, *small, "--data", data, "--batch", 2, "--out", tmp_path / kind, *others) == 0, capsys.readouterr().err
        assert "favourite is the target's" in said(capsys)
    assert shell("train", "data", *small, "--by", tmp_path / "draft", "--out", tmp_path / "own") == 0
    assert shell("train", "draft", *small, "--data", tmp_path / "own", "--begin", tmp_path / "draft", "--out", tmp_path / "again") == 0
    target, run = as_target(hf.AutoModelForCausalLM.from_pretrained(on_disk)), dict(limit=12, law=Law(temperature=0))
    plain = Trace(decode(target, "none", [3, 1], **run))
    for drafter in (ModelDrafter(tmp_path / "again", k=3), MedusaDrafter(tmp_path / "medusa"), EagleDrafter(tmp_path / "eagle3")):
        trace = Trace(decode(target, drafter, [3, 1], **run))
        assert trace.tokens == plain.tokens and sum(len(d) for d, _ in trace.steps)


def test_all_of_them(on_disk, data, tmp_path, capsys):
    "Start or resume with one command: a run that gets SIGTERM saves, the next one goes on, one that is done does nothing; never two at once"
    command = ["train", "all", "--model", str(on_disk), "--dtype", "float32", "--data", str(data), "--smoke", "--out", str(tmp_path / "out")]
    first = subprocess.Popen([sys.executable, "-m", "specdec_nb.cli", *command], stderr=subprocess.PIPE, text=True)
    for line in first.stderr:
        if "training, eagle3" in line: break
    with pytest.raises(AssertionError): assert shell(*command) == 0
    assert f"is being trained in already, by process {first.pid}" in capsys.readouterr().err
    first.send_signal(signal.SIGTERM)
    said_last = first.stderr.read()
    assert first.wait(60) == 130 and "--resume goes on" in said_last
    step = torch.load(tmp_path / "out" / "eagle3" / "training.pt", weights_only=True)["step"]
    niceness = os.nice(0)
    again = subprocess.run([sys.executable, "-m", "specdec_nb.cli", *command], capture_output=True, text=True)
    assert again.returncode == 0, again.stderr[-1500:]
    assert step and "reading" not in again.stderr and os.nice(0) == niceness
    assert {p.name for p in (tmp_path / "out").iterdir() if p.is_dir()} == {"features", "draft", "medusa", "eagle3"}
    weights = {p: p.read_bytes() for p in (tmp_path / "out").glob("*/model.safetensors")}
    idle = subprocess.run([sys.executable, "-m", "specdec_nb.cli", *command], capture_output=True, text=True)
    assert idle.returncode == 0 and "training," not in idle.stderr and all(p.read_bytes() == w for p, w in weights.items())


def said(capsys): return capsys.readouterr().out


def test_on_the_command_line(on_disk, data, tmp_path, monkeypatch, capsys):
    "A trial; and two processes of torchrun, which average their gradients and leave one drafter"
    train_it = ["train", "medusa", "--model", str(on_disk), "--data", str(data), "--smoke", "--batch", "2"]
    monkeypatch.setattr(sys, "argv", ["specdec", *train_it, "--out", str(tmp_path / "one")])
    assert main(sys.argv[1:]) == 0
    crew = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "specdec_nb.cli"]
    done = subprocess.run([*crew, *train_it, "--out", str(tmp_path / "two")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    for said in (capsys.readouterr().out, done.stdout): assert said.count("favourite is the target's") == 1
    one, two = (Trained.from_pretrained(tmp_path / name).record for name in ("one", "two"))
    assert (one["steps"], one["batch"], two["batch"]) == (20, 2, 4) and one["command"] == f"specdec train medusa --model {on_disk.name} --data {data.name} --smoke --batch 2 --out one"
    assert (tmp_path / "two" / "log.json").exists() and "device" in one


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
