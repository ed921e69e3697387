"""What tests of pictures share: a reader that refuses what JupyterLab would drop, and a trace to draw."""
from html.parser import HTMLParser

from specdec_nb.chance import Dice
from specdec_nb.decode import decode
from specdec_nb.draft import Draft
from specdec_nb.lm import weather
from specdec_nb.roles import Drafter
from specdec_nb.verify import Trace

TARGET, GUESSER = weather()
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
        q = GUESSER.p([0])
        return Draft(draft.tokens, draft.parents, [q] * len(draft)) if self.drawn else draft


def trace(drawn=False, limit=60, **settings):
    return Trace(decode(TARGET, Guess(drawn), [0], limit=limit, rng=Dice(0), **settings), TARGET.words)
