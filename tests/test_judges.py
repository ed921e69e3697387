"""The judges of the exercises: each accepts its solution, and refuses at least three wrong answers of different kinds, with a message.

The wrong answers stand in tests/judges/, one function a judge, of its name: from the chapter's names to `{what is wrong: answer}`;
a tuple is an answer in several parts. A judge without such a function fails here.
"""
import ast, runpy
from collections import Counter
from pathlib import Path

import matplotlib
import nbformat
import pytest

from specdec_nb.workshop import registry
from exercises import Chapter, Exercise, bound, everything, exercises

EXERCISES = everything()
WRONG = {}
for file in sorted((Path(__file__).parent/"judges").glob("*.py")):
    WRONG |= {name: f for name, f in runpy.run_path(str(file)).items() if name.startswith("check_")}


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    "Pictures are not shown, and nothing that a cell sets outlives it"
    monkeypatch.setattr("os.environ", dict(__import__("os").environ))
    monkeypatch.setattr(registry, "_ENTERED", {group: dict(things) for group, things in registry._ENTERED.items()})
    matplotlib.use("Agg")


def refuses(judge, answer):
    "What the judge says of a wrong answer; an error if it accepts it or stumbles over it"
    try: judge(*answer) if isinstance(answer, tuple) else judge(answer)
    except AssertionError as e: return str(e)
    raise ValueError("was accepted")


def judged(exercise, wrong):
    "Try an exercise's judge on its solution and on the wrong answers; an error says what is amiss"
    c, accepted = Chapter(exercise), []
    judge = getattr(c, exercise.judge)
    def watched(*answer):
        accepted.append(judge(*answer))
        return accepted[-1]
    setattr(c._module, exercise.judge, watched)
    c._run(exercise.solution)
    if not accepted: raise ValueError(f"{exercise}: the solution is not judged")
    answers = wrong(c)
    if len(answers) < 3: raise ValueError(f"{exercise}: {len(answers)} wrong answers, three are due")
    for kind, answer in answers.items():
        try: said = refuses(judge, answer)
        except Exception as e: raise ValueError(f"{exercise}: {kind}: {type(e).__name__}: {e}") from e
        if len(said) < 12: raise ValueError(f"{exercise}: {kind} is refused, and nobody knows why: {said!r}")
    return c


def asked(exercise, c):
    "Fill in nothing, and ask the judge as the stub's last line says"
    stub = nbformat.read(exercise.path, 4).cells[exercise.stub].source
    [call] = [line.removeprefix("# ") for line in stub.splitlines() if line.startswith("# check_")]
    exec(stub, c._module.__dict__)
    return eval(call, c._module.__dict__)


@pytest.mark.parametrize("exercise", EXERCISES, ids=str)
def test_judge(exercise):
    "The solution is accepted, three wrong answers are not, nor is the stub as it stands"
    assert exercise.judge in WRONG, f"{exercise}: tests/judges/ holds no wrong answers for {exercise.judge}"
    c = judged(exercise, WRONG[exercise.judge])
    with pytest.raises(Exception): asked(exercise, c)


@pytest.mark.parametrize("exercise", EXERCISES, ids=str)
def test_parts(exercise):
    "Text, judge, stub, solution; and the solution leaves the reader's answer alone"
    assert None not in (exercise.check, exercise.stub, exercise.solution), f"{exercise}: a part is missing"
    assert exercise.check < exercise.stub < exercise.solution
    cells = nbformat.read(exercise.path, 4).cells
    stub, solution = cells[exercise.stub].source, cells[exercise.solution].source
    assert f"# {exercise.judge}(" in stub, "the stub ends with the line that asks the judge, commented out"
    def top(source): return {name for statement in ast.parse(source).body for name in bound(statement)}
    assert not top(stub) & top(solution), f"Run all would overwrite {top(stub) & top(solution)}"


def test_every_judge_has_its_own_name_and_no_answers_are_left_over():
    judges = Counter(e.judge for e in EXERCISES)
    assert max(judges.values()) == 1, judges.most_common(2)
    assert set(WRONG) == set(judges)


# -- and these tests can fail

def chapter(tmp_path, judge, solution="solution = 2\ncheck_two(solution)"):
    "A notebook with one exercise"
    new = nbformat.v4
    nb = new.new_notebook(cells=[
        new.new_code_cell("limit = 2"), new.new_code_cell("raise RuntimeError('nobody asked for this cell')"),
        new.new_markdown_cell("## Exercises\n\n**1.** Which number is two?"), new.new_code_cell(judge),
        new.new_code_cell("#| eval: false\ntwo = ...\n\n# check_two(two)"),
        new.new_code_cell(f"#| code-fold: true\n#| code-summary: \"Solution\"\n{solution}")])
    nbformat.write(nb, tmp_path/"99_two.ipynb")
    return exercises(tmp_path/"99_two.ipynb")[0]


def test_an_exercise_is_found(tmp_path):
    e = chapter(tmp_path, "def check_two(x): assert x == limit")
    assert e == Exercise(tmp_path/"99_two.ipynb", 1, 3, 4, 5, "check_two")


@pytest.mark.parametrize("judge,says", [
    ("def check_two(x): assert x > 0, 'a positive number, please'", "2.5: ValueError: was accepted"),
    ("def check_two(x): assert abs(x) == limit, f'{x} is not {limit}, which is two'", "-2: ValueError: was accepted"),
    ("def check_two(x): assert x == limit", "nobody knows why"),
    ("def check_two(x): assert x == limit or absent, f'{x} is not two'", "NameError")])
def test_a_lenient_or_broken_judge_is_noticed(tmp_path, judge, says):
    with pytest.raises(ValueError, match=says):
        judged(chapter(tmp_path, judge), lambda c: {str(x): x for x in (2.5, -2, 0)})


def test_a_careful_judge_passes_and_three_answers_are_due(tmp_path):
    e = chapter(tmp_path, "def check_two(x): assert x == limit, f'{x} is not {limit}, which is two'")
    judged(e, lambda c: {str(x): x for x in (2.5, -c.limit, 0)})
    with pytest.raises(ValueError, match="three are due"): judged(e, lambda c: {"1": 1, "0": 0})


def test_a_wrong_or_unjudged_solution_is_noticed(tmp_path):
    judge = "def check_two(x): assert x == limit, f'{x} is not {limit}, which is two'"
    with pytest.raises(AssertionError, match="3 is not 2"):
        judged(chapter(tmp_path, judge, "solution = 3\ncheck_two(solution)"), lambda c: {})
    with pytest.raises(ValueError, match="not judged"): judged(chapter(tmp_path, judge, "solution = 2"), lambda c: {})
