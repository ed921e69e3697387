"""Many workers: what is made does not show how many there were, in what order they ended, who died, and what was done twice."""
import os
import pty
import re
import signal
import subprocess
import sys
import time
from functools import partial
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from conftest import ROOT
from specdec_nb.cli import main
from specdec_nb.training import corpus as writing
from specdec_nb.training.corpus import Part
from specdec_nb.training.many import Loader, OnRay, Processes, in_order, write_corpus
from learners import build
from shards import badly, contents

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: pip install 'specdec_nb[ray]'")


@pytest.fixture(scope="module")
def model(): return build(seed=4, dtype=torch.float32)


@pytest.fixture
def data(one_shard): return one_shard


def plan(rng, tokenizer, files): return "continued", [Part(rng.integers(0, 16, 4).tolist(), 12, float(rng.integers(2)))]


@pytest.fixture(autouse=True)
def plans(monkeypatch):
    "Short documents, of no file of this machine. Only who employs plans: workers that are processes do not see this"
    monkeypatch.setattr(writing, "plan_document", plan)
    monkeypatch.setattr(writing, "passages", list)


def written(model, folder, run=in_order, shards=4, **options):
    far = []
    write_corpus(model, None, folder, shards, documents=5, tick=lambda *x: far.append(x), run=run, batch=3, **options)
    return contents(folder), far[-1]


def drawing(work, jobs, told):
    "The negative control: what is made depends on what was made before"
    dice = np.random.default_rng(0)
    for job, made in badly(work, jobs, told): yield job, dict(made, tokens=dice.permutation(made["tokens"]))


def test_who_works_does_not_show(model, on_disk, tmp_path):
    "One after another, in a bad order and twice, in two processes: the same bytes, and the same figures"
    one, told = written(model, tmp_path / "one")
    assert [*one] == [f"000{i}.npz" for i in range(4)] and told[:2] == (0, 20) and told[2] == sum(len(np.load(tmp_path / "one" / n)["tokens"]) for n in one)
    assert written(model, tmp_path / "badly", badly) == (one, told)
    assert written(Loader(str(on_disk)), tmp_path / "two", Processes(2).run) == (one, told)
    assert written(model, tmp_path / "drawn", drawing)[0] != one
    assert written(model, tmp_path / "other", seed=1)[0] != one


def test_stopped_at_any_moment(model, tmp_path):
    "After a shard, in a shard, between a result and its keeping: what is there stays, the rest is made once more, and nobody is waited for"
    whole, _ = written(model, tmp_path / "whole")
    for moment in range(2, 24, 5):
        folder, heard = tmp_path / f"cut{moment}", []
        def tick(*far):
            heard.append(far)
            if len(heard) == moment: raise KeyboardInterrupt
        with pytest.raises(KeyboardInterrupt): write_corpus(model, None, folder, 4, documents=5, tick=tick, batch=3)
        kept = contents(folder)
        assert all(whole[name] == made for name, made in kept.items()), "nothing is half there, and no lock is left"
        began = []
        def counted(work, jobs, told):
            for job, result in in_order(work, jobs, told):
                began.append(job.number)
                yield job, result
        (again, told) = written(model, folder, counted)
        assert again == whole and len(began) == 4 - len(kept) and told[:2] == (5 * len(kept), 5 * len(began))


def test_two_who_employ(model, tmp_path):
    "One folder, two runs at a time: each shard is written by one of them"
    mine, others, folder = [], [], tmp_path / "both"
    def noting(numbers, run=in_order):
        def noted(work, jobs, told):
            for job, result in run(work, jobs, told):
                numbers.append(job.number)
                yield job, result
        return noted
    def tick(*far):
        if far[1] == 3: write_corpus(model, None, folder, 4, documents=5, batch=3, run=noting(others))
    write_corpus(model, None, folder, 4, documents=5, batch=3, run=noting(mine), tick=tick)
    assert mine == [0] and others == [1, 2, 3] and contents(folder) == written(model, tmp_path / "one")[0]


def slow(job, tell):
    for n in range(40):
        tell(n)
        time.sleep(.05)
    return job


def deadly(job, tell):
    if job == 2: os.kill(os.getpid(), signal.SIGKILL)
    return job * job


def wrong(job, tell):
    if job == 1: raise ValueError("this job is not to be had")
    return job


def threads(job, tell): return torch.get_num_threads()


def test_processes():
    "As many as asked for, each with its threads; what one raises is raised; one that dies is told of; none is left behind"
    crew = Processes(2, threads=2)
    assert dict(crew.run(threads, range(3))) == {0: 2, 1: 2, 2: 2} and not crew.free
    with pytest.raises(ValueError, match="this job is not to be had"): dict(Processes(1).run(wrong, range(9)))
    with pytest.raises(OSError, match="a worker has died .exit code -9.*The same command goes on"): dict(Processes(1).run(deadly, range(9)))
    crew, heard = Processes(1), []
    def told(job, n):
        heard.append(n)
        if n == 3: raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        for _ in crew.run(slow, range(9), told): pass
    assert max(heard) == 3 and not crew.busy and not crew.free


PROGRAM = """
import sys
sys.path[:0] = [{root!r}, {root!r} + "/tests", {root!r} + "/tools"]
if __name__ == "__main__":
    import test_many
    from specdec_nb.training import corpus
    from specdec_nb.training.many import Loader, OnRay, Processes, write_corpus
    corpus.plan_document, corpus.passages = test_many.plan, list
    def tick(*far): print(*far, flush=True)
    write_corpus(Loader({model!r}), None, {folder!r}, 4, documents=5, tick=tick, run={crew}.run, batch=3)
"""


