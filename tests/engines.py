"""What tests of serving share: one small model in every runtime, prompts of which every second begins alike, a machine's curve."""
import numpy as np
import pytest
import torch
import transformers as hf

from specdec_nb import Llama, Native
from specdec_nb.models.maps import why_not_native
from specdec_nb.speedup import three_machines

SIZES = dict(vocab_size=48, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
             max_position_embeddings=2048, initializer_range=.5, bos_token_id=None, eos_token_id=None, pad_token_id=None)
CURVE, HEAD = three_machines()["CPU (measured)"], np.random.default_rng(99).integers(0, 48, 300).tolist()
PROMPTS = [HEAD * (i % 2) + np.random.default_rng(i).integers(0, 48, 1 + 17 * i).tolist() for i in range(8)]


def build(kind):
    torch.manual_seed(0)
    model = hf.AutoModelForCausalLM.from_config(hf.LlamaConfig(**SIZES))
    if kind == "native":
        if why := why_not_native(): pytest.skip(why)
        return Native.from_hf(model.eval(), 1)
    return model.double().eval() if kind == "hf" else Llama.from_hf(model.double().eval())
