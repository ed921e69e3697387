"""Our own runtime against the Hugging Face implementation, and against itself: rows, windows, chunks, the context's edges."""
import warnings

import pytest
import torch
import torch.nn.functional as F
import transformers as hf

from drafters import Oracle, Wild
from families import CLAIMED, SHORT as SIZES, claimed as build
from specdec_nb import Draft, Llama, generate
from specdec_nb.roles import as_target
from specdec_nb.models.hub import chat
from specdec_nb.models.llama import as_half, pack


@pytest.mark.parametrize("name", CLAIMED)
@pytest.mark.parametrize("length", [1, 2, 5, 6, 40, 64])
def test_logits_equal_the_original(name, length):
    model = build(name)
    tokens = torch.arange(length) * 7 % 48
    with torch.no_grad(): ref = model(tokens[None]).logits[0]
    target = as_target(Llama.from_hf(model))
    rows = target.score([(target.open(tokens[:1].tolist()), Draft.chain(tokens[1:].tolist()))])[0].rows
    assert (rows - ref).abs().max() < 1e-4 * max(1., float(ref.abs().max()))
    assert torch.equal(rows.argmax(-1), ref.argmax(-1))


@pytest.mark.parametrize("published", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", CLAIMED)
def test_weights_published_in_half_precision_are_read_as_such_and_nothing_is_rounded(name, published):
    model, tokens = build(name).to(published).float(), torch.arange(40) * 7 % 48
    with torch.no_grad(): ref = model(tokens[None]).logits[0]
    target = as_target(Llama.from_hf(model))
    rows = target.score([(target.open([0]), Draft.chain(tokens[1:].tolist()))])[0].rows
    assert (rows - ref).abs().max() < 1e-4 * max(1., float(ref.abs().max()))
    assert all(as_half(w.detach()) is not None for n, w in model.named_parameters() if w.dim() == 2)


def test_a_matrix_that_needs_its_digits_keeps_them():
    w, x = torch.randn(64, 48, generator=torch.Generator().manual_seed(0)), torch.randn(5, 48, generator=torch.Generator().manual_seed(1))
    exact = x.double() @ w.double().T
    assert as_half(w) is None and (pack(w)(x) - exact).abs().max() < 1e-5 < (x.double() @ w.half().double().T - exact).abs().max()
    for bad in (float("nan"), float("inf")):
        broken = w.half().float().index_put((torch.tensor(3), torch.tensor(5)), torch.tensor(bad))
        out, good = pack(broken)(x), torch.arange(64) != 3
        assert not out[:, 3].isfinite().any() and torch.allclose(out[:, good], F.linear(x, broken)[:, good], atol=1e-5)


@pytest.mark.parametrize("scale", [1., 2. ** -40, 2. ** 30])
@pytest.mark.parametrize("bias", [False, True])
def test_a_power_of_two_costs_no_digit(scale, bias):
    g = torch.Generator().manual_seed(0)
    w, x, plus = (torch.randn(*shape, generator=g) for shape in ((64, 48), (5, 48), (5, 64)))
    w, b = w.bfloat16().float() * scale, scale * torch.randn(64, generator=g) if bias else None
    out = F.linear(x, w, b)
    assert as_half(w) is not None and (pack(w, b)(x) - out).abs().max() < 1e-5 * scale
    assert (pack(w, b)(x, plus) - (plus + out)).abs().max() < 1e-5 * max(scale, 1)


@pytest.mark.parametrize("name", ["llama", "mistral, window 5", "qwen3, mixed"])
def test_tree_rows_equal_their_paths_and_chunks_equal_the_whole(name):
    llama = Llama.from_hf(build(name, torch.float64))
    target, tokens = as_target(llama), [x * 7 % 48 for x in range(23)]
    draft = Draft.merge([[4, 5, 6, 7], [4, 5, 8], [9, 5], [9, 6, 4]])[0]
    rows = target.score([(target.open(tokens), draft)])[0].rows
    chunked = as_target(llama)
    chunked.chunk = 4
    assert (chunked.score([(chunked.open(tokens), draft)])[0].rows - rows).abs().max() < 1e-10
    for i in range(-1, len(draft)):
        path = [draft.tokens[j] for j in draft.path(i)]
        alone = target.score([(target.open(tokens + path), Draft())])[0].rows[0]
        assert (rows[i + 1] - alone).abs().max() < 1e-10


@pytest.mark.parametrize("name", [n for n in CLAIMED if n != "mistral, window 1"])   # transformers' own sliding cache keeps all rows at window 1
def test_generate_equals_the_original(name):
    model = build(name, torch.float64)
    llama = Llama.from_hf(model)
    prompt = torch.tensor([[3, 14, 15, 9, 26, 5, 7, 33]])
    for options in ({}, dict(repetition_penalty=1.3), dict(eos_token_id=[5, 9])):
        plain = model.generate(prompt, max_new_tokens=24, do_sample=False, **options)
        for drafter in ("none", "lookup", Wild(0, plain[0].tolist()), Oracle(plain[0].tolist())):
            assert torch.equal(generate(llama, prompt, drafter=drafter, max_new_tokens=24, do_sample=False, **options), plain), (options, drafter)
    texts = [generate(llama, prompt, drafter=d, max_new_tokens=24, do_sample=True, seed=5) for d in ("none", "lookup", Wild(2))]
    assert torch.equal(texts[0], texts[1]) and torch.equal(texts[0], texts[2])


@pytest.mark.parametrize("name", ["llama", "mistral, window 5", "qwen2, mixed", "qwen3, mixed"])
def test_the_context_s_edges(name):
    model = build(name, torch.float64)
    llama = Llama.from_hf(model)
    for length in (1, 2, 5, 6, 63, 64):                  # one token, the windows and one more, the context
        ids = torch.arange(length)[None] * 7 % 48
        plain = model.generate(ids, max_new_tokens=65 - length, do_sample=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for drafter in ("none", Wild(0, plain[0].tolist())):
                assert torch.equal(generate(llama, ids, drafter=drafter, max_new_tokens=100, do_sample=False), plain), (length, drafter)
    with pytest.warns(UserWarning, match="window of 64"): generate(llama, ids, max_new_tokens=2, do_sample=False)
    with pytest.raises(ValueError, match="65 tokens.*64"): generate(llama, torch.arange(65)[None] % 48, max_new_tokens=2)
    with pytest.raises(ValueError, match="empty"): generate(llama, torch.zeros(1, 0, dtype=torch.long), max_new_tokens=2)


@pytest.mark.parametrize("config,says", [(dict(model_type="gpt2"), "gpt2"), (dict(hidden_act="gelu"), "gelu"),
                                         (dict(rope_parameters=dict(rope_type="dynamic", factor=2., rope_theta=1e4)), "dynamic")])
def test_what_it_does_not_claim_is_pointed_elsewhere(config, says):
    kind = hf.GPT2Config if config.get("model_type") == "gpt2" else hf.LlamaConfig
    sizes = dict(vocab_size=48, n_embd=32, n_layer=1, n_head=4) if kind is hf.GPT2Config else {**SIZES, **config}
    model = hf.AutoModelForCausalLM.from_config(kind(**sizes))
    with pytest.raises(ValueError, match=f"{says}.*HFTarget"): Llama.from_hf(model)


def test_smollm2_in_fp32_equals_the_original(original, smollm2):
    (model, tokenizer), (llama, _) = original, smollm2
    assert all(as_half(w.detach()) is not None for w in model.parameters() if w.dim() == 2), "the default model is read in sixteen bits"
    ids = chat(tokenizer, "Name three colours, then repeat the three colours in reverse order.")
    plain = model.generate(ids, max_new_tokens=40, do_sample=False)
    for drafter in ("none", "lookup", Wild(0, plain[0].tolist()), Oracle(plain[0].tolist())):
        out = generate(llama, ids, drafter=drafter, max_new_tokens=40, do_sample=False, return_dict_in_generate=True)
        assert torch.equal(out.sequences, plain), drafter
    assert out.trace.calls <= 7


def test_who_attends_where():
    import torch
    from specdec_nb.models.llama import attention_on, grouped_attention
    assert attention_on(torch.device("cpu")) is grouped_attention
    assert attention_on(torch.device("cuda")).__name__ == "grouped_kernel"
