"""`generate` against `model.generate`: many families, every stop, every error; small random models in float64."""
import copy
import inspect
import json
import subprocess
import sys
import threading
import time
import warnings

import numpy as np
import pytest
import torch
import transformers as hf
import transformers.generation as gen
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteriaList

from drafters import Oracle, Wild
from families import FAMILIES, GPT, PROMPT, SIZES, build, greedy
from specdec_nb import Dice, Draft, HFTarget, Keyed, Law, Llama, Trace, generate, verify_rejection, verify_walk
from specdec_nb.roles import Drafter, as_target, make_drafter, read
from specdec_nb.decode import decode
from specdec_nb.models.calls import _noise, undisturbed
from specdec_nb.models.generate import custom_generate_folder
from specdec_nb.models.options import CALL, HARMLESS, HONOURED, REFUSED, law_of, refuse_options
from specdec_nb.sampling import Asks, Scores
from specdec_nb.verify import Verdict

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


def test_tree_rows_equal_their_paths_past_the_window():
    model = build("qwen3, mixed windows")
    target, tokens = HFTarget(model), list(range(1, 20))
    draft = Draft.merge([[4, 5, 6, 7], [4, 5, 8], [9, 5], [9, 6, 4]])[0]
    rows = target.score([(target.open(tokens), draft)])[0].rows
    for i in range(-1, len(draft)):
        path = [draft.tokens[j] for j in draft.path(i)]
        with torch.no_grad(): alone = model(torch.tensor([tokens + path])).logits[0, -1]
        assert (rows[i + 1] - alone).abs().max() < 1e-10


def test_grown_drafts_feed_only_new_nodes(model):
    target = HFTarget(model)
    state, fed = read(target.open([1, 2, 3])), []
    plain = target.forward
    target.forward = lambda feeds: fed.append(len(feeds[0].tokens)) or plain(feeds)
    small, large = Draft([4, 5], [-1, -1]), Draft([4, 5, 6, 7], [-1, -1, 0, 1])
    target.score([(state, small)])
    grown = target.score([(state, large)])[0].rows
    assert fed == [3, 2]
    assert (grown - target.score([(target.open([1, 2, 3]), large)])[0].rows).abs().max() < 1e-10


def test_fork_and_rewind(model):
    target = HFTarget(model)
    state = target.open([1, 2, 3, 4, 5])
    twin = state.fork()
    state.rewind(3)
    assert (target.score([(state, Draft.chain([4]))])[0].rows[1] - target.score([(target.open([1, 2, 3, 4]), Draft())])[0].rows[0]).abs().max() < 1e-10
    assert (target.score([(twin, Draft())])[0].rows - target.score([(target.open([1, 2, 3, 4, 5]), Draft())])[0].rows).abs().max() < 1e-10


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


class Recorder:
    "A streamer that keeps what it is given"
    def __init__(self): self.got, self.ended = [], 0
    def put(self, ids): self.got += ids.flatten().tolist()
    def end(self): self.ended += 1


