"""Speculative decoding, exactly: one draft tree, one loop, rules proved by enumeration.

The names below are loaded from their chapters on first use, so that `import specdec_nb` stays instant.
"""
__version__ = "0.1.0"

_HOME = {  # name on the face -> (module, name there)
    "TableLM": ("lm", "TableLM"),
    "Dice": ("chance", "Dice"), "Keyed": ("chance", "Keyed"), "law": ("chance", "exact_law"),
    "Law": ("sampling", "Law"),
    "Draft": ("draft", "Draft"),
    "Verdict": ("verify", "Verdict"), "verify_walk": ("verify", "verify_walk"),
    "verify_rejection": ("verify", "verify_rejection"),
    "Drafter": ("roles", "Drafter"), "Target": ("roles", "Target"), "State": ("roles", "State"),
    "Drafting": ("roles", "Drafting"), "Rule": ("roles", "Rule"), "Step": ("verify", "Step"),
    "Request": ("decode", "Request"), "serve": ("decode", "serve"), "Stop": ("decode", "Stop"),
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
DRAFTERS = {  # name -> where its class is, "module:object"
    "none": "specdec_nb.roles:NoDrafter",
    "lookup": "specdec_nb.drafters.lookup:PromptLookup",
    "tuned": "specdec_nb.phrases.tuning:Tuned",
    "auto": "specdec_nb.phrases.tuning:Auto",
    "recycling": "specdec_nb.drafters.recycling:Recycling",
    "rest": "specdec_nb.drafters.lookup:Rest",
    "suffix": "specdec_nb.drafters.lookup:Suffix",
    "reference": "specdec_nb.drafters.lookup:Reference",
    "pool": "specdec_nb.drafters.pool:PoolDrafter",
    "model": "specdec_nb.drafters.model:ModelDrafter",
    "medusa": "specdec_nb.learned.medusa:MedusaDrafter",
    "eagle3": "specdec_nb.learned.eagle:EagleDrafter",
    "hydra": "specdec_nb.learned.hydra:HydraDrafter",
    "mtp": "specdec_nb.learned.mtp:MtpDrafter",
    "eagle": "specdec_nb.learned.eagle1:Eagle1Drafter",
    "block": "specdec_nb.learned.block:BlockDrafter",
    "lookahead": "specdec_nb.drafters.lookahead:Lookahead",
    "gsd": "specdec_nb.trees.dag:GraphDrafter",
    "layerskip": "specdec_nb.drafters.layerskip:LayerSkip",
    "ouroboros": "specdec_nb.phrases.ouroboros:Ouroboros",
}
RULES = {
    "walk": "specdec_nb.verify:verify_walk",
    "rejection": "specdec_nb.verify:verify_rejection",
    "kseq": "specdec_nb.trees.multidraft:verify_kseq",
    "block": "specdec_nb.trees.multidraft:verify_block",
    "traversal": "specdec_nb.trees.multidraft:verify_traversal",
    "typical": "specdec_nb.trees.multidraft:verify_typical",
    "lenient": "specdec_nb.trees.multidraft:verify_lenient",
}
NETWORKS = {  # kind of a trained drafter -> the class of its network
    "draft": "specdec_nb.learned.draft_model:DraftModel",
    "medusa": "specdec_nb.learned.medusa:Medusa",
    "hydra": "specdec_nb.learned.hydra:Hydra",
    "eagle": "specdec_nb.learned.eagle1:Eagle1",
    "block": "specdec_nb.learned.block:BlockLayer",
    "eagle3": "specdec_nb.learned.eagle:Eagle3",
}
TARGETS = {  # the full name of a model's class -> who makes its target
    "specdec_nb.lm.TableLM": "specdec_nb.roles:TableTarget",
    "specdec_nb.models.llama.Llama": "specdec_nb.models.kvcache:LlamaTarget",
    "specdec_nb.models.native.Native": "specdec_nb.models.native:NativeTarget",
    "transformers.modeling_utils.PreTrainedModel": "specdec_nb.models.hf:HFTarget",
}
ATTENTION = {"cuda": "specdec_nb.trees.kernels:grouped_kernel"}  # device -> who attends there; elsewhere chapter 11 does
__all__ = [*_HOME]


def __getattr__(name):
    if name not in _HOME: raise AttributeError(f"module 'specdec_nb' has no attribute {name!r}; it offers {', '.join(__all__)}")
    from .workshop.registry import resolve
    module, there = _HOME[name]
    return globals().setdefault(name, resolve(f"specdec_nb.{module}:{there}"))


def __dir__(): return sorted({*globals(), *__all__})
