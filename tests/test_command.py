"""`specdec train`: every verb, all of them, and two processes."""
import os, signal, subprocess, sys

import pytest
import torch
import transformers as hf

from learners import build
from specdec_nb import Law, Trace
from specdec_nb.cli import main
from specdec_nb.decode import decode
from specdec_nb.drafters.model import ModelDrafter
from specdec_nb.learned.eagle import EagleDrafter
from specdec_nb.learned.medusa import MedusaDrafter
from specdec_nb.learned.network import Trained
from specdec_nb.roles import as_target
from specdec_nb.training import command
from specdec_nb.training.command import run_train
from specdec_nb.workshop.options import parser


@pytest.fixture(scope="module")
def model(): return build(seed=4, dtype=torch.float32)


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


@pytest.mark.parametrize("argv, says", [
    (["medusa"], "--data is missing"), (["telepathy", "--data", "."], "unknown network 'telepathy'"), (["medusa", "--data", ".", "--objective", "hinge"], "unknown loss 'hinge'; known: .*forward_kl"),
    (["medusa", "--data", "nowhere"], "--data nowhere: there is no such folder"), (["medusa", "--data", ".", "--begin", "nowhere"], "--begin nowhere"),
    (["all", "--data", ".", "--lr", "1"], "--lr is settled by the recipes"), (["medusa", "--data", ".", "--workers", "2"], "--workers is for specdec train data and specdec train sweep; one run goes"),
    (["data", "--try", "lr=1"], "--try is for specdec train sweep$"), (["medusa", "--data", ".", "--device", "mainframe"], "--device mainframe is not to be had here"),
    (["medusa", "--data", ".", "--out", "file/below"], "file is a file, no folder")])
def test_what_is_wrong_is_known_before_the_night(argv, says, tmp_path, monkeypatch):
    "No model is loaded for what cannot be done; and one is for what can"
    class Loaded(Exception): ...
    def load(o): raise Loaded
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(command, "_loader", load)
    def run(*argv): return run_train(parser().parse_args(["train", *argv, *([] if "--out" in argv else ["--out", "out"])]))
    with pytest.raises(ValueError, match=says): run(*argv)
    with pytest.raises(Loaded): run("medusa", "--data", ".")
    assert not (tmp_path / "out").exists()
