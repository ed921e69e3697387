"""Pictures: small, without script or style sheet, made of what JupyterLab lets an untrusted notebook show."""
import re, sys
from html.parser import HTMLParser

import nbformat, nbsync, numpy as np, pytest
from conftest import ROOT
from specdec_nb.chance import Dice, Point
from specdec_nb.verify import Trace, Verdict, rounds, verify_walk
from specdec_nb.roles import Drafter
from specdec_nb.decode import decode
from specdec_nb.draft import Draft, show_mask
from specdec_nb.lm import weather
from specdec_nb.sampling import Picture, bars, chip

TARGET, CRUDE = weather()
# of @jupyterlab/apputils' sanitizer (4.6): the tags and styles that pictures use; `name` is dropped, which only
# means that rounds stay open. No svg, style or script is let through.
TAGS = {"b", "details", "div", "span", "summary", "table", "td", "th", "tr"}
STYLES = {"background", "border", "border-left", "border-radius", "color", "display", "height", "line-height", "margin",
          "margin-bottom", "margin-left", "overflow-x", "padding", "padding-left", "text-align", "vertical-align",
          "white-space", "width"}
HOSTILE = '<script>alert("1")</script>&\n'


class Reader(HTMLParser):
    "Checks tags, attributes, styles and nesting; collects the text"
    def __init__(self, html):
        super().__init__()
        self.open, self.text, self.bad = [], [], []
        self.feed(html)
        self.close()
        self.bad += self.open
    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        if tag not in TAGS: self.bad.append(tag)
        for name, value in attrs:
            if name == "style":
                self.bad += [s for s in value.split(";") if s.split(":")[0] not in STYLES or "url" in s]
            elif (tag, name) not in {("details", "open"), ("details", "name")}: self.bad.append(f"{tag} {name}")
    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag: self.bad.append(f"/{tag}")
    def handle_data(self, data): self.text.append(data)


def read(html):
    page = Reader(html)
    assert not page.bad, page.bad
    return "".join(page.text)


class Guess(Drafter):
    "Trees of chosen or drawn guesses"
    def __init__(self, drawn): self.drawn = drawn
    def propose(self, ctx, rng):
        draft = Draft.merge([[0, 0, 1], [0, 1], [1, 2, 2]])[0]
        q = CRUDE.p([0])
        return Draft(draft.tokens, draft.parents, [q] * len(draft)) if self.drawn else draft


def trace(drawn=False, limit=60, **settings):
    return Trace(decode(TARGET, Guess(drawn), [0], limit=limit, rng=Dice(0), **settings), TARGET.words)


def test_the_reader_sees_what_a_sanitizer_drops():
    for html in ("<svg></svg>", "<script>1</script>", '<div style="transform:rotate(1deg)"></div>', "<div><b></div></b>",
                 '<div onclick="x"></div>', '<div style="background:url(x)"></div>', "<div>"):
        with pytest.raises(AssertionError): read(html)


@pytest.mark.parametrize("draft", [Draft(), Draft.chain([1, 2, 0]), Draft.merge([[0, 0], [0, 1], [1, 1]])[0],
                                   Draft.chain(range(900)), Draft(range(200), [-1] * 200)])
def test_every_draft_shows(draft):
    assert len(draft._repr_html_()) < 10_000 and read(draft._repr_html_())
    read(draft.show(lambda t: HOSTILE).html)
    path = draft.path(len(draft) - 1)
    whole = draft.show(path=path, token=7)
    assert whole.html.count("#3a7d44") == len(path) and whole.html.count("#a65a12") == 1
    assert f"{len(draft) - 60} guesses more" in repr(draft.show()) or len(draft) <= 60


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
    assert chosen.bare() is chosen and Draft([1, 1], [-1, -1], [CRUDE.p([0])] * 2).bare().q(1) == {1: .25}


def test_masks():
    draft = Draft.merge([[0, 1], [0, 2], [1]])[0]
    labels = ["…", "a", "b", "c", "d"]
    picture = show_mask(draft.mask(), labels)
    assert repr(picture) == "…; … a; … a b; … a c; … d" and read(picture.html) and len(picture.html) < 10_000
    assert picture.html.count("background") == 5 and picture.html.count("<td") == 25
    assert show_mask(np.ones((2, 5), bool), labels).html.count("background") == 2, "itself: the last columns"


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


def test_stored_pictures_pass():
    pages = [(key, "".join(o["data"]["text/html"])) for key, path in nbsync.notebooks().items()
             for c in nbformat.read(path, 4).cells for o in c.get("outputs", []) if "text/html" in o.get("data", {})]
    mine = [(k, h) for k, h in pages if re.search("/(03|05|06|07|12)_", k) and "data-touch" not in h]   # what is touched has chapter 45's own test
    assert len({k for k, _ in mine}) == 5
    for key, html in mine:
        read(html)
        assert len(html) < 20_000, key


@pytest.mark.parametrize("before", ["", "import matplotlib.pyplot"])
def test_figures_wear_the_books_style_unless_there_is_an_rc_file(before, tool, tmp_path, monkeypatch):
    program = f"{before}\nfrom specdec_nb.bookmap import book_map\nimport sys\nbook_map('09')\nassert ('matplotlib' in sys.modules) == {bool(before)}\n" \
              "import matplotlib.pyplot as plt\nprint(plt.rcParams['axes.spines.top'])"
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("MATPLOTLIBRC", raising=False)
    assert tool(sys.executable, "-c", program, cwd=tmp_path).stdout == "False\n"
    (own := tmp_path/"matplotlibrc").write_text("axes.spines.top: True\n")
    monkeypatch.setenv("MATPLOTLIBRC", str(own))
    assert tool(sys.executable, "-c", program, cwd=tmp_path).stdout == "True\n"
