"""Never run, read by the type checker (`make types`): who fits which protocol, and what the face's names are."""
from collections.abc import Callable

from specdec_nb import Draft, Drafter, Drafting, HFTarget, Rule, State, Target, Verdict, generate, verify_kseq, verify_rejection, verify_walk
from specdec_nb.models.state import LlamaTarget, RowState
from specdec_nb.roles import NoDrafter, TableState, TableTarget


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
