"""Copying drafters: what is proposed, exactness cold and warm, bad input, and what a proposal costs."""
import time

import numpy as np
import pytest

from drafters import context, proposal
from specdec_nb import Keyed, Law, TableLM, Trace, exact_law as law
from specdec_nb.decode import decode
from specdec_nb.draft import Budget
from specdec_nb.drafters.copying import Reference, Rest, Suffix
from specdec_nb.drafters.indices import Datastore, SuffixAutomaton
from specdec_nb.drafters.lookup import PromptLookup
from specdec_nb.roles import Tokens, make_drafter

GEN = np.random.default_rng(7)


def test_a_text_of_one_word_costs_no_more():
    automaton, began = SuffixAutomaton(), time.perf_counter()
    for _ in range(20_000): automaton.extend(5)
    assert next(automaton.matches())[0] == 19_999 and time.perf_counter() - began < 5
    assert proposal(Suffix(k=8), [5] * 30).tokens == (5,) * 8


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
