"""Rules by enumeration, on more models and trees than the chapters show, and the bugs that the same enumeration refuses; verdicts and traces, and how they are drawn."""
import re
from fractions import Fraction as F

import numpy as np
import pytest

from drafters import Sampled
from enumeration import CRUDE, MODEL, texts
from pictures import GUESSER, HOSTILE, TARGET, read, trace
from specdec_nb import Draft, TableLM, Verdict, verify_rejection, verify_walk
from specdec_nb.decode import decode
from specdec_nb.roles import Drafter
from specdec_nb.verify import Trace, rounds

SHAPES = [((), False), ((1,), False), ((1, 1), False), ((2,), True), ((2,), False), ((3,), False), ((2, 1), False), ((1, 2), True)]


@pytest.mark.parametrize("rule", ["walk", "rejection"])
@pytest.mark.parametrize("shape,replace", SHAPES)
def test_every_shape_and_rule(shape, replace, rule):
    for seed in range(3):
        model, crude = TableLM.random(3, 2, seed), TableLM.random(3, 1, seed + 50)
        assert texts(model, Sampled(crude, shape, replace), 3, rule=rule) == model.law([0], 3)


def test_mixed_drawn_and_chosen_nodes():
    model, q = TableLM.random(3, 1, 3), TableLM.random(3, 0, 9, largest=5).p([])
    class Mixed(Drafter):
        def propose(self, ctx, rng):
            x = rng.at(0, "draft").categorical(q)
            return Draft([x, 2, 1], [-1, -1, 1], [q, None, None]) if ctx.budget.depth > 1 else Draft()
    assert texts(model, Mixed(), 3, rule="rejection") == model.law([0], 3)


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


@pytest.mark.parametrize("rule,shape", [(resample_from_p, (1, 1)), (wrong_q, (1, 1)), (one_draw_per_path, (3,))])
def test_broken_rules_are_caught(rule, shape):
    assert texts(MODEL, Sampled(CRUDE, shape), 2, rule=rule) != MODEL.law([0], 2)


def test_dropped_low_confidence_token_is_caught():
    assert texts(MODEL, Dropping(CRUDE), 2, rule="rejection") != MODEL.law([0], 2)
    assert texts(MODEL, Dropping(CRUDE), 2, rule="walk") == MODEL.law([0], 2)      # walk does not care


# -- how they are drawn

def test_a_verdict_shows_path_rest_and_own():
    draft = Draft.merge([[0, 0], [0, 1], [1, 1]])[0]
    verdict = Verdict.of(draft, (0, 2), 2)
    picture = verdict.show(draft, TARGET.words)
    assert repr(picture) == "… (sun* (sun | rain* [snow]) | rain rain)"
    assert read(picture.html.replace("<", " <")).split() == "… sun sun rain snow rain rain".split()
    assert re.findall("dashed[^>]*>([^<]*)", picture.html) == ["sun", "rain", "rain"]
    assert "[" not in repr(verdict.cut(draft, 2).show(draft, TARGET.words)), "nothing of the target's own after a stop"


@pytest.mark.parametrize("words, fox", [(None, "2"), (TARGET.words, "snow"), (lambda t: f"w{t}", "w2"), ({0: "a", 1: "b", 2: "c"}, "c")])
def test_words(words, fox):
    draft = Draft.chain([0, 1])
    assert fox in read(draft.show(words, (0,), 2).html) and fox in draft.svg(words, (0,), 2)
    assert fox in read(rounds([(draft, Verdict.of(draft, (0,), 2))], words).html)


def test_a_trace_steps_through_its_rounds():
    t = trace()
    html = t._repr_html_()
    assert html == t._repr_html_() == trace()._repr_html_(), "nothing in it changes from run to run"
    text = read(html)
    assert html.count("<details") == 12 < t.calls and f"{t.calls - 12} rounds more" in text
    assert html.count(" open") == 1 and len(set(re.findall('details name="([^"]*)"', html))) == 1
    written = re.findall(r'rgba\((\d+)[^>]*>([^<]*)', html.split("<details")[0].split("</b></div>")[-1])
    words = [(w, kind) for kind, run in written if kind in ("58", "200") for w in run.split()]
    assert words == [(TARGET.words[x], "58" if d else "200") for x, d in zip(t.tokens, t.drafted)]
    assert "propose" not in text and "propose" in read(t.show(times=True).html)
    assert "details" not in t.show(most=0).html and repr(t.show()) == repr(t)


def test_size():
    t = trace(limit=2000)
    assert len(t._repr_html_()) < 32_000 and "tokens more" in t._repr_html_()
    assert len(trace(limit=9)._repr_html_()) < 10_000


def test_odd_traces():
    empty = Trace()
    assert "0" in read(empty.show(times=True).html) and empty.words is None
    read(Trace(decode(TARGET, "none", [0], limit=9), TARGET.words)._repr_html_())
    def lossy(draft, p, rng): return verify_walk(draft, p, rng)
    lossy.lossy = True
    assert "LOSSY" in read(trace(rule=lossy)._repr_html_())
    hostile = trace().show(lambda t: HOSTILE).html
    assert "<script" not in hostile and read(hostile)


def test_a_trace_keeps_no_distributions():
    t = trace(drawn=True)
    laws = [draft.q(i) for draft, _ in t.steps for i in range(len(draft))]
    assert laws and all(set(q) == {x} for q, (d, i) in
                        zip(laws, [(d, i) for d, _ in t.steps for i in range(len(d))]) for x in [d.tokens[i]])
    assert t.overlaps and t.summary()["drafted_nodes"] == len(laws)
    chosen = Draft.chain([1])
    assert chosen.bare() is chosen and Draft([1, 1], [-1, -1], [GUESSER.p([0])] * 2).bare().q(1) == {1: .25}
