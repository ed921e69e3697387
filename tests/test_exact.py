"""Losslessness by enumeration, on more models, laws and trees than the chapters show; and the bugs that it must refuse."""
from fractions import Fraction as F
from itertools import product

import numpy as np
import pytest

from drafters import Sampled, Wild
from specdec_nb import Draft, Keyed, Law, Stop, TableLM, Trace, Verdict, exact_law as law, verify_rejection, verify_walk
from specdec_nb.chance import Dice, Point
from specdec_nb.roles import Drafter, make_drafter
from specdec_nb.decode import decode
from specdec_nb.sampling import FrequencyPenalty, NoRepeatNgram

SHAPES = [((), False), ((1,), False), ((1, 1), False), ((2,), True), ((2,), False), ((3,), False), ((2, 1), False), ((1, 2), True)]
LAWS = [Law(), Law(top_k=2), Law(top_p=F(3, 4)), Law(min_p=F(1, 2)), Law(temperature=F(1, 2)), Law(temperature=0),
        Law(processors=(FrequencyPenalty(F(1, 3)),)), Law(processors=(NoRepeatNgram(2),), top_k=2)]


def texts(model, drafter, n, **settings):
    return law(lambda rng: tuple(Trace(decode(model, drafter, [0], limit=n, rng=rng, **settings)).tokens))


@pytest.mark.parametrize("rule", ["walk", "rejection"])
@pytest.mark.parametrize("shape,replace", SHAPES)
def test_every_shape_and_rule(shape, replace, rule):
    for seed in range(3):
        model, crude = TableLM.random(3, 2, seed), TableLM.random(3, 1, seed + 50)
        assert texts(model, Sampled(crude, shape, replace), 3, rule=rule) == model.law([0], 3)


@pytest.mark.parametrize("wanted", LAWS, ids=str)
def test_every_law(wanted):
    model, crude = TableLM({s: [3, 2, 1] for s in product(range(3), repeat=1)} | {(): [1, 2, 3], (1,): [1, 4, 2]}), TableLM.random(3, 1, 7)
    plain = texts(model, "none", 3, law=wanted)
    for rule in ("walk", "rejection"):
        assert texts(model, Sampled(crude, (2, 1)), 3, law=wanted, rule=rule) == plain


def test_mixed_drawn_and_chosen_nodes():
    model, q = TableLM.random(3, 1, 3), TableLM.random(3, 0, 9, largest=5).p([])
    class Mixed(Drafter):
        def propose(self, ctx, rng):
            x = rng.at(0, "draft").categorical(q)
            return Draft([x, 2, 1], [-1, -1, 1], [q, None, None]) if ctx.budget.depth > 1 else Draft()
    assert texts(model, Mixed(), 3, rule="rejection") == model.law([0], 3)


@pytest.mark.parametrize("drafter", ["lookup", "none"])
def test_stops_inside_blocks(drafter):
    model = TableLM.random(3, 1, 1)
    stopped = lambda d: law(lambda rng: tuple(Trace(decode(model, d, [0, 1, 0, 1], rng=rng, stop=Stop(3, eos={2}))).tokens))
    assert stopped(drafter) == stopped(Sampled(TableLM.random(3, 1, 8), (2, 1))) == stopped("none")
    assert all(2 not in t[:-1] for t in stopped("none"))


# -- the bugs, each a rule or a drafter that the same enumeration rejects

def resample_from_p(draft, p, rng):
    path = []
    for i in range(len(draft)):
        if not rng.bernoulli(min(F(1), p[i][draft.tokens[i]] / draft.q(i)[draft.tokens[i]])): break
        path.append(i)
    return Verdict.of(draft, path, rng.categorical(p[len(path)]))


def one_draw_per_path(draft, p, rng):
    leaves, verdicts = [i for i in range(len(draft)) if not draft.children(i)] or [-1], []
    for leaf in leaves:
        nodes = draft.path(leaf)
        chain = Draft.chain([draft.tokens[i] for i in nodes])
        v = verify_walk(chain, [p[0], *(p[i + 1] for i in nodes)], rng)
        verdicts.append(Verdict.of(draft, [nodes[i] for i in v.path], v.token))
    return max(verdicts, key=lambda v: len(v.tokens))


def wrong_q(draft, p, rng):
    flat = np.array([F(1, 3)] * 3, dtype=object)
    return verify_rejection(Draft(draft.tokens, draft.parents, [flat] * len(draft)), p, rng)


class Dropping(Drafter):
    "Leaves out a token that it was not confident of"
    def __init__(self, lm): self.lm = lm
    def propose(self, ctx, rng):
        q = self.lm.p(tuple(ctx.tokens))
        x = rng.at(0, "draft").categorical(q)
        return Draft.chain([x], [q]) if q[x] >= F(1, 3) and ctx.budget.depth else Draft()


class SharedNoise:
    "Deals one grid-uniform number a position to draft, coin and target alike"
    def __init__(self, rng, n=60): self.rng, self.n, self.base, self.dealt = rng, n, 0, {}
    def since(self, position):
        view = SharedNoise(self.rng, self.n)
        view.base, view.dealt = self.base + position, self.dealt
        return view
    def at(self, position, purpose):
        key = self.base + position
        if key not in self.dealt:
            self.dealt[key] = F(self.rng.categorical(np.array([F(1, self.n)] * self.n, dtype=object)), self.n)
        self.u = self.dealt[key]
        return self
    def bernoulli(self, p): return self.u < p
    def categorical(self, p): return int(np.searchsorted(np.cumsum(np.asarray([p[x] for x in range(len(p))])), self.u, side="right"))


