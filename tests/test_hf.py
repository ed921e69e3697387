"""Models of Hugging Face as targets: which may score trees, which are no causal decoders, wrappers, vision-language models, odd weights."""
import warnings

import pytest
import torch
import transformers as hf
import numpy as np

from drafters import Wild
from specdec_nb import Dice, Draft, HFTarget, Law, Trace, generate, verify_rejection
from specdec_nb.decode import decode
from specdec_nb.models.trials import tree_equals_paths
from specdec_nb.models.hub import load_hf
from specdec_nb.roles import read
from families import GPT, PROMPT, SIZES, VISION, build, greedy, seeing

pytestmark = pytest.mark.filterwarnings("ignore")
LLAMA4 = dict(num_local_experts=2, intermediate_size_mlp=64, head_dim=8, no_rope_layers=[1, 0, 1])
NEO = dict(num_layers=3, num_heads=4, attention_types=[[["global", "local", "global"], 1]])


def make(config, **changes):
    torch.manual_seed(0)
    model = hf.AutoModelForCausalLM.from_config(getattr(hf, config)(**{**SIZES, "max_position_embeddings": 512, **changes}))
    if hasattr(model, "set_experts_implementation"): model.set_experts_implementation("eager")
    return model.double().eval()


def same(model, ids, n=20, drafters=("lookup", "auto"), **options):
    "Whether `generate` gives plain's text, with trees that are right for a while among the drafts"
    options = dict(options, repetition_penalty=1.5)
    plain = model.generate(ids, max_new_tokens=n, do_sample=False, **options)
    assert len(set(plain[0, ids.shape[1]:].tolist())) > 2, "a model that repeats itself passes everything"
    return all(torch.equal(generate(model, ids, drafter=d, max_new_tokens=n, do_sample=False, **options), plain)
               for d in (*drafters, Wild(1, plain[0].tolist())))


def prompt(n, seed=0): return torch.randint(2, 48, (1, n), generator=torch.Generator().manual_seed(seed))


# -- rows and positions

@pytest.mark.parametrize("config,changes,length,trees", [
    ("GPTNeoConfig", dict(NEO, window_size=16), 40, False), ("GPTNeoConfig", dict(NEO, window_size=256), 300, False),
    ("GPTNeoConfig", dict(NEO, window_size=100), 95, False),
    ("Llama4TextConfig", dict(LLAMA4, attention_chunk_size=64, floor_scale=100, attn_scale=.9), 90, False),
    ("Llama4TextConfig", dict(LLAMA4, attention_chunk_size=32), 60, True),
    ("MistralConfig", dict(sliding_window=64), 90, True), ("Gemma3TextConfig", dict(sliding_window=64, head_dim=8, query_pre_attn_scalar=8, tie_word_embeddings=False), 70, True),
    ("Cohere2Config", dict(sliding_window=6), 30, True), ("RobertaConfig", dict(is_decoder=True, pad_token_id=1), 20, True),
    ("XLMRobertaConfig", dict(is_decoder=True, pad_token_id=1), 20, True), ("BertConfig", dict(is_decoder=True), 20, True),
    ("ElectraConfig", dict(is_decoder=True), 20, True), ("FalconConfig", dict(alibi=True), 20, False), ("FalconConfig", {}, 20, True),
    ("PhiConfig", {}, 20, True), ("StableLmConfig", {}, 20, True), ("CohereConfig", {}, 20, True), ("Olmo2Config", {}, 20, True),
    ("GPTJConfig", dict(GPT, rotary_dim=4), 20, True), ("BioGptConfig", {}, 20, True),
], ids=lambda x: x if isinstance(x, str) else None)
def test_trees_only_where_rows_do_not_count(config, changes, length, trees):
    model = make(config, **changes)
    assert HFTarget(model).branches == trees
    assert same(model, prompt(length))


