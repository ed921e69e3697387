"""Every option of `generate` is honoured, harmless or refused by name."""
import inspect

import numpy as np
import pytest
import torch
import transformers as hf
from transformers import LogitsProcessorList

from families import PROMPT, build, greedy
from specdec_nb import Law, generate
from specdec_nb.models.options import CALL, HARMLESS, HONOURED, REFUSED, law_of, refuse_options
from specdec_nb.sampling import Scores


@pytest.fixture(scope="module")
def model(): return build("llama")


@pytest.mark.parametrize("options,says", [
    (dict(num_beams=3), "num_beams"), (dict(max_new_tokens=0), "max_new_tokens"),
    (dict(max_new_tokens=-3), "max_new_tokens"), (dict(do_sample=True, temperature=0.), "temperature"),
    (dict(output_hidden_states=True), "output_hidden_states"), (dict(prompt_lookup_num_tokens=3), "drafter='lookup'"), (dict(stop_strings=["a"]), "tokenizer"),
    (dict(negative_prompt_attention_mask=PROMPT), "negative_prompt_attention_mask"), (dict(drafter="telepathy"), "known: .*lookup, .*none"), (dict(rule="hope"), "known: block, kseq, lantern, lenient, rejection, traversal, typical, walk"),
    (dict(k=-1), "k must"), (dict(inputs_embeds=torch.zeros(1, 3, 32)), "inputs_embeds"), (dict(past_key_values="mine"), "past_key_values"),
    (dict(cache_implementation="static"), "cache_implementation"), (dict(position_ids=torch.arange(8)[None] + 3), "position_ids"),
    (dict(guidance_scale=2.), "guidance_scale"),
])
@pytest.mark.filterwarnings("ignore")
def test_refused_by_name(model, options, says):
    with pytest.raises(ValueError, match=says): generate(model, PROMPT, **{"max_new_tokens": 4, **options})


def test_unknown_arguments_are_not_swallowed(model):
    with pytest.raises(ValueError, match="max_new_tokenz"): generate(model, PROMPT, max_new_tokenz=3)


def test_every_option_is_honoured_harmless_or_refused():
    "A new option of a new transformers fails here"
    fields = set(vars(hf.GenerationConfig()))
    assert not (missing := fields - HONOURED - HARMLESS - set(REFUSED)), missing
    assert not HONOURED & HARMLESS and not (HONOURED | HARMLESS) & set(REFUSED)
    call = set(inspect.signature(hf.GenerationMixin.generate).parameters)
    refused = {"synced_gpus", "negative_prompt_ids", "negative_prompt_attention_mask", "custom_generate"}
    assert not (missing := call - CALL - refused), missing


@pytest.mark.parametrize("name", sorted(set(vars(hf.GenerationConfig())) & set(REFUSED)))
@pytest.mark.filterwarnings("ignore")
def test_every_refused_option_is_refused_wherever_it_is_given(model, name):
    given = {"cache_implementation": "static", "watermarking_config": dict(bias=2.), "force_words_ids": [[3]], "constraints": [3], "dola_layers": "high"}.get(name, 3)
    config = hf.GenerationConfig(max_new_tokens=3)
    setattr(config, name, given)
    for call in (dict(generation_config=config), {name: given, "max_new_tokens": 3}):
        before = set(vars(model))
        with pytest.raises(ValueError, match=name): generate(model, PROMPT, **call)
        assert set(vars(model)) == before, "a mark was left on the model"


def test_an_option_of_tomorrow_is_refused(model, monkeypatch):
    class Tomorrow(hf.GenerationConfig):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.telepathy = kwargs.get("telepathy")
    monkeypatch.setattr("specdec_nb.models.options.GenerationConfig", Tomorrow)
    with pytest.raises(ValueError, match="telepathy"): refuse_options(dict(telepathy=True))
    refuse_options(dict(telepathy=None, top_p=.3, a_models_own_entry=5))


@pytest.mark.parametrize("options,says", [
    (dict(synced_gpus=True), "synced_gpus"), (dict(negative_prompt_ids=PROMPT), "negative_prompt_ids"), (dict(assistant_tokenizer=1), "assistant_tokenizer"),
    (dict(custom_generate="x/y"), "custom_generate"), (dict(k=2.5), "k must be a whole"), (dict(k=True), "k must be a whole"), (dict(k="3"), "k must be a whole"),
    (dict(seed=1.5), "seed must be a whole"), (dict(seed="1"), "seed"), (dict(max_new_tokens=2.5), "max_new_tokens"), (dict(use_mtp=True), "use_mtp"),
    (dict(force_words_ids=[[3]]), "force_words_ids"), (dict(token_healing=True), "tokenizer"),
])
@pytest.mark.filterwarnings("ignore")
def test_nothing_is_ignored_in_silence(model, options, says):
    with pytest.raises(ValueError, match=says): generate(model, PROMPT, **{"max_new_tokens": 4, **options})


def test_what_is_off_is_off(model):
    off = dict(custom_generate=None, synced_gpus=False, assistant_model=None, negative_prompt_ids=None, cache_implementation="dynamic", num_beams=1, use_mtp=False)
    off = {k: v for k, v in off.items() if k != "use_mtp" or "use_mtp" in vars(hf.GenerationConfig())}
    assert torch.equal(generate(model, PROMPT, max_new_tokens=24, do_sample=False, **off), greedy(model))


def test_top_p_keeps_plains_set_at_ties():
    "300 rows of half-integral logits, where many tokens tie at the edge; our own sort alone keeps other ids in some of them"
    gen, prompt, other = np.random.default_rng(0), torch.tensor([[1, 2, 3]]), 0
    for i in range(300):
        row = ((gen.normal(size=int(gen.choice([4, 40, 3000]))) * 6).round() / 2).astype("float32")
        top = hf.TopPLogitsWarper(float(gen.choice([.1, .25, .5, .7, .9, .95])))
        listed = LogitsProcessorList([hf.TemperatureLogitsWarper(.7)] * (i % 2) + [top])
        theirs = listed(prompt, torch.tensor(row)[None]).softmax(-1)[0].numpy()
        law = law_of(listed, True, prompt, 3)
        ours, alone = law.row(None, Scores(row[None]), 0), Law(temperature=law.temperature, top_p=law.top_p).row(None, Scores(row[None]), 0)
        assert ((ours > 0) == (theirs > 0)).all() and np.allclose(ours, theirs, atol=1e-6)
        assert (alone > 0).sum() == (theirs > 0).sum()
        other += ((alone > 0) != (theirs > 0)).any()
    assert other > 0
