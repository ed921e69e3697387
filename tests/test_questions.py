"""Files of questions: what is read, and which line is at fault."""
import json

import pytest

from specdec_nb.bench.questions import read_questions


def write(path, *rows):
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows), encoding="utf-8")
    return path


def test_formats(tmp_path):
    path = write(tmp_path/"ref.jsonl", {"category": "qa", "turns": ["one", "two"], "question_id": 1}, "",
                 {"prompt": "def f():\n", "task_id": "x"},
                 {"query": "Who?", "docs": ["A.", "B."], "result": {}},
                 {"query": "Summarize: A.", "docs": ["A."]})
    spec, code, copying, quoted = read_questions(path)
    assert (spec.category, spec.turns, spec.chat, spec.id) == ("qa", ("one", "two"), True, "ref.jsonl:1")
    assert (code.category, code.turns, code.chat) == ("humaneval", ("def f():\n",), False)
    assert (copying.category, copying.turns, copying.chat) == ("ref", ("A.\n\nB.\n\nWho?",), True)
    assert quoted.turns == ("Summarize: A.",), "documents that the query quotes are not given twice"


def test_a_line_separator_inside_a_string_is_no_new_line(tmp_path):
    path = write(tmp_path/"q.jsonl", '{"prompt": "a\u2028b"}')
    assert read_questions(path)[0].turns == ("a\u2028b",)


@pytest.mark.parametrize("rows, message", [
    ([{"prompt": "x"}, {"question": "y", "answer": "z"}],
     r"q\.jsonl:2 .*'answer', 'question'.*Spec-Bench.*HumanEval.*reference"),
    ([{"prompt": "x"}, '{"prompt": '], r"q\.jsonl:2 is no question in JSON"), ([], "no questions"),
    (["[1]"], r"q\.jsonl:1"),
    ([{"category": "qa", "turns": []}], r"q\.jsonl:1"), ([{"category": "qa", "turns": [3]}], r"q\.jsonl:1"),
    ([{"query": "x", "docs": 3}], r"q\.jsonl:1"), ([{"prompt": " "}], r"q\.jsonl:1"),
    ([{"prompt": "x"}, {"category": "qa", "turns": "hello"}], r"q\.jsonl:2: turns is 'hello', not a list"),
    ([{"category": ["qa"], "turns": ["x"]}], r"q\.jsonl:1: category is"), ([{"category": "qa", "turns": ["a", None]}], r"turns\[1\] is None"),
    ([{"category": "qa", "turns": {"a": 1}}], r"q\.jsonl:1: turns is"), ([{"query": "x", "docs": "abc"}], r"docs is 'abc'"),
    ([{"query": "x", "docs": [1]}], r"docs\[0\] is 1"), ([{"query": None, "docs": ["x"]}], r"query is None"), ([{"prompt": 3}], r"prompt is 3"),
    ([{"category": "qa", "turns": ["x"], "chat": "no"}], r"chat is 'no'"), (["[" * 100_000], r"q\.jsonl:1 .*nested too deeply"),
    (["null"], r"q\.jsonl:1"), (['"text"'], r"q\.jsonl:1")])
def test_bad_files_are_named(tmp_path, rows, message):
    with pytest.raises(ValueError, match=message): read_questions(write(tmp_path/"q.jsonl", *rows))


def test_bytes_that_are_no_text_are_named(tmp_path):
    (tmp_path/"q.jsonl").write_bytes('{"prompt": "naïve"}'.encode("latin-1"))
    with pytest.raises(ValueError, match=r"q\.jsonl is not a text file"): read_questions(tmp_path/"q.jsonl")
    with pytest.raises(IsADirectoryError): read_questions(tmp_path)


def test_a_text_to_be_continued(tmp_path):
    path = write(tmp_path/"q.jsonl", {"category": "words", "turns": ["a b"], "chat": False}, {"category": "words", "turns": ["a b"]})
    assert [q.chat for q in read_questions(path)] == [False, True]


def test_categories_and_n(tmp_path):
    rows = [{"category": c, "turns": [f"{c} {i}"]} for c in ("writing", "math", "qa") for i in range(3)]
    path = write(tmp_path/"q.jsonl", *rows)
    def texts(*given): return [q.turns[0] for q in read_questions(path, *given)]
    assert texts(None, 2) == ["writing 0", "writing 1", "math 0", "math 1", "qa 0", "qa 1"]
    assert texts(["qa"], 1) == ["qa 0"] and texts(["multi-turn"], 3) == ["writing 0", "writing 1", "math 0"]
    assert {q.category for q in read_questions(path, ["multi-turn"])} == {"multi-turn"}
    with pytest.raises(ValueError, match="'poetry'.*writing, math, qa"): read_questions(path, ["poetry"])
    with pytest.raises(ValueError, match="at least 1"): read_questions(path, n=0)
    assert len(read_questions([path, path])) == 9, "a file given twice counts once"
