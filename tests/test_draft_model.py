"""A draft model made of the target's layers."""
import pytest
import transformers as hf

from learners import WORDS
from specdec_nb.learned.draft_model import DraftModel


def test_a_model_without_layers_to_take():
    gpt = hf.AutoModelForCausalLM.from_config(hf.GPT2Config(vocab_size=16, n_embd=32, n_layer=2, n_head=4)).eval()
    with pytest.raises(ValueError, match="no draft model can be made of its layers: gpt2"): DraftModel.of(gpt, WORDS)
