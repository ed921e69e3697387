"""Quick questions at a chapter's end. In a text they are task lists, the right answer ticked, and why after two colons:

    **a.** How many rows has a call that judges four guesses?

    - [ ] Four. :: The pending token has a row, too.
    - [x] Five. :: One for each guess, and one for the pending token.

In a notebook each answer is folded, and opening it says whether it is right: no script is needed for that. On the site
(docs/_ext/nbdev_sphinx.py, docs/_static/book.js) a script counts what was right at the first try.
"""
import re

HEADING = "## Three questions"
QUESTION = re.compile(r"^\*\*[a-z]\.\*\* ", re.M)
ANSWER = re.compile(r"^- \[(?P<right>[ x])\] (?P<said>.+?) :: (?P<why>.+)$", re.M)
FOLDED = re.compile(r"<details><summary>(?P<said>.*?)</summary>\n\n\*(?P<right>Yes|No)\.\* (?P<why>.+)\n\n</details>")
LIST, FOLDS = (re.compile(rf"(?:{re.sub('[?]P<[a-z]+>', '?:', p.pattern)}{gap}?)+", re.M) for p, gap in ((ANSWER, r"\n"), (FOLDED, r"(?:\n\n)")))
MARKS = (("code", "`"), ("em", "*"))


def html(said):
    "An answer's Markdown as a `summary` needs it: there nothing else is read as Markdown. Formulas stay"
    said = said.replace("&", "&amp;").replace("<", "&lt;")
    for tag, mark in MARKS: said = re.sub(rf"{re.escape(mark)}([^{re.escape(mark)}]+){re.escape(mark)}", rf"<{tag}>\1</{tag}>", said)
    return said


def markdown(said):
    "The way back"
    for tag, mark in MARKS: said = re.sub(rf"</?{tag}>", mark, said)
    return said.replace("&lt;", "<").replace("&amp;", "&")


def _runs(of, one, write, between, source):
    "Every run of answers in `source` written anew, with what stands between two and what follows the last"
    def run(m): return between.join(write(a) for a in one.finditer(m[0])) + re.search(r"\n*\Z", m[0])[0]
    return of.sub(run, source)


def folded(source):
    "Answers of a Markdown cell, folded"
    def fold(m): return f"<details><summary>{html(m['said'])}</summary>\n\n*{'Yes' if m['right'] == 'x' else 'No'}.* {m['why']}\n\n</details>"
    return _runs(LIST, ANSWER, fold, "\n\n", source)


def listed(source):
    "Folded answers as the text has them"
    def line(m): return f"- [{'x' if m['right'] == 'Yes' else ' '}] {markdown(m['said'])} :: {m['why']}"
    return _runs(FOLDS, FOLDED, line, "\n", source)


def dropdowns(source):
    "Folded answers as the site's dropdowns, one box a question"
    def drop(m): return f"::::{{dropdown}} {markdown(m['said'])}\n:class-container: quiz-{m['right'].lower()}\n\n{m['why']}\n::::"
    return FOLDS.sub(lambda m: f":::::{{container}} quiz\n{_runs(FOLDS, FOLDED, drop, chr(10), m[0])}\n:::::\n\n", source)


def questions(source):
    "`[(question, [(right, said, why), ...]), ...]` of a text or a notebook's cell"
    at = source.find(HEADING)
    if at < 0: return []
    section = re.split(r"\n## ", listed(source[at + len(HEADING):]))[0]
    return [(re.split(r"\n- \[", part)[0].strip(), [(m["right"] == "x", m["said"], m["why"]) for m in ANSWER.finditer(part)])
            for part in QUESTION.split(section)[1:]]
