"""The command `specdec`, run as a shell runs it."""
import json, os, signal, subprocess, sys, time
from functools import lru_cache

import pytest
from conftest import ROOT
from specdec_nb.cli import main

COMMAND = [sys.executable, "-m", "specdec_nb.cli"]
ENV = {**os.environ, "PYTHONPATH": str(ROOT)}


def shell(*argv, cwd=None):
    return subprocess.run([*COMMAND, *argv], text=True, capture_output=True, cwd=cwd, env=ENV)


@pytest.fixture(scope="module", autouse=True)
def one_model():
    "The model is loaded once for the calls of `main` in this process"
    from specdec_nb.models import kvcache
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kvcache, "load", lru_cache(kvcache.load))
        yield


def told(capsys, *argv):
    "What `main` says of bad input: one line on stderr, exit code 2, nothing on stdout"
    code = main(list(map(str, argv)))
    out, err = capsys.readouterr()
    assert (code, out) == (2, "") and err.count("\n") == 1 and "Traceback" not in err, (code, out, err)
    return err


def test_help_is_instant():
    t = time.perf_counter()
    done = shell("--help")
    assert done.returncode == 0 and "race" in done.stdout and "bench" in done.stdout
    assert time.perf_counter() - t < 5
    program = ("import sys; from specdec_nb.cli import parser; parser(); "
               "print(sum(m in sys.modules for m in ('torch', 'transformers', 'numpy', 'rich')))")
    assert subprocess.check_output([sys.executable, "-c", program], text=True, env=ENV) == "0\n"


def test_race(capsys):
    assert main(["race", "--example", "repeat", "--max-new-tokens", "24", "--json"]) == 0
    out = capsys.readouterr().out
    won = json.loads(out)
    assert out.count("\n") == 1 and won["identical"] is True and won["calls"] < won["tokens"] <= 24
    assert won["tau"] == won["tokens"] / won["calls"] > 2
    assert won["speedup"] == won["seconds_plain"] / won["seconds"] > 0
    assert won["text"].startswith("def settle") and won["drafted"] == won["tokens"] - won["calls"]


def test_race_in_colours(capsys):
    prompt = "Repeat exactly: one two three, one two three."
    assert main(["race", "--prompt", prompt, "--max-new-tokens", "6", "--temperature", "0.5"]) == 0
    out, err = capsys.readouterr()
    assert "plain decoding" in out and "speculative decoding: lookup" in out
    assert "yes" in out.split("identical to plain decoding")[1]


@pytest.mark.parametrize("argv", [["race", "--drafter", "telepathy"],
                                  ["bench", "--drafters", "none,telepathy"]])
def test_unknown_drafter(capsys, argv):
    err = told(capsys, *argv)
    assert "telepathy" in err and "lookup" in err and "none" in err


