"""The tool that loads an engine: equal texts, every row counted, and another text is seen."""
from engines import PROMPTS, build
from specdec_nb import Stop
from specdec_nb.roles import as_target


def test_the_load_tool_says_what_happened():
    "Its rows on a small model: every load gives the same texts, all rows of all forwards are counted, and another text is seen"
    import load
    target = as_target(build("own"))
    forwards, stop, said = load.Forwards(target, lambda rows: 1 + 10 * rows), Stop(12, {47}), {}
    for how in ("generate", "1", "4", "poisson:200"):
        for drafter in ("none", "lookup"):
            row, texts = load.measured(target, forwards, drafter, PROMPTS, stop, how, 32)
            said.setdefault("texts", texts)
            assert texts == said["texts"] and row["tokens"] == sum(map(len, texts.values())) > 40
            assert row["rows"] == row["read"] + row["tokens"] + (row["drafted"] or 0) - (row["accepted"] or 0) or drafter == "lookup" and how == "generate", row
            assert row["booked"] == row["calls"] + 10 * row["rows"]
            assert 0 < row["first_p50"] <= row["first_p95"] and 0 < row["forward_cpu"] <= row["cpu"] + .02
    assert "poisson:200" in load.brief([dict(row, threads=1, equal=1, n=1)])
    forward = target.forward.forward
    target.forward.forward = lambda feeds: [(None if rows is None else rows.roll(1, -1), hidden) for rows, hidden in forward(feeds)]
    assert load.measured(target, forwards, "none", PROMPTS, stop, "4")[1] != said["texts"]