def killed_and_resumed(crew, model, on_disk, tmp_path):
    "The employer gets SIGKILL as soon as a shard is there; the same program goes on"
    whole, _ = written(model, tmp_path / "whole")
    (tmp_path / "cut").mkdir()
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(root=str(ROOT), model=str(on_disk), folder=str(tmp_path / "cut"), crew=crew))
    with open(tmp_path / "log", "w") as log:
        run = subprocess.Popen([sys.executable, str(program)], stdout=subprocess.PIPE, stderr=log, text=True)
    for line in run.stdout:
        if list((tmp_path / "cut").glob("0*.npz")): break
    run.kill()
    run.wait()
    kept = {n: b for n, b in contents(tmp_path / "cut").items() if n.endswith(".npz") and not n.startswith(".")}
    assert kept and all(whole[n] == b for n, b in kept.items()), (tmp_path / "log").read_text()[-2000:]
    again, told = written(model, tmp_path / "cut")                   # by another, in another way
    assert again == whole and told[:2] == (5 * len(kept), 5 * (4 - len(kept)))


def test_killed_and_resumed(model, on_disk, tmp_path): killed_and_resumed("Processes(1)", model, on_disk, tmp_path)


@pytest.fixture
def found(monkeypatch):
    "Workers find this file"
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (ROOT, ROOT / "tests", ROOT / "tools"))))


@needs_ray
def test_ray(model, on_disk, tmp_path, found):
    "On a cluster of its own: the same bytes and figures. On one that is there: what a job raises is raised as it was; whose worker is killed, that job is done again"
    import ray
    one = written(model, tmp_path / "one")
    assert written(Loader(str(on_disk)), tmp_path / "ray", OnRay(2).run) == one and not ray.is_initialized()
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        with pytest.raises(ValueError, match="^this job is not to be had$"): dict(OnRay(2).run(wrong, range(4)))
        (marks := tmp_path / "marks").mkdir()
        heard = []
        made = dict(OnRay().run(partial(dies_once, marks), range(4), lambda job, n: heard.append((job, n))))
        assert made == {0: 0, 1: 1, 2: 4, 3: 9} and (marks / "2").exists() and heard and set(heard) <= {(j, j) for j in range(4)}
        assert ray.is_initialized(), "whose cluster it is, shuts it down"
    finally: ray.shutdown()


def dies_once(marks, job, tell):
    if job == 2 and not (marks / "2").exists():
        (marks / "2").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    tell(job)
    time.sleep(.3)
    return job * job


@needs_ray
def test_ray_killed_and_resumed(model, on_disk, tmp_path, found): killed_and_resumed("OnRay(2)", model, on_disk, tmp_path)


@needs_ray
def test_no_such_cluster():
    with pytest.raises(ValueError, match="no Ray cluster at 127.0.0.1:1"): OnRay(1, "127.0.0.1:1")


def test_without_ray(on_disk, tmp_path, monkeypatch, capsys):
    "Is one line that says what to install; and what Ray is not for is refused"
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["train", "data", "--model", str(on_disk), "--out", str(tmp_path / "out"), "--smoke", "--ray"]) == 2
    assert capsys.readouterr().err.endswith("specdec train: Ray is not installed: pip install 'specdec_nb[ray]'\n")
    (tmp_path / "data").mkdir()
    for more, told in ((["--ray"], "--ray is for specdec train data and"), (["--workers", "2"], "--workers is for"), (["--try", "lr=1"], "--try is for specdec train sweep")):
        assert main(["train", "draft", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "out"), *more]) == 2
        assert told in capsys.readouterr().err


def test_on_the_command_line(on_disk, data, tmp_path, capsys):
    "Data by two processes, and a sweep; what is said last can be done"
    small = ["--model", str(on_disk), "--dtype", "float32", "--smoke"]
    assert main(["train", "data", *small, "--out", str(tmp_path / "one")]) == 0
    assert main(["train", "data", *small, "--out", str(tmp_path / "two"), "--workers", "2"]) == 0
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    capsys.readouterr()
    line = ["train", "sweep", *small, "--data", str(data), "--batch", "2", "--kinds", "medusa", "--try", "lr=0.003,0.0001", "--out", str(tmp_path / "sweep")]
    assert main(line) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0].startswith("run ") and len(out.splitlines()) == 5 and f"medusa:network={tmp_path / 'sweep'}/medusa-lr0.0" in out
    assert main(line) == 0 and capsys.readouterr().out == out, "what is done is told again"


def test_a_bar_shows_pace_and_acceptance(on_disk, data, tmp_path):
    "In a terminal: tokens a second, the time left, the acceptance now; in a log the same by lines"
    command = [sys.executable, "-m", "specdec_nb.cli", "train", "medusa", "--model", str(on_disk), "--dtype", "float32", "--data", str(data), "--batch", "2", "--epochs", "1", "--out"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "160", "TERM": "xterm"}
    log = subprocess.run([*command, str(tmp_path / "log")], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=env)
    shown = r"training, medusa: (\d+)/\d+ [\d,]+ tokens/s, \d:\d\d:\d\d left, loss [\d.]+, acceptance [\d.]+ [\d.]+"
    assert log.returncode == 0 and len(re.findall(shown, log.stderr)) >= 3, log.stderr[-2000:]
    ours, theirs = pty.openpty()
    run = subprocess.Popen([*command, str(tmp_path / "bar")], stderr=theirs, stdout=subprocess.DEVNULL, env=env)
    os.close(theirs)
    seen = b""
    while True:
        try: seen += (more := os.read(ours, 9999))
        except OSError: break
        if not more: break
    os.close(ours)
    assert run.wait() == 0 and re.search(rb"tokens/s, \d:\d\d:\d\d left, loss [\d.]+, acceptance", seen), seen[-2000:]


class Killed(Exception): ...


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
