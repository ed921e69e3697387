"Quick questions: every chapter has three, one answer is right, all say why; text, notebook and site say the same."
import re
from collections import Counter

import dress, nbformat, nbsync, pytest, quiz
from conftest import ROOT

CHAPTERS = {k: p for k, p in nbsync.texts().items() if k != "index"}
TEXT = """## Three questions

**a.** How many *rows* has `score`?

- [ ] Four, $a_1$ & so `on`. :: The pending token has one.
- [x] Five. :: One each.

**b.** And two?

- [x] It is *so*. :: Since $x$.
- [ ] Not so. :: It is.
"""


def faults(source):
    "What is wrong with a chapter's questions"
    asked = quiz.questions(source)
    if len(asked) != 3: yield f"{len(asked)} questions"
    for question, answers in asked:
        if sum(right for right, _, _ in answers) != 1: yield f"{question!r} has not one right answer"
        if not 3 <= len(answers) <= 4: yield f"{question!r} has {len(answers)} answers"
        if len({said for _, said, _ in answers}) < len(answers): yield f"{question!r} says something twice"
        for _, said, why in answers:
            if len(why) < 3: yield f"{said!r} does not say why"
            if "<" in said: yield f"{said!r}: a bracket in a summary is read as HTML"
    if asked and not re.search(r"^> \*\*To remember\.\*\* .{30,}", source, re.M): yield "nothing to remember"


ASKING = [k for k, p in CHAPTERS.items() if quiz.HEADING in p.read_text()]


@pytest.mark.parametrize("key", CHAPTERS)
def test_a_chapter_asks_three_questions(key):
    if key not in ASKING: pytest.skip(f"{key} asks no questions yet")
    assert not list(faults(CHAPTERS[key].read_text()))


def test_nearly_all_chapters_ask():
    assert len(ASKING) >= .75 * len(CHAPTERS), sorted({*CHAPTERS} - {*ASKING})


def test_faults_are_found():
    assert len(list(faults(TEXT))) >= 3
    text = CHAPTERS["1_exactness/08_speedup"].read_text()
    assert list(faults(text.replace("- [x]", "- [ ]", 1))) and list(faults(text.replace("- [ ]", "- [x]", 1)))
    assert list(faults(text.replace("**To remember.**", "**Note.**")))


def test_no_place_is_the_right_one():
    places = Counter(next(i for i, (right, _, _) in enumerate(answers) if right) for k in ASKING for _, answers in quiz.questions(CHAPTERS[k].read_text()))
    assert max(places.values()) < .6 * places.total() and min(places[i] for i in range(3)) > .15 * places.total(), places


@pytest.mark.parametrize("text", [TEXT, TEXT.rstrip(), "before\n\n" + TEXT + "\n## Exercises\n\n**1.** Write.", "- [ ] a task, not an answer"])
def test_folding_comes_undone(text):
    there = quiz.folded(text)
    assert quiz.listed(there) == text and quiz.folded(quiz.listed(there)) == there
    assert ("<details>" in there) == (" :: " in text) and " :: " not in there


def test_notebooks_hold_folded_answers():
    for key in ASKING:
        cells = [c.source for c in nbformat.read(ROOT/f"nbs/{key}.ipynb", 4).cells if quiz.HEADING in c.source]
        assert len(cells) == 1 and quiz.questions(cells[0]) == quiz.questions(CHAPTERS[key].read_text()), key
        assert cells[0].count("<details>") >= 9 and "- [x]" not in cells[0], key


def test_undressed_is_the_text():
    key = "1_exactness/08_speedup"
    nb = nbformat.read(ROOT/f"nbs/{key}.ipynb", 4)
    shown = "\n".join(c.source for c in dress.undressed(nb).cells if c.cell_type == "markdown")
    assert quiz.questions(shown) and "- [x]" in shown and "<details><summary>" not in shown


def exam_faults(text):
    "What is wrong with an exam: each question has its key, folded away"
    asked, _, key = text.partition("<details>")
    def numbered(s): return re.findall(r"^(\d+)\. .{10,}", s, re.M)
    if len(numbered(asked)) < 4: yield "fewer than four questions"
    if numbered(asked) != numbered(key): yield "questions and key do not agree"
    if "</details>" not in key: yield "the key is open"


def test_every_part_has_an_exam():
    parts = {k[0] for k in CHAPTERS} - {"0"}
    exams = {p.stem[-1]: p.read_text() for p in (ROOT/"nbs").glob("exam_*.md")}
    assert {*"1234569"} <= exams.keys() <= parts and not {n: f for n, text in exams.items() if (f := list(exam_faults(text)))}
    assert list(exam_faults(exams["1"].replace("\n3. ", "\n", 1))) and list(exam_faults(exams["1"].replace("</details>", "")))


def test_a_reader_predicts_first_and_finds_the_answers_folded():
    import reading
    key = "1_exactness/01_lm"
    path, asked = ROOT/f"nbs/{key}.ipynb", lambda nb: [c for c in nb.cells if "predict" in c.metadata.get("tags", ())]
    book, handed = asked(nbformat.read(path, 4)), asked(reading.handed_out(key, nbformat.read(path, 4)))
    assert len(book) == len(handed) == 1 and book[0].outputs and not handed[0].outputs
    assert any(quiz.HEADING in c.source and "<details>" in c.source for c in reading.handed_out(key, nbformat.read(path, 4)).cells)
