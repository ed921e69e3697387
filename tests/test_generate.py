"""`generate` against `model.generate`: many families, every stop, every error; small random models in float64."""
import copy
import inspect
import json
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest
import torch
import transformers as hf
import transformers.generation as gen
from transformers import LogitsProcessor, LogitsProcessorList

from drafters import Oracle, Wild
from families import FAMILIES, GPT, PROMPT, SIZES, build, greedy
from specdec_nb import HFTarget, Keyed, Law, Llama, Trace, generate, verify_walk
from specdec_nb.roles import Drafter, make_drafter
from specdec_nb.decode import decode
from specdec_nb.models.generate import custom_generate_folder
from specdec_nb.verify import Verdict
from specdec_nb.models.hub import chat


@pytest.fixture(scope="module")
def model(): return build("llama")


@pytest.mark.parametrize("name,attention", [(name, None) for name in FAMILIES] + [("llama", "eager"), ("qwen3, mixed windows", "eager"), ("gemma3, window 4", "eager")])
@pytest.mark.filterwarnings("ignore")
def test_families(name, attention):
    model = build(name)
    if attention: model.set_attn_implementation(attention)
    attention = model.config._attn_implementation
    assert HFTarget(model).branches == FAMILIES[name][2]
    for options in ({}, dict(repetition_penalty=1.3)):
        plain = greedy(model, **options)
        assert len(set(plain[0, 8:].tolist())) > 3, "a model that repeats itself passes everything"
        for drafter in ("none", "lookup", Wild(), Wild(1, plain[0].tolist())):
            assert torch.equal(generate(model, PROMPT, drafter=drafter, max_new_tokens=24, do_sample=False, **options), plain), drafter
    texts = [generate(model, PROMPT, drafter=d, max_new_tokens=24, do_sample=True, seed=5) for d in ("none", "lookup", Wild(), Wild(1, plain[0].tolist()))]
    assert all(torch.equal(t, texts[0]) for t in texts)
    assert model.config._attn_implementation == attention


# -- options, against model.generate

OPTIONS = [dict(max_new_tokens=5), dict(max_length=13), dict(max_new_tokens=20, no_repeat_ngram_size=2), dict(max_new_tokens=20, repetition_penalty=1.5),
           dict(max_new_tokens=20, bad_words_ids=[[3], [5, 9]]), dict(max_new_tokens=20, suppress_tokens=[1, 2, 3]), dict(max_new_tokens=9, min_new_tokens=9, eos_token_id=7),
           dict(max_new_tokens=20, forced_eos_token_id=4), dict(max_new_tokens=20, exponential_decay_length_penalty=(3, 1.5), eos_token_id=9),
           dict(max_new_tokens=20, sequence_bias=[[[3], 5.0]]), dict(generation_config=hf.GenerationConfig(max_new_tokens=7, do_sample=False, pad_token_id=0))]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: ", ".join(o))
@pytest.mark.filterwarnings("ignore")
def test_options(model, options):
    plain = model.generate(PROMPT, **{"do_sample": False, **options})
    for drafter in (Oracle(plain[0].tolist()), Wild(2, plain[0].tolist()), "lookup"):
        assert torch.equal(generate(model, PROMPT, drafter=drafter, **{"do_sample": False, **options}), plain)
        assert torch.equal(model.generate(PROMPT, custom_generate=generate, drafter=drafter, **{"do_sample": False, **options}), plain)


def test_a_refused_static_cache_leaves_no_mark(model):
    before = set(vars(model))
    with pytest.raises(ValueError, match="cache_implementation"): model.generate(PROMPT, custom_generate=generate, cache_implementation="static", max_new_tokens=3)
    assert set(vars(model)) == before


@pytest.mark.parametrize("config,says", [(dict(architectures=["LlamaForCausalLMEagle3"], draft_vocab_size=32000), "EAGLE"), (dict(medusa_num_heads=4, model_type="llama"), "Medusa"),
                                         (dict(speculators_model_type="eagle3", architectures=["Eagle3DraftModel"]), "speculators"), (dict(draft_vocab_size=99), "EAGLE-3")])
def test_drafters_of_other_projects_are_refused_by_name(model, tmp_path, config, says):
    (tmp_path / "config.json").write_text(json.dumps(config))
    for name in ("eagle3:network=", "medusa:network=", "model:model="):
        with pytest.raises(ValueError, match=f"{says}.*not ours"): generate(model, PROMPT, drafter=name + str(tmp_path), max_new_tokens=3)


