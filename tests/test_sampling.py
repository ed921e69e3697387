"""Laws by enumeration, whatever the rule; and bars, chips and colours."""
import re
from fractions import Fraction as F
from itertools import product

import numpy as np
import pytest

from drafters import Sampled
from enumeration import CRUDE, MODEL, texts
from pictures import HOSTILE, TARGET, read
from specdec_nb import Law, TableLM
from specdec_nb.chance import Point
from specdec_nb.sampling import FrequencyPenalty, NoRepeatNgram, Picture, bars, chip

LAWS = [Law(), Law(top_k=2), Law(top_p=F(3, 4)), Law(min_p=F(1, 2)), Law(temperature=F(1, 2)), Law(temperature=0),
        Law(processors=(FrequencyPenalty(F(1, 3)),)), Law(processors=(NoRepeatNgram(2),), top_k=2)]


@pytest.mark.parametrize("wanted", LAWS, ids=str)
def test_every_law(wanted):
    model, crude = TableLM({s: [3, 2, 1] for s in product(range(3), repeat=1)} | {(): [1, 2, 3], (1,): [1, 4, 2]}), TableLM.random(3, 1, 7)
    plain = texts(model, "none", 3, law=wanted)
    for rule in ("walk", "rejection"):
        assert texts(model, Sampled(crude, (2, 1)), 3, law=wanted, rule=rule) == plain


def test_greedy_is_a_point_whatever_the_rule():
    for rule in ("walk", "rejection"):
        assert len(texts(MODEL, Sampled(CRUDE, (2, 1)), 4, law=Law(temperature=0), rule=rule)) == 1
    dense, point = np.array([0, 1, 0]), Point(1, 3)
    assert list(np.asarray(point)) == list(dense) and [point[x] for x in range(3)] == list(dense)


@pytest.mark.parametrize("call,says", [
    (lambda: Law(temperature=-1), "temperature"),
    (lambda: Law(top_p=2), "top_p"),
])
def test_clear_errors(call, says):
    with pytest.raises(ValueError, match=says): call()


def test_bars():
    p = np.random.default_rng(0).dirichlet(np.ones(5000))
    picture = bars(p, Point(3, 5000), words=lambda t: HOSTILE, names=("<p>", "q"), k=5)
    assert "4995 more" in read(picture.html) and picture.html.count("<tr") == 7 and len(picture.html) < 10_000
    assert repr(bars(TARGET.p([0]), words=TARGET.words)) == "sun 1/2, rain 1/3, snow 1/6"
    assert "sun rain 1/6" in repr(bars(TARGET.law([0], 2), words=TARGET.words, k=9))
    assert isinstance(picture, Picture) and picture._repr_html_() is picture.html


def test_legible_on_light_and_dark():
    "Text on a fill is white with contrast 4.5; lines and fills stand out from white and from #121212 by 2.5"
    def luminance(ink):
        c = [int(ink[i:i + 2], 16) / 255 for i in (1, 3, 5)]
        return sum(w * (x / 12.92 if x <= .03928 else ((x + .055) / 1.055) ** 2.4) for w, x in zip((.2126, .7152, .0722), c))
    def contrast(a, b): return (max(a, b) + .05) / (min(a, b) + .05)
    kinds = ("accepted", "own", "rest", "sees", "self")
    for kind in kinds:
        html = chip("x", kind)
        ink = re.search("#[0-9a-f]{3,6}", html)[0]
        ink = luminance(ink if len(ink) == 7 else "#" + "".join(2 * c for c in ink[1:]))
        assert "color:#fff" not in html or contrast(ink, 1) >= 4.5, kind
        assert min(contrast(ink, 1), contrast(ink, luminance("#121212"))) >= 2.5, kind
