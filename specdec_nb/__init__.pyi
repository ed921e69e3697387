"""What the face offers, for editors and type checkers; `tests/test_types.py` keeps it in step with `_HOME`."""
from .lm import TableLM as TableLM
from .chance import Dice as Dice, Keyed as Keyed, exact_law as exact_law
from .sampling import Law as Law
from .draft import Draft as Draft
from .verify import (
    Verdict as Verdict,
    verify_walk as verify_walk,
    verify_rejection as verify_rejection,
    Step as Step,
    Trace as Trace,
)
from .roles import (
    Drafter as Drafter,
    Target as Target,
    State as State,
    Drafting as Drafting,
    Rule as Rule,
)
from .stops import Stop as Stop
from .decode import Request as Request, serve as serve
from .drafters.indices import Datastore as Datastore
from .drafters.copying import Reference as Reference
from .drafters.pool import PhrasePool as PhrasePool
from .drafters.model import ModelDrafter as ModelDrafter
from .drafters.layerskip import LayerSkip as LayerSkip
from .learned.online import Online as Online
from .serving.quant import QuantSelf as QuantSelf
from .trees.multidraft import verify_kseq as verify_kseq
from .trees.blocks import verify_block as verify_block, verify_traversal as verify_traversal
from .models.native import load as load, load_default as load_default, Native as Native
from .models.narrow import in_bytes as in_bytes
from .models.llama import Llama as Llama
from .models.hf import HFTarget as HFTarget
from .models.generate import generate as generate
from .decoding.methods import Truncated as Truncated, Mirostat as Mirostat, FSD as FSD
from .decoding.hidden import VectorFSD as VectorFSD, DoLa as DoLa, ContrastiveSearch as ContrastiveSearch
from .decoding.beams import beam_search as beam_search
from .decoding.samples import best_of as best_of, samples as samples
from .decoding.codesum import load_summariser as load_summariser
from .decoding.sed import sed as sed
from .decoding.grammars import Constrained as Constrained, Guidance as Guidance
from .decoding.contrastive import Contrastive as Contrastive
from .serving.engine import Engine as Engine
from .training.diagnose import diagnose as diagnose
from .bench.race import race as race

__version__: str
__all__: list[str]
DRAFTERS: dict[str, str]
RULES: dict[str, str]
TARGETS: dict[str, str]
NETWORKS: dict[str, str]
ATTENTION: dict[str, str]
PICTURES: dict[str, str]
