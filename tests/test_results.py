"""What is kept in results/: where it comes from, and that nothing else is read."""
import json, re, subprocess

import pytest
from conftest import ROOT
from specdec_nb.bench.report import history
from specdec_nb.bench.results import FIGURES, ROW, Report
from specdec_nb.workshop.ledger import SOURCE, sourced

FILES = sorted((ROOT/"results").glob("*.json"))


def test_every_file_of_results_is_a_result_or_has_a_generator():
    known = ("random.jsonl", "contexts.jsonl", "training.jsonl", "history.jsonl", "ideas.jsonl")
    odd = [p.name for p in (ROOT/"results").iterdir() if p.suffix != ".json" and p.name not in known]
    assert FILES and not odd
    if (ledger := ROOT/"results/history.jsonl").exists(): assert history(ledger)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_provenance(path):
    report = sourced(json.loads(path.read_text()), path)
    commit = report["provenance"]["commit"]
    assert re.fullmatch("[0-9a-f]{40}", commit)
    if not (ROOT/".git").exists(): pytest.skip("no repository: this is an unpacked archive")
    shallow = subprocess.run(["git", "rev-parse", "--is-shallow-repository"], cwd=ROOT, text=True, capture_output=True).stdout.strip()
    known = subprocess.run(["git", "cat-file", "-e", f"{commit}^{{commit}}"], cwd=ROOT, capture_output=True).returncode == 0
    if shallow == "true" and not known: pytest.skip("a shallow clone does not know its older commits")
    assert known, f"{path.name} names a commit that is not in this repository"


def test_what_is_measured_again_is_what_is_read():
    "`make results` writes each file of results/, and each chapter's file is there"
    made = (ROOT/"Makefile").read_text()
    assert not [p.name for p in FILES if f"results/{p.name}" not in made]
    texts = "".join(p.read_text() for p in (ROOT/"nbs/_src").rglob("*.md"))
    asked = {*re.findall(r'results/([\w.]+\.json)"', texts), *re.findall(r'results / "([\w.]+\.json)"', texts)} - {"gpu_check.json"}
    assert asked == {p.name for p in FILES}


def test_random_words_are_made_again(original):
    import random_words
    lines = (ROOT/"results/random.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == random_words.questions(original[1])
    assert random_words.questions(original[1], seed=1) != random_words.questions(original[1])


def test_long_texts_are_as_long_as_they_say(original):
    "The file is of the book as it was when it was measured; the tool makes one of the book as it is"
    import contexts
    def told(q): return len(original[1](q["turns"][0].split("\n\n", 1)[1]).input_ids)
    for made in ([json.loads(line) for line in (ROOT/"results/contexts.jsonl").read_text().splitlines()], contexts.questions(original[1])):
        assert [int(q["category"]) for q in made] == [500, 500, 4000, 4000, 1500, 1500] and len({q["turns"][0] for q in made}) == 6
        assert all(abs(told(q) - int(q["category"])) <= 2 and "```" not in q["turns"][0] for q in made)


GOOD = dict(provenance=dict(command="specdec bench", commit="0" * 40, date="2026-11-29", cores=2, threads=2, dtype="float32", load=1.5), records=[],
            rows=[dict(drafter="none", warm=False, category="qa", n=1, n_identical=1, tokens=9, calls=9, seconds=2., seconds_plain=2., prefill=1., prefill_plain=1.)])


def written(path, change):
    report = json.loads(json.dumps(GOOD))
    change(report)
    path.write_text(json.dumps(report))
    return path


def test_a_good_report(tmp_path):
    report = Report.load(written(tmp_path/"r.json", lambda r: None), {"group": ("a", "b")})
    assert report.grid()["none", False] == {"qa": 1., "all": 1.}, "a group without questions has no column"
    assert {f: report.grid(f)["none", False]["all"] for f in FIGURES} == dict(speedup=1, decoding=1, prefill=1, tau=1, cost=1)
    with pytest.raises(ValueError, match="unknown figure 'x'"): report.grid("x")


@pytest.mark.parametrize("change, says", [
    (lambda r: r.pop("provenance"), "lacks 'provenance'"), (lambda r: r.pop("rows"), "lacks 'rows'"), (lambda r: r.update(rows={}), "rows is"),
    (lambda r: r.update(rows=[]), "no rows"), (lambda r: r.update(rows=[3]), r"rows\[0\]"), (lambda r: r.update(records=None), "records is"),
    *[(lambda r, k=k: r["rows"][0].pop(k), rf"rows\[0\] lacks '{k}'") for k in ROW],
    *[(lambda r, k=k: r["rows"][0].update({k: []}), rf"rows\[0\]\.{k} is") for k in ROW],
    *[(lambda r, k=k: r["provenance"].pop(k), f"does not say where its numbers come from .*{k}") for k in SOURCE],
    (lambda r: r["provenance"].update(commit=None), "does not say"), (lambda r: r["provenance"].update(commit="0" * 40 + "+"), "in no commit"),
    (lambda r: r["rows"][0].update(seconds=float("inf")), "seconds"), (lambda r: r["rows"][0].update(calls=0), "took no time"),
    (lambda r: r["rows"][0].update(prefill=2.), "took no time")])
def test_other_reports_are_refused(tmp_path, change, says):
    with pytest.raises(ValueError, match=says) as e: Report.load(written(tmp_path/"r.json", change))
    assert str(tmp_path/"r.json") in str(e.value)


@pytest.mark.parametrize("text", ["", "[", "[]", "null", "[" * 100_000, "\xff"])
def test_what_is_no_report(tmp_path, text):
    (tmp_path/"r.json").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=r"r\.json is no report of specdec bench"): Report.load(tmp_path/"r.json")
    with pytest.raises(IsADirectoryError): Report.load(tmp_path)


def test_the_load_is_known():
    assert not [p.name for p in FILES if json.loads(p.read_text())["provenance"]["load"] is None]
