"""`generate` against `model.generate`: many families, every stop, every error; small random models in float64."""
import copy
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
import transformers as hf
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteriaList

from drafters import Oracle, Wild
from specdec_nb import Dice, Draft, HFTarget, Keyed, Law, Trace, generate, verify_rejection, verify_walk
from specdec_nb.decode import Drafter, decode

SIZES = dict(vocab_size=48, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
             max_position_embeddings=128, initializer_range=.5, bos_token_id=None, eos_token_id=None, pad_token_id=None)
GPT = dict(n_embd=32, n_layer=3, n_head=4, n_positions=128)
FAMILIES = {  # name: (configuration, what differs, whether it scores trees)
    "llama": ("LlamaConfig", {}, True),
    "llama tied": ("LlamaConfig", dict(tie_word_embeddings=True), True),
    "llama dynamic rope": ("LlamaConfig", dict(rope_parameters=dict(rope_type="dynamic", factor=2., rope_theta=1e4), max_position_embeddings=40), True),
    "mistral, window 5": ("MistralConfig", dict(sliding_window=5), True),
    "qwen2, mixed windows": ("Qwen2Config", dict(use_sliding_window=True, sliding_window=5, max_window_layers=1), True),
    "qwen3, mixed windows": ("Qwen3Config", dict(use_sliding_window=True, sliding_window=5, max_window_layers=1, head_dim=8), True),
    "gemma2, window 4": ("Gemma2Config", dict(sliding_window=4, head_dim=8, query_pre_attn_scalar=8, tie_word_embeddings=False), True),
    "gemma3, window 4": ("Gemma3TextConfig", dict(sliding_window=4, head_dim=8, query_pre_attn_scalar=8, tie_word_embeddings=False), True),
    "llama4, chunks of 6": ("Llama4TextConfig", dict(attention_chunk_size=6, num_local_experts=2, intermediate_size_mlp=64, head_dim=8), True),
    "gpt-oss, sinks": ("GptOssConfig", dict(sliding_window=5, num_local_experts=4, num_experts_per_tok=2, head_dim=8), True),
    "mixtral": ("MixtralConfig", dict(sliding_window=4, num_local_experts=4), True),
    "phi3, window 5": ("Phi3Config", dict(sliding_window=5), True),
    "gpt2": ("GPT2Config", GPT, True),
    "gpt-neox": ("GPTNeoXConfig", {}, True),
    "opt": ("OPTConfig", dict(ffn_dim=64, word_embed_proj_dim=32), True),
    "bigcode, one kv head": ("GPTBigCodeConfig", GPT, True),
    "bloom, alibi": ("BloomConfig", dict(n_layer=3, n_head=4, tie_word_embeddings=False), False),
    "mpt, alibi": ("MptConfig", dict(d_model=32, n_heads=4, n_layers=3, max_seq_len=128), False),
    "gpt-neo, local layers": ("GPTNeoConfig", dict(num_layers=3, num_heads=4, attention_types=[[["global", "local", "global"], 1]], window_size=5), False),
}
PROMPT = torch.tensor([[3, 14, 15, 9, 26, 5, 7, 33]])


def build(name, dtype=torch.float64):
    config, changes, _ = FAMILIES[name]
    torch.manual_seed(0)
    model = hf.AutoModelForCausalLM.from_config(getattr(hf, config)(**{**SIZES, **changes})).to(dtype).eval()
    if hasattr(model, "set_experts_implementation"): model.set_experts_implementation("eager")      # the grouped kernel has no float64
    return model


@pytest.fixture(scope="module")
def model(): return build("llama")


def greedy(model, n=24, **options): return model.generate(PROMPT, max_new_tokens=n, do_sample=False, **options)


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
    state, fed = target.open([1, 2, 3]), []
    plain = target.forward
    target.forward = lambda cache, tokens, *rest, **kw: fed.append(len(tokens)) or plain(cache, tokens, *rest, **kw)
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
    (dict(num_beams=3), "num_beams"), (dict(num_return_sequences=2, do_sample=True), "num_return_sequences"), (dict(max_new_tokens=0), "max_new_tokens"),
    (dict(max_new_tokens=-3), "max_new_tokens"), (dict(do_sample=True, temperature=0.), "temperature"), (dict(output_scores=True), "output_scores"),
    (dict(output_hidden_states=True), "output_hidden_states"), (dict(prompt_lookup_num_tokens=3), "drafter='lookup'"), (dict(stop_strings=["a"]), "tokenizer"),
    (dict(assistant_model=1), "assistant_model"), (dict(drafter="telepathy"), "known: .*lookup, .*none"), (dict(rule="hope"), "known: kseq, block, traversal, typical, lenient, walk, rejection"),
    (dict(k=-1), "k must"), (dict(inputs_embeds=torch.zeros(1, 3, 32)), "inputs_embeds"), (dict(past_key_values=hf.DynamicCache()), "past_key_values"),
    (dict(cache_implementation="static"), "cache_implementation"), (dict(position_ids=torch.arange(8)[None] + 3), "position_ids"),
    (dict(guidance_scale=2.), "guidance_scale"),
])
@pytest.mark.filterwarnings("ignore")
def test_refused_by_name(model, options, says):
    with pytest.raises(ValueError, match=says): generate(model, PROMPT, **{"max_new_tokens": 4, **options})


def test_unknown_arguments_are_not_swallowed(model):
    with pytest.raises(ValueError, match="max_new_tokenz"): generate(model, PROMPT, max_new_tokenz=3)


@pytest.mark.parametrize("ids,says", [(torch.zeros(1, 0, dtype=torch.long), "empty"), (torch.tensor([[1, 48]]), "0 to 47"), (torch.tensor([[-1]]), "0 to 47"),
                                      (torch.tensor([[1], [2]]), "batches"), (torch.tensor([1, 2]), "L")])
def test_bad_prompts(model, ids, says):
    with pytest.raises(ValueError, match=says): generate(model, ids, max_new_tokens=3)


@pytest.mark.parametrize("config,changes", [("MambaConfig", dict(num_hidden_layers=1, state_size=4)), ("T5Config", dict(d_model=32, d_kv=8, d_ff=32, num_layers=1)),
                                            ("Lfm2Config", dict(layer_types=["conv", "full_attention", "conv"])),
                                            ("OpenAIGPTConfig", GPT)])
def test_models_that_cannot_roll_back_are_refused(config, changes):
    kind = hf.AutoModelForSeq2SeqLM if config == "T5Config" else hf.AutoModelForCausalLM
    odd = kind.from_config(getattr(hf, config)(**{**SIZES, **changes})).eval()
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
    code = ("import torch, transformers; from specdec_nb.decode import as_target;"
            "c = transformers.LlamaConfig(vocab_size=9, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2);"
            "m = transformers.AutoModelForCausalLM.from_config(c).eval(); from specdec_nb import Llama;"
            "print(type(as_target(m)).__name__, type(as_target(Llama.from_hf(m))).__name__)")
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert out.stdout.split() == ["HFTarget", "LlamaTarget"], out.stderr
