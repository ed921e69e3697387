"""Chapter 25: every form of tree attention gives the numbers of the definition; in models, windows and families of all kinds."""
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers as hf
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from specdec_nb import Draft, HFTarget, generate
from specdec_nb.models.hub import chat
from specdec_nb.models.kvcache import tree_masks
from specdec_nb.trees.attention import TreeMask, flex_tree_attention, masked_attention, path_attention

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without")


def tree_of(n, gen): return Draft(np.arange(n) % 40, [int(gen.integers(-1, i)) if i else -1 for i in range(n)])


def tensors(rows, columns, heads=6, kv_heads=2, d=16, seed=0):
    torch.manual_seed(seed)
    return [torch.randn(h, m, d, dtype=torch.float64) for h, m in ((heads, rows), (kv_heads, columns), (kv_heads, columns))]


def mask_of(tree, base, window): return torch.from_numpy(tree_masks(SimpleNamespace(sliding_window=window), tree, base)[None])


@pytest.mark.parametrize("window", [None, 1, 5])
@pytest.mark.parametrize("heads,kv_heads", [(6, 2), (5, 1)])
def test_masked_and_flex_equal_the_definition(heads, kv_heads, window):
    torch._dynamo.reset()
    gen, mask = np.random.default_rng(heads), TreeMask(40, window)
    for n, base in ((0, 0), (0, 7), (1, 0), (32, 0), (33, 20), (39, 50)):
        tree = tree_of(n, gen)
        q, k, v = tensors(40, 90, heads, kv_heads)
        own = q[:, :1 + n], k[:, :base + 1 + n], v[:, :base + 1 + n]
        exact = path_attention(*own, tree, base, window)
        assert (masked_attention(*own, mask_of(tree, base, window)) - exact).abs().max() < 1e-13
        flex = flex_tree_attention(q, k, v, mask.set(tree, base).blocks(90))[:, :1 + n]
        assert (flex - exact).abs().max() < 1e-13


def test_the_oracle_is_causal_attention_on_a_chain():
    q, k, v = tensors(9, 9)
    causal = torch.nn.functional.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True, enable_gqa=True)[0]
    assert (path_attention(q, k, v, Draft.chain(range(8)), 0) - causal).abs().max() < 1e-13


def test_windows_by_index_are_caught():
    tree, base, window = Draft(range(4), [-1, -1, 0, 2]), 6, 4
    q, k, v = tensors(5, 11)
    index = torch.arange(6, 11)
    wrong = mask_of(tree, base, None) & (index[:, None] - torch.arange(11)[None] < window)
    error = (masked_attention(q, k, v, wrong) - path_attention(q, k, v, tree, base, window)).abs().amax((0, 2))
    assert error[:2].max() < 1e-13 and error[2:].min() > 1e-3


def test_a_new_tree_is_not_compiled_again():
    programs, gen = [], np.random.default_rng(0)
    def counting(graph, inputs): return programs.append(1) or graph.forward
    def attend():
        torch._dynamo.reset(), programs.clear()
        return torch.compile(flex_tree_attention, backend=counting, fullgraph=True)
    (q, k, v), f, mask = tensors(16, 64), attend(), TreeMask(16, 5)
    for n in range(1, 12): f(q, k, v, mask.set(tree_of(n, gen), 4 * n).blocks(64))
    assert len(programs) == 1
    f = attend()                                                     # the control: a number inside the function
    class Inside(TreeMask):
        def __call__(self, b, h, i, j): return j <= i + self.number
    for n in (1, 2):
        mask = Inside(16).set(tree_of(n, gen), 4 * n)
        mask.number = n
        f(q, k, v, mask.blocks(64))
    assert len(programs) == 2


def test_too_large_a_draft_is_named():
    with pytest.raises(ValueError, match="room for 4 rows, the draft needs 6"): TreeMask(4).set(Draft.chain(range(5)), 0)


# -- models

SIZES = dict(vocab_size=48, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
             max_position_embeddings=128, initializer_range=.5, bos_token_id=None, eos_token_id=None, pad_token_id=None)
FAMILIES = {
    "llama": ("LlamaConfig", {}),
    "mistral, window 5": ("MistralConfig", dict(sliding_window=5)),
    "qwen3, mixed windows": ("Qwen3Config", dict(use_sliding_window=True, sliding_window=5, max_window_layers=1, head_dim=8)),
    "gemma3, window 4": ("Gemma3TextConfig", dict(sliding_window=4, head_dim=8, query_pre_attn_scalar=8, tie_word_embeddings=False)),
    "starcoder2": ("Starcoder2Config", dict(sliding_window=6)),
    "olmo2": ("Olmo2Config", {}),
    "granite": ("GraniteConfig", {}),
    "cohere": ("CohereConfig", {}),
    "stablelm": ("StableLmConfig", {}),
    "phi": ("PhiConfig", {}),
}


TRACED = {"llama", "qwen3, mixed windows", "gemma3, window 4", "cohere", "phi"}      # FlexAttention traces each model anew, for seconds: the others with --slow


