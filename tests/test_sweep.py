"""Sweeps: killed and resumed, on many workers, grown; a run that fails is a result."""
import json, os
from functools import partial
from importlib.util import find_spec

import pytest
import torch

from conftest import ROOT
from learners import build
from shards import badly
from specdec_nb.learned.network import Trained
from specdec_nb.training.corpus import Corpus
from specdec_nb.training.many import Loader, OnRay, Processes, in_order
from specdec_nb.training.sweep import Try, grid, standings, try_all, uncertain

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: pip install 'specdec_nb[ray]'")


@pytest.fixture(scope="module")
def model(): return build(seed=4, dtype=torch.float32)


@pytest.fixture
def data(one_shard): return one_shard


@pytest.fixture
def found(monkeypatch):
    "Workers find this file"
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (ROOT, ROOT / "tests", ROOT / "tools"))))


SHARED = dict(steps=10, draft_vocab_size=16, size=2, apart=8, half=False)


def bare(rows): return [{k: v for k, v in r.items() if k not in ("seconds", "cpu_seconds")} for r in rows]


def test_a_sweep_killed_and_resumed(model, on_disk, data, tmp_path):
    "In a run, and between a run and its line; in one process, in two, in a bad order: the same table, and no run's line twice"
    tries = grid(["medusa", "draft"], dict(lr=[3e-3, 1e-4]))
    whole = try_all(tries, data, tmp_path / "whole", model, SHARED)
    assert {r["name"] for r in whole} == {t.name for t in tries} and [r["tau"] for r in whole] == sorted((r["tau"] for r in whole), reverse=True)
    for name, run in (("badly", partial(badly, times=2)), ("two", Processes(2).run)):
        who = Loader(str(on_disk)) if name == "two" else model
        assert bare(try_all(tries, data, tmp_path / name, who, SHARED, run=run)) == bare(whole)
    for moment in (1, 2, 4, 5):
        heard = []
        def tick(*far):
            heard.append(far)
            if len(heard) == moment: raise KeyboardInterrupt
        with pytest.raises(KeyboardInterrupt): try_all(tries, data, tmp_path / f"cut{moment}", model, SHARED, tick=tick)
        with open(tmp_path / f"cut{moment}/sweep.json.partial.jsonl", "a") as f: f.write('{"name": "torn')
        assert bare(try_all(tries, data, tmp_path / f"cut{moment}", model, SHARED)) == bare(whole)
    saved = json.loads((tmp_path / "whole/sweep.json").read_text())
    assert saved["tries"] == whole and saved["header"]["data"] == repr(Corpus(data, 8)) and "torch" in saved["provenance"]
    assert not (tmp_path / "whole/sweep.json.partial.jsonl").exists()
    best = Trained.from_pretrained(tmp_path / "whole" / whole[0]["name"])
    assert best.record["held"] == whole[0]["held"] and best.kind == whole[0]["kind"]


@needs_ray
def test_a_sweep_on_ray(model, on_disk, data, tmp_path, found):
    "The table of one process; what one cluster had begun, another ends, and no run's line is there twice"
    tries = grid(["medusa", "draft"], dict(lr=[3e-3, 1e-4]))
    whole = try_all(tries, data, tmp_path / "whole", model, SHARED)
    assert bare(try_all(tries[:2], data, tmp_path / "ray", Loader(str(on_disk)), SHARED, run=OnRay(2).run)) == bare([r for r in whole if r["kind"] == "medusa"])
    assert bare(try_all(tries, data, tmp_path / "ray", Loader(str(on_disk)), SHARED, run=OnRay(2).run)) == bare(whole)


def test_a_sweep_that_grows(model, data, tmp_path):
    "What is done is not done again, also after the end; another corpus, or other settings for all, are refused"
    first = try_all([Try("medusa", {})], data, tmp_path / "out", model, SHARED)
    began = []
    def noted(work, jobs, told):
        for job, result in in_order(work, jobs, told):
            began.append(job.name)
            yield job, result
    more = try_all([Try("medusa", {}), Try("medusa", dict(heads=2))], data, tmp_path / "out", model, SHARED, run=noted)
    assert began == ["medusa-heads2"] and first[0] in more and len(more) == 2
    for changed in (dict(steps=11), dict(apart=9)):
        with pytest.raises(ValueError, match="sweep.json was made with .*, now it is .*: take another folder"):
            try_all([Try("medusa", {})], data, tmp_path / "out", model, {**SHARED, **changed})
    assert json.loads((tmp_path / "out/sweep.json").read_text())["tries"] == more, "the table is as it was"


def test_a_run_that_fails_is_a_result(model, data, tmp_path):
    "Its line says why; it is not tried again; and it is behind all others"
    tries = [Try("medusa", dict(lr=1e30)), Try("medusa", dict(lr=1e-3)), Try("medusa", dict(heads=0))]
    rows = try_all(tries, data, tmp_path / "out", model, SHARED)
    assert rows[0]["name"] == "medusa-lr0.001" and "tau" in rows[0]
    assert {r["name"]: r["failed"][:20] for r in rows[1:]} == {"medusa-lr1e+30": "the loss is nan at st", "medusa-heads0": "need at least one hea"} or all("failed" in r for r in rows[1:])
    assert "failed: need at least one head" in standings(rows)
    def none(work, jobs, told): yield from (pytest.fail("tried again") for _ in jobs)
    assert try_all(tries, data, tmp_path / "out", model, SHARED, run=none) == rows


@pytest.mark.parametrize("kinds,values,message", [
    (["telepathy"], {}, "unknown network 'telepathy'"), (["medusa"], dict(depth=[1]), "medusa has no option 'depth'; it has lr, .*heads"),
    (["medusa"], dict(lr=["fast"]), "lr cannot be 'fast'"), (["draft"], dict(words=[.5]), "words cannot be 0.5"), (["draft"], dict(objective=["hinge"]), "unknown loss 'hinge'; known: "),
    (["medusa", "draft"], dict(heads=[2]), "draft has no option 'heads'")])
def test_a_grid_is_checked_before_anything_is_loaded(kinds, values, message):
    with pytest.raises(ValueError, match=message): grid(kinds, values)


def test_a_line_says_how_sure_it_is():
    "The error is that of simulated runs; a line within two errors of the best of its kind is marked, one beyond is not, another kind neither"
    import numpy as np
    def run(name, kind, top1, n=400): return dict(name=name, kind=kind, tau=1 + float(np.cumprod(top1).sum()), held=dict(top1=top1), held_tokens=n, seconds=60)
    first, rng = run("a", "medusa", [.6, .5, .3]), np.random.default_rng(0)
    drawn = 1 + np.cumprod(rng.binomial(400, first["held"]["top1"], (20_000, 3)) / 400, 1).sum(1)
    assert uncertain(first) == pytest.approx(drawn.std(), rel=.03)
    rows = [first, run("b", "medusa", [.59, .5, .3]), run("c", "draft", [.55]), run("d", "medusa", [.4, .4, .3]), run("e", "draft", [.55], 40), run("z", "draft", [0.])]
    lines = standings(rows).splitlines()[1:]
    assert ["=" in line for line in lines] == [False, True, False, False, True, False]
    del rows[1]["held_tokens"]                                                      # of an older sweep: nothing is claimed
    assert "nan" in standings(rows).splitlines()[2] and "=" not in standings(rows).splitlines()[2]
