"""Speculative decoding, exactly: one draft tree, one loop, rules proved by enumeration.

The names below are loaded from their chapters on first use, so that `import specdec_nb` stays instant.
"""
__version__ = "0.1.0"

_HOME = {  # name on the face -> (module, name there)
    "TableLM": ("lm", "TableLM"),
    "Dice": ("chance", "Dice"), "Keyed": ("chance", "Keyed"), "exact_law": ("chance", "exact_law"),
    "Law": ("sampling", "Law"),
    "Draft": ("draft", "Draft"),
    "Verdict": ("verify", "Verdict"), "verify_walk": ("verify", "verify_walk"),
    "verify_rejection": ("verify", "verify_rejection"),
    "Drafter": ("roles", "Drafter"), "Target": ("roles", "Target"), "State": ("roles", "State"),
    "Drafting": ("roles", "Drafting"), "Rule": ("roles", "Rule"), "Step": ("verify", "Step"),
    "Request": ("decode", "Request"), "serve": ("decode", "serve"), "Stop": ("stops", "Stop"),
    "Trace": ("verify", "Trace"),
    "Datastore": ("drafters.indices", "Datastore"), "Reference": ("drafters.copying", "Reference"),
    "PhrasePool": ("drafters.pool", "PhrasePool"),
    "ModelDrafter": ("drafters.model", "ModelDrafter"), "LayerSkip": ("drafters.layerskip", "LayerSkip"),
    "QuantSelf": ("serving.quant", "QuantSelf"),
    "verify_kseq": ("trees.multidraft", "verify_kseq"), "verify_block": ("trees.blocks", "verify_block"),
    "verify_traversal": ("trees.blocks", "verify_traversal"),
    "load": ("models.native", "load"), "load_default": ("models.native", "load_default"),
    "Llama": ("models.llama", "Llama"), "Native": ("models.native", "Native"),
    "in_bytes": ("models.narrow", "in_bytes"),
    "HFTarget": ("models.hf", "HFTarget"), "generate": ("models.generate", "generate"),
    "Truncated": ("decoding.methods", "Truncated"), "Mirostat": ("decoding.methods", "Mirostat"), "FSD": ("decoding.methods", "FSD"),
    "VectorFSD": ("decoding.hidden", "VectorFSD"), "DoLa": ("decoding.hidden", "DoLa"),
    "ContrastiveSearch": ("decoding.hidden", "ContrastiveSearch"), "Contrastive": ("decoding.contrastive", "Contrastive"),
    "beam_search": ("decoding.beams", "beam_search"), "samples": ("decoding.samples", "samples"),
    "best_of": ("decoding.samples", "best_of"), "load_summariser": ("decoding.codesum", "load_summariser"),
    "Online": ("learned.online", "Online"), "Engine": ("serving.engine", "Engine"),
    "sed": ("decoding.sed", "sed"), "Constrained": ("decoding.grammars", "Constrained"), "Guidance": ("decoding.grammars", "Guidance"),
    "diagnose": ("training.diagnose", "diagnose"),
    "race": ("bench.race", "race"),
}
DRAFTERS = {  # name -> where its class is, "module:object"
    "none": "specdec_nb.roles:NoDrafter",
    "lookup": "specdec_nb.drafters.lookup:PromptLookup",
    "tuned": "specdec_nb.phrases.tuning:Tuned",
    "auto": "specdec_nb.phrases.trained:Advised",
    "recycling": "specdec_nb.drafters.recycling:Recycling",
    "rest": "specdec_nb.drafters.copying:Rest",
    "suffix": "specdec_nb.drafters.copying:Suffix",
    "reference": "specdec_nb.drafters.copying:Reference",
    "pool": "specdec_nb.drafters.pool:PoolDrafter",
    "model": "specdec_nb.drafters.model:ModelDrafter",
    "medusa": "specdec_nb.learned.medusa:MedusaDrafter",
    "eagle3": "specdec_nb.learned.eagle:EagleDrafter",
    "hydra": "specdec_nb.learned.hydra:HydraDrafter",
    "mtp": "specdec_nb.learned.mtp:MtpDrafter",
    "eagle": "specdec_nb.learned.eagle1:Eagle1Drafter",
    "block": "specdec_nb.learned.block:BlockDrafter",
    "prophet": "specdec_nb.learned.prophet:ProphetDrafter",
    "chimera": "specdec_nb.learned.chimera:ChimeraDrafter",
    "online": "specdec_nb.learned.online:Online",
    "lookahead": "specdec_nb.drafters.lookahead:Lookahead",
    "gsd": "specdec_nb.trees.dag:GraphDrafter",
    "layerskip": "specdec_nb.drafters.layerskip:LayerSkip",
    "quantself": "specdec_nb.serving.quant:QuantSelf",
    "ouroboros": "specdec_nb.phrases.ouroboros:Ouroboros",
    "siblings": "specdec_nb.decoding.samples:Siblings",
    "amateur": "specdec_nb.decoding.contrastive:Amateur",
    "grammar": "specdec_nb.decoding.grammars:Forced",
    "jacobi": "specdec_nb.decoding.imagetokens:Jacobi",
    "pointing": "specdec_nb.decoding.codesum:Pointing",
}
RULES = {
    "walk": "specdec_nb.verify:verify_walk",
    "rejection": "specdec_nb.verify:verify_rejection",
    "kseq": "specdec_nb.trees.multidraft:verify_kseq",
    "block": "specdec_nb.trees.blocks:verify_block",
    "traversal": "specdec_nb.trees.blocks:verify_traversal",
    "typical": "specdec_nb.trees.lossy:verify_typical",
    "lenient": "specdec_nb.trees.lossy:verify_lenient",
    "lantern": "specdec_nb.decoding.imagetokens:verify_lantern",
}
NETWORKS = {  # kind of a trained drafter -> the class of its network
    "draft": "specdec_nb.learned.draft_model:DraftModel",
    "medusa": "specdec_nb.learned.medusa:Medusa",
    "hydra": "specdec_nb.learned.hydra:Hydra",
    "eagle": "specdec_nb.learned.eagle1:Eagle1",
    "block": "specdec_nb.learned.block:BlockLayer",
    "prophet": "specdec_nb.learned.prophet:Prophet",
    "chimera": "specdec_nb.learned.chimera:Chimera",
    "eagle3": "specdec_nb.learned.eagle:Eagle3",
}
TARGETS = {  # the full name of a model's class, or what a transformers model reads beside text -> who makes its target
    "specdec_nb.lm.TableLM": "specdec_nb.roles:TableTarget",
    "specdec_nb.models.llama.Llama": "specdec_nb.models.state:LlamaTarget",
    "specdec_nb.models.native.Native": "specdec_nb.models.native:NativeTarget",
    "transformers.modeling_utils.PreTrainedModel": "specdec_nb.models.hf:hf_target",
    "encoder-decoder": "specdec_nb.decoding.encdec:EncoderDecoderTarget",  # of those models, the ones with an encoder
    "seeing": "specdec_nb.decoding.multimodal:SeeingTarget",  # and the ones that take pictures or sound
}
ATTENTION = {"cuda": "specdec_nb.trees.kernels:grouped_kernel"}  # device -> who attends there; elsewhere chapter 11 does
PICTURES = {  # what answers to sliders and keys
    "stepper": "specdec_nb.bench.widgets:stepper", "sliders": "specdec_nb.bench.widgets:sliders", "growth": "specdec_nb.bench.widgets:growth",
}
_FORMER = {"law": "exact_law"}  # earlier names, which still work and say so
__all__ = [*_HOME]


def __getattr__(name):
    if name in _FORMER:
        import warnings
        warnings.warn(f"specdec_nb.{name} is called {_FORMER[name]} now", DeprecationWarning, stacklevel=2)
        return __getattr__(_FORMER[name])
    if name not in _HOME: raise AttributeError(f"module 'specdec_nb' has no attribute {name!r}; it offers {', '.join(__all__)}")
    from .workshop.registry import resolve
    module, there = _HOME[name]
    return globals().setdefault(name, resolve(f"specdec_nb.{module}:{there}"))


def __dir__(): return sorted({*globals(), *__all__})
