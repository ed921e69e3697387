"""What tests of measuring share: a table that goes in a circle, a drafter that learns and one that is often wrong, a short setting."""
from specdec_nb.bench.timing import Setting
from specdec_nb.draft import Draft
from specdec_nb.lm import TableLM
from specdec_nb.roles import Drafter

CIRCLE = TableLM({(): [1, 0, 0], (0,): [0, 1, 0], (1,): [0, 0, 1], (2,): [1, 0, 0]})


class Parrot(Drafter):
    "Drafts the end of the last answer it saw"
    learns = True
    def __init__(self): self.memory = []
    def propose(self, ctx, rng): return Draft.chain(self.memory[-3:])
    def observe(self, step): self.memory += step.verdict.tokens


class Wild(Drafter):
    def propose(self, ctx, rng): return Draft.merge([[1, 2], [1, 0], [2]])[0]


SMALL = Setting(max_new_tokens=7)
