"""Small random models of many families, which several test files look at: decoders of transformers, those that our runtime claims, and models that see."""
import torch
import transformers as hf

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


def build(name, dtype=torch.float64, families=FAMILIES):
    config, changes = families[name][:2]
    torch.manual_seed(0)
    model = hf.AutoModelForCausalLM.from_config(getattr(hf, config)(**{**SIZES, **changes})).to(dtype).eval()
    if hasattr(model, "set_experts_implementation"): model.set_experts_implementation("eager")      # the grouped kernel has no float64
    return model


def greedy(model, n=24, **options): return model.generate(PROMPT, max_new_tokens=n, do_sample=False, **options)


# -- what `Llama` claims

SHORT = {**SIZES, "max_position_embeddings": 64}
LLAMA3 = dict(rope_type="llama3", rope_theta=1e4, factor=4., low_freq_factor=1., high_freq_factor=4., original_max_position_embeddings=16)
CLAIMED = {
    "llama": ("LlamaConfig", {}), "llama tied": ("LlamaConfig", dict(tie_word_embeddings=True)), "llama3 rope": ("LlamaConfig", dict(rope_parameters=LLAMA3)),
    "linear rope": ("LlamaConfig", dict(rope_parameters=dict(rope_type="linear", rope_theta=1e4, factor=2.))), "head dim": ("LlamaConfig", dict(head_dim=12)),
    "biases": ("LlamaConfig", dict(attention_bias=True, mlp_bias=True)), "one kv head": ("LlamaConfig", dict(num_key_value_heads=1)),
    "mistral": ("MistralConfig", dict(sliding_window=None)), "mistral, window 5": ("MistralConfig", dict(sliding_window=5)), "mistral, window 1": ("MistralConfig", dict(sliding_window=1)),
    "qwen2": ("Qwen2Config", {}), "qwen2, mixed": ("Qwen2Config", dict(use_sliding_window=True, sliding_window=5, max_window_layers=1)),
    "qwen3": ("Qwen3Config", dict(head_dim=8)), "qwen3, mixed": ("Qwen3Config", dict(head_dim=8, use_sliding_window=True, sliding_window=4, max_window_layers=2)),
}


def claimed(name, dtype=torch.float32):
    config, changes = CLAIMED[name]
    torch.manual_seed(0)
    model = hf.AutoModelForCausalLM.from_config(getattr(hf, config)(**{**SHORT, **changes})).eval()
    with torch.no_grad():
        for w in model.parameters():
            if w.dim() == 1: w.add_(torch.randn_like(w) * .2)                # biases and norms that are not 0 and 1
    return model.to(dtype)


# -- models that see

TEXT = {**SIZES, "num_hidden_layers": 2}
ROPE = dict(rope_type="default", mrope_section=[1, 1, 2], rope_theta=1e4)
EYES = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=4)
QWEN = dict(image_token_id=47, video_token_id=46, vision_start_token_id=45, vision_end_token_id=44)
VISION = {
    "Llava": lambda: dict(text_config=hf.LlamaConfig(**TEXT), vision_config=hf.CLIPVisionConfig(**EYES, projection_dim=16), image_token_index=47),
    "Gemma3": lambda: dict(text_config=hf.Gemma3TextConfig(**{**TEXT, "sliding_window": 4, "head_dim": 8, "query_pre_attn_scalar": 8, "tie_word_embeddings": False}), vision_config=EYES, tie_word_embeddings=False,
                           mm_tokens_per_image=4, image_token_index=47, boi_token_index=46, eoi_token_index=45),
    "Mistral3": lambda: dict(text_config=hf.MistralConfig(**TEXT, sliding_window=5), vision_config=hf.PixtralVisionConfig(**EYES), image_token_index=47),
    "InternVL": lambda: dict(text_config=hf.Qwen2Config(**TEXT), vision_config={**EYES, "image_size": [8, 8], "patch_size": [4, 4]}, image_token_id=47),
    "Qwen2VL": lambda: dict(text_config=dict(TEXT, rope_parameters=ROPE), vision_config=dict(depth=1, embed_dim=16, hidden_size=32, num_heads=2, patch_size=4), **QWEN),
    "Qwen2_5_VL": lambda: dict(text_config=dict(TEXT, rope_parameters=ROPE), vision_config=dict(depth=1, hidden_size=16, out_hidden_size=32, num_heads=2, patch_size=4, intermediate_size=16), **QWEN),
}


def seeing(name):
    torch.manual_seed(0)
    model = getattr(hf, f"{name}ForConditionalGeneration")(getattr(hf, f"{name}Config")(**VISION[name]())).double().eval()
    for weight in model.parameters():
        if weight.dim() > 1: torch.nn.init.normal_(weight, std=.5)
    return model
