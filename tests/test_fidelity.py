"nbs/fidelity.md: every drafter and rule has its row, every such chapter its remark, and what is said of other people's code names where it was read"
import re

import pytest

import specdec_nb
from nbsync import ROOT, texts

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


def test_code_is_cited_where_it_is_spoken_of():
    assert said(CHAPTERS) and said(CHAPTERS) <= cited(PAGE), said(CHAPTERS) - cited(PAGE)
    assert said({"99": "as in `x.py` of some/body, commit 0123abc"}) - cited(PAGE) == {("some/body", "0123abc")}, "the test can fail"
    everything = "\n".join(CHAPTERS.values())
    unnamed = {pair for pair in cited(PAGE) if pair[0] not in everything}
    assert not unnamed, f"the page says that a chapter speaks of {unnamed}"