def test_eos_inside_a_block_and_nothing_after_it(model):
    plain = greedy(model)[0].tolist()
    for eos in ({plain[11]}, {plain[10], plain[17]}, {plain[8]}):
        expected = greedy(model, eos_token_id=list(eos))
        streamer = Recorder()
        out = generate(model, PROMPT, drafter=Oracle(plain), max_new_tokens=24, do_sample=False, eos_token_id=list(eos), streamer=streamer, return_dict_in_generate=True)
        assert torch.equal(out.sequences, expected) and streamer.got == expected[0].tolist() and streamer.ended == 1
        assert len(out.trace.tokens) == expected.shape[1] - 8 and out.trace.stopped == "eos"
        assert out.past_key_values.get_seq_length() == expected.shape[1] - 1
        assert out.trace.calls <= -(-len(out.trace.tokens) // 7) and sum(out.trace.drafted) <= len(out.trace.tokens)


def test_the_returned_cache_is_the_text_s(model):
    out = generate(model, PROMPT, drafter=Wild(3, greedy(model)[0].tolist()), max_new_tokens=15, do_sample=False, return_dict_in_generate=True)
    onward = model.generate(out.sequences, past_key_values=out.past_key_values, max_new_tokens=9, do_sample=False)
    assert torch.equal(onward, greedy(model, 24))


def test_criteria_are_asked_for_each_token(model):
    plain = greedy(model)[0].tolist()
    def full(ids, scores, **kw): return torch.tensor([ids.shape[1] >= 13])
    for criteria in (StoppingCriteriaList([full]), [full]):
        out = generate(model, PROMPT, drafter=Oracle(plain), max_new_tokens=24, do_sample=False, stopping_criteria=criteria)
        assert out[0].tolist() == plain[:13]


@pytest.mark.parametrize("rule", ["walk", "rejection", "kseq", "block", "traversal"])
@pytest.mark.parametrize("drawn", [{}, dict(do_sample=True, seed=4)])
def test_criteria_are_asked_of_the_text_alone(model, rule, drawn):
    "Once for each token, in order, never of a guess: they may count their calls"
    asked, truth = [], greedy(model)[0].tolist()
    def ninth(ids, scores, **kw):
        asked.append(ids[0].tolist())
        return torch.tensor([len(asked) == 9])
    for drafter in (Oracle(truth), Wild(2, truth), model):
        asked.clear()
        out = generate(model, PROMPT, drafter=drafter, rule=rule, max_new_tokens=20, stopping_criteria=[ninth], **{"do_sample": False, **drawn})
        assert asked == [out[0, :n].tolist() for n in range(9, 18)] and out.shape == (1, 17)


def test_whoever_listens_is_told_that_a_call_failed(model):
    def broken(ids, scores): return 1 / 0
    for call, error in ((dict(num_beams=2), ValueError), (dict(drafter="telepathy"), ValueError), (dict(logits_processor=[broken]), ZeroDivisionError), (dict(k=2.5), ValueError)):
        for run in (generate, model.generate):
            streamer = Recorder()
            more = {} if run is generate else dict(custom_generate=generate)
            if more and "num_beams" in call: continue            # the library refuses these before it asks us
            with pytest.raises(error): run(PROMPT, max_new_tokens=5, streamer=streamer, **call, **more) if more else run(model, PROMPT, max_new_tokens=5, streamer=streamer, **call)
            assert streamer.ended == 1


@pytest.mark.parametrize("run", ["ours", "theirs", "a folder"])
def test_an_end_is_told_once_even_if_it_fails(model, run):
    class Fails(Recorder):
        def end(self):
            super().end()
            raise LookupError("the reader is gone")
    class Both(Fails):
        def put(self, ids):
            super().put(ids)
            if len(self.got) > 10: raise KeyError("first")
    for kind, error in ((Fails, LookupError), (Both, KeyError)):
        streamer = kind()
        more = {"ours": {}, "theirs": dict(custom_generate=generate), "a folder": dict(custom_generate=custom_generate_folder(), trust_remote_code=True)}[run]
        with pytest.raises(error): (model.generate if more else lambda *a, **kw: generate(model, *a, **kw))(PROMPT, max_new_tokens=5, do_sample=False, streamer=streamer, **more)
        assert streamer.ended == 1


def test_noise_that_is_put_back_is_nobody_elses():
    "A thread that builds something leaves the generator as it was; what another draws meanwhile is not drawn again by a third"
    inside, drawn = threading.Event(), []
    def builds():
        with undisturbed():
            inside.set()
            time.sleep(.1)
    thread = threading.Thread(target=builds)
    thread.start()
    inside.wait()
    drawn.append(_noise(None, 0, True).gen.random())
    thread.join()
    drawn.append(_noise(None, 0, True).gen.random())
    assert drawn[0] != drawn[1]


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


def test_padding_is_never_a_token(model):
    padded = torch.tensor([[0, 0, *PROMPT[0].tolist()]])
    mask = (torch.arange(10) >= 2).long()[None]
    for options in ({}, dict(repetition_penalty=1.4)):
        plain = model.generate(padded, attention_mask=mask, max_new_tokens=20, do_sample=False, **options)
        assert torch.equal(generate(model, padded, attention_mask=mask, drafter=Wild(1, PROMPT[0].tolist()), max_new_tokens=20, do_sample=False, **options), plain)
    assert torch.equal(plain[:, :10], padded)


def test_sampling_has_the_models_law(model):
    """Without a seed: 3 000 first tokens under rejection against the model's own law (chi-square over the tokens whose expected
    count is 5 or more; a value above dof + 6·sqrt(2·dof) is chance about once in 10^6). At another temperature it is far above."""
    target, n, q = HFTarget(model), 3000, np.full(48, 1 / 48)
    [scores] = target.score([(target.open(PROMPT[0].tolist()), Draft())])
    p = torch.from_numpy(scores.row(0) / 3).softmax(-1).numpy()
    def chi_square(temperature):
        dice, row, counts = Dice(0), Law(temperature=temperature).row(None, scores, 0), np.zeros(48)
        for _ in range(n):
            draft = Draft([dice.categorical(q), dice.categorical(q)], [-1, -1], [q, q])
            counts[verify_rejection(draft, [row] * 3, dice).tokens[0]] += 1
        big = p * n >= 5
        return float(((counts - n * p) ** 2 / (n * p))[big].sum()), int(big.sum())
    value, dof = chi_square(3.)
    assert value < dof + 6 * (2 * dof) ** .5 < chi_square(2.)[0]


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


# -- what is refused, by name

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


@pytest.mark.parametrize("ids,says", [(torch.zeros(1, 0, dtype=torch.long), "empty"), (torch.tensor([[1, 48]]), "0 to 47"), (torch.tensor([[-1]]), "0 to 47"),
                                      (torch.tensor([1, 2]), "L")])
def test_bad_prompts(model, ids, says):
    with pytest.raises(ValueError, match=says): generate(model, ids, max_new_tokens=3)


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


# -- complete by construction

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


# -- prompts

@pytest.mark.parametrize("form", [PROMPT[0].tolist(), PROMPT.tolist(), PROMPT.numpy(), PROMPT.int(), dict(input_ids=PROMPT), hf.BatchEncoding(dict(input_ids=PROMPT, attention_mask=torch.ones_like(PROMPT))),
                                  hf.BatchEncoding(dict(input_ids=PROMPT[0].tolist(), attention_mask=[1] * 8))], ids=lambda f: type(f).__name__)
def test_forms_of_a_prompt(model, form):
    for call in (dict(input_ids=form), dict(inputs=form)):
        assert torch.equal(generate(model, **call, max_new_tokens=24, do_sample=False), greedy(model))


@pytest.mark.parametrize("form,says", [(PROMPT.float(), "whole numbers"), (PROMPT.bool(), "whole numbers"), ([1.5, 2.5], "whole numbers"), ("a text", "tokenizer"),
                                       ([[1, 2], []], "empty"), ([], "empty"), (dict(input_ids=PROMPT, attention_mask=PROMPT), "given twice")])
def test_forms_that_say_why(model, form, says):
    with pytest.raises(ValueError, match=says): generate(model, form, max_new_tokens=3, attention_mask=torch.ones_like(PROMPT))


@pytest.mark.filterwarnings("ignore")
def test_a_list_is_what_its_tensor_is(model):
    """The pad id in a list of ids means what it means in a tensor; a row of unequal length, what it means alone; a mask that is given counts"""
    rows = [[3, 14, 0, 9, 26], [5, 0, 7], [33, 2, 8, 1]]
    told = dict(max_new_tokens=12, do_sample=False, pad_token_id=0)
    def alone(row, **more): return model.generate(torch.tensor([row]), **told, **more)[0, len(row):].tolist()
    for batch in (rows, rows[:1], rows[1:2]):
        out = generate(model, batch, **told)
        assert [row[-12:].tolist() for row in out] == [alone(row) for row in batch]
    for ends in ([0, 47], torch.tensor([0, 47])):
        assert generate(model, rows, eos_token_id=ends, **told)[1, 5:].tolist()[:3] == alone(rows[1], eos_token_id=ends)[:3], "the end is no padding"
    masks, ones = [[1, 1, 1, 1, 1], [1, 1, 1], [0, 1, 1, 1]], [torch.ones(1, 3, dtype=torch.long), torch.tensor([[0, 1, 1, 1]])]
    for call in (dict(input_ids=rows, attention_mask=masks), dict(input_ids=dict(input_ids=rows, attention_mask=masks))):
        out = generate(model, **call, **told)
        assert [out[i, 5:].tolist() for i in (1, 2)] == [alone(rows[i], attention_mask=ones[i - 1]) for i in (1, 2)]
    with pytest.raises(ValueError, match="as long as the prompts"): generate(model, rows, attention_mask=torch.ones(3, 5), **told)


@pytest.mark.parametrize("form", [PROMPT.numpy().astype(np.uint16), PROMPT.to(torch.uint32), [PROMPT[0]], [PROMPT[0].numpy()], [[t for t in PROMPT[0]]], (PROMPT[0].tolist(),)], ids=str)
def test_more_forms_of_a_prompt(model, form):
    assert torch.equal(generate(model, form, drafter="lookup", max_new_tokens=9, do_sample=False), greedy(model, 9))


@pytest.mark.parametrize("given,says", [([[1, 2], [3.5]], "whole numbers"), ([[1.0, 2], [3]], "whole numbers"), ([[True, False], [True]], "whole numbers"), ([torch.tensor([1., 2]), torch.tensor([3.])], "whole numbers"),
                                        ([["a"], [1, 2]], "tokenizer|whole numbers"), (PROMPT.to("meta"), "meta tensor"), (PROMPT.to_sparse(), "sparse tensor"),
                                        (torch.nested.nested_tensor([torch.tensor([1, 2]), torch.tensor([3])]), "nested tensor"), (torch.zeros(2, 0, dtype=torch.long), "empty")], ids=str)
def test_rows_of_what_are_no_ids(model, given, says):
    with pytest.raises(ValueError, match=says): generate(model, given, max_new_tokens=3, do_sample=False)


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


@pytest.mark.parametrize("given,says", [([dict(role="user", content="hi")], "chat\\(tokenizer"), ({}, "needs input_ids"), ({3, 4}, "whole numbers"), ("", "empty")])
def test_what_is_no_prompt_says_what_to_do(model, given, says):
    with pytest.raises(ValueError, match=says): generate(model, given, tokenizer=lambda texts: dict(input_ids=[[] for _ in texts]), max_new_tokens=3)


@pytest.mark.parametrize("options", [dict(repetition_penalty=1.7), dict(encoder_repetition_penalty=1.5), dict(no_repeat_ngram_size=1), dict(encoder_no_repeat_ngram_size=2),
                                     dict(sequence_bias=[[[5, 9], 5.]], bad_words_ids=[[0, 7]])], ids=lambda o: ", ".join(o))
def test_penalties_of_a_batch_mind_no_padding(model, options):
    rows = [[3, 4, 3, 3, 14, 15], [5, 3], [7], [26, 9, 5, 3, 2, 8]]
    for drafter in ("none", Wild(1)):
        out = generate(model, rows, drafter=drafter, max_new_tokens=12, do_sample=False, **options)
        for row, text in zip(rows, out):
            assert text[6:].tolist() == model.generate(torch.tensor([row]), max_new_tokens=12, do_sample=False, **options)[0, len(row):].tolist()


def test_no_prompt_is_the_first_token(model):
    own = Llama.from_hf(model)
    for bos in (3, 9):
        plain = model.generate(max_new_tokens=9, do_sample=False, bos_token_id=bos)
        for m in (model, own): assert torch.equal(generate(m, max_new_tokens=9, do_sample=False, bos_token_id=bos), plain)
    with pytest.raises(ValueError, match="bos_token_id"): generate(own, max_new_tokens=3)


@pytest.mark.parametrize("name", ["llama", "mistral, window 5", "bloom, alibi", "mpt, alibi", "gpt2", "gpt-neo, local layers", "llama4, chunks of 6"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.filterwarnings("ignore")
def test_masks_give_plains_text_or_are_refused(name, dtype):
    model = build(name, dtype)
    ids = torch.tensor([[0, 0, 5, 7, 0, 9, 11, 23, 8, 40, 3, 30]])
    masks = {"left": [0, 1], "inside": [4, 5], "both": [0, 4], "trailing": [11], "all but one": [*range(11)]}
    for what, zeros in masks.items():
        mask = torch.ones_like(ids)
        mask[0, zeros] = 0
        for call in (dict(attention_mask=mask),) + (dict(pad_token_id=0),) * (what == "both"):
            plain = model.generate(ids, max_new_tokens=20, do_sample=False, **call)
            try: ours = generate(model, ids, drafter=Wild(1, plain[0].tolist()), max_new_tokens=20, do_sample=False, **call)
            except ValueError as e: assert "mask" in str(e)
            else: assert torch.equal(ours, plain), what
    if name in ("llama", "gpt2"):
        mask[0] = 1
        mask[0, [0, 1, 4]] = 0
        assert torch.equal(generate(model, ids, attention_mask=mask, max_new_tokens=20, do_sample=False), model.generate(ids, attention_mask=mask, max_new_tokens=20, do_sample=False))


@pytest.mark.parametrize("given,says", [
    (dict(attention_mask=torch.full((1, 8), 2)), "zeros and ones"), (dict(attention_mask=torch.where(torch.arange(8)[None] < 2, -1e9, 0.)), "zeros and ones"),
    *[(dict(attention_mask=torch.ones(shape)), "must be .1, 8.") for shape in ((1, 6), (1, 12), (8,), (2, 8), (1, 8, 8))],
    (dict(position_ids=torch.arange(8)), "must be .rows, 8."), (dict(position_ids=torch.arange(7)[None]), "must be .rows, 8."), (dict(position_ids="yes"), "position_ids"),
    (dict(attention_mask="yes"), "attention_mask")])
def test_what_is_no_mask_is_refused(model, given, says):
    "Twos move positions in plain decoding; a mask of another shape is another prompt's"
    with pytest.raises(ValueError, match=says): generate(model, PROMPT, max_new_tokens=3, do_sample=False, **given)


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


# -- what comes back

def pieces(run):
    class Pieces:
        def __init__(self): self.got, self.ended = [], 0
        def put(self, x): self.got.append(x)
        def end(self): self.ended += 1
    streamer = Pieces()
    run(streamer)
    assert streamer.ended == 1
    return [(x.dtype, x.shape, x.tolist()) for x in streamer.got]


def test_dtype_and_streamed_pieces_are_plains(model):
    options = dict(max_new_tokens=9, do_sample=False)
    for ids in (PROMPT, PROMPT.int()):
        plain, ours = model.generate(ids, **options), generate(model, ids, drafter=Oracle(greedy(model)[0].tolist()), **options)
        assert torch.equal(ours, plain) and ours.dtype == plain.dtype
        expected = pieces(lambda s: model.generate(ids, streamer=s, **options))
        folder = dict(custom_generate=custom_generate_folder(), trust_remote_code=True)
        for run in (lambda s: generate(model, ids, streamer=s, **options), lambda s: model.generate(ids, streamer=s, custom_generate=generate, **options),
                    lambda s: model.generate(ids, streamer=s, drafter="lookup", **folder, **options)):
            assert pieces(run) == expected


@pytest.mark.parametrize("options", [{}, dict(repetition_penalty=1.3), dict(do_sample=True, seed=3), dict(do_sample=True, seed=3, temperature=.7, top_k=12, top_p=.9, no_repeat_ngram_size=2)])
def test_scores_and_logits_are_plains(model, options):
    told = dict(max_new_tokens=12, return_dict_in_generate=True, output_scores=True, output_logits=True)
    seed = options.get("seed")
    first = generate(model, PROMPT, drafter=Wild(1, greedy(model)[0].tolist()), **told, **options)
    given = first.sequences[0].tolist()
    class Forced(LogitsProcessor):
        "Plain decoding along our text: its scores before this processor are those to compare with"
        def __call__(self, ids, scores): return torch.full_like(scores, -1e9).index_fill_(1, torch.tensor([given[ids.shape[1]]]), 0)
    rest = {k: v for k, v in options.items() if k != "seed"}
    plain = model.generate(PROMPT, **told, **rest) if seed is None else model.generate(PROMPT, **told, logits_processor=LogitsProcessorList([Forced()]))
    assert torch.equal(first.sequences, plain.sequences) and isinstance(first, type(plain)) and len(first.scores) == len(first.logits) == 12
    for ours, theirs in zip(first.logits, plain.logits): assert ours.dtype == theirs.dtype and ours.shape == theirs.shape and torch.allclose(ours, theirs, atol=1e-5)
    if seed is None: assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(first.scores, plain.scores))
    else: assert all(bool(s[0, t] > -1e30) for s, t in zip(first.scores, given[8:]))
    again = generate(model, PROMPT, drafter="none", max_new_tokens=12, **options)
    assert torch.equal(first.sequences, again)


@pytest.mark.parametrize("rule", ["rejection", "kseq", "walk"])
def test_to_be_told_changes_nothing(model, rule):
    "Also where the text depends on what the drafter knows of the law: beside a processor with a memory, min-p"
    class Count(LogitsProcessor):
        def __init__(self): self.calls = 0
        def __call__(self, ids, scores):
            self.calls += 1
            return scores.index_fill(1, torch.tensor([self.calls * 7 % 48]), -float("inf"))
    for options in (dict(min_p=.1), dict(temperature=.7, top_k=9, min_p=.1), dict(repetition_penalty=1.3)):
        def text(**told):
            return generate(model, PROMPT, drafter=model, rule=rule, do_sample=True, seed=3, max_new_tokens=24, logits_processor=[Count()], **options, **told)
        told = text(return_dict_in_generate=True, output_scores=True)
        assert torch.equal(text(), told.sequences) and len(told.scores) == 24


def test_criteria_that_read_scores(model):
    def sure(ids, scores, **kw): return torch.tensor([len(scores) >= 5 and scores[-1].shape == (1, 48)])
    told = dict(max_new_tokens=20, do_sample=False, return_dict_in_generate=True, output_scores=True, stopping_criteria=[sure])
    plain = model.generate(PROMPT, **{**told, "stopping_criteria": StoppingCriteriaList([sure])})
    ours = generate(model, PROMPT, drafter=Oracle(greedy(model)[0].tolist()), **told)
    assert torch.equal(ours.sequences, plain.sequences) and ours.sequences.shape == (1, 13) and len(ours.scores) == 5


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("first", ["ours", "plain"])
@pytest.mark.filterwarnings("ignore")
def test_turns(name, first):
    "A cache goes on from turn to turn, in windows and chunks too, whoever filled it and whoever reads it next"
    model, told = build(name), dict(max_new_tokens=12, do_sample=False, return_dict_in_generate=True)
    def more(ids): return torch.cat([ids, torch.tensor([[7, 9, 11]])], 1)
    for drafter in ("lookup", Wild(1)):
        out = generate(model, PROMPT, drafter=drafter, **told) if first == "ours" else model.generate(PROMPT, **told)
        past, turn = out.past_key_values, more(out.sequences)
        if past is None: return                                  # configured without one, and so is plain's
        second = generate(model, turn, drafter=drafter, past_key_values=past, **told)
        assert torch.equal(second.sequences, model.generate(turn, max_new_tokens=12, do_sample=False))
        assert past.get_seq_length() == second.sequences.shape[1] - 1, "the caller's cache grows along"
        third = more(second.sequences)[:, :38]
        if third.shape[1] > past.get_seq_length():
            assert torch.equal(model.generate(third, past_key_values=past, max_new_tokens=2, do_sample=False), model.generate(third, max_new_tokens=2, do_sample=False))


def test_turns_read_only_what_is_new(model):
    told = dict(max_new_tokens=12, do_sample=False, return_dict_in_generate=True)
    for m in (model, Llama.from_hf(model)):
        out = generate(m, PROMPT, **told)
        turn = torch.cat([out.sequences, torch.tensor([[7, 9, 11]])], 1)
        fed, target = [], type(as_target(m))
        forward = target.forward
        target.forward = lambda self, feeds: fed.append(len(feeds[0].tokens)) or forward(self, feeds)
        try: second = generate(m, turn, drafter="none", past_key_values=out.past_key_values, **told)
        finally: target.forward = forward
        assert sum(fed[:2]) == 4 and torch.equal(second.sequences, model.generate(turn, max_new_tokens=12, do_sample=False))
    with pytest.raises(ValueError, match="holds 34.*prompt 8"): generate(model, PROMPT, past_key_values=model.generate(turn, **told).past_key_values, **told)
    with pytest.raises(ValueError, match="StaticCache"): generate(model, PROMPT, past_key_values=hf.StaticCache(config=model.config, max_cache_len=64), **told)


@pytest.mark.parametrize("name", ["llama", "mistral, window 5"])
@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_an_interrupted_call_leaves_rows_of_text_alone_in_the_callers_cache(name, error):
    model, told = build(name), dict(max_new_tokens=12, do_sample=False)
    first = model.generate(PROMPT, return_dict_in_generate=True, **told)
    past, turn = first.past_key_values, torch.cat([first.sequences, torch.tensor([[7, 9, 11]])], 1)
    truth = model.generate(turn, **told)
    class Breaks(Recorder):
        def put(self, ids):
            super().put(ids)
            if len(self.got) == turn.shape[1] + 5: raise error
    streamer = Breaks()
    with pytest.raises(error): generate(model, turn, drafter=Wild(1, truth[0].tolist()), past_key_values=past, streamer=streamer, **told)
    said = streamer.got
    assert said == truth[0, :len(said)].tolist() and past.get_seq_length() < turn.shape[1] + 12
    onward = torch.tensor([truth[0, :past.get_seq_length()].tolist() + [5, 3, 2]])
    assert torch.equal(generate(model, onward, past_key_values=past, **told), model.generate(onward, **told))


def test_a_cache_is_asked_whose_it_is(model):
    told = dict(max_new_tokens=3, do_sample=False, return_dict_in_generate=True)
    two = model.generate(PROMPT.repeat(2, 1), attention_mask=torch.ones(2, 8, dtype=torch.long), **told)
    fewer = hf.LlamaForCausalLM(hf.LlamaConfig(**{**SIZES, "num_hidden_layers": 2})).double().eval()
    short = fewer.generate(PROMPT, **told)
    own, other = Llama.from_hf(model), generate(Llama.from_hf(fewer), PROMPT, **told)
    for m, out in ((model, two), (model, short), (own, other)):
        turn = torch.cat([out.sequences[:1], PROMPT], 1)
        with pytest.raises(ValueError, match="another model, or of several"): generate(m, turn, past_key_values=out.past_key_values, **told)
    past, turn = model.generate(PROMPT, **told).past_key_values, torch.cat([PROMPT] * 2, 1)
    with pytest.raises(ValueError, match="masked tokens"): generate(model, turn, attention_mask=torch.tensor([[0] + [1] * 15]), past_key_values=past, **told)
    with pytest.raises(ValueError, match="give one"): generate(model, turn, cache=past, past_key_values=past, **told)


@pytest.mark.parametrize("form", ["llama", "mistral, window 5", "qwen3, mixed windows"])
def test_a_stock_cache_of_another_precision(form):
    "Joined as plain joins it; what plain cannot join is refused by what was given and what is made"
    model, told = build(form, torch.float32), dict(max_new_tokens=12, do_sample=False)
    def filled(dtype, m=model):
        with torch.no_grad(): cache = m(PROMPT[:, :6], past_key_values=hf.DynamicCache(config=m.config)).past_key_values
        for layer in cache.layers: layer.keys, layer.values, layer.dtype = layer.keys.to(dtype), layer.values.to(dtype), dtype
        return cache
    for dtype in (torch.float16, torch.bfloat16):
        past = filled(dtype)
        found, wanted = (f(PROMPT, past_key_values=c, **told) for f, c in ((lambda *a, **kw: generate(model, *a, **kw), past), (model.generate, filled(dtype))))
        assert torch.equal(found, wanted) and past.get_seq_length() == 19
        onward = torch.cat([found, PROMPT], 1)
        copied = hf.DynamicCache(config=model.config)
        for i, layer in enumerate(past.layers): copied.update(layer.keys.clone(), layer.values.clone(), i)
        assert torch.equal(generate(model, onward, past_key_values=past, **told), model.generate(onward, past_key_values=copied, **told))
    with pytest.raises(ValueError, match="float64.*float32.*another model"): generate(model, PROMPT, past_key_values=filled(torch.float64), **told)


@pytest.mark.parametrize("changes", [dict(num_key_value_heads=4), dict(head_dim=16), dict(num_key_value_heads=1), dict(num_hidden_layers=5)])
def test_a_stock_cache_of_another_form_is_named(model, changes):
    other = hf.LlamaForCausalLM(hf.LlamaConfig(**{**SIZES, **changes})).double().eval()
    told = dict(max_new_tokens=3, do_sample=False)
    for made in ("stock", "ours"):
        if made == "ours": past = generate(other, PROMPT, return_dict_in_generate=True, **told).past_key_values
        else: past = other.generate(PROMPT, return_dict_in_generate=True, **told).past_key_values
        with pytest.raises(ValueError, match="another model.*3 layers|heads of .* heads of 8 numbers.*another model"): generate(model, torch.cat([PROMPT] * 3, 1), past_key_values=past, **told)


@pytest.mark.parametrize("cache", [lambda m: hf.StaticCache(config=m.config, max_cache_len=64), lambda m: hf.EncoderDecoderCache(hf.DynamicCache(), hf.DynamicCache()), lambda m: "dynamic",
                                   lambda m: tuple((torch.zeros(1, 2, 3, 8),) * 2 for _ in range(3)), lambda m: 3])
def test_what_is_no_cache_of_rows_is_named(model, cache):
    given = cache(model)
    with pytest.raises(ValueError, match=f"DynamicCache, got {type(given).__name__}: give"): generate(model, PROMPT, past_key_values=given, max_new_tokens=3, do_sample=False)


def test_batches_in_threads(model):
    "Whoever serves has slots of their own, though they share a model"
    rows = [PROMPT[0].tolist(), [5, 9, 4], [*range(1, 11)]]
    wanted, found = generate(model, rows, drafter="none", max_new_tokens=16, do_sample=False), {}
    def serve(i): found[i] = [generate(model, rows, drafter=Wild(i + j), max_new_tokens=16, do_sample=False) for j in range(3)]
    threads = [threading.Thread(target=serve, args=(i,)) for i in range(3)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert len(found) == 3 and all(torch.equal(text, wanted) for texts in found.values() for text in texts)


def test_turns_with_a_drafter_that_wants_the_whole_prompt(model):
    class Curious(Wild):
        asks = Asks(hidden=(1,))
        def begin(self, ctx, state):
            assert state.prefilled.hidden[1].shape[0] == len(ctx.tokens) - 1
    told = dict(max_new_tokens=12, do_sample=False, return_dict_in_generate=True)
    out = generate(model, PROMPT, drafter=Curious(), **told)
    turn = torch.cat([out.sequences, torch.tensor([[7, 9, 11]])], 1)
    assert torch.equal(generate(model, turn, drafter=Curious(), past_key_values=out.past_key_values, **told).sequences, model.generate(turn, max_new_tokens=12, do_sample=False))


def test_a_cache_made_in_inference_mode_goes_on_outside(model):
    with torch.inference_mode(): out = generate(model, PROMPT, drafter="lookup", max_new_tokens=12, do_sample=False, return_dict_in_generate=True)
    onward = dict(past_key_values=out.past_key_values, max_new_tokens=12, do_sample=False)
    assert torch.equal(generate(model, out.sequences, **onward), greedy(model))
    with torch.inference_mode(): out = generate(model, PROMPT, drafter="lookup", max_new_tokens=12, do_sample=False, return_dict_in_generate=True)
    assert torch.equal(model.generate(out.sequences, **{**onward, "past_key_values": out.past_key_values}), greedy(model))


@pytest.mark.parametrize("drafter", ["auto", "recycling", "pool", "lookahead", "model"])
def test_the_callers_random_state(model, drafter):
    "Greedy decoding draws nothing; a drafter that builds modules draws for itself"
    torch.manual_seed(3)
    before = torch.get_rng_state()
    class Builder(Wild):
        def bind(self, target): torch.nn.Linear(3, 3)
        def begin(self, ctx, state): torch.nn.Linear(3, 3)
    generate(model, PROMPT, drafter=build("gpt2") if drafter == "model" else drafter, max_new_tokens=5, do_sample=False) if drafter != "model" else None
    torch.set_rng_state(before)
    generate(model, PROMPT, drafter=Builder() if drafter == "model" else drafter, max_new_tokens=5, do_sample=False)
    assert torch.equal(torch.get_rng_state(), before)


def test_an_own_model_is_left_without_marks(model):
    own = Llama.from_hf(model)
    before = set(vars(own))
    generate(own, PROMPT, drafter="lookup", max_new_tokens=5, do_sample=False)
    assert set(vars(own)) == before


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


def test_a_text_is_a_prompt_and_its_last_token_heals(original):
    model, tokenizer = original
    own, text = Llama.from_hf(model), "See the documentation at http"
    ids = tokenizer(text, return_tensors="pt").input_ids
    options = dict(max_new_tokens=8, do_sample=False, tokenizer=tokenizer)
    plain = model.generate(ids, **options)
    assert torch.equal(generate(own, text, **options), plain) and torch.equal(generate(model, [text], **options), plain)
    ids = tokenizer("The capital of Franc", return_tensors="pt").input_ids
    healed = model.generate(ids, token_healing=True, pad_token_id=2, **options)
    for m in (model, own): assert torch.equal(generate(m, ids, token_healing=True, pad_token_id=2, **options), healed)


def test_help_names_the_parameters():
    shown = inspect.getdoc(generate) + str(inspect.signature(generate))
    for word in ("drafter", "seed", "rule", "tokenizer", "streamer", "max_new_tokens", "past_key_values", "output_scores", "int | None", "SpeculativeOutput"): assert word in shown
