"nbs/fidelity.md: every drafter and rule has its row, every such chapter its remark, and what is said of other people's code names where it was read"
import inspect
import re

import pytest

import specdec_nb
from nbsync import ROOT, texts
from specdec_nb.workshop.registry import find

PAGE = (ROOT/"nbs/fidelity.md").read_text()
CHAPTERS = {key: path.read_text() for key, path in texts().items() if key != "index"}
CODE = re.compile(r"\b([A-Za-z][\w-]*/[A-Za-z][\w.-]*) (?:\(commit )?([0-9a-f]{7})\b")
SAID = re.compile(r"\b(?:of |in |\()?([A-Za-z][\w-]*/[A-Za-z][\w-]*),?\s+(?:\(|up to )?commit ([0-9a-f]{7})\b")
NOT_PAPERS = {"none"}                                           # plain decoding


def named(page): return {n for row in re.findall(r"^\| ([^|]*) \|", page, re.M) for n in re.findall(r"`(\w+)`", row.split("(")[0])}
def missing(page): return {*specdec_nb.DRAFTERS, *specdec_nb.RULES} - NOT_PAPERS - named(page)
def cited(page): return {*CODE.findall(page.partition("## Other people's code")[2])}
def said(chapters): return {pair for text in chapters.values() for pair in SAID.findall(text)}


def test_every_name_has_its_row():
    assert not missing(PAGE)
    assert missing(PAGE.replace("`lookahead` (", "(")) == {"lookahead"}, "the test can fail"


@pytest.mark.parametrize("key", [key for key, text in CHAPTERS.items() if re.search(r"^@register\(\"(?!none)", text, re.M)])
def test_every_chapter_of_a_method_has_its_remark(key):
    remark = re.search(r"^> \*\*Remark\*\* \(What is (the papers?'s?|whose)\)\.(?:.*\n>.*)*", CHAPTERS[key], re.M)
    assert remark and "(../fidelity.md)" in remark[0]


NUMBERS = {"lookup": dict(longest="from 4 tokens", shortest="to 2", k="7 tokens"), "reference": dict(most="8 occurrences", nodes="16 nodes", least="less than 0.4"),
           "rest": dict(most="64 occurrences", nodes="16 nodes", least="less than 0.3", k="10 tokens"), "recycling": dict(nodes="tree of 8 nodes"), "lookahead": dict(window="$W = G = 4", guesses="$W = G = 4", n="$N = 3"),
           "medusa": dict(tree="8 nodes", k="4 heads"), "eagle3": dict(tree="8 nodes"), "eagle": dict(tree="8 nodes"), "layerskip": dict(tries="24 sets"), "gsd": dict(level="4 best paths"), "jacobi": dict(k="eight guesses")}


@pytest.mark.parametrize("name", NUMBERS)
def test_its_numbers_are_the_codes(name):
    "What a row says in figures is what a drafter does that is given its name alone"
    row = next(line for line in PAGE.splitlines() if line.startswith(f"| `{name}`"))
    asked = inspect.signature(find("drafters", name)).parameters
    for option, words in NUMBERS[name].items():
        figures = {"eight": 8.}.get(words.split()[0]) or float(re.findall(r"\d+(?:\.\d+)?", words)[-1])
        assert words in row and asked[option].default == figures, f"{name}: {option} is {asked[option].default}, the page says {words}"


def test_its_other_numbers_are_the_codes():
    from specdec_nb.decoding import contrastive, hidden, methods, sed
    from specdec_nb.learned.eagle import Eagle3
    default = {"FSD": methods.FSD().beta == .9 and methods.FSD().alpha == .6 and methods.FSD().k == 5, "DoLa": hidden.DoLa.relative == .1, "VectorFSD": hidden.VectorFSD.alpha == .4,
               "Contrastive": inspect.signature(contrastive.contrasted).parameters["alpha"].default == .1, "eagle3": inspect.signature(Eagle3.of).parameters["depth"].default == 3,
               "sed": (inspect.signature(sed.sed).parameters["weight"].default, inspect.signature(sed.sed).parameters["least"].default) == (.8, .001)}
    assert all(default.values()), default


def test_code_is_cited_where_it_is_spoken_of():
    assert said(CHAPTERS) and said(CHAPTERS) <= cited(PAGE), said(CHAPTERS) - cited(PAGE)
    assert said({"99": "as in `x.py` of some/body, commit 0123abc"}) - cited(PAGE) == {("some/body", "0123abc")}, "the test can fail"
    everything = "\n".join(CHAPTERS.values())
    unnamed = {pair for pair in cited(PAGE) if pair[0] not in everything}
    assert not unnamed, f"the page says that a chapter speaks of {unnamed}"
