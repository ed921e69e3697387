"""Who may guess how much: the best ration, drafters that lose, and a purse that bounds what speculation can cost."""
import numpy as np
import pytest

from drafters import Wild
from engines import CURVE
from specdec_nb import Draft, Drafter, Keyed, Stop, TableLM
from specdec_nb.sampling import Asks
from specdec_nb.serving.engine import Engine
from specdec_nb.serving.ration import Ration, _Book
from specdec_nb.speedup import CostCurve


def test_rations_are_the_best_and_never_worse_than_none():
    gen = np.random.default_rng(1)
    for curve in (CURVE, CostCurve((1, 2), (1, 2)), CostCurve((1, 8, 16), (1, 1, 2))):
        ration = Ration(curve, nodes=3)
        for _ in range(20):
            records = [500 * np.stack([a ** np.arange(1, 4), np.ones(3)]) for a in gen.random(2)]
            def rate(sizes): return (2 + sum(ration.values(t)[:n].sum() for t, n in zip(records, sizes))) / curve(2 + sum(sizes))
            assert rate(ration.sizes(records)) >= max(rate((i, j)) for i in range(4) for j in range(4)) - 1e-9
    assert Ration(CostCurve((1, 2), (1, 2))).sizes([500 * np.stack([.9 ** np.arange(1, 17), np.ones(16)])] * 2) == [0, 0]


def test_a_losing_drafter_is_silenced_and_a_winning_one_is_not():
    def shares(gain):
        book, loud = _Book(), 0
        for _ in range(3000):
            if book.resting(): book.add(0, 0)
            else: loud += 1; book.add(gain, 1)
        return loud / 3000
    assert shares(.7) < .04 and shares(1.3) == 1


class Priced(Engine):
    "An engine on a clock that adds up prices: a forward costs what the curve says, a drafter that listens a fixed share of a call"
    listening = .02
    def __init__(self, *args, free=False, **settings):
        super().__init__(*args, curve=CURVE, **settings)
        self.total, score = 0., self.target.score
        if self.ration:
            self.ration.clock = lambda: 0.
            if free: self.ration.purse = self.ration.most = 1e9                   # the control
        def priced(pairs):
            scored, rows = score(pairs), sum(len(d) + 1 if d is not None else min(len(s.unread), 32) for s, d in pairs)
            self.total += CURVE(rows)
            for scores in scored: scores.seconds = scores.elapsed = CURVE(rows) / len(pairs)
            return scored
        self.target.score = priced

    def hear(self, r, step):
        listened = self.listening * CURVE(1) * (type(r.drafting).__name__ not in ("NoDrafter", "NoneType"))
        step.seconds.update(propose=0., observe=listened, begin=0.)
        self.total += listened
        super().hear(r, step)


class Bold(Drafter):
    "Sends as many guesses as it may, all of them wrong; sizes its drafts itself, as `auto` does"
    def __init__(self): self.pace = type("Pace", (), dict(cost=np.ones(17)))()
    def propose(self, ctx, rng): return Draft.chain([int(ctx.tokens[-1] + 1) % 47] * min(ctx.budget.depth, 16))


class Hearing(Bold):
    "One that lives on hidden states, and so listens even when it may not guess"
    asks = Asks(hidden=(0,))


@pytest.mark.parametrize("load", [1, 3, 8])
def test_speculation_never_costs_more_than_the_purse_allows(load):
    "By counted prices, whatever the drafter does; without the purse the same load loses more"
    lm, prompts = TableLM.random(47, 2, 1), [[i] for i in range(load)]
    def took(drafter, **how):
        engine, texts = Priced(lm, drafter, **how), {}
        for i, p in enumerate(prompts): engine.submit(p, stop=Stop(150), rng=Keyed(3, i), told=lambda r, step, i=i: texts.setdefault(i, []).extend(step.verdict.tokens))
        engine.run()
        return engine.total, texts
    plain, texts = took("none")
    for drafter in (Bold, Hearing, lambda: Wild(1), lambda: "lookup", lambda: "recycling", lambda: "auto"):
        seconds, said = took(drafter())
        assert said == texts and seconds < 1.015 * plain + (4 + load * Priced.listening) * CURVE(1) < 1.05 * plain, (drafter, seconds / plain)
    assert all(took(drafter(), free=True)[0] > 1.1 * plain for drafter in (Bold, Hearing))


def test_who_earns_is_not_stinted():
    "A drafter that is right sends nearly as much as with a bottomless purse"
    lm = TableLM({(): [1, 0, 0], (0,): [0, 1, 0], (1,): [0, 0, 1], (2,): [1, 0, 0]})
    class Right(Drafter):
        def propose(self, ctx, rng): return Draft.chain([(ctx.tokens[-1] + 1 + i) % 3 for i in range(min(ctx.budget.depth, 16))])
    def calls(**how):
        engine = Priced(lm, Right(), **how)
        for i in range(3): engine.submit([i], stop=Stop(200))
        engine.run()
        return engine.counts["calls"]
    assert calls() <= calls(free=True) + 6 < 120
