"""Few bits: rounding, the target's own weights as a drafter, and quantised targets, whose speculative output is their plain output bit for bit."""
import sys, types, warnings

import numpy as np
import pytest
import torch
import transformers as hf

from drafters import Wild
from specdec_nb import HFTarget, Keyed, Law, Llama, Native, Trace, generate
from specdec_nb.decode import Request, decode, serve
from specdec_nb.drafters.layerskip import BehindDrafting
from specdec_nb.lm import weather
from specdec_nb.models import linear
from specdec_nb.models.linear import SIZE, apply_form
from specdec_nb.models.machine import PANEL, entry
from specdec_nb.models.maps import NativeMap
from specdec_nb.models.packed import FromHF, Packed
from specdec_nb.models.team import floats_at, form
from specdec_nb.models.trials import quantised
from specdec_nb.roles import as_target
from specdec_nb.serving.quant import QuantSelf, blocks, few_bits, to_bits
from specdec_nb.stops import Stop

GREEDY, gguf = Law(temperature=0), pytest.importorskip("gguf")
PROMPTS = [[3, 14, 15, 9, 26, 5], [7], [2, 7, 1, 8, 2, 8, 1, 8, 2, 8], [5] * 7, [1, 2, 3, 4] * 9]
SIZES = dict(vocab_size=70, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
             max_position_embeddings=96, initializer_range=.3, bos_token_id=None, eos_token_id=None)
CONFIGS = {"llama": hf.LlamaConfig(**SIZES), "llama, tied": hf.LlamaConfig(**SIZES, tie_word_embeddings=True), "qwen2": hf.Qwen2Config(**SIZES),
           "qwen3": hf.Qwen3Config(**SIZES, head_dim=16), "mistral, window 9": hf.MistralConfig(**SIZES, sliding_window=9)}


def build(name="llama", config=None):
    torch.manual_seed(0)
    return hf.AutoModelForCausalLM.from_config(config or CONFIGS[name]).eval()


def judged(target, drafter, prompts, n=24, law=GREEDY):
    "What requests served together say, and the rows that said it: `[(tokens, [n, V])]`. `prompts` is `{number: prompt}`"
    make = drafter if callable(drafter) else lambda: drafter
    requests = [Request(target, make(), p, law, rng=Keyed(5, i), stop=Stop(n)) for i, p in prompts.items()]
    told = {r: ([], []) for r in requests}
    for r, step in serve(requests):
        told[r][0].extend(step.verdict.tokens)
        rows = step.scores.rows[[0, *(i + 1 for i in step.verdict.path)]]
        told[r][1].append(rows[:len(step.verdict.tokens)].clone())
    return [(tokens, torch.cat(rows)) for tokens, rows in told.values()]


def same(a, b): return a[0] == b[0] and torch.equal(a[1], b[1])


def differences(target, drafters, prompts=PROMPTS, laws=(GREEDY, Law(temperature=.9)), n=24):
    "How many answers, alone and in company, differ from plain decoding's of one request alone: in a token, or in a bit of a row"
    count, numbered = 0, dict(enumerate(prompts))
    def alone(drafter, law): return [judged(target, drafter, {i: p}, n, law)[0] for i, p in numbered.items()]
    for law in laws:
        plain = alone("none", law)
        for drafter in drafters:
            for answers in (alone(drafter, law), judged(target, drafter, numbered, n, law)):
                count += sum(not same(*pair) for pair in zip(plain, answers))
    return count


# -- rounding --------------------------------------------------------------------------------------------