@pytest.mark.parametrize("config,changes", [("GPTNeoConfig", NEO), ("GPT2Config", GPT), ("OPTConfig", dict(ffn_dim=64, word_embed_proj_dim=32))])
def test_the_end_of_what_a_model_reads(config, changes):
    assert same(make(config, **{**changes, "max_position_embeddings": 128, "n_positions": 128}), prompt(118), 11)


def test_the_trial_needs_the_window():
    "A negative control: without the bounds that the configuration names, the trial would let GPT-Neo score trees"
    model = make("GPTNeoConfig", **NEO, window_size=64)
    assert not HFTarget(model).branches
    blind = HFTarget(model)
    blind.config, blind.window = type("Empty", (), {"to_dict": lambda self: {}})(), None
    blind.config.__dict__ |= vars(model.config)
    assert tree_equals_paths(blind)


@pytest.mark.parametrize("config", ["BertConfig", "RobertaConfig", "ElectraConfig"])
def test_what_sees_the_future_is_refused(config):
    model = make(config, is_decoder=False)
    with pytest.raises(ValueError, match="comes after.*is_decoder"): generate(model, PROMPT, max_new_tokens=3)


# -- vision-language models, used for text

@pytest.mark.parametrize("name", VISION)
def test_text_through_models_that_see(name):
    model = seeing(name)
    assert HFTarget(model).branches and same(model, PROMPT, drafters=("lookup",))
    assert same(model, PROMPT, drafters=("none",), attention_mask=torch.ones_like(PROMPT))
    turn = model.generate(PROMPT, max_new_tokens=9, do_sample=False, return_dict_in_generate=True)
    assert torch.equal(generate(model, turn.sequences, past_key_values=turn.past_key_values, max_new_tokens=9, do_sample=False), model.generate(PROMPT, max_new_tokens=18, do_sample=False))


# -- odd weights

def test_offloaded_models():
    accelerate = pytest.importorskip("accelerate")
    away = accelerate.cpu_offload(build("llama"))
    assert away.device.type == "meta" and HFTarget(away).device.type == "cpu" and HFTarget(away).embed.numel() == 0
    for drafter in ("auto", Wild(1, greedy(build("llama"))[0].tolist())):
        assert torch.equal(generate(away, PROMPT, drafter=drafter, max_new_tokens=24, do_sample=False), greedy(build("llama")))


def test_half_precision_is_said_wherever_it_is():
    "In one layer of many, and in what a caller switched on around the model"
    def said(model): return Trace(decode(HFTarget(model), "lookup", [3, 14, 15], limit=2, law=Law(temperature=0))).promise
    whole, part = build("llama", torch.float32), build("llama", torch.float32)
    mlp = part.model.layers[1].mlp.to(torch.bfloat16)
    mlp.register_forward_pre_hook(lambda _, given: tuple(x.bfloat16() for x in given))
    mlp.register_forward_hook(lambda _, given, out: out.float())
    assert said(whole) == "equal up to near-ties" and said(part) == "equal up to near-ties of half precision"
    with torch.autocast("cpu", torch.bfloat16): assert said(whole) == "equal up to near-ties of half precision"


def test_dynamically_quantised_models_run_and_say_what_they_cannot_promise():
    small = torch.ao.quantization.quantize_dynamic(build("llama", torch.float32), {torch.nn.Linear}, dtype=torch.qint8)
    with pytest.warns(UserWarning, match="one scale a call"): target = HFTarget(small)
    assert target.unembed.shape == (48, 32) and target.unembed.dtype == torch.float32
    for drafter in ("auto", "recycling", Wild()): assert generate(small, PROMPT, drafter=drafter, max_new_tokens=9, do_sample=False).shape == (1, 17)