@pytest.mark.parametrize("name", ["rest", "reference"])
def test_who_has_nothing_to_copy_from_says_so(model, name):
    with pytest.warns(UserWarning, match=f"{name} has no"): generate(model, PROMPT, drafter=name, max_new_tokens=3, do_sample=False)


def test_processors_see_drafted_tokens(model):
    class Alternate(LogitsProcessor):
        "Odd positions take even tokens only: depends on the length of the prefix, so on the drafted tokens before a node"
        def __call__(self, ids, scores):
            scores = scores.clone()
            scores[:, ids.shape[1] % 2::2] = -float("inf")
            return scores
    chosen = dict(logits_processor=LogitsProcessorList([Alternate()]))
    plain = greedy(model, **chosen)
    for drafter in (Oracle(plain[0].tolist()), Wild(1, plain[0].tolist())):
        assert torch.equal(generate(model, PROMPT, drafter=drafter, max_new_tokens=24, do_sample=False, **chosen), plain)


REMEMBERS = {"synthid": lambda m: gen.SynthIDTextWatermarkLogitsProcessor(ngram_len=3, keys=[5, 7, 11], sampling_table_size=64, sampling_table_seed=0, context_history_size=16, device="cpu"),
             "guidance": lambda m: gen.UnbatchedClassifierFreeGuidanceLogitsProcessor(1.5, m)}


@pytest.mark.parametrize("name", REMEMBERS)
def test_the_librarys_own_processors_that_remember(model, name):
    "A watermark knows its contexts, guidance keeps a cache: drafters are not given them, and each row has its own"
    def listed(): return dict(logits_processor=LogitsProcessorList([REMEMBERS[name](model)]), do_sample=False)
    plain = model.generate(PROMPT, max_new_tokens=24, **listed())
    assert not torch.equal(plain, greedy(model))
    for drafter in (model, "gsd:k=3", Wild(1, plain[0].tolist())):
        if drafter == "gsd:k=3": drafter = make_drafter("gsd", model=build("llama tied"))
        assert torch.equal(generate(model, PROMPT, drafter=drafter, max_new_tokens=24, **listed()), plain)
    rows = [PROMPT[0].tolist(), [5, 9, 4]]
    for row, text in zip(rows, generate(model, rows, drafter=Wild(1), max_new_tokens=12, **listed())):
        assert text[8:].tolist() == model.generate(torch.tensor([row]), max_new_tokens=12, **listed())[0, len(row):].tolist()
    with pytest.raises(ValueError, match="memory"): generate(model, PROMPT, rule="block", max_new_tokens=3, **listed())


def test_criteria_that_descend_from_the_librarys(model):
    "They are asked; what they make of it is theirs"
    class Most(hf.MaxLengthCriteria):
        def __call__(self, ids, scores, **more): return torch.tensor([ids.shape[1] >= 11])
    class Twice(gen.EosTokenCriteria):
        seen = 0
        def __call__(self, ids, scores, **more):
            self.seen += bool(super().__call__(ids, scores))
            return torch.tensor([self.seen == 2])
    truth = greedy(model)[0].tolist()
    twice = next(t for t in truth[8:] if truth[8:].count(t) > 1)
    for mine, ends in ((lambda: Most(99), 11), (lambda: Twice(twice), [i for i, t in enumerate(truth) if t == twice and i >= 8][1] + 1), (lambda: hf.MaxLengthCriteria(12), 12)):
        out = generate(model, PROMPT, drafter=Oracle(truth), max_new_tokens=24, do_sample=False, stopping_criteria=[mine()])
        assert out[0].tolist() == truth[:ends]


def test_seed_none_follows_torch(model):
    def draw():
        torch.manual_seed(4)
        return generate(model, PROMPT, drafter="lookup", do_sample=True, max_new_tokens=20)
    assert torch.equal(draw(), draw())


def test_keyed_with_warpers_and_penalties(model):
    for options in (dict(temperature=.7, top_k=9), dict(top_p=.8), dict(min_p=.1), dict(repetition_penalty=1.3, top_p=.9), dict(typical_p=.8), dict(top_k=5, no_repeat_ngram_size=3)):
        runs = [generate(model, PROMPT, drafter=d, do_sample=True, seed=2, max_new_tokens=24, **options) for d in ("none", "lookup", Wild(4))]
        runs.append(generate(model, PROMPT, drafter=Oracle(runs[0][0].tolist()), do_sample=True, seed=2, max_new_tokens=24, **options))
        assert all(torch.equal(r, runs[0]) for r in runs), options


