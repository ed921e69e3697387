"""Indices of what was said, against honest searches; files that are damaged or lie."""
import numpy as np
import pytest

from specdec_nb.drafters.indices import Datastore, SuffixAutomaton, suffix_order

GEN = np.random.default_rng(7)


@pytest.mark.parametrize("words,n", [(1, 40), (2, 60), (3, 80), (40, 80)])
def test_automaton_against_a_search(words, n):
    for _ in range(10):
        text, automaton = [], SuffixAutomaton()
        for token in GEN.integers(0, words, n).tolist():
            text.append(token)
            automaton.extend(token)
            found = list(automaton.matches())
            lengths = {m for m in range(1, len(text)) if any(text[i:i + m] == text[-m:] for i in range(len(text) - m))}
            assert (found[0][0] if found else 0) == max(lengths, default=0)
            for m, where in found: assert text[where - m:where] == text[len(text) - m:] and where < len(text)
        assert len(automaton.link) <= 2 * n


def test_automaton_knows_the_latest_place():
    "Of the longest match, wherever it has at most sixteen suffix links"
    for _ in range(20):
        text, automaton = [], SuffixAutomaton()
        for token in GEN.integers(0, 4, 60).tolist():
            text.append(token)
            automaton.extend(token)
            for m, where in list(automaton.matches())[:1]:
                assert where == max(i + m for i in range(len(text) - m) if text[i:i + m] == text[-m:])


@pytest.mark.parametrize("top,span", [(1, 4), (2, 16), (3, 5), (1000, 16), (2**32 - 1, 3)])
def test_suffix_order(top, span):
    for n in (0, 1, 2, 300):
        text = GEN.integers(0, top, n, endpoint=True).astype(np.uint32)
        order = suffix_order(text, span).tolist()
        heads = [(text[i:i + span].tolist() + [0] * span)[:span] for i in order]      # beyond the end counts as the smallest
        assert sorted(order) == list(range(n)) and heads == sorted(heads)


def test_datastore_ids_of_any_size(tmp_path):
    big = [70_000, 262_143, 2**32 - 3, 0]
    document = [big[i] for i in GEN.integers(0, 4, 300)]
    store = Datastore.load(Datastore.build([document, document[::-1]]).save(tmp_path / "deep" / "s"))
    for start in range(0, 280, 7):
        tail = [5, *document[start:start + 9]]
        m, low, high = store.find(tail)
        assert m >= 9 and document[start + 9:start + 12] in store.continuations(m, low, high, 3, most=999)
    assert store.find([1, 2, 3]) == (0, 0, 0) and store.find([0], 2)[0] == 0


def test_no_match_runs_across_documents():
    store = Datastore.build([[1, 2, 3], [4, 5, 6]])
    assert store.find([3, 4])[0] == 1 and store.continuations(*store.find([2, 3]), 4) == []


def test_damaged_datastores_are_refused(tmp_path):
    path = Datastore.build([list(range(50))], 64).save(tmp_path / "s")
    whole = path.read_bytes()
    for damaged in (whole[:100], whole[:-4], b"", b"junk" * 40, whole[:-8] + b"\1" + whole[-7:], whole[:128] + b"\7" + whole[129:]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="holds no datastore"): Datastore.load(path)
    path.write_bytes(whole)
    assert len(Datastore.load(path)) == 51 and [p.name for p in tmp_path.iterdir()] == ["s"]


def test_a_header_that_lies_is_refused(tmp_path):
    "A flipped bit in what the datastore says of itself, not only in its text"
    path = Datastore.build([[1, 2, 3, 1, 2]], vocab_size=16).save(tmp_path / "store")
    assert Datastore.load(path).vocab_size == 16
    whole = bytearray(path.read_bytes())
    at = len(whole) - 4 * (len(Datastore.load(path).text) * 2 + 8) + 4 * 3       # the vocabulary's size
    whole[at] ^= 1
    path.write_bytes(whole)
    with pytest.raises(ValueError, match="wrong checksum"): Datastore.load(path)


@pytest.mark.parametrize("what", ["order", "text"])
def test_datastores_out_of_range(tmp_path, what):
    store = Datastore.build([list(range(50))], 64)
    changed = getattr(store, what).copy()
    changed[3] = 1000
    setattr(store, what, changed)
    with pytest.raises(ValueError, match="out of range"): Datastore.load(store.save(tmp_path/"x"))
