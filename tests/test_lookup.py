"""Copying drafters: indices against honest searches, exactness cold and warm, files, bad input, and what a proposal costs."""
import time

import numpy as np
import pytest

from specdec_nb import Keyed, Law, TableLM, Trace, exact_law as law
from specdec_nb.draft import Budget
from specdec_nb.roles import Context, Tokens, make_drafter
from specdec_nb.decode import decode
from specdec_nb.drafters.lookup import PromptLookup, blend
from specdec_nb.drafters.indices import Datastore, SuffixAutomaton, suffix_order
from specdec_nb.drafters.copying import Reference, Rest, Suffix

GEN = np.random.default_rng(7)


def context(text, vocab_size=99, room=Budget(99, 99)): return Context(Tokens(text), room, None, vocab_size=vocab_size)
def proposal(drafter, text, **kwargs): return drafter.begin(c := context(text, **kwargs), None).propose(c, None)


# -- indices

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


def test_a_text_of_one_word_costs_no_more():
    automaton, began = SuffixAutomaton(), time.perf_counter()
    for _ in range(20_000): automaton.extend(5)
    assert next(automaton.matches())[0] == 19_999 and time.perf_counter() - began < 5
    assert proposal(Suffix(k=8), [5] * 30).tokens == (5,) * 8


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


def test_blend_is_a_sub_distribution():
    expand = blend([(3, [[1, 2], [1, 3], [4]]), (1, [[1, 2], [7]])])
    law_ = dict(expand(()))
    assert law_[1] == pytest.approx(2 / 3 * 4 / 5 + 1 / 5 * 2 / 3 / 2) and sum(law_.values()) < 1
    assert sum(dict(expand((1,))).values()) < 1 and not expand((9,))


# -- what is proposed

def test_lookup_takes_the_latest_and_may_be_short():
    assert proposal(PromptLookup(k=3), [1, 2, 8, 1, 2, 9, 0, 1, 2]).tokens == (9, 0, 1)
    assert proposal(PromptLookup(k=4), [1, 2, 1, 2]).tokens == (1, 2, 1, 2), "the copy goes on reading itself"
    assert proposal(PromptLookup(), [0, 1, 2, 3]).tokens == (), "no filler where nothing is known"


def test_longer_matches_are_copied_farther():
    text = list(range(20, 60))
    depths = [len(proposal(Suffix(k=99, nodes=99, least=.25), text + [0] + text[:m])) for m in (2, 4, 8)]
    assert depths == [8, 14, 26]                                    # (m + 1) / (m + 1 + d) > 1/4


def test_references_merge_and_reach_beyond_the_prompt():
    drafter = Reference([[7, 8, 9, 1, 2, 3], [7, 8, 9, 4, 5, 6], [30, 31]], least=.1)
    draft = proposal(drafter, [0, 7, 8, 9])
    assert {draft.tokens[i] for i in draft.children(-1)} == {1, 4}
    assert len(proposal(PromptLookup(), [0, 7, 8, 9])) == 0
    drafter.add([7, 8, 9, 50])
    assert 50 in proposal(drafter, [0, 7, 8, 9]).tokens
    chain = proposal(drafter, [0, 7, 8, 9], room=Budget(99, 99, type("T", (), dict(branches=False))))
    assert chain.is_chain and len(chain)


def test_what_was_served_is_remembered_within_bounds():
    drafter = Reference(remember=60)
    line = TableLM({(): [1, 0, 0, 0], (0,): [0, 1, 0, 0], (1,): [0, 0, 1, 0], (2,): [0, 0, 0, 1]})
    cold, warm = (Trace(decode(line, drafter, [0], limit=12)).calls for _ in range(2))
    assert warm < cold
    for _ in range(9): list(decode(line, drafter, [0], limit=12))
    assert sum(map(len, drafter.served)) <= 60 and drafter.learns and not Reference(remember=0).learns
    list(decode(line, drafter := Reference(remember=5), [0], limit=12))
    assert len(drafter.served[0]) == 5


# -- exactness

def drafters():
    corpus = Datastore.build([GEN.integers(0, 3, 300).tolist()], 3)
    return {"lookup": lambda: PromptLookup(k=3), "suffix": lambda: Suffix(least=.1, shortest=1),
            "reference": lambda: Reference([[0, 1, 2, 2, 1], [1, 1, 0]], shortest=1, least=.05),
            "rest": lambda: Rest(corpus, shortest=1, least=.05), "rest, empty": Rest}


@pytest.mark.parametrize("name", drafters())
@pytest.mark.parametrize("mode", ["greedy", "keyed"])
def test_warm_drafters_change_nothing(name, mode):
    model, drafter, drafted = TableLM.random(3, 2, 5), drafters()[name](), 0
    for i in range(100):
        run = dict(law=Law(temperature=0)) if mode == "greedy" else dict(rng=Keyed(1, i))
        plain, ours = (Trace(decode(model, d, [i % 3, 1, 2], limit=20, **run)) for d in ("none", drafter))
        assert ours.tokens == plain.tokens
        drafted += sum(ours.drafted)
    assert drafted, "it drafted and was right at times"