MODEL = TableLM({(): [3, 2, 1], (0,): [3, 2, 1], (1,): [1, 2, 1], (2,): [1, 2, 3]})
CRUDE = TableLM({(): [1, 1, 1], (0,): [2, 1, 1]})


@pytest.mark.parametrize("rule,shape", [(resample_from_p, (1, 1)), (wrong_q, (1, 1)), (one_draw_per_path, (3,))])
def test_broken_rules_are_caught(rule, shape):
    assert texts(MODEL, Sampled(CRUDE, shape), 2, rule=rule) != MODEL.law([0], 2)


def test_dropped_low_confidence_token_is_caught():
    assert texts(MODEL, Dropping(CRUDE), 2, rule="rejection") != MODEL.law([0], 2)
    assert texts(MODEL, Dropping(CRUDE), 2, rule="walk") == MODEL.law([0], 2)      # walk does not care


def test_shared_noise_is_caught():
    def shared(rng): return tuple(Trace(decode(MODEL, Sampled(CRUDE, (1,)), [0], limit=2, rng=SharedNoise(rng, 12), rule="rejection")).tokens)
    assert law(shared) != MODEL.law([0], 2)


# -- keyed noise, and points

def test_keyed_equals_plain_for_every_drafter():
    for seed in range(20):
        model, crude = TableLM.random(5, 2, seed), TableLM.random(5, 1, seed + 50)
        drafters = ["none", "lookup", Sampled(crude, (2, 1)), Sampled(crude, (1, 1, 1)), Wild(seed)]
        runs = [Trace(decode(model, d, [0, 1], limit=25, rng=Keyed(seed))).tokens for d in drafters]
        assert all(r == runs[0] for r in runs)
    assert Trace(decode(model, "none", [0, 1], limit=25, rng=Keyed(seed + 1))).tokens != runs[0]


def test_keyed_rejection_is_exact_in_distribution():
    """Counter-based noise under the rejection rule: 4 000 texts of two tokens, chi-square with 8 degrees of freedom. Above 40 it is by
    chance 3 times in a million; resampling from p, the control, is far above."""
    def chi_square(rule, n=4000):
        counts = {}
        for request in range(n):
            t = tuple(Trace(decode(MODEL, Sampled(CRUDE, (2,)), [0], limit=2, rng=Keyed(3, request), rule=rule)).tokens)
            counts[t] = counts.get(t, 0) + 1
        return sum((counts.get(t, 0) - n * float(w)) ** 2 / (n * float(w)) for t, w in MODEL.law([0], 2).items())
    assert chi_square("rejection") < 40 < chi_square(resample_from_p_first)


def resample_from_p_first(draft, p, rng):
    for i in draft.children(-1)[:1]:
        if not rng.at(0, "coin").bernoulli(p[0][draft.tokens[i]] / draft.q(i)[draft.tokens[i]]): break
        return Verdict.of(draft, (i,), rng.at(1, "target").categorical(p[i + 1]))
    return Verdict.of(draft, (), rng.at(0, "target").categorical(p[0]))


def test_greedy_is_a_point_whatever_the_rule():
    for rule in ("walk", "rejection"):
        assert len(texts(MODEL, Sampled(CRUDE, (2, 1)), 4, law=Law(temperature=0), rule=rule)) == 1
    dense, point = np.array([0, 1, 0]), Point(1, 3)
    assert list(np.asarray(point)) == list(dense) and [point[x] for x in range(3)] == list(dense)


# -- bad input

@pytest.mark.parametrize("call,says", [
    (lambda: list(decode(MODEL, "none", [], limit=3)), "empty"),
    (lambda: list(decode(MODEL, "none", [7], limit=3)), "0 to 2"),
    (lambda: list(decode(MODEL, "none", [0], limit=0)), "at least 1"),
    (lambda: list(decode(MODEL, "none", [0])), "at least 1"),
    (lambda: list(decode(MODEL, "telepathy", [0], limit=3)), "none"),
    (lambda: list(decode(MODEL, "none", [0], limit=3, rule="hope")), "rejection"),
    (lambda: Draft([1, 1], [-1, -1]), "token 1"),
    (lambda: Draft([1], [0]), "parent"),
    (lambda: Law(temperature=-1), "temperature"),
    (lambda: Law(top_p=2), "top_p"),
    (lambda: Dice().categorical(np.array([.5, np.nan])), "NaN"),
    (lambda: Keyed(0).at(0, "target").categorical(np.array([.5, np.nan])), "NaN"),
])
def test_clear_errors(call, says):
    with pytest.raises(ValueError, match=says): call()


def test_vocabularies_must_agree():
    class Foreign(Sampled): vocab_size = 5
    with pytest.raises(ValueError, match="vocabulary of 5"): list(decode(MODEL, Foreign(CRUDE, (1,)), [0], limit=3))
    class Beyond(Drafter):
        def propose(self, ctx, rng): return Draft.chain([9])
    with pytest.raises(ValueError, match="outside"): list(decode(MODEL, Beyond(), [0], limit=3))
    with pytest.raises(TypeError, match="propose"): make_drafter(object())
