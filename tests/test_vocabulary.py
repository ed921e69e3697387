"""Draft models with other words: bridges over tokens and over strings are exact, and a bridge that forgets its cut is caught."""
from fractions import Fraction as F

import numpy as np
import pytest

from draftmodels import build, byte_level, spaced
from enumeration import texts
from learners import near, words
from specdec_nb import Draft, Keyed, Law, Llama, TableLM, Trace
from specdec_nb.decode import decode
from specdec_nb.drafters.model import ModelDrafting
from specdec_nb.drafters.vocabulary import SharedTokens, StringBridge, TokenBridge, respell, spellings


def test_spellings():
    a, b = spellings(byte_level()), spellings(spaced())
    assert b" " in a and b" " in b and "é".encode()[:1] in a and b"\n" in b
    marked = next(t for t in spaced().get_vocab() if t.startswith("▁") and len(t) > 1)
    assert a[b"the"] == byte_level().convert_tokens_to_ids("the") and b[marked.replace("▁", " ").encode()] == spaced().convert_tokens_to_ids(marked)
    assert b[b"a"] == spaced().convert_tokens_to_ids("a"), "a letter, not the byte of the same value"
    shared = SharedTokens(spaced(), byte_level(), 300, 330)
    assert shared.read(byte_level()("the cat").input_ids)[0] == 1 and shared.read(byte_level()("the cat").input_ids).count(1) == 1, "one BOS"
    half = [byte_level().convert_tokens_to_ids("ä")]                                  # the first of the three bytes of 你
    assert shared.read(byte_level()("the").input_ids + half) == shared.read(byte_level()("the").input_ids), "half a character waits"


@pytest.mark.parametrize("rule", ["walk", "rejection"])
def test_bridges_are_exact(rule):
    mine, theirs = words("sun", "fog", "rain", "hail"), words("snow", "rain", "sun")
    for seed in range(3):
        target, crude = TableLM.random(3, 1, seed), TableLM.random(4, 1, seed + 20, largest=4)
        crude.rows = {s: (row + F(1, 4)) / 2 for s, row in crude.rows.items()}            # some mass on the words they share
        for bridge in (TokenBridge, StringBridge):
            for k in (1, 2): assert texts(target, bridge(crude, mine, theirs, k=k), 3, rule=rule) == target.law([0], 3)


def test_a_token_bridge_without_its_cut_is_caught():
    "Recording the draft model's law without restricting it to the shared words"
    mine, theirs = words("sun", "fog", "rain"), words("snow", "rain", "sun")
    target, crude = TableLM({(): [1, 2, 3]}), TableLM({(): [1, 3, 1]})
    class Uncut(ModelDrafting):
        def draw(self, depth, rng):
            draft = yield from super().draw(depth, rng)
            return Draft.chain(draft.tokens, [np.array([F(3, 5), F(1, 5), F(1, 5)], dtype=object)] * len(draft))
    drafter = TokenBridge(crude, mine, theirs, k=1)
    drafter.drafting = Uncut
    assert texts(target, drafter, 2, rule="rejection") != target.law([0], 2)


@pytest.mark.parametrize("bridge", [TokenBridge, StringBridge])
@pytest.mark.parametrize("swap", [False, True])
def test_bridges_same_text(bridge, swap):
    one, other = byte_level(), spaced()
    mine, theirs = (one, other) if swap else (other, one)
    target, draft = Llama.from_hf(build(1, vocab=len(theirs))), build(2, vocab=len(mine) + 3)
    drafter = bridge(draft, mine, theirs, k=3)
    for i, text in enumerate(("the cat sat", "a café")):
        prompt = theirs(text).input_ids
        for settings in (dict(law=Law(temperature=0)), dict(rng=Keyed(i)), dict(rng=Keyed(i), law=Law(top_p=.9))):
            plain, fast = (Trace(decode(target, d, prompt, limit=12, **settings)) for d in ("none", drafter))
            assert plain.tokens == fast.tokens
    assert any(len(d) for d, _ in fast.steps)


def test_a_string_bridge_accepts_what_it_should():
    "Two tables over two tokenizers that write the same sentence for ever: every guess is right, whatever its tokens"
    mine, theirs, sentence = spaced(), byte_level(), " the cat sat on the mat and the dog sat on the log"
    def parrot(tokenizer, size):
        ids, n = tokenizer(sentence, add_special_tokens=False).input_ids, size
        assert tokenizer.decode(ids) == sentence
        class Parrot(TableLM):
            def p(self, prefix):
                written = tokenizer.decode([t for t in prefix if t != tokenizer.bos_token_id])
                rest = sentence[len(written) % len(sentence):] + sentence
                row = np.zeros(n, dtype=object)
                row[tokenizer(rest, add_special_tokens=False).input_ids[0]] = F(1)
                return row
        return Parrot({(): [1] * n}), ids
    (draft, _), (target, ids) = parrot(mine, 300), parrot(theirs, 330)
    trace = Trace(decode(target, StringBridge(draft, mine, theirs, k=6), ids[:3], limit=40))
    assert trace.tokens_per_call > 3 and (ids * 4)[3:43] == trace.tokens
    assert min(a for d, a in zip(range(3), trace.acceptance)) > .8


def test_respell():
    tok = byte_level()
    for text, more in (("the cat", " sat on the mat"), ("the", " dog"), ("naïve ca", "fé"), ("你", "好"), ("", "the cat")):
        ids = tok(text).input_ids
        assert tok.decode(ids + respell(tok, ids, more)) == text + more
    for tok in (spaced(), byte_level()):
        cut = tok("the ca", add_special_tokens=False).input_ids                      # inside a word: encoded together it would be another token
        assert tok.decode(cut + respell(tok, cut, "t sat")) == "the cat sat"


def test_tokenizers_that_share_nothing():
    with pytest.raises(ValueError, match="share not one"): SharedTokens(words("a", "b"), words("c", "d"), 2, 2)


def test_strings_come_in_chains():
    with pytest.raises(TypeError, match="tree"): StringBridge(near(build()), None, None, tree=4)