@pytest.mark.parametrize("gap", ["a layer too many", "a layer too few", "a tensor deleted", "another shape", "biases", None, "a head for something else", "a norm of queries", "an adapter", "no layers", "a torn page of options"])
def test_incomplete_checkpoints_are_refused(tmp_path, gap):
    from safetensors.torch import load_file, save_file
    config = hf.LlamaConfig(**{**SIZES, "num_hidden_layers": 2, "tie_word_embeddings": True})
    hf.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    if gap == "a layer too many": hf.LlamaConfig(**{**config.to_dict(), "num_hidden_layers": 3}).save_pretrained(tmp_path)
    if gap == "a layer too few": hf.LlamaConfig(**{**config.to_dict(), "num_hidden_layers": 1}).save_pretrained(tmp_path)
    if gap == "biases": weights["model.layers.1.self_attn.q_proj.bias"] = torch.ones(SIZES["hidden_size"])
    if gap == "a norm of queries": weights["model.layers.0.self_attn.q_norm.weight"] = torch.ones(8)
    if gap == "an adapter": weights["model.layers.1.mlp.up_proj.lora_A.default.weight"] = torch.ones(2, SIZES["hidden_size"])
    if gap == "no layers": hf.LlamaConfig(**{**config.to_dict(), "num_hidden_layers": 0}).save_pretrained(tmp_path)
    if gap == "a torn page of options": (tmp_path / "generation_config.json").write_text('{"eos_token_id": [1')
    if gap == "a head for something else": weights["value_head.weight"] = torch.ones(3)
    if gap == "a tensor deleted": del weights["model.layers.1.mlp.up_proj.weight"]
    if gap == "another shape": weights["model.norm.weight"] = torch.ones(31)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    hf.PreTrainedTokenizerFast(tokenizer_object=__import__("tokenizers").Tokenizer(__import__("tokenizers").models.WordLevel({"a": 0}))).save_pretrained(tmp_path)
    if gap in (None, "a head for something else"): assert load_hf(tmp_path)[0].num_parameters() > 0
    else:
        with pytest.raises(ValueError, match="cannot load"): load_hf(tmp_path)


def test_too_long_for_scaled_rotary_positions_names_both_windows():
    model = build("llama dynamic rope")
    model.config.max_position_embeddings, model.config.rope_parameters["original_max_position_embeddings"] = 80, 40
    with pytest.raises(ValueError, match="window 40 .*of the 80"): generate(model, prompt(45), max_new_tokens=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert generate(model, prompt(30), max_new_tokens=3).shape == (1, 33)


# -- windows that no mask shows, few words, no head

@pytest.mark.parametrize("window", [12, 40, 400])
def test_a_window_that_only_the_cache_knows_is_where_the_text_ends(window):
    "Moshi's mask hides nothing: what its window forgets, the library's own cache throws away"
    model = make("MoshiConfig", sliding_window=window)
    assert HFTarget(model).window == min(window, 512) and HFTarget(make("MistralConfig", sliding_window=window)).window == 512
    assert same(model, prompt(6), n=7, drafters=("lookup",))
    if window == 12:
        with pytest.raises(ValueError, match="window 12"): generate(model, prompt(20), max_new_tokens=3)


@pytest.mark.parametrize("size", [2, 3, 5, 7, 11])
def test_few_words(size):
    "Whoever asks for the eight best of them, or for siblings that differ, gets what there is"
    model = make("LlamaConfig", vocab_size=size)
    ids = torch.tensor([[0, 1, 1]])
    plain = model.generate(ids, max_new_tokens=16, do_sample=False)
    assert tree_equals_paths(HFTarget(model))
    for drafter in ("recycling", "auto", "lookahead", "suffix", "model"):
        drafter = model if drafter == "model" else drafter
        assert torch.equal(generate(model, ids, drafter=drafter, max_new_tokens=16, do_sample=False), plain), drafter


def test_what_keeps_more_than_rows_is_told_so():
    model = build("llama")
    model.config.layer_types = ["full_attention", "indexed_attention", "full_attention"]
    with pytest.raises(ValueError, match="more of the past than rows of keys and values .indexed_attention."): HFTarget(model)


def test_it_takes_trees(original):
    "Behind a long text, too, where single precision has more to round"
    assert HFTarget(original[0]).branches and HFTarget(original[0]).batches


@pytest.fixture(scope="module")
def model(): return build("llama")


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
