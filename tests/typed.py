"""Never run, read by the type checker (`make types`): who fits which protocol, and what the face's names are."""
from collections.abc import Callable

from specdec_nb import Draft, Drafter, Drafting, HFTarget, Rule, State, Target, Verdict, generate, verify_kseq, verify_rejection, verify_walk
from specdec_nb.decoding.contrastive import Contrastive
from specdec_nb.decoding.hidden import ContrastiveSearch
from specdec_nb.models.native import NativeTarget
from specdec_nb.models.rows import TensorScores
from specdec_nb.models.state import LlamaTarget, RowState
from specdec_nb.roles import BaseTarget, DrafterLike, LawLike, NoDrafter, ScoresLike, TableState, TableTarget
from specdec_nb.sampling import Asks, Law, Scores


def targets(table: TableTarget, own: LlamaTarget, theirs: HFTarget) -> list[Target]: return [table, own, theirs]


def states(table: TableState, rows: RowState) -> list[State]: return [table, rows]


def drafters(own: Drafter) -> list[Drafting]: return [own, NoDrafter()]


def rules() -> list[Rule]: return [verify_walk, verify_rejection, verify_kseq]


def face(draft: Draft) -> tuple[int | None, Callable]: return draft.child(-1, 0), generate


class Plain:
    "Of no class of ours, and a `Drafting` all the same"
    def propose(self, ctx, rng) -> Draft: return Draft.chain([ctx.tokens[-1]])
    def observe(self, step) -> None: pass


def plain() -> Drafting: return Plain()


def rule(draft: Draft, p, rng) -> Verdict: return verify_walk(draft, p, rng)


def own_rule() -> Rule: return rule


class Words:
    "Rows of no class of ours"
    seconds, elapsed = 0., 0.
    hidden: dict = {}
    def row(self, i: int): return [1, 0]
    def best(self, i: int) -> int: return 0
    def top(self, k: int): return [[0, 1][:k]]
    def likely(self, i: int, k: int) -> list: return [(0, 1.)]


class Parrot(Plain):
    def begin(self, ctx, state) -> Drafting | None: return None


class Even:
    "A law of no class of ours"
    asks = Asks()
    def start(self, prompt): return None
    def read(self, s, state): return s
    def step(self, s, token: int, scores=None, i: int = 0): return s
    def row(self, s, scores, i: int): return scores.row(i)
    def on_drafts(self) -> LawLike: return self


def likes(own: Scores, rows: TensorScores, lookup: Drafter) -> tuple[list[ScoresLike], list[LawLike], list[DrafterLike]]:
    return [own, rows, Words()], [Law(), Even()], [lookup, NoDrafter(), Parrot()]


def bases(searching: ContrastiveSearch, both: Contrastive, native: NativeTarget) -> list[BaseTarget]: return [searching, both, native]


def fits(searching: ContrastiveSearch, both: Contrastive, native: NativeTarget) -> list[Target]: return [searching, both, native]
