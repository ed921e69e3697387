"""Grammars hold whoever drafts, alone and in batches; guesses that move a matcher, grammars that lead nowhere, words that are none."""
import json, re

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config

from drafters import Sampled, Wild
from specdec_nb import Draft, Trace, exact_law, generate
from specdec_nb.decode import decode
from specdec_nb.decoding.grammars import Automaton, Constrained, Forced, GrammarProcessor, Guidance, _pruned
from specdec_nb.lm import weather
from specdec_nb.models.hub import load_hf
from specdec_nb.roles import Drafter
from specdec_nb.sampling import NoMass


def test_drawn_guesses_stay_where_a_grammar_forbids_them():
    "By enumeration: a drawn node that is dropped for its own token biases"
    clever, crude = weather()
    rule = Automaton({(0, 0): 0, (0, 1): 1, (1, 0): 0, (1, 2): 2, (2, 0): 0}, 3)
    law_of = lambda drafter: exact_law(lambda rng: tuple(Trace(decode(clever, drafter, [0], limit=3, law=Constrained(grammar=rule), rng=rng, rule="rejection")).tokens))
    assert law_of(Forced(Sampled(crude, (1, 1)))) == law_of("none")
    dropped = exact_law(lambda rng: _pruned(Draft.chain([rng.at(0, "draft").categorical(crude.p([0]))], [crude.p([0])]), rule, 0).tokens)
    assert dropped == {(x,): w for x, w in enumerate(crude.p([0])) if w}


def scribe(tokenizer, rows=0, seed=1):
    "A small random model over a tokenizer's words, and some rows more"
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(GPT2Config(vocab_size=len(tokenizer) + rows, n_embd=16, n_layer=1, n_head=2, n_positions=128, initializer_range=.5,
                                                       bos_token_id=None, eos_token_id=tokenizer.eos_token_id)).double().eval()


def test_grammars_hold_whoever_drafts():
    pytest.importorskip("llguidance")
    _, tokenizer = load_hf()
    model = scribe(tokenizer)
    schema = {"type": "array", "items": {"type": "object", "properties": {"id": {"type": "integer", "minimum": 0, "maximum": 9}, "ok": {"type": "boolean"}}, "required": ["id", "ok"]},
              "minItems": 1, "maxItems": 2}
    for grammar, valid in ((Guidance(tokenizer, schema), lambda t: all({*x} >= {"id", "ok"} for x in json.loads(t))),
                           (Guidance(tokenizer, regex="(ab|c)+d{2,3}[0-9]"), lambda t: re.fullmatch("(ab|c)+d{2,3}[0-9]", t))):
        for seed in range(2):
            run = dict(law=Constrained(temperature=.3 + seed, grammar=grammar), seed=seed, max_new_tokens=100, pad_token_id=0)
            texts = [generate(model, torch.tensor([[3, 14]]), drafter=d, **run)[0, 2:].tolist() for d in ("none", "grammar", "grammar:drafter=recycling", "auto", Wild(seed))]
            assert all(t == texts[0] for t in texts)
            if texts[0][-1] == tokenizer.eos_token_id: assert valid(tokenizer.decode(texts[0], skip_special_tokens=True))
        ahead = [generate(model, torch.tensor([[3, 14]]), drafter=Wild(0), rule=rule, **run)[0, 2:].tolist() for rule in ("walk", "traversal", "block")]
        assert all(valid(tokenizer.decode(t, skip_special_tokens=True)) for t in ahead if t[-1] == tokenizer.eos_token_id)


