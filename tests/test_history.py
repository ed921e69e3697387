"""The ledger of performance: two commits in turns, each by its own code; and the line that chapter 44a reads."""
import json
import subprocess
import sys

import history as tool
import pytest
from conftest import ROOT
from specdec_nb.bench.report import drawn, history, leaderboard


def git(folder, *words):
    who = ["-c", "user.name=x", "-c", "user.email=x@x", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


PROGRAM = """
import json, os, sys
import specdec_nb
os.makedirs(os.environ["XDG_CACHE_HOME"], exist_ok=True)
with open(os.environ["XDG_CACHE_HOME"] + "/calls", "a+") as f:
    f.write("x")
    f.seek(0)
    n = len(f.read())                                                # which call of this commit
print("chatter")
print(json.dumps({"none": specdec_nb.SPEED * n, "auto": specdec_nb.SPEED * n * int(sys.argv[1])}))
"""


@pytest.fixture
def repository(tmp_path):
    "Two commits of a package, the second a quarter faster"
    root = tmp_path/"root"
    (root/"specdec_nb").mkdir(parents=True)
    (root/"results").mkdir()
    (root/"results/keep").touch()
    git(tmp_path, "init", "-q", "root")
    for speed in (100, 125):
        (root/"specdec_nb/__init__.py").write_text(f"SPEED = {speed}\n")
        git(root, "add", ".")
        git(root, "commit", "-qm", f"speed {speed}")
    (root/"specdec_nb/__init__.py").write_text("SPEED = 999\n")     # what is not committed is not measured
    (tmp_path/"program.py").write_text(PROGRAM)
    return root


def run(root, *more):
    return subprocess.run([sys.executable, str(ROOT/"tools/history.py"), "--root", str(root), *map(str, more)], capture_output=True, text=True)


def test_two_commits_take_turns(repository, tmp_path):
    "After a call of each that does not count, pairs in an order that alternates; the line is the ledger's; nothing is left in the repository"
    small = ("--program", tmp_path/"program.py", "--tokens", 2)
    done = run(repository, *small, "--rounds", 3)
    assert done.returncode == 0, done.stderr
    first, then = git(repository, "rev-parse", "HEAD"), git(repository, "rev-parse", "HEAD^")
    [row] = history(repository/"results/history.jsonl")
    assert (row["commit"], row["before"], row["rounds"], row["tokens"]) == (first, then, 3, 2) and row == json.loads(done.stdout)
    assert row["rates"] == dict(none=375., auto=750.) and row["ratio"] == dict(none=[1.25] * 3, auto=[1.25] * 3)
    turns = [[c for c in line.split("'") if len(c) == 40] for line in done.stderr.splitlines() if line.startswith("round")]
    assert turns == [[then, first], [first, then], [then, first]]
    assert git(repository, "worktree", "list").count("\n") == 0 and git(repository, "status", "--porcelain", "-uno") == "M specdec_nb/__init__.py"
    assert run(repository, *small, "--rounds", 1, "--commit", then, "--before", first).returncode == 0
    rows = history(repository/"results/history.jsonl")
    assert len(rows) == 2 and rows[1]["ratio"]["none"] == [.8] * 3
    assert str(leaderboard(rows)).splitlines()[1].startswith("750") and drawn(rows).axes


def test_what_cannot_be_measured_is_said(repository, tmp_path):
    "And leaves no checkout behind, and no line"
    (tmp_path/"bad.py").write_text("raise ValueError('no such door')")
    for more, told in ((("--commit", "nowhere"), "git rev-parse: "), (("--before", "HEAD"), "against itself"), (("--rounds", 0), "at least one round"),
                       (("--program", tmp_path/"bad.py"), "no such door"), (("--commit", "HEAD^"), "git rev-parse: ")):
        done = run(repository, *more)
        assert done.returncode and told in done.stderr and "Traceback (most recent call last):\n  File \"" + str(ROOT) not in done.stderr, done.stderr
    assert git(repository, "worktree", "list").count("\n") == 0 and not (repository/"results/history.jsonl").exists()


def test_another_checkouts_code_is_refused(tmp_path):
    "A folder without the package would measure the one that is installed"
    with pytest.raises(SystemExit, match="which is not of this checkout|No module named 'specdec_nb'"): tool.measured(tmp_path, 1, "print('{}')")


@pytest.mark.slow
def test_of_this_book(tmp_path):
    "The real program, on two checkouts of one commit and its child: the same speed, within what two cores in company allow"
    done = run(ROOT, "--rounds", 1, "--tokens", 4, "--out", tmp_path/"h.jsonl")
    assert done.returncode == 0, done.stderr
    [row] = history(tmp_path/"h.jsonl")
    assert all(1 / 3 < row["ratio"][who][0] < 3 and row["rates"][who] > 1 for who in tool.WHO)
