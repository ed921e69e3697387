"""What tests of the ways to decode share: one small model of each kind, drafters, and a text whose law is looked at row by row."""
import numpy as np
import torch
from transformers import AutoModelForCausalLM, BloomConfig, GPT2Config, LlamaConfig, Qwen2Config

from drafters import Wild
from specdec_nb import Draft, Keyed, Llama, Trace
from specdec_nb.decode import decode
from specdec_nb.roles import as_target
from specdec_nb.sampling import softmax

SIZES = dict(vocab_size=48, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
             max_position_embeddings=128, initializer_range=.4, bos_token_id=None, eos_token_id=None)


def small(kind, seed=0):
    torch.manual_seed(seed)
    config = {"gpt2": lambda: GPT2Config(vocab_size=48, n_embd=32, n_layer=3, n_head=4, n_positions=128, initializer_range=.4, bos_token_id=None, eos_token_id=None),
              "chains": lambda: BloomConfig(vocab_size=48, hidden_size=32, n_layer=3, n_head=4, initializer_range=.4, bos_token_id=None, eos_token_id=None),
              "sliding": lambda: Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=6, max_window_layers=1)}
    model = AutoModelForCausalLM.from_config(config.get(kind, lambda: LlamaConfig(**SIZES))()).double().eval()
    return Llama.from_hf(model) if kind == "own" else model


MODELS = {kind: small(kind) for kind in ("own", "gpt2", "sliding")}
DRAFTERS = {"lookup": lambda: "lookup", "recycling": lambda: "recycling", "auto": lambda: "auto", "wild": lambda: Wild(3)}


def told(model, law, drafter, begin=(5, 9, 7, 9, 5), n=24, seed=1, **settings):
    return Trace(decode(model, drafter, begin, limit=n, law=law, rng=Keyed(seed), **settings)).tokens


def along(model, law, begin, words):
    "The law's rows along a text, and the target's, each with the word that followed"
    target = as_target(model)
    state = target.open(begin, law.asks)
    while state.unread: target.score([(state, None)])
    [scores] = target.score([(state, Draft.chain(words))])
    s = law.read(law.start(begin), state)
    for i, word in enumerate(words):
        yield np.asarray(law.row(s, scores, i), float), softmax(scores.row(i)), word
        s = law.step(s, word, scores, i)