def test_grammars_in_a_batch():
    "Rows of unequal length, as law and as processor, greedily and several samples of one prompt; each row finds its own place"
    pytest.importorskip("llguidance")
    _, tokenizer = load_hf()
    model, grammar = scribe(tokenizer), Guidance(tokenizer, {"type": "object", "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 99}}, "required": ["n"], "additionalProperties": False})
    ids = torch.tensor([[0, 0, 5, 6, 7], [9, 8, 7, 6, 5], [0, 11, 12, 13, 14]])
    call, made = dict(attention_mask=(ids != 0).long(), max_new_tokens=16, pad_token_id=0), lambda: dict(logits_processor=[GrammarProcessor(grammar, 5)])
    plain = model.generate(ids, do_sample=False, **made(), **call)
    assert all("n" in json.loads(tokenizer.decode(row[5:], skip_special_tokens=True)) for row in plain)
    for drafter in ("none", "lookup", "grammar", Wild(1, plain[1].tolist())):
        assert torch.equal(generate(model, ids, do_sample=False, drafter=drafter, **made(), **call), plain)
        assert torch.equal(generate(model, ids, law=Constrained(temperature=0, grammar=grammar), drafter=drafter, **call), plain)
    three = [generate(model, ids[1:2], do_sample=True, num_return_sequences=3, seed=2, drafter=d, max_new_tokens=16, pad_token_id=0, **made()) for d in ("none", Wild(2))]
    assert torch.equal(*three) and len({*map(tuple, three[0].tolist())}) > 1


def test_a_matcher_that_moves_with_guesses_is_seen():
    pytest.importorskip("llguidance")
    _, tokenizer = load_hf()
    model, begin = scribe(tokenizer), torch.tensor([[3, 14]])
    grammar = Guidance(tokenizer, regex="(ab|c)+d{2,3}[0-9]")
    class Early(Constrained):
        "One matcher for the request, advanced on every word that a mask is asked behind"
        here = {}
        def start(self, prompt): self.here[0] = self.grammar.start(); return None, None
        def step(self, s, token, scores=None, i=0): self.here[0] = self.grammar.step(self.here[0], token); return s
        def row(self, s, scores, i): return super().row((None, self.here[0]), scores, i)
    def told(law, drafter): return generate(model, begin, law=law, drafter=drafter, seed=5, max_new_tokens=24, pad_token_id=0)[0, 2:].tolist()
    plain = told(Constrained(grammar=grammar), "none")
    wild = lambda: Wild(0, truth=[3, 14, *plain[:4], 7, 7])                # right for a while
    assert told(Constrained(grammar=grammar), wild()) == plain
    assert told(Early(grammar=grammar), "none") == plain != told(Early(grammar=grammar), wild())


def test_a_grammar_that_cannot_be_kept_is_refused(monkeypatch):
    pytest.importorskip("llguidance")
    _, tokenizer = load_hf()
    for wrong, says in ((dict(schema={"type": "strin"}), "strin"), (dict(schema={"type": "array", "uniqueItems": True}), "uniqueItems"), (dict(schema={"not": {}}), "not"),
                        (dict(schema="no json"), "cannot be compiled"), (dict(schema={"enum": {1, 2}}), "cannot be compiled"), (dict(schema=[1]), "cannot be compiled"),
                        (dict(regex="("), "unclosed"), (dict(regex=3), "cannot be compiled"), (dict(regex=r"a[^\s\S]"), "no text fits"), (dict(lark="x"), "cannot be compiled"),
                        (dict(regex="a", vocab_size=10), "vocab"), (dict(regex="a", eos=-1), "eos"), (dict(), "one of"), (dict(regex="a", schema={}), "one of")):
        with pytest.raises(ValueError, match=says): Guidance(tokenizer, **wrong)
    assert Guidance(tokenizer, regex="").start().allowed.sum() == 1         # an empty text is a text
    monkeypatch.setitem(__import__("sys").modules, "llguidance", None)
    with pytest.raises(ImportError, match="specdec_nb.grammar"): Guidance(tokenizer, regex="a")


def test_where_a_grammar_leads_nowhere_nothing_is_said():
    "Neither a word that it forbids nor an early end, whoever drafts; a guess that leads there is no fault"
    pytest.importorskip("llguidance")
    _, tokenizer = load_hf()
    model, begin = scribe(tokenizer), torch.tensor([[3, 14]])
    endless = Guidance(tokenizer, lark='start: "a" start')
    for temperature in (0, 1):
        for drafter in ("none", "grammar", "lookup", Wild(1)):
            with pytest.raises(NoMass, match="grammar"): generate(model, begin, law=Constrained(temperature, grammar=endless), drafter=drafter, max_new_tokens=9)
    with pytest.raises(NoMass, match="grammar"):
        model.generate(begin, logits_processor=[GrammarProcessor(endless, 2)], max_new_tokens=9, pad_token_id=0, do_sample=False)


@pytest.mark.parametrize("rows", [7, 64])
def test_a_model_with_more_rows_than_words(rows):
    "As many have, padded: none of them is a word, and a drafter may guess them"
    pytest.importorskip("llguidance")
    _, tokenizer = load_hf()
    model, begin, words = scribe(tokenizer, rows), torch.tensor([[3, 14]]), len(tokenizer)
    grammar, end = Guidance(tokenizer, regex="(ab|c){2,5}d[0-9]"), dict(max_new_tokens=24, pad_token_id=0)
    class Beyond(Drafter):
        def propose(self, ctx, rng): return Draft.merge([[words, 5], [*ctx.tokens[-2:]]])[0]
    plain = generate(model, begin, law=Constrained(temperature=0, grammar=grammar), drafter="none", **end)
    for drafter in ("grammar", Beyond(), Forced(Beyond()), "recycling"):
        assert torch.equal(generate(model, begin, law=Constrained(temperature=0, grammar=grammar), drafter=drafter, **end), plain)
    assert torch.equal(model.generate(begin, do_sample=False, logits_processor=[GrammarProcessor(grammar, 2)], **end), plain)
    assert re.fullmatch("(ab|c){2,5}d[0-9]", tokenizer.decode(plain[0, 2:], skip_special_tokens=True))
