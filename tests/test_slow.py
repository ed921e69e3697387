"Chapter 44b: each symptom is found where it was planted, and nowhere else."
import json

import pytest

from conftest import ROOT
from specdec_nb.bench.report import history
from specdec_nb.bench.slow import IDEA, cut_short, own_prices, symptoms, tried
from specdec_nb.draft import Draft
from specdec_nb.speedup import CostCurve
from specdec_nb.sampling import Scores
from specdec_nb.verify import Step, Trace, Verdict

FREE, DEAR = CostCurve((1, 2), (1., 1.001)), CostCurve((1, 2), (1., 1.3))


def made(*calls, **seconds):
    "A trace of chains: `(guesses, accepted)` a call"
    steps = [Step(d := Draft.chain([1] * n), Verdict.of(d, range(a), 2), None, dict(seconds) if not i else {}) for i, (n, a) in enumerate(calls)]
    return Trace(steps)


HEALTHY = [(4, 2), (4, 1), (4, 3), (4, 4), (4, 1), (4, 0)] * 4


@pytest.mark.parametrize("calls, curve, found", [
    (HEALTHY, FREE, []), ([(0, 0)] * 20, DEAR, ["silent"]), ([(4, 0)] * 20, FREE, ["refused"]), ([(12, 1)] * 20, DEAR, ["too long"]),
    ([(1, 1)] * 20, DEAR, ["too short"]), ([(12, 1)] * 20, FREE, []), ([(4, 0)] * 3, FREE, [])])
def test_what_was_planted_is_found(calls, curve, found):
    assert [s.name for s in symptoms(made(*calls), curve)] == found


def test_the_clock():
    slow, quick = dict(propose=.3, forward=.6, score=.6, prefill=.2), dict(propose=.01, forward=.6, score=.6, prefill=.2)
    assert [s.name for s in symptoms(made(*HEALTHY, **slow), FREE)] == ["busy"]
    assert not symptoms(made(*HEALTHY, **slow, drafting=.29), FREE)              # a draft model's forwards are no idle work
    assert not symptoms(made(*HEALTHY, **quick), FREE, plain=made((0, 0), prefill=.2))
    assert [s.name for s in symptoms(made(*HEALTHY, **quick), FREE, plain=made((0, 0), prefill=.1))] == ["asks much"]


def test_a_cut_counts_tokens_over_price():
    trace = made((2, 2), (2, 0))
    assert cut_short(trace, 2, DEAR) == pytest.approx(4 / 3.2) and cut_short(trace, 1, DEAR) == pytest.approx(3 / 2.6)
    assert cut_short(trace, 0, DEAR) == 1


def test_calls_write_their_own_price_list():
    "A quiet call's price, whatever a few loud ones took; without calls of one row there is nothing to compare with"
    def steps(*calls): return [Step(Draft.chain([1] * (n - 1)), None, Scores([[0]] * n, s)) for n, s in calls]
    quiet = [*[(1, 2.)] * 8, *[(8, 5.)] * 8]
    curve = own_prices(steps(*quiet, (1, 90.), (8, 70.), (3, .1)))
    assert curve.rows == (1, 8) and curve.relative(8) == 2.5
    assert own_prices(steps(*quiet, *[(1, 9.)] * 30)).relative(8) != 2.5, "most calls loud: the list cannot know"
    assert own_prices(steps(*quiet, (3, 3.)), least=1).rows == (1, 3, 8)
    for few in (quiet[:8], quiet[8:], [*quiet[:4], *quiet[8:]], []):
        with pytest.raises(ValueError, match="5 calls of one row"): own_prices(steps(*few))


def test_the_ledger_of_ideas():
    rows = history(ROOT/"results/ideas.jsonl", IDEA)
    assert {row["kept"] for row in rows} == {True, False}
    for aim in {row["aim"] for row in rows}: assert sum(row["aim"] == aim for row in rows) >= 3, f"three ideas for {aim!r} at least"
    text = str(tried(rows))
    assert all(row["idea"] in text for row in rows) and text.count("\n") == len(rows)


@pytest.mark.parametrize("change", [dict(before="fast"), dict(kept="yes"), dict(aim=None)])
def test_a_line_that_tells_no_numbers_is_none(tmp_path, change):
    line = json.loads((ROOT/"results/ideas.jsonl").read_text().splitlines()[0])
    (tmp_path/"ideas.jsonl").write_text(json.dumps(line | change))
    with pytest.raises(ValueError, match="ideas.jsonl:1"): history(tmp_path/"ideas.jsonl", IDEA)