def test_the_model_is_left_as_it_was(model):
    before = copy.deepcopy((model.config.to_dict(), model.generation_config.to_dict(), model.config._attn_implementation))
    generate(model, PROMPT, drafter=Wild(), max_new_tokens=9, do_sample=True, repetition_penalty=1.2, seed=0)
    with pytest.raises(ZeroDivisionError): generate(model, PROMPT, drafter=Broken(), max_new_tokens=9)
    assert before == (model.config.to_dict(), model.generation_config.to_dict(), model.config._attn_implementation)
    assert torch.equal(generate(model, PROMPT, max_new_tokens=24, do_sample=False), greedy(model))


class Broken(Drafter):
    def propose(self, ctx, rng): return 1 / 0


@pytest.mark.parametrize("name", ["llama", "gpt2", "mistral, window 5"])
def test_the_window_s_end(name):
    model = build(name)
    for length in (1, 2, 127, 128):
        ids = torch.arange(length)[None] % 48
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            plain = model.generate(ids, max_new_tokens=min(20, 129 - length), do_sample=False)
            out = generate(model, ids, drafter=Wild(0, plain[0].tolist()), max_new_tokens=20, do_sample=False)
        assert torch.equal(out, plain)
    with pytest.warns(UserWarning, match="window of 128"): generate(model, ids, max_new_tokens=2, do_sample=False)
    with pytest.raises(ValueError, match="129 tokens.*128"): generate(model, torch.arange(129)[None] % 48, max_new_tokens=2)


@pytest.mark.parametrize("config,changes", [("MambaConfig", dict(num_hidden_layers=1, state_size=4)),
                                            ("Lfm2Config", dict(layer_types=["conv", "full_attention", "conv"])),
                                            ("OpenAIGPTConfig", GPT)])
def test_models_that_cannot_roll_back_are_refused(config, changes):
    odd = hf.AutoModelForCausalLM.from_config(getattr(hf, config)(**{**SIZES, **changes})).eval()
    with pytest.raises(ValueError, match=type(odd).__name__): generate(odd, PROMPT, max_new_tokens=3)


def test_training_mode_is_refused():
    with pytest.raises(ValueError, match="eval"): generate(build("llama").train(), PROMPT, max_new_tokens=3)


def test_nan_logits_are_named(model):
    broken = build("llama")
    with torch.no_grad(): broken.get_output_embeddings().weight[5] = float("nan")
    for options in (dict(do_sample=False), dict(do_sample=True), dict(do_sample=False, repetition_penalty=1.2)):
        with pytest.raises(ValueError, match="NaN|broken"): generate(broken, PROMPT, max_new_tokens=3, **options)


def test_outside_drafters_and_rules():
    model = build("llama")
    def lossy(draft, p, rng): return verify_walk(draft, [p[0]] * (len(draft) + 1), rng)
    lossy.lossy = True
    out = generate(model, PROMPT, drafter=Wild(), rule=lossy, max_new_tokens=9, do_sample=False, return_dict_in_generate=True)
    assert out.trace.lossy and "LOSSY" in repr(out.trace)
    with pytest.raises(TypeError, match="propose"): generate(model, PROMPT, drafter=object(), max_new_tokens=3)
    trace = Trace(decode(model, "lookup", PROMPT[0].tolist(), limit=9, law=Law(temperature=0), rng=Keyed(0)))
    assert trace.tokens == greedy(model, 9)[0, 8:].tolist()


def test_targets_are_found_without_importing_their_chapter():
    code = ("import torch, transformers; from specdec_nb.roles import as_target;"
            "c = transformers.LlamaConfig(vocab_size=9, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2);"
            "m = transformers.AutoModelForCausalLM.from_config(c).eval(); from specdec_nb import Llama;"
            "print(type(as_target(m)).__name__, type(as_target(Llama.from_hf(m))).__name__)")
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert out.stdout.split() == ["HFTarget", "LlamaTarget"], out.stderr


def test_a_model_without_weights_says_so(model):
    empty, half = build("llama").to("meta"), build("llama")
    half.model.layers[1].to("meta")
    for m in (empty, half):
        with pytest.raises(ValueError, match="no weights.*meta"): generate(m, PROMPT, max_new_tokens=3)
        with pytest.raises(ValueError, match="no weights.*meta"): generate(model, PROMPT, drafter=m, max_new_tokens=3)


