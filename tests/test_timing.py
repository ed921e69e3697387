"""What is timed, by which clock, and that it is what the trace says."""
import time

from benched import CIRCLE, SMALL, Parrot, Wild
from specdec_nb.bench import timing
from specdec_nb.bench.timing import Clock, Setting, timed
from specdec_nb.draft import Draft
from specdec_nb.roles import TableTarget, as_target


def test_what_is_timed():
    class Slow(Parrot):
        def __init__(self): super().__init__(); time.sleep(.2)
        def begin(self, ctx, state): time.sleep(.1)
    trace, times = timed(as_target(CIRCLE), Slow(), [0], SMALL, show=lambda step: time.sleep(.1))
    assert .1 <= times["seconds"] < .19, "a drafter's beginning counts; its construction, and showing, do not"
    assert len(trace.tokens) == 7


def test_reading_the_prompt_is_timed():
    class Wide(TableTarget):
        def open(self, prompt, asks=None):
            time.sleep(.1)
            return super().open(prompt, *() if asks is None else (asks,))
    trace, times = timed(Wide(CIRCLE), Wild(), [0], SMALL)
    assert .1 <= trace.seconds["prefill"] <= times["seconds"]


def test_two_clocks():
    "Who sleeps spends no processor time; what came first is told once; showing is nobody's cost, by either clock"
    clock = Clock()
    time.sleep(.05)
    clock.first(3)
    clock.first(9)
    clock.outside(lambda: sum(range(3_000_000)))
    read = clock.read()
    assert read["seconds"] >= .05 > .04 > read["cpu"] >= read["cpu_first"] >= 0 and read["first"] == 3
    clock = Clock()
    sum(range(9_000_000))
    busy = clock.read()
    assert busy["cpu"] > .02 and (busy["first"], busy["cpu_first"]) == (0, 0)


def test_nothing_after_the_end_counts():
    class Beyond(Wild):
        def propose(self, ctx, rng): return Draft.chain([2, 0, 1, 2, 0, 1])
    for drafter, calls in ((Wild(), 2), (Beyond(), 1)):
        trace, _ = timed(as_target(CIRCLE), drafter, [0, 1], Setting(max_new_tokens=9, eos=(1,)))
        assert (trace.tokens, trace.calls) == ([2, 0, 1], calls)


def test_counts_are_those_of_the_trace():
    trace, times = timed(as_target(CIRCLE), Wild(), [0], SMALL)
    r = timing.record(trace, times)
    assert [accepted / judged for judged, accepted in trace.judged] == trace.acceptance != []
    assert sum(r["sizes"]) == r["calls"] and sum(n * calls for n, calls in enumerate(r["sizes"])) == r["nodes"] > 0