def build(name):
    config, changes = FAMILIES[name]
    torch.manual_seed(0)
    return hf.AutoModelForCausalLM.from_config(getattr(hf, config)(**{**SIZES, **changes})).double().eval()


@pytest.mark.parametrize("name", FAMILIES)
def test_rows_equal_their_paths(name, request):
    model, tokens = build(name), list(range(1, 20))                  # nineteen tokens: past every window
    tree = Draft.merge([[4, 5, 6, 7], [4, 5, 8], [9, 5], [9, 6, 4]])[0]
    alone = []
    for i in range(-1, len(tree)):
        with torch.no_grad(): alone.append(model(torch.tensor([tokens + [tree.tokens[j] for j in tree.path(i)]])).logits[0, -1])
    alone = torch.stack(alone)
    for attention in ("sdpa", "tree_sdpa", "tree_flex")[:3 if name in TRACED or request.config.getoption("--slow") else 2]:
        torch._dynamo.reset()
        model.set_attn_implementation(attention)
        target = HFTarget(model)
        rows = target.score([(target.open(tokens), tree)])[0].rows
        assert target.branches and (rows - alone).abs().max() < 1e-10 * alone.abs().max()


@pytest.mark.parametrize("attention", ["tree_sdpa", "tree_flex"])
def test_generate_through_a_registered_attention(attention):
    from drafters import Wild
    torch._dynamo.reset()
    model, prompt = build("qwen3, mixed windows"), torch.tensor([[3, 14, 15, 9, 26, 5, 7, 33]])
    plain = model.generate(prompt, max_new_tokens=16, do_sample=False)
    model.set_attn_implementation(attention)
    out = generate(model, prompt, drafter=Wild(1, plain[0].tolist()), max_new_tokens=16, do_sample=False, return_dict_in_generate=True)
    assert torch.equal(out.sequences, plain) and out.trace.calls < 16 and model.config._attn_implementation == attention


def test_an_attention_that_cannot_see_the_tree_is_refused():
    def blind(module, query, key, value, attention_mask=None, scaling=None, **more):
        causal = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool).tril(key.shape[2] - query.shape[2])
        out = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=causal, scale=scaling, enable_gqa=True)
        return out.transpose(1, 2), None
    hf.AttentionInterface.register("blind_test", blind)
    AttentionMaskInterface.register("blind_test", sdpa_mask)
    model = build("llama")
    model.set_attn_implementation("blind_test")
    with pytest.warns(UserWarning, match="chains"): assert not HFTarget(model).branches


@pytest.mark.parametrize("name", ["tree_sdpa", "tree_flex"])
def test_what_is_not_computed_is_refused(name):
    attend, x = hf.AttentionInterface()[name], torch.ones(1, 2, 3, 4)
    assert torch.allclose(attend(None, x, x, x)[0], torch.ones(1, 3, 2, 4))
    with pytest.raises(ValueError, match="softcap"): attend(None, x, x, x, softcap=30.)
    with pytest.raises(ValueError, match="s_aux"): attend(None, x, x, x, s_aux=torch.zeros(2))
    with pytest.raises(ValueError, match="boolean"): attend(None, x, x, x, attention_mask=torch.zeros(1, 1, 3, 3))


def test_on_the_real_model(original):
    "fp32: the same argmax in every row, by SDPA and by FlexAttention, as path by path"
    model, tokenizer = original
    tokens = chat(tokenizer, "Name three rivers.")[0].tolist()
    gen = np.random.default_rng(0)
    tree = Draft(gen.integers(0, 49152, 9), [-1, -1, 0, 0, 1, 2, 5, 5, 4])
    was = model.config._attn_implementation
    try:
        alone = []
        for i in range(-1, len(tree)):
            with torch.no_grad(): alone.append(model(torch.tensor([tokens + [tree.tokens[j] for j in tree.path(i)]])).logits[0, -1])
        for attention in ("sdpa", "tree_flex"):
            torch._dynamo.reset()
            model.set_attn_implementation(attention)
            rows = HFTarget(model).score([(HFTarget(model).open(tokens), tree)])[0].rows
            assert (rows - torch.stack(alone)).abs().max() < 2e-3 and torch.equal(rows.argmax(-1), torch.stack(alone).argmax(-1))
    finally: model.set_attn_implementation(was)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="no compiler")
def test_the_compiled_form_gives_the_same_numbers():
    from torch.nn.attention.flex_attention import flex_attention
    torch._dynamo.reset()
    attend, mask, gen = torch.compile(flex_attention), TreeMask(16, 5), np.random.default_rng(0)
    q, k, v = (x.float() for x in tensors(16, 64, heads=9, kv_heads=3))
    for n, base in ((15, 40), (4, 9)):
        tree = tree_of(n, gen)
        fast = flex_tree_attention(q, k, v, mask.set(tree, base).blocks(64), attend)[:, :1 + n]
        exact = path_attention(q[:, :1 + n], k[:, :base + 1 + n], v[:, :base + 1 + n], tree, base, 5)
        assert (fast - exact).abs().max() < 1e-5
