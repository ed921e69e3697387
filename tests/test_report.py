"""What follows from a results file, and what does not"""
import json

import numpy as np
import pytest

from specdec_nb.bench.report import GOALS, Goal, Ratio, compare, history, judged, leaderboard, scoreboard
from specdec_nb.bench.results import Report


def record(drafter, question, cpu, cpu_first=1., tokens=101, category="qa", warm=False):
    return dict(drafter=drafter, question=question, category=category, warm=warm, tokens=tokens, first=1, cpu=cpu, cpu_first=cpu_first)


def report(**methods): # `{name: [processor seconds of each question]}`
    records = [record(name, q, t, category=("qa", "rag")[q % 2]) for name, times in methods.items() for q, t in enumerate(times)]
    rows = [dict(drafter=d, warm=False, category=c) for d in methods for c in ("qa", "rag")]
    return Report({}, rows, None, records)


def test_ratios_are_of_totals_and_scaled():
    r = report(none=[3., 11.], fast=[2., 6.])
    assert compare(r, "fast", "none").value == 12 / 6 and compare(r, "fast", "none", "all").value == 14 / 8
    assert compare(r, "fast", "none", "all", "rag") == Ratio(11 / 6, 11 / 6, 11 / 6, 1)
    half = Report({}, [], None, [record("none", 0, 3.), record("half", 0, 2., tokens=51)])
    assert compare(half, "half", "none").value == 1, "who writes half in half the time is as fast"
    warm = Report({}, [], None, [record("none", 0, 3.), record("x", 0, 1.5, warm=True)])
    assert compare(warm, "x", "none") is None, "warm methods are not compared"


def test_intervals_cover_the_truth():
    """Of 200 files whose true ratio is 2, nine in ten intervals should hold it. With 14 questions a bootstrap's are a little short: at least
    160 of 200 (were they right in 87 of 100 cases, fewer would come one time in 600); shifted by a tenth they must fail."""
    gen, held, shifted = np.random.default_rng(5), 0, 0
    for _ in range(200):
        plain = gen.lognormal(0, .3, 14)
        both = report(none=list(1 + 2 * plain), fast=list(1 + plain * gen.normal(1, .1, 14)))
        ratio = compare(both, "fast", "none")
        held += ratio.low <= 2 <= ratio.high
        shifted += ratio.low <= 2.2 <= ratio.high
    assert held >= 160 > 60 > shifted


def test_the_same_file_twice_overlaps():
    gen = np.random.default_rng(1)
    plain = gen.lognormal(0, .3, 14)
    one, two = (compare(report(none=list(1 + 2 * plain * gen.normal(1, .05, 14)), fast=list(1 + plain * gen.normal(1, .05, 14))), "fast", "none") for _ in range(2))
    assert one.low <= two.high and two.low <= one.high


def test_claims():
    r = report(none=[3.] * 4, **{"hf-plain": [21., 19.] * 2, "auto": [2., 4.] * 2})
    found = {g.what: (who, verdict) for g, who, _, verdict, _ in judged(r)}
    assert found["plain decoding, against transformers' plain"] == ("hf-plain", "yes")
    assert "rag" in found["the default, against transformers' plain"][1], "a category below its own goal is named"
    assert found["the default, against our own plain"][1].startswith("cannot be told")
    assert not any("llama.cpp" in what for what in found), "nobody is judged against who was not there"
    assert Ratio(2., 2., 2., 2).against(1.) == "cannot be told", "of two questions nothing is concluded"
    assert Ratio(2., 1.8, 2.2, 9).against(2.3) == "no" and Ratio(2., 1.8, 2.2, 9).against(2.1) == "cannot be told"
    several = judged(report(a=[2., 2.], b=[3., 3.], c=[5., 5.]), (Goal("", "a", ("b", "c"), "decoding", 1),))
    assert several[0][1] == "b", "of several the fastest counts"
    assert len({g.what for g in GOALS}) == len(GOALS)
    assert "transformers" in str(scoreboard(r)) and "<table>" in scoreboard(r)._repr_html_()


def test_reports_without_processor_times_are_refused():
    old = Report({}, [], None, [{k: v for k, v in record(d, 0, 2.).items() if k != "cpu_first"} for d in ("none", "x")])
    with pytest.raises(ValueError, match="no processor times"): compare(old, "x", "none")


def test_ledger(tmp_path):
    line = dict(commit="a" * 40, before="b" * 40, date="2026-11-29T00:00:00Z", cores=2, threads=1, cpu="x", load=1., rounds=3,
                rates=dict(none=100., auto=120.), ratio=dict(none=[1., .9, 1.1], auto=[1., .9, 1.1]))
    path = tmp_path/"h.jsonl"
    path.write_text(json.dumps(line) + "\n\n" + json.dumps({**line, "rates": dict(none=130., auto=90.)}) + "\n")
    assert [r["rates"]["none"] for r in history(path)] == [100., 130.]
    first = str(leaderboard(history(path))).splitlines()[1]
    assert first.startswith("130") and "2026-11-29" in first and "aaaaaaaaa" in first
    path.write_text(json.dumps({**line, "rates": {"none": 1.}}))
    with pytest.raises(ValueError, match="h.jsonl:1.*auto"): history(path)
