"""Where a text ends: right at the token, whoever wrote it; and the rows of a draft, asked only where somebody looks and never behind an end."""
from fractions import Fraction

import numpy as np
import pytest
import torch

from drafters import Sampled
from specdec_nb import Dice, Draft, Drafter, Keyed, Law, Stop, TableLM, Trace, verify_rejection, verify_walk, exact_law as law
from specdec_nb.chance import Point, pick, rounding
from specdec_nb.decode import decode
from specdec_nb.roles import as_target
from specdec_nb.stops import DraftRows, distribution_over

GEN = np.random.default_rng(0)


def tree(n, V): return Draft.merge(GEN.integers(0, V, (n, int(GEN.integers(1, 5)))).tolist())[0]


class Watched(Law):
    "Notes what it is asked: the text before each row"
    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "asked", [])
    def start(self, prompt): return tuple(prompt)
    def step(self, s, token, scores=None, i=0): return s + (token,)
    def row(self, s, scores, i):
        self.asked.append(s)
        return super().row((), scores, i)


def rows_of(draft, stop, law, text=(0, 1), made=0, V=4):
    lm = as_target(TableLM.random(V, 2, 5))
    [scores] = lm.score([(lm.open(list(text)), draft)])
    return DraftRows(draft, scores, list(text), made, stop, law, law.start(list(text)), V)


@pytest.mark.parametrize("rule", [verify_walk, verify_rejection])
def test_no_law_is_asked_behind_an_end(rule):
    "Eos, a limit and a criterion, on random trees: the law sees texts that have not ended, each once, and only those on the way"
    inside = 0
    for seed in range(60):
        draft, stop = tree(5, 4), Stop(int(GEN.integers(1, 5)), eos={int(GEN.integers(4))}, criteria=(lambda text: text[-2:] == [2, 3],))
        rows = rows_of(draft, stop, law := Watched())
        rule(draft, rows, Dice(seed))
        for text in law.asked:
            _, why = stop.take([0, 1], list(text[2:]))
            assert why is None, (text, why)
        assert len(law.asked) == len(set(law.asked)) <= len(rows.seen) <= len(draft) + 1
        inside += any(rows.ended(i) for i in rows.seen)
    assert inside > 5, "some of the trees must have been cut, or nothing was tried"


def test_without_a_stop_it_is_asked_there():
    "The control: the same trees, and a limit far away"
    law, ends = Watched(), 0
    for seed in range(60):
        draft = tree(5, 4)
        rows = rows_of(draft, Stop(99), law)
        for i in range(len(draft) + 1): rows[i]
        ends += any(3 in s[2:] for s in law.asked)
    assert ends


def test_an_end_is_inherited_and_its_reason_is_the_first():
    draft = Draft.chain([1, 3, 2, 3])
    rows = rows_of(draft, Stop(3, eos={3}), Law())
    assert [rows.ended(i) for i in range(5)] == [None, None, "eos", "eos", "eos"]
    assert [rows_of(draft, Stop(3), Law()).ended(i) for i in range(5)] == [None, None, None, "limit", "limit"]
    assert rows_of(draft, Stop(9).within(2), Law()).ended(2) == "window"
    assert isinstance(rows[3], Point) and rows[3].token == 2 and not isinstance(rows[1], Point)


def test_tokens_that_come_later_do_not_count():
    "A request appends to its text while the rows are still in use"
    text, seen = [0, 1], []
    draft = Draft.chain([2, 2])
    lm = as_target(TableLM.random(4, 2, 5))
    [scores] = lm.score([(lm.open(text), draft)])
    rows = DraftRows(draft, scores, text, 0, Stop(9, criteria=(lambda t: seen.append(list(t)) or False,)), Law(), (), 4)
    text += [3, 3]
    rows[2]
    assert seen == [[0, 1, 2], [0, 1, 2, 2]]


@pytest.mark.parametrize("p, says", [(np.array([.5, .2, .2, 0]), "adds up to"), (np.array([.5, .7, -.2, 0]), "smallest entry is -0.2"), (np.array([.5, .5]), "over 2 tokens"),
                                     (np.array([Fraction(1, 3)] * 4), "adds up to 4/3"), (np.full(4, np.nan), "nan"), (Point(1, 3), "over 3 tokens")])
