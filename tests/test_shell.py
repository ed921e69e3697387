"""Manners of the shell: an error in one line, a table that fits, standard input that is closed."""
import pytest

from specdec_nb.workshop.shell import content, exit_code, narrowed, one_line


def test_one_line():
    assert one_line(OSError(28, "No space left", "a.json")) == "No space left: a.json" and one_line(ValueError("a\n b")) == "a b"
    assert one_line(ValueError()) == "ValueError" and "memory" in one_line(MemoryError())
    def fault(): raise AssertionError("ours")
    with pytest.raises(AssertionError): exit_code(fault, "toy")


def test_columns_that_fit():
    heads, rows = ["a", "bb", "ccc"], [["x" * 10, "y" * 5, "z"]]
    assert narrowed(heads, rows, 40, ["bb", "ccc"]) == heads and narrowed(heads, rows, 18, ["bb", "ccc"]) == ["a", "ccc"]
    assert narrowed(heads, rows, 1, ["bb", "ccc"]) == ["a"]


def test_a_closed_standard_input_is_told(monkeypatch):
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(OSError, match="standard input is closed"): content("-")