@pytest.mark.parametrize("name", drafters())
def test_exact_laws(name):
    model = TableLM.random(3, 1, 4)
    def run(rng): return tuple(Trace(decode(model, drafters_of[name](), [0, 1, 0, 1], limit=3, rng=rng)).tokens)
    drafters_of = drafters()
    assert law(run) == model.law([0, 1, 0, 1], 3)


def test_a_drafter_that_looks_ahead_of_the_dice_is_caught():
    "The control: text that depends on its own drafts is not the model's"
    model = TableLM.random(3, 1, 4)
    def lossy(draft, p, rng): return __import__("specdec_nb").Verdict.of(draft, range(len(draft)), rng.at(0, "target").categorical(p[len(draft)]))
    def run(rng): return tuple(Trace(decode(model, PromptLookup(k=2), [0, 1, 0, 1], limit=3, rng=rng, rule=lossy)).tokens)
    assert law(run) != model.law([0, 1, 0, 1], 3)


# -- files and bad input

def test_damaged_datastores_are_refused(tmp_path):
    path = Datastore.build([list(range(50))], 64).save(tmp_path / "s")
    whole = path.read_bytes()
    for damaged in (whole[:100], whole[:-4], b"", b"junk" * 40, whole[:-8] + b"\1" + whole[-7:], whole[:128] + b"\7" + whole[129:]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="holds no datastore"): Datastore.load(path)
    path.write_bytes(whole)
    assert len(Datastore.load(path)) == 51 and [p.name for p in tmp_path.iterdir()] == ["s"]


@pytest.mark.parametrize("call,error,says", [
    (lambda: Datastore.build([]), ValueError, "nothing to look up"), (lambda: Datastore.build([[]]), ValueError, "nothing to look up"),
    (lambda: Datastore.build([[5]]), ValueError, "two tokens"),
    (lambda: Datastore.build([[1, 2, -3]]), ValueError, "-3"), (lambda: Datastore.build([[1, 70_000]], 50_000), ValueError, "another tokenizer"),
    (lambda: Datastore.build([range(1000)] * 3, most=2000), ValueError, "more than 2000"),
    (lambda: Datastore.load("/nowhere/s"), FileNotFoundError, "build"),
    (lambda: Reference([[]]), ValueError, "reference 0 is empty"), (lambda: Reference(["text"]), TypeError, "tokenizer"),
    (lambda: list(decode(TableLM.random(3, 1, 0), Reference([[1, 2, 7]]), [0], limit=2)), ValueError, "another tokenizer"),
    (lambda: list(decode(TableLM.random(3, 1, 0), Rest(Datastore.build([[1, 2]], 9)), [0], limit=2)), ValueError, "vocabulary of 9"),
    (lambda: Suffix(k=-1), ValueError, "k=-1"), (lambda: Rest(nodes=0), ValueError, "nodes=0"), (lambda: Suffix(least=1), ValueError, "least=1"),
    (lambda: PromptLookup(shortest=0), ValueError, "shortest"), (lambda: Reference(remember=-1), ValueError, "remember=-1"),
])
def test_bad_input(call, error, says):
    with pytest.raises(error, match=says): call()


@pytest.mark.parametrize("name", ["lookup", "suffix", "rest", "reference"])
def test_by_name(name):
    drafter = make_drafter(name, k=0)
    assert Trace(decode(TableLM.random(3, 1, 0), drafter, [0, 1, 0, 1], limit=9)).calls == 9


# -- what a proposal costs

@pytest.mark.parametrize("name", ["lookup", "suffix"])
def test_microseconds_however_long_the_text(name):
    "Median `propose` of three new tokens is at most 0.3 ms, at 32 000 tokens as at 1 000; a search through the text would take several (chapter 17 has the figure)"
    text, medians = (GEN.zipf(1.3, 32_300) % 5000).tolist(), []
    for length in (1000, 4000, 32_000):
        c, times = context(text[:length]), []
        drafting = make_drafter(name).begin(c, None)
        for step in range(61):
            c.tokens = Tokens(text[:length + 3 * step])
            began = time.perf_counter()
            drafting.propose(c, None)
            times.append(time.perf_counter() - began)
        medians.append(np.median(times[1:]))
    assert max(medians) <= 3e-4, medians
    assert medians[2] < sum(times[:1]), "the control: reading the text anew each time would be seen"


def test_texts_of_one_token_are_no_datastore():
    rest, model = Rest(remember=1), TableLM({(): [2, 1, 1], (0,): [1, 2, 1], (1,): [1, 1, 2], (2,): [2, 1, 1]})
    for _ in range(3): assert len(Trace(decode(model, rest, [1, 2], limit=4, law=Law(temperature=0))).tokens) == 4


def test_a_header_that_lies_is_refused(tmp_path):
    "A flipped bit in what the datastore says of itself, not only in its text"
    path = Datastore.build([[1, 2, 3, 1, 2]], vocab_size=16).save(tmp_path / "store")
    assert Datastore.load(path).vocab_size == 16
    whole = bytearray(path.read_bytes())
    at = len(whole) - 4 * (len(Datastore.load(path).text) * 2 + 8) + 4 * 3       # the vocabulary's size
    whole[at] ^= 1
    path.write_bytes(whole)
    with pytest.raises(ValueError, match="wrong checksum"): Datastore.load(path)
