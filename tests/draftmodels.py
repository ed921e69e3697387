"""What tests of draft models share: small models in float64, one prompt, and tokenizers that spell alike what they number apart."""
import torch
import transformers as hf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

SIZES = dict(hidden_size=32, intermediate_size=64, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128,
             initializer_range=.5, bos_token_id=None, eos_token_id=None, pad_token_id=None)
PROMPT = torch.tensor([[3, 14, 15, 9, 26, 5, 7, 33]])


def build(seed=0, vocab=48, layers=2, kind="Llama", **changes):
    torch.manual_seed(seed)
    config = getattr(hf, f"{kind}Config")(**{**SIZES, "vocab_size": vocab, "num_hidden_layers": layers, **changes})
    return hf.AutoModelForCausalLM.from_config(config).to(torch.float64).eval()


CORPUS = ["the cat sat on the mat", "the dog sat on the log", "a cat and a dog and the log", "naïve café — ünïcödé 你好", "def add(a, b):\n    return a + b"] * 3


def byte_level(size=330, bos=None):
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer, tok.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = [bos] if bos else []
    tok.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=special, show_progress=False))
    return hf.PreTrainedTokenizerFast(tokenizer_object=tok, **({"bos_token": bos} if bos else {}))


def spaced(size=300, bos="<s>"):
    "Spaces as ▁, single bytes for what is unknown, and a BOS before every text"
    tok = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tok.normalizer = __import__("tokenizers").normalizers.Replace(" ", "▁")
    tok.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    special = ["<unk>", bos, *(f"<0x{b:02X}>" for b in range(256))]
    tok.train_from_iterator(CORPUS[:3], trainers.BpeTrainer(vocab_size=size, special_tokens=special, show_progress=False))
    tok.post_processor = __import__("tokenizers").processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, 1)])
    return hf.PreTrainedTokenizerFast(tokenizer_object=tok, bos_token=bos, unk_token="<unk>")
