"""Speculative decoding, exactly: one draft tree, one loop, rules proved by enumeration.

The names below are loaded from their chapters on first use, so that `import specdec_nb` stays instant.
"""
__version__ = "0.1.0"

from importlib import import_module

_HOME = {  # name on the face -> (module, name there)
    "TableLM": ("lm", "TableLM"),
    "Dice": ("chance", "Dice"), "Keyed": ("chance", "Keyed"), "law": ("chance", "exact_law"),
    "Law": ("sampling", "Law"),
    "Draft": ("draft", "Draft"),
    "Verdict": ("verify", "Verdict"), "verify_walk": ("verify", "verify_walk"),
    "verify_rejection": ("verify", "verify_rejection"),
    "Drafter": ("decode", "Drafter"), "Step": ("decode", "Step"), "Stop": ("decode", "Stop"),
    "Trace": ("decode", "Trace"),
    "load": ("target.kvcache", "load"), "load_default": ("target.kvcache", "load_default"),
    "Llama": ("target.llama", "Llama"),
    "HFTarget": ("target.hf", "HFTarget"), "generate": ("target.generate", "generate"),
    "race": ("bench.race", "race"),
}
DRAFTERS = {"none": "specdec_nb.decode", "lookup": "specdec_nb.drafters.lookup"}  # name -> the module that registers it
TARGETS = {"PreTrainedModel": "specdec_nb.target.hf", "Llama": "specdec_nb.target.kvcache"}  # class -> the module that registers its target
__all__ = [*_HOME]


def __getattr__(name):
    if name not in _HOME: raise AttributeError(f"module 'specdec_nb' has no attribute {name!r}; it offers {', '.join(__all__)}")
    module, there = _HOME[name]
    return globals().setdefault(name, getattr(import_module(f"specdec_nb.{module}"), there))


def __dir__(): return sorted({*globals(), *__all__})