@pytest.mark.parametrize("made,says", [(lambda d: None, "returned None"), (lambda d: (0, 1), "must return a Verdict"), (lambda d: Verdict.of(d, (), 48), "0 to 47"), (lambda d: Verdict.of(d, (), -1), "0 to 47"),
                                       (lambda d: Verdict.of(d, (), None), "word of its own"), (lambda d: Verdict.of(d, (1,), 3), "no way down"), (lambda d: Verdict((7,), 3, (3, 3)), "no way down"),
                                       (lambda d: Verdict((0,), 3, (9, 3)), "committed"), (lambda d: Verdict((), 3, (3, 4)), "committed")])
def test_what_a_rule_may_not_return(model, made, says):
    def mine(draft, p, rng): return made(draft)
    with pytest.raises((TypeError, ValueError), match=f"the rule mine .*{says}|{says}"): generate(model, PROMPT, drafter=Oracle([*range(40)]), rule=mine, max_new_tokens=5, do_sample=False)


@pytest.mark.parametrize("options", [dict(repetition_penalty=1.7), dict(encoder_repetition_penalty=1.5), dict(no_repeat_ngram_size=1), dict(encoder_no_repeat_ngram_size=2),
                                     dict(sequence_bias=[[[5, 9], 5.]], bad_words_ids=[[0, 7]])], ids=lambda o: ", ".join(o))
def test_penalties_of_a_batch_mind_no_padding(model, options):
    rows = [[3, 4, 3, 3, 14, 15], [5, 3], [7], [26, 9, 5, 3, 2, 8]]
    for drafter in ("none", Wild(1)):
        out = generate(model, rows, drafter=drafter, max_new_tokens=12, do_sample=False, **options)
        for row, text in zip(rows, out):
            assert text[6:].tolist() == model.generate(torch.tensor([row]), max_new_tokens=12, do_sample=False, **options)[0, len(row):].tolist()


def test_numbers_of_other_kinds(model):
    for n in (np.int64(5), torch.tensor(5)): assert torch.equal(generate(model, PROMPT, max_new_tokens=n, do_sample=False), greedy(model, 5))
    assert len(Trace(decode(model, "lookup", PROMPT[0].tolist(), limit=np.int32(5), law=Law(temperature=0))).tokens) == 5
    assert torch.equal(generate(model, PROMPT, do_sample="yes", max_new_tokens=9, seed=3), generate(model, PROMPT, do_sample=True, max_new_tokens=9, seed=3))
    for call, says in ((dict(pad_token_id=[7]), "pad_token_id"), (dict(generation_config=dict(max_new_tokens=3)), "GenerationConfig"), (dict(streamer=3), "put and end"),
                       (dict(stopping_criteria=[lambda ids, scores: None]), "returned None"), (dict(drafter=(model, None)), "cannot draft")):
        with pytest.raises((ValueError, TypeError), match=says) as e: generate(model, PROMPT, max_new_tokens=4, **call)
        assert len(str(e.value)) < 300


# -- drafters that are models

def test_a_model_is_a_draft_model(model):
    other = build("gpt2")
    for call in (dict(drafter=other), dict(assistant_model=other), dict(drafter=model, k=3), dict(drafter=torch.compile(other))):
        out = generate(model, PROMPT, max_new_tokens=24, do_sample=False, return_dict_in_generate=True, **call)
        assert torch.equal(out.sequences, greedy(model)) and any(len(draft) for draft, _ in out.trace.steps)
    out = model.generate(PROMPT, custom_generate=generate, assistant_model=model, max_new_tokens=24, do_sample=False, return_dict_in_generate=True)
    assert torch.equal(out.sequences, greedy(model)) and sum(out.trace.drafted) > 12
    with pytest.raises(ValueError, match="give one"): generate(model, PROMPT, drafter="lookup", assistant_model=other, max_new_tokens=3)
    with pytest.raises(TypeError, match="Oracle\\(...\\)"): generate(model, PROMPT, drafter=Oracle, max_new_tokens=3)