@pytest.mark.parametrize("bits", [8, 4])
def test_blocks_mean_what_gguf_reads(bits):
    gen = np.random.default_rng(bits)
    for w in (gen.standard_normal((7, 96)), gen.standard_cauchy((3, 64)), np.zeros((2, 32)), -np.ones((2, 32)), 1e-7 * gen.standard_normal((2, 32)), gen.uniform(4, 5, (2, 32))):
        w = w.astype(np.float32)
        (name, rows), (d, q) = blocks(w, bits), to_bits(w, bits)
        kind, said = gguf.GGMLQuantizationType[name], (d.astype(np.float32) * q).reshape(w.shape)
        assert (gguf.dequantize(rows, kind) == said).all() and q.min() >= -2**(bits - 1) and q.max() < 2**(bits - 1)
        theirs = gguf.dequantize(gguf.quantize(w, kind), kind)
        assert ((said - w)**2).sum() <= 1.05 * ((theirs - w)**2).sum() + 1e-12
        back = to_bits(said, bits)[0].astype(np.float32) * to_bits(said, bits)[1]
        assert np.allclose(back.reshape(w.shape), said, rtol=2e-3), "rounding what is rounded changes nothing but the scale's last digit"
    assert blocks(np.ones((2, 40), np.float32), bits)[0] is None, "a depth that is no multiple of 32 stays as it is"


@pytest.mark.parametrize("bits", [8, 4])
def test_a_map_of_few_bits_is_the_product_with_its_numbers_whatever_the_rows(bits):
    torch.manual_seed(1)
    w, x = torch.randn(70, 96), torch.randn(11, 96)
    d, q = to_bits(w.numpy(), bits)
    said, apply = torch.from_numpy((d.astype(np.float32) * q).reshape(70, 96)), NativeMap(w, lambda w: blocks(w, bits))
    assert torch.allclose(apply(x), x @ said.T, atol=1e-4) and not torch.allclose(apply(x), x @ w.T, atol=1e-3)
    assert all(torch.equal(apply(x)[i], apply(x[i])) for i in range(11))


def test_a_twin_s_numbers_are_the_rounded_ones_and_the_model_s_stay():
    model = Native.from_hf(build("qwen2"))
    before = model.packed.blob.copy()
    twin = few_bits(model, 4)
    assert (model.packed.blob == before).all() and twin is few_bits(model, 4) is not few_bits(model, 8)
    for name, (kind, _, columns, deep) in model.packed.index.items():
        if kind < 0: assert (twin.packed.vector(name) == model.packed.vector(name)).all()
        else:
            d, q = to_bits(model.packed.matrix(name, columns), 4)
            assert (twin.packed.matrix(name, columns) == (d.astype(np.float32) * q).reshape(columns, deep)).all() and twin.packed.index[name][0] == linear.Q4
    assert not torch.equal(twin.embed, model.embed) and torch.equal(as_target(model).embed, model.embed)


# -- the target's own weights draft ----------------------------------------------------------------------

@pytest.mark.parametrize("name", CONFIGS)
def test_quantself_changes_no_token_and_no_bit(name):
    target = as_target(Native.from_hf(build(name), 1))
    drafters = [lambda: QuantSelf(4), lambda: QuantSelf(8, shared=False), lambda: QuantSelf(8, k=2, tree=5)]
    assert differences(target, drafters, PROMPTS[:3], n=16) == 0
    ours, plain = (sum(len(list(decode(target, d, p, limit=30, law=GREEDY))) for p in PROMPTS) for d in (QuantSelf(8), "none"))
    assert ours < .7 * plain, f"eight bits are nearly always right: {ours} calls for {plain}"


class Watched(BehindDrafting):
    def propose(self, ctx, rng):
        draft = yield from super().propose(ctx, rng)
        self.at = np.arange(len(draft)) + self.full.cache.length
        self.made(self.full.cache, self.state.cache)
        return draft
    def made(self, cache, behind): pass