def test_bad_input(capsys, tmp_path):
    (tmp_path/"long.txt").write_text("word " * 9000)
    (tmp_path/"binary.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path/"qa.jsonl").write_text(json.dumps({"category": "qa", "turns": ["Why?"]}))
    (tmp_path/"odd.jsonl").write_text('{"question": 1}')
    (tmp_path/"broken").mkdir()
    (tmp_path/"broken/config.json").write_text("{")
    race, bench, qa = ("race", "--json"), ("bench", "--questions"), tmp_path/"qa.jsonl"
    assert "empty" in told(capsys, *race, "--prompt", " ")
    assert "at least 1, got 0" in told(capsys, *race, "--max-new-tokens", 0)
    assert "temperature" in told(capsys, *race, "--temperature", -1)
    assert "trust" in told(capsys, *race, "--rule", "trust")
    assert "no-such" in told(capsys, *race, "--file", tmp_path/"no-such")
    assert "not a text file" in told(capsys, *race, "--file", tmp_path/"binary.txt")
    assert "sonnet" in told(capsys, *race, "--example", "sonnet")
    assert "context window 8192" in told(capsys, *race, "--file", tmp_path/"long.txt")
    assert "no-such" in told(capsys, *race, "--model", tmp_path/"no-such")
    assert "incomplete or damaged" in told(capsys, *race, "--model", tmp_path/"broken")
    assert "no-such.jsonl" in told(capsys, *bench, tmp_path/"no-such.jsonl")
    assert "odd.jsonl:1" in told(capsys, *bench, tmp_path/"odd.jsonl")
    assert "there are: qa" in told(capsys, *bench, qa, "--categories", "math")
    assert "at least 1" in told(capsys, *bench, qa, "--n", 0)
    assert "at least 1" in told(capsys, *bench, qa, "--max-new-tokens", 0)
    assert "cannot write" in told(capsys, *bench, qa, "--json", tmp_path/"no/out.json")
    assert "cannot write" in told(capsys, *bench, qa, "--json", tmp_path)
    assert "--resume needs --json" in told(capsys, *bench, qa, "--resume")
    train = ("train", "draft", "--out", tmp_path/"out")
    assert "--data is missing" in told(capsys, *train)
    assert "unknown loss 'hinge'" in told(capsys, *train, "--data", tmp_path, "--objective", "hinge")
    assert "--batch >= 1" in told(capsys, *train, "--data", tmp_path, "--batch", 0)
    assert "--words >= 1" in told(capsys, *train, "--data", tmp_path, "--words", 0)
    assert "--minutes > 0" in told(capsys, *train, "--data", tmp_path, "--minutes", 0)
    assert "--device nonsense is not to be had here" in told(capsys, *train, "--data", tmp_path, "--device", "nonsense")
    assert "no data in" in told(capsys, *train, "--data", tmp_path)


def test_a_shell_sees_exit_codes():
    done = shell("race", "--drafter", "telepathy", "--json")
    assert (done.returncode, done.stdout) == (2, "") and "telepathy" in done.stderr
    assert done.stderr.count("\n") == 1
    assert shell("race", "--dtype", "int3").returncode == 2 and shell().returncode == 2


def test_bench_is_killed_and_resumes(tmp_path, monkeypatch, capsys):
    "SIGKILL after the first record, then --resume: every record once, every answer identical"
    questions = [{"category": c, "turns": [f"Repeat exactly: {c} {c} {c} {c}."]} for c in ("red", "blue")]
    (tmp_path/"q.jsonl").write_text("\n".join(map(json.dumps, questions)))
    argv = ["bench", "--no-hf", "--drafters", "lookup", "--questions", "q.jsonl", "--max-new-tokens", "8"]
    argv, partial = [*argv, "--json", "out.json"], tmp_path/"out.json.partial.jsonl"
    run = subprocess.Popen([*COMMAND, *argv], cwd=tmp_path, env=ENV, stderr=subprocess.DEVNULL)
    def recorded(): return partial.exists() and partial.read_bytes().count(b"\n") >= 2
    while run.poll() is None and not recorded(): time.sleep(.02)
    run.send_signal(signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL and not (tmp_path/"out.json").exists()
    first = partial.read_text().splitlines()[1]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["specdec", *argv, "--resume"])
    assert main(sys.argv[1:]) == 0 and "lookup" in capsys.readouterr().out
    report = json.loads((tmp_path/"out.json").read_text())
    keys = [(r["question"], r["drafter"]) for r in report["records"]]
    assert sorted(keys) == [(i, d) for i in range(2) for d in ("lookup", "none")]
    assert report["records"][0]["seconds"] == json.loads(first)["seconds"], "it was measured again"
    rows = {(r["drafter"], r["category"]): r for r in report["rows"]}
    assert set(rows) == {(d, c) for d in ("none", "lookup") for c in ("red", "blue", "all")}
    assert all(r["identical"] for r in rows.values()) and rows["lookup", "all"]["n"] == 2
    wanted = {"drafter", "category", "n", "tokens", "calls", "tau", "acceptance", "seconds", "seconds_plain",
              "speedup", "identical", "warm"}
    assert wanted <= rows["lookup", "all"].keys()
    source = report["provenance"]
    assert source["questions"]["files"].keys() == {"q.jsonl"} and source["model"].startswith("SmolLM2")
    assert source["command"].startswith("specdec bench")
    assert {"device", "cpu", "threads", "dtype", "runtime", "fingerprint", "torch", "transformers", "python", "specdec_nb", "date",
            "commit", "seed"} <= source.keys()
    assert not list(tmp_path.glob("*.partial*"))
