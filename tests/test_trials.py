"""Trials: what is right passes, and each fault is found by the trial that is meant for it, on our runtime and on models of transformers."""
import pytest
import torch
import transformers as hf

from specdec_nb import Draft, HFTarget, Llama
from specdec_nb.models.state import LlamaTarget
from specdec_nb.models.trials import row_bounds, rows_look_back, rows_stay_apart, same_rows, tree_equals_paths, tree_fits

TRIALS = tree_equals_paths, rows_stay_apart, rows_look_back
SIZES = dict(vocab_size=40, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
             initializer_range=.5, bos_token_id=None, eos_token_id=None)


def model(window=None):
    torch.manual_seed(0)
    return hf.AutoModelForCausalLM.from_config(hf.MistralConfig(**SIZES, sliding_window=window)).eval()


class Indexed(Llama):
    "A node stands where its row does"
    def forward(self, tokens, positions, *args): return super().forward(tokens, positions[0] + torch.arange(len(tokens)), *args)


class Crossed(LlamaTarget):
    "The last two requests of a call get each other's rows, as far as these fit"
    def forward(self, feeds):
        out = super().forward(feeds)
        if len(out) < 3: return out
        (a, h), (b, g) = out[-2:]
        n = min(len(a), len(b))
        return [*out[:-2], (torch.cat([b[:n], a[n:]]), h), (torch.cat([a[:n], b[n:]]), g)]


class Seer(Llama):
    def forward(self, tokens, *args): return super().forward(tokens, *args) * (1 + tokens[-1] / 40)


class Late(LlamaTarget):
    "Right behind a short text, wrong behind a long one; says itself where to look"
    def elsewhere(self, state):
        long = self.open(list(state.tokens) * 4)
        return [long]
    def forward(self, feeds):
        out = super().forward(feeds)
        far = [f.state.position > 20 and not f.below.is_chain for f in feeds]
        return [(rows.flip(0), h) if wrong else (rows, h) for (rows, h), wrong in zip(out, far)]


def passes(target): return [trial(target) for trial in TRIALS]


@pytest.mark.parametrize("window", [None, 4])
def test_what_is_right_passes(window):
    assert passes(LlamaTarget(Llama.from_hf(model(window)))) == passes(HFTarget(model(window))) == [True] * 3


@pytest.mark.parametrize("make, found", [(lambda: LlamaTarget(Indexed.from_hf(model())), 0), (lambda: Crossed(Llama.from_hf(model())), 1),
                                         (lambda: LlamaTarget(Seer.from_hf(model())), 2), (lambda: Late(Llama.from_hf(model())), 0)])
def test_each_fault_is_found(make, found):
    assert not passes(make())[found]


def test_a_chain_would_not_tell_nor_a_short_text():
    "Why the trial is a tree, and why a target may say where else to look"
    indexed, late = LlamaTarget(Indexed.from_hf(model())), Late(Llama.from_hf(model()))
    assert tree_fits(indexed, indexed.open([3, 1, 4]), Draft.chain([1, 5, 9]))
    assert tree_fits(late, late.open([3, 1, 4]), Draft.merge([[1, 2], [1, 3]])[0])


def test_whatever_it_raises_is_a_no():
    class Broken(LlamaTarget):
        def forward(self, feeds):
            if any(not f.below.is_chain for f in feeds): raise RuntimeError("no such mask")
            return super().forward(feeds)
    broken = Broken(Llama.from_hf(model()))
    assert not tree_equals_paths(broken) and rows_look_back(broken)


@pytest.mark.parametrize("dtype, small, large", [(torch.float64, 1e-7, 1e-3), (torch.float32, 2e-4, 1e-2), (torch.bfloat16, 1e-3, .2)])
def test_equal_is_relative_to_what_a_dtype_holds(dtype, small, large):
    rows = torch.randn(4, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 100
    lm = model().to(dtype)
    assert same_rows(rows * (1 + small), rows, lm) and not same_rows(rows * (1 + large), rows, lm)
    holes = rows.clone()
    holes[1] = torch.nan
    assert same_rows(holes, holes, lm) and not same_rows(holes, rows, lm)


def test_bounds_are_found_wherever_a_configuration_names_them():
    config = dict(sliding_window=7, num_local_experts=8, nested=dict(chunk_size=9), window_sizes=[3, 11], attn_scale=.5, block_token_id=5, floor_scale=64.0)
    assert row_bounds(config) == {"sliding_window": 7, "chunk_size": 9, "window_sizes": 11, "floor_scale": 64}
