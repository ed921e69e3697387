"""Ledgers: killed and resumed, two at once, another setting, a finished report, a device."""
import json, subprocess
from pathlib import Path

import pytest

from saved import HEADER, names, python
from specdec_nb.workshop.files import read_json, write_json
from specdec_nb.workshop.ledger import Ledger, commit


@pytest.mark.parametrize("device, fails", [("/dev/full", "No space left on device: '/dev/full'"), ("/dev/null", None)])
def test_nothing_lies_beside_a_device(device, fails):
    before = names(Path("/dev"))
    ledger = Ledger(device, HEADER)
    ledger.add({"question": 0})
    assert names(Path("/dev")) == before and ledger.path.exists()
    if fails:
        with pytest.raises(OSError, match=fails): ledger.close({})
        ledger.leave()
    else: ledger.close({})
    assert names(Path("/dev")) == before and not ledger.path.exists()


def begun(tmp_path, *lines):
    (tmp_path/"out.json.partial.jsonl").write_text("\n".join([json.dumps(HEADER), *lines, ""]))
    return tmp_path/"out.json"


@pytest.mark.parametrize("line", ['{"question": 0, "te', "null", "[1]", '"text"', "{}", '{"question": "one"}', "[" * 100_000, "", "\x00\x00"])
def test_a_corrupt_line_is_named(tmp_path, line):
    out = begun(tmp_path, '{"question": 0}', line, '{"question": 2}')
    before = (tmp_path/"out.json.partial.jsonl").read_bytes()
    with pytest.raises(ValueError, match=r"out\.json\.partial\.jsonl:3 "): Ledger(out, HEADER, resume=True, shape={"question": int})
    assert (tmp_path/"out.json.partial.jsonl").read_bytes() == before, "nothing was thrown away"


def test_each_setting_that_differs_is_named(tmp_path):
    out = begun(tmp_path)
    with pytest.raises(ValueError) as e: Ledger(out, {"seed": 2, "questions": {"n": 3, "chosen": "x"}, "k": 4}, resume=True)
    assert all(said in str(e.value) for said in ("seed = 1, now it is 2", "questions.chosen = abc, now it is x", "k = None, now it is 4"))
    assert "questions.n" not in str(e.value)


def test_two_runs_with_one_output(tmp_path):
    first = Ledger(tmp_path/"out.json", HEADER)
    for resume in (False, True):
        with pytest.raises(ValueError, match="another run is writing"): Ledger(tmp_path/"out.json", HEADER, resume)
    first.add({"question": 0})
    program = ("import sys\nfrom specdec_nb.workshop.ledger import Ledger\ntry: Ledger(sys.argv[1], {}, resume=True)\nexcept ValueError as e: print(e)")
    assert "another run" in python(program, tmp_path/"out.json").stdout, "another process is told, too"
    first.leave()
    assert Ledger(tmp_path/"out.json", HEADER, resume=True).records == [{"question": 0}]


def test_a_lock_dies_with_its_process(tmp_path):
    program = ("import os, sys\nfrom specdec_nb.workshop.ledger import Ledger\nl = Ledger(sys.argv[1], {'seed': 1})\nl.add({'question': 0})\nos.kill(os.getpid(), 9)")
    python(program, tmp_path/"out.json")
    assert len(Ledger(tmp_path/"out.json", {"seed": 1}, resume=True).records) == 1


def test_a_finished_report_is_not_overwritten_unasked(tmp_path):
    write_json(tmp_path/"out.json", {"rows": 1})
    with pytest.raises(FileExistsError, match="--force"): Ledger(tmp_path/"out.json", HEADER)
    assert names(tmp_path) == ["out.json"] and read_json(tmp_path/"out.json", "report") == {"rows": 1}
    Ledger(tmp_path/"out.json", HEADER, force=True).close({"rows": 2})
    assert names(tmp_path) == ["out.json"] and read_json(tmp_path/"out.json", "report") == {"rows": 2}


def test_a_run_that_never_began_leaves_nothing(tmp_path):
    Ledger(tmp_path/"out.json").leave()
    assert names(tmp_path) == []


def test_a_commit_is_of_this_repository(tmp_path):
    "A package that was installed into somebody's project lies in his repository: that commit says nothing about us"
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in ([*git, "init", "-q"], [*git, "commit", "-q", "--allow-empty", "-m", "his"]): subprocess.run(command, cwd=tmp_path, check=True)
    (tmp_path/"site.py").write_text("")
    assert commit(tmp_path/"site.py") is None
    subprocess.run([*git, "add", "site.py"], cwd=tmp_path, check=True)
    subprocess.run([*git, "commit", "-q", "-m", "mine"], cwd=tmp_path, check=True)
    assert len(commit(tmp_path/"site.py")) == 40
    (tmp_path/"site.py").write_text("x = 1")
    assert commit(tmp_path/"site.py").endswith("+")


def test_a_run_is_not_resumed_with_other_settings(tmp_path):
    begun = Ledger(tmp_path/"out.json", {"seed": 1})
    begun.add({"question": 0})
    begun.leave()
    with pytest.raises(ValueError, match="seed = 1, now it is 2"):
        Ledger(tmp_path/"out.json", {"seed": 2}, resume=True)
    with pytest.raises(ValueError, match="--resume"): Ledger(tmp_path/"out.json", {"seed": 1})
    assert len(Ledger(tmp_path/"out.json", {"seed": 1}, resume=True).records) == 1


def test_what_cannot_be_written(tmp_path):
    for out in (tmp_path, tmp_path/"no/out.json", Path("/dev/null/out.json")):
        with pytest.raises(OSError, match="cannot write"): Ledger(out, {})