def test_what_is_no_distribution_is_named(p, says):
    with pytest.raises(ValueError, match=says): distribution_over(4, p, "somebody gives")
    assert distribution_over(4, right := Point(1, 4), "") is right


@pytest.mark.parametrize("p, says", [({1: .5}, "shape \\(\\)"), (np.ones((1, 4)) / 4, "shape \\(1, 4\\)"), (torch.full((4,), .25, dtype=torch.bfloat16), "no array, but a Tensor"),
                                     (torch.full((4,), .25, requires_grad=True), "no array, but a Tensor"), (["a"] * 4, "not numbers"), (np.ones(4, complex), "not numbers")])
def test_what_is_no_array_is_named(p, says):
    with pytest.raises(ValueError, match=says): distribution_over(4, p, "somebody gives")


def softmaxes(n):
    "Laws over `n` words as runtimes compute them: spread evenly, over half of them, at random, on one"
    gen = torch.Generator().manual_seed(n)
    for z in (torch.zeros(n), torch.arange(n) % 2 * .3, torch.randn(n, generator=gen), torch.randn(n, generator=gen) * 5, (torch.arange(n) == 0) * 12., (torch.arange(n) == 0) * 15.):
        yield torch.softmax(z, -1).numpy()
        yield torch.softmax(z.half(), -1).numpy()
        yield torch.softmax(z.bfloat16(), -1, dtype=torch.float32).numpy()
        e = np.exp(z.numpy())
        yield e / e.sum()


@pytest.mark.parametrize("n", [2, 3, 48, 1000, 32_000, 151_936, 256_000])
def test_a_law_may_miss_one_by_rounding_and_by_no_more(n):
    for p in softmaxes(n):
        kept = distribution_over(n, p, "a runtime gives")
        assert abs(kept.sum(dtype=float) - 1) < 1e-12 and 0 <= pick(p, .5) < n and 0 <= Keyed(1).at(0, "target").categorical(p) < n
        for factor in (1 + 2 * rounding(p), 1 - 2 * rounding(p)):
            wrong = p.astype(np.float64) * factor / p.astype(np.float64).sum()
            for refuses in (lambda: distribution_over(n, wrong, "somebody gives"), lambda: pick(wrong, .5), lambda: Keyed(1).at(0, "target").categorical(wrong)):
                with pytest.raises(ValueError, match="adds? up to"): refuses()


def test_a_guess_is_judged_by_the_law_it_was_drawn_from():
    "A q in half precision misses one; divided by its sum it is what `categorical` draws from, and the text has the target's law"
    q, lm = np.full(3, 1 / 3, np.float16), TableLM.random(3, 1, 1)
    class Halves(Drafter):
        def propose(self, ctx, rng): return Draft.chain([0], [q])
    class Misses(Drafter):
        def propose(self, ctx, rng): return Draft.chain([0], [q.astype(float)])
    seen = []
    def watching(draft, rows, rng):
        seen.append(draft.q(0) if len(draft) else None)
        return verify_rejection(draft, rows, rng)
    [*decode(lm, Halves(), [0], 2, rule=watching, rng=Dice(0))]
    assert abs(q.astype(float).sum() - 1) > 1e-4 > 1e-12 > abs(seen[0].sum() - 1)
    with pytest.raises(ValueError, match="Misses drafted from no distribution"): [*decode(lm, Misses(), [0], 2, rng=Dice(0))]


@pytest.mark.parametrize("drafter", ["lookup", "none"])
def test_stops_inside_blocks(drafter):
    model = TableLM.random(3, 1, 1)
    stopped = lambda d: law(lambda rng: tuple(Trace(decode(model, d, [0, 1, 0, 1], rng=rng, stop=Stop(3, eos={2}))).tokens))
    assert stopped(drafter) == stopped(Sampled(TableLM.random(3, 1, 8), (2, 1))) == stopped("none")
    assert all(2 not in t[:-1] for t in stopped("none"))