def test_batches_in_threads(model):
    "Whoever serves has slots of their own, though they share a model"
    rows = [PROMPT[0].tolist(), [5, 9, 4], [*range(1, 11)]]
    wanted, found = generate(model, rows, drafter="none", max_new_tokens=16, do_sample=False), {}
    def serve(i): found[i] = [generate(model, rows, drafter=Wild(i + j), max_new_tokens=16, do_sample=False) for j in range(3)]
    threads = [threading.Thread(target=serve, args=(i,)) for i in range(3)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert len(found) == 3 and all(torch.equal(text, wanted) for texts in found.values() for text in texts)


def test_an_own_model_is_left_without_marks(model):
    own = Llama.from_hf(model)
    before = set(vars(own))
    generate(own, PROMPT, drafter="lookup", max_new_tokens=5, do_sample=False)
    assert set(vars(own)) == before


# -- what needs a tokenizer

def test_stop_strings_wherever_they_are_given(original):
    model, tokenizer = original
    ids = tokenizer("The quick brown fox jumps over the lazy dog. The quick brown", return_tensors="pt").input_ids
    free = model.generate(ids, max_new_tokens=16, do_sample=False)
    string = tokenizer.decode(free[0, ids.shape[1] + 3:ids.shape[1] + 5])[1:]
    plain = model.generate(ids, max_new_tokens=16, do_sample=False, stop_strings=[string], tokenizer=tokenizer)
    assert plain.shape[1] < free.shape[1]
    options, folder = dict(max_new_tokens=16, do_sample=False, tokenizer=tokenizer), dict(custom_generate=custom_generate_folder(), trust_remote_code=True)
    own = Llama.from_hf(model)
    assert torch.equal(generate(own, ids, stop_strings=string, **options), plain)
    assert torch.equal(model.generate(ids, stop_strings=string, drafter="lookup", **folder, **options), plain)
    assert torch.equal(generate(own, ids, tokenizer=tokenizer, generation_config=hf.GenerationConfig(max_new_tokens=16, do_sample=False, stop_strings=[string])), plain)
    with pytest.raises(ValueError, match="tokenizer"): model.generate(ids, custom_generate=generate, stop_strings=string, max_new_tokens=16)
    model.generation_config.stop_strings = [string]
    try:
        assert torch.equal(generate(model, ids, **options), plain) and torch.equal(generate(own, ids, **options), plain)
        with pytest.raises(ValueError, match="tokenizer"): generate(model, ids, max_new_tokens=3)
    finally: model.generation_config.stop_strings = None


def test_help_names_the_parameters():
    shown = inspect.getdoc(generate) + str(inspect.signature(generate))
    for word in ("drafter", "seed", "rule", "tokenizer", "streamer", "max_new_tokens", "past_key_values", "output_scores", "int | None", "SpeculativeOutput"): assert word in shown


ASK = "Repeat this sentence twice: The cat sat on the mat and the cat sat on the hat."


def test_greedy_equals_model_generate(original):
    model, tokenizer = original
    ids = chat(tokenizer, ASK)
    for options in ({}, dict(repetition_penalty=1.2)):
        plain = model.generate(ids, max_new_tokens=32, do_sample=False, **options)
        truth = plain[0].tolist()
        for drafter in ("lookup", Wild(0, truth), Oracle(truth)):
            out = generate(model, ids, drafter=drafter, max_new_tokens=32, do_sample=False, return_dict_in_generate=True, **options)
            assert torch.equal(out.sequences, plain), drafter
        assert out.trace.calls <= 7 and out.trace.overhead < .25          # tree or not, most of the time is the model's


def test_keyed_sampling_does_not_depend_on_the_drafter(original):
    model, tokenizer = original
    ids = chat(tokenizer, ASK)
    texts = [generate(model, ids, drafter=d, max_new_tokens=24, do_sample=True, temperature=.8, top_p=.95, seed=3) for d in ("none", "lookup", Wild(1))]
    assert torch.equal(texts[0], texts[1]) and torch.equal(texts[0], texts[2])


def test_stop_strings_that_straddle_tokens(original):
    model, tokenizer = original
    ids = chat(tokenizer, ASK)
    plain = model.generate(ids, max_new_tokens=32, do_sample=False)
    stop = dict(stop_strings=["the ma"], tokenizer=tokenizer, max_new_tokens=32, do_sample=False)
    stopped = model.generate(ids, **stop)
    assert stopped.shape[1] < plain.shape[1]
    assert torch.equal(generate(model, ids, drafter=Oracle(plain[0].tolist()), **stop), stopped)
