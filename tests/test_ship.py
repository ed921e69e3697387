"""tools/ship.py: what is better takes the place, what is not stays out, either is written down; and nothing grows too large."""
import json
import sys
from pathlib import Path

import pytest

from specdec_nb import Draft, Trace, Verdict
from specdec_nb.verify import Step

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
import ship                                                      # noqa: E402


def drafter(folder, name, size=10):
    folder.mkdir(parents=True)
    record = dict(steps=3, tokens=9, seconds=7200, cpu_seconds=3600, command="specdec train medusa")
    (folder / "config.json").write_text(json.dumps(dict(name=name, record=record)))
    (folder / "log.json").write_text(json.dumps([dict(step=3, seconds=7200, cpu_seconds=3600, held=dict(top1=[.4, .3]))]))
    (folder / "README.md").write_text(name)
    (folder / "model.safetensors").write_bytes(b"x" * size)
    return folder


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    "Weights and a ledger of our own, and figures as a test wants them"
    ours, other = drafter(tmp_path / "weights" / "medusa", "old"), drafter(tmp_path / "new", "new")
    (tmp_path / "questions.jsonl").write_text(json.dumps(dict(category="writing", turns=["Why?"])) + "\n")
    monkeypatch.setattr(ship, "WEIGHTS", tmp_path / "weights")
    monkeypatch.setattr(ship, "LEDGER", tmp_path / "ledger.jsonl")
    def measured(top1=(.4, .5), tau=(1.5, 1.7), *options):
        monkeypatch.setattr(ship, "kept_apart", lambda folders, *_: {f: dict(top1=[x]) for f, x in zip(folders, top1)})
        monkeypatch.setattr(ship, "on_questions", lambda kind, folders, *_: {f: dict(tau=x) for f, x in zip(folders, tau)})
        monkeypatch.setattr(sys, "argv", ["ship.py", "medusa", str(other), "--questions", str(tmp_path / "questions.jsonl"), "--features", str(tmp_path), *options])
        ship.main()
        lines = (tmp_path / "ledger.jsonl").read_text().splitlines() if (tmp_path / "ledger.jsonl").exists() else []
        return (ours / "README.md").read_text(), [json.loads(line) for line in lines]
    measured.folder = tmp_path
    return measured


def test_better(shelf):
    name, [line] = shelf()
    assert name == "new" and line["shipped"] and line["what"] == "run" and line["hours"] == 1 and line["curve"] == [[3, 3600, .4, .3]]
    assert (line["dev"]["tau"], line["dev_before"]["tau"], line["held"]["top1"]) == (1.7, 1.5, [.5])


@pytest.mark.parametrize("figures", [dict(top1=(.4, .3)), dict(tau=(1.5, 1.5)), dict(top1=(.4, .4))])
def test_not_better(shelf, figures):
    name, [line] = shelf(**figures)
    assert name == "old" and not line["shipped"]


def test_the_first_of_its_kind(shelf):
    (shelf.folder / "weights" / "medusa").rename(shelf.folder / "elsewhere")
    with pytest.raises(FileNotFoundError): shelf((.1,), (1.1,), "--dry")                         # nothing was shipped
    name, [line] = shelf((.1,), (1.1,))
    assert name == "new" and line["shipped"] and line["dev"] == dict(tau=1.1) and "dev_before" not in line


def test_only_measured(shelf): assert shelf((.4, .5), (1.5, 1.7), "--dry") == ("old", [])


def test_too_large(shelf, monkeypatch):
    monkeypatch.setattr(ship, "MOST", 100)
    drafter(shelf.folder / "weights" / "eagle3", "other", 95)
    with pytest.raises(SystemExit, match="100 is the most"): shelf()
    assert (shelf.folder / "weights" / "medusa" / "README.md").read_text() == "old"


def test_figures_add_up():
    "Two calls of one trace and one of another: counts are added, not shares"
    draft = Draft.chain([1, 2])
    def step(path): return Step(draft, Verdict.of(draft, path, 5), None)
    traces = [Trace([step([0, 1]), step([])]), Trace([step([0])])]
    found = ship.figures(traces)
    assert (found["tokens"], found["calls"], found["tau"], found["acceptance"]) == (6, 3, 2., [round(2 / 3, 3), .5]), "shares: (1 + 0 + 1) / 3 calls, then 1 of 2"
