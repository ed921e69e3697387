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
    "Drafter": ("decode", "Drafter"), "Step": ("verify", "Step"), "Request": ("decode", "Request"), "serve": ("decode", "serve"), "Stop": ("decode", "Stop"),
    "Trace": ("verify", "Trace"),
    "Datastore": ("drafters.lookup", "Datastore"), "Reference": ("drafters.lookup", "Reference"),
    "PhrasePool": ("drafters.pool", "PhrasePool"),
    "ModelDrafter": ("drafters.model", "ModelDrafter"), "LayerSkip": ("drafters.layerskip", "LayerSkip"),
    "verify_kseq": ("trees.multidraft", "verify_kseq"), "verify_block": ("trees.multidraft", "verify_block"),
    "verify_traversal": ("trees.multidraft", "verify_traversal"),
    "load": ("models.native", "load"), "load_default": ("models.native", "load_default"),
    "Llama": ("models.llama", "Llama"), "Native": ("models.native", "Native"),
    "HFTarget": ("models.hf", "HFTarget"), "generate": ("models.generate", "generate"),
    "race": ("bench.race", "race"),
}
DRAFTERS = {  # name -> the module that registers it
    "none": "specdec_nb.decode",
    "lookup": "specdec_nb.drafters.lookup",
    "tuned": "specdec_nb.phrases.tuning",
    "auto": "specdec_nb.phrases.tuning",
    "recycling": "specdec_nb.drafters.recycling",
    "rest": "specdec_nb.drafters.lookup",
    "suffix": "specdec_nb.drafters.lookup",
    "reference": "specdec_nb.drafters.lookup",
    "pool": "specdec_nb.drafters.pool",
    "model": "specdec_nb.drafters.model",
    "medusa": "specdec_nb.drafters.heads",
    "eagle3": "specdec_nb.drafters.eagle",
    "lookahead": "specdec_nb.drafters.lookahead",
    "gsd": "specdec_nb.trees.dag",
    "layerskip": "specdec_nb.drafters.layerskip",
    "ouroboros": "specdec_nb.phrases.ouroboros",
}
RULES = {  # name -> the module that brings it; chapter 06 has walk and rejection
    **dict.fromkeys(("kseq", "block", "traversal", "typical", "lenient"), "specdec_nb.trees.multidraft"),
}
TARGETS = {"PreTrainedModel": "specdec_nb.models.hf", "Llama": "specdec_nb.models.kvcache"}  # class -> the module that registers its target
ATTENTION = {"cuda": ("trees.kernels", "grouped_kernel")}  # device -> who attends there: module, name; elsewhere chapter 11 does
__all__ = [*_HOME]


def __getattr__(name):
    if name not in _HOME: raise AttributeError(f"module 'specdec_nb' has no attribute {name!r}; it offers {', '.join(__all__)}")
    module, there = _HOME[name]
    return globals().setdefault(name, getattr(import_module(f"specdec_nb.{module}"), there))


def __dir__(): return sorted({*globals(), *__all__})