class Littered(Watched):
    def made(self, cache, behind): cache.values[..., self.at, :] = cache.keys[:, :, self.at // cache.panel, :, self.at % cache.panel] = 100


class Trusted(Watched):
    def made(self, cache, behind): self.keys, self.values = behind.keys[:, :, self.at // cache.panel, :, self.at % cache.panel].copy(), behind.values[..., self.at, :].copy()
    def observe(self, step):
        cache, at = self.full.cache, self.at[:len(step.verdict.path) + 1]
        cache.keys[:, :, at // cache.panel, :, at % cache.panel], cache.values[..., at, :] = self.keys[:len(at)], self.values[..., :len(at), :]


def test_rows_left_behind_the_text_do_not_matter_and_rows_kept_in_it_do():
    target = as_target(Native.from_hf(build(), 1))
    def by(how):
        def make():
            drafter = QuantSelf(4)
            drafter.begin = lambda ctx, state: how(drafter, ctx, state)
            return drafter
        return make
    assert differences(target, [by(Littered)], laws=(GREEDY,)) == 0
    assert differences(target, [by(Trusted)], laws=(GREEDY,)) > 5


@pytest.mark.parametrize("bits", [8, 4])
def test_other_families_draft_for_themselves_too(bits):
    old = dict(vocab_size=70, n_positions=96, n_embd=64, n_layer=2, n_head=4, initializer_range=.3, bos_token_id=None, eos_token_id=None)
    gemma = hf.Gemma3TextConfig(**{**SIZES, "head_dim": 16}, sliding_window=6, layer_types=["sliding_attention", "full_attention"])
    for config in (hf.GPT2Config(**old), gemma, hf.LlamaConfig(**SIZES)):
        model = build(config=config)
        twin, ref = few_bits(model, bits), generate(model, PROMPTS, drafter="none", max_new_tokens=20, do_sample=False, return_dict_in_generate=True).traces
        ours = generate(model, PROMPTS, drafter=QuantSelf(bits), max_new_tokens=20, do_sample=False, return_dict_in_generate=True).traces
        assert [t.tokens for t in ours] == [t.tokens for t in ref] and sum(t.calls for t in ours) < sum(t.calls for t in ref)
        assert isinstance(twin, Native) == (config.model_type == "llama")
    assert len({id(p) for m in (model, twin) if not isinstance(m, Native) for p in m.parameters()}) == len(list(model.parameters())), "nothing is copied"


def test_what_cannot_be_rounded_is_refused_by_name_with_a_remedy():
    with pytest.raises(ValueError, match="4 or 8 bits.*bits=3"): QuantSelf(3)
    with pytest.raises(ValueError, match="4 or 8 bits"): few_bits(build(), 2)
    with pytest.raises(ValueError, match="runtime='native'"): next(decode(Llama.from_hf(build()), QuantSelf(4), [1, 2], limit=3))
    with pytest.raises(ValueError, match="TableLM does not hand out its weights"): next(decode(weather()[0], QuantSelf(4), [1], limit=3))
    away = types.SimpleNamespace(device=torch.device("cuda"))
    from specdec_nb.serving.quant import _hf_twin
    with pytest.raises(ValueError, match="on cuda.*ModelDrafter"): _hf_twin(away, 4)
    done = build()
    done.config.quantization_config = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    with pytest.raises(ValueError, match="quantised already"): few_bits(done, 4)
    other = few_bits(hf.OPTForCausalLM(hf.OPTConfig(vocab_size=50, hidden_size=64, ffn_dim=64, num_hidden_layers=1, num_attention_heads=4, word_embed_proj_dim=64)).eval(), 8)
    with pytest.raises(ValueError, match="quantised already"): few_bits(other, 8)


def test_a_target_of_few_bits_is_told_that_its_guesses_cost_what_words_do():
    small, large = few_bits(Native.from_hf(build(), 1), 4), Native.from_hf(build(), 1)
    with pytest.warns(UserWarning, match="a guess costs what a word costs"): next(decode(small, QuantSelf(4), [1, 2], limit=3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        next(decode(large, QuantSelf(4), [1, 2], limit=3))


# -- quantised targets: bit for bit ----------------------------------------------------------------------

def quantised_target(stored, seed=0):
    "A small Llama whose matrices are stored in GGUF formats in turn, with random bits where GGUF's library cannot write"
    config = hf.LlamaConfig(**{**SIZES, "hidden_size": 256, "intermediate_size": 256}, tie_word_embeddings=True)
    source, gen, turn = FromHF(build(config=config)), np.random.default_rng(seed), iter(stored * 99)
    def blocked(part, layer=None, what="weight"):
        found = source(part, layer, what)
        if found is None or found[1].ndim < 2: return found
        name, w = next(turn), found[1].astype(np.float32)
        if name in ("F16", "BF16"): return None, w.astype(np.float16) if name == "F16" else (w.view(np.uint32) >> 16).astype(np.uint16)
        if name != "Q6_K": return name, gguf.quantize(w, gguf.GGMLQuantizationType[name])
        raw = gen.integers(0, 256, (len(w), w.shape[1] // 256, 210), dtype=np.uint8)
        raw[..., 208:] = np.float16(5e-5 * gen.uniform(.5, 1, (*raw.shape[:2], 1))).view(np.uint8)
        return name, raw.reshape(len(w), -1)
    blocked.permuted = False
    return as_target(Native(config, Packed.of(blocked, config), 1))


def drafters(): return ["lookup", "recycling", lambda: Wild(1), lambda: QuantSelf(8, k=2)]


@pytest.mark.parametrize("stored", [["Q4_0"], ["Q4_1"], ["Q8_0"], ["Q4_1", "Q6_K", "Q8_0", "BF16", "F16"]], ids="+".join)
@pytest.mark.filterwarnings("ignore:the target's weights")
def test_a_quantised_target_speaks_bit_for_bit_as_if_nobody_guessed(stored):
    target = quantised_target(stored)
    assert target.promise == "bit for bit" and len({kind for kind, *_ in target.model.packed.index.values() if kind >= 0}) >= len(set(stored))
    gen = np.random.default_rng(len(stored[0]))
    prompts = [gen.integers(0, 70, int(n)).tolist() for n in gen.integers(1, 40, 3)]
    assert differences(target, drafters(), prompts, n=16) == 0


@pytest.mark.filterwarnings("ignore:the target's weights")
def test_a_kernel_whose_rows_know_their_number_is_noticed():
    size = SIZE[linear.Q8]
    def uneven(x, stride, xs, n, K, w, first, last, y, ys):
        apply_form(form(4), 32, size, x, stride, xs, n, K, w, first, last, y, ys)
        if n > 1:
            for r in range(n):
                for c in range(first * PANEL, last * PANEL): floats_at(y)[r * ys + c] *= np.float32(1 + 1e-6)
    target = quantised_target(["Q8_0"])
    assert set(target.model.weights.maps[:, 0]) == {linear.address_of(linear.Q8)} and differences(target, ["lookup"], PROMPTS[:2], (GREEDY,)) == 0
    broken = entry(uneven, linear.SIGNATURE)
    target.model.weights.maps[:, 0] = broken.address
    assert differences(target, ["lookup"], PROMPTS[:2], (GREEDY,)) > 2, "wrong in the last bits only, wherever there was a guess or company"


def questions(n):
    "Questions about modules of Python's library, in the default model's chat template"
    from specdec_nb import load_default
    from specdec_nb.models.hub import chat
    model, tokenizer = load_default()
    names = sorted(name for name in sys.stdlib_module_names if name[0] != "_")
    asked = [f"{verb} Python's module {name}{end}" for verb, end in (("What is", " for?"), ("Show an example that uses", ".")) for name in names]
    return as_target(model), [chat(tokenizer, asked[i * len(asked) // n])[0].tolist() for i in range(n)]


def real(n, limit):
    "How many of `n` answers of the default model, in its file's own blocks, differ from plain decoding's; four requests at a time, drafters in turn"
    (target, prompts), count = questions(n), 0
    makers, laws = [*drafters(), "suffix", "auto"], (GREEDY, Law(temperature=.8, top_p=.95))
    for at in range(0, n, 4):
        some, law, maker = dict(enumerate(prompts[at:at + 4], at)), laws[at // 4 % 2], makers[at // 8 % len(makers)]
        plain, ours = (judged(target, d, some, limit, law) for d in ("none", maker))
        count += sum(not same(*pair) for pair in zip(plain, ours))
        count += not same(judged(target, "none", {at: some[at]}, limit, law)[0], ours[0])
    return count


@pytest.mark.filterwarnings("ignore:the target's weights")
def test_the_real_file_of_four_bits_a_few_questions(): assert real(8, 8) == 0


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.filterwarnings("ignore:the target's weights")
def test_the_real_file_of_four_bits_two_hundred_questions(): assert real(200, 24) == 0


# -- quantised Hugging Face models -----------------------------------------------------------------------

def test_rows_that_share_a_scale_are_promised_nothing():
    plain = build()
    assert not quantised(plain) and HFTarget(plain).promise == "equal up to near-ties"
    outliers = build()
    outliers.model.layers[0].mlp.down_proj.state = types.SimpleNamespace(threshold=6.)          # as bitsandbytes' Linear8bitLt has it
    with pytest.warns(UserWarning, match="one scale a call.*Int8WeightOnlyConfig"): target = HFTarget(outliers)
    trace = Trace(decode(target, "lookup", [1, 2, 1], limit=5, law=GREEDY))
    assert target.promise == trace.promise == "none: rows of a call change each other"
    outliers.model.layers[0].mlp.down_proj.state.threshold = 0.
    assert HFTarget(outliers).promise == "equal up to near-ties", "without outliers each row has its own scale"
    plain.model.layers[0].mlp.down_proj.weight.act_quant_kwargs = object()                      # as torchao's tensors have it
    assert HFTarget(plain).promise.startswith("equal up to steps of rounded activations")


def smol(config, **options):
    from specdec_nb.models.hub import default_folder
    return hf.AutoModelForCausalLM.from_pretrained(default_folder(), quantization_config=config, **options).eval()


def kinds():
    "Models as other libraries quantise them, and what is promised"
    near, none, steps = "equal up to near-ties", "none: rows of a call change each other", "equal up to steps of rounded activations"
    try:
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig
        yield "torchao, weights", lambda: smol(hf.TorchAoConfig(Int8WeightOnlyConfig()), dtype=torch.float32), near
        yield "torchao, rows", lambda: smol(hf.TorchAoConfig(Int8DynamicActivationInt8WeightConfig()), dtype=torch.float32), steps
    except ImportError: pass
    try:
        import bitsandbytes  # noqa: F401
        yield "LLM.int8()", lambda: smol(hf.BitsAndBytesConfig(load_in_8bit=True), device_map="cpu"), none
        yield "bitsandbytes, four bits", lambda: smol(hf.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32), dtype=torch.float32, device_map="cpu"), near
    except ImportError: pass


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_what_other_libraries_quantise_serves_and_says_what_it_promises():
    "Where torchao or bitsandbytes are installed"
    from specdec_nb.models.sameness import forced, near_ties_of
    text, tried = [504, 3575, 282, 4649, 314, 260, 2365, 282, 253, 1165, 28, 284], 0
    for name, make, promise in kinds():
        model, tried = make(), tried + 1
        target = as_target(model)
        assert target.promise.startswith(promise), name
        if not promise.startswith("none"):
            excused = near_ties_of(forced(target, text, 1), forced(target, text, 4), within=.25).excused
            assert excused == promise.endswith("near-ties"), name
        if promise.endswith("near-ties"):
            plain, ours = (Trace(decode(target, d, text * 2, limit=16, law=GREEDY)).tokens for d in ("none", "lookup"))
            assert plain == ours, name
        with pytest.raises(ValueError, match="quantised already"): few_bits(model, 4)
    if not tried: pytest.skip("neither torchao nor bitsandbytes is installed")
