"""Drafters that exist to make trouble: random trees, the truth with detours, sampled trees from a table."""
from fractions import Fraction

import numpy as np

from specdec_nb import Draft, Drafter
from specdec_nb.draft import Budget
from specdec_nb.roles import Context, Tokens

NAMED = ("lookup", "suffix", "reference", "rest", "pool", "recycling", "lookahead", "tuned", "auto", "layerskip") # they need no other model, and no training


class Wild:
    "No subclass, no manners: random trees, larger than there is room for; with `truth`, some branches are right for a while"
    def __init__(self, seed=0, truth=None): self.gen, self.truth = np.random.default_rng(seed), truth
    def begin(self, ctx, state): return None
    def propose(self, ctx, rng):
        paths = self.gen.integers(0, ctx.vocab_size, (4, 3)).tolist()
        if self.truth is not None:
            ahead = list(self.truth[len(ctx.tokens):len(ctx.tokens) + 5])
            paths[1] = ahead[:self.gen.integers(0, 6)] + paths[1][:1]
            paths[2] = ahead[:2] + paths[2]
        return Draft.merge(paths)[0]
    def observe(self, step): pass


class Oracle(Drafter):
    "Drafts the known continuation, `k` tokens at a time: everything is accepted, so stops fall inside accepted blocks"
    def __init__(self, truth, k=6): self.truth, self.k = list(truth), k
    def propose(self, ctx, rng): return Draft.chain(self.truth[len(ctx.tokens):len(ctx.tokens) + self.k])


class Sampled(Drafter):
    "Draws trees from a `TableLM`: `shape[d]` children for each node at depth d, with or without replacement"
    def __init__(self, lm, shape, replace=False): self.lm, self.shape, self.replace = lm, shape, replace
    def propose(self, ctx, rng):
        tokens, parents, probs, level = [], [], [], [(-1, tuple(ctx.tokens))]
        for depth, width in enumerate(self.shape[:ctx.budget.depth]):
            below, noise = [], rng.at(depth, "draft")
            for node, s in level:
                q = self.lm.p(s)
                for _ in range(width):
                    if not any(q): break
                    q = q / q.sum()
                    x = noise.categorical(q)
                    tokens.append(x); parents.append(node); probs.append(q)
                    below.append((len(tokens) - 1, s + (x,)))
                    if not self.replace: q = np.where(np.arange(len(q)) == x, Fraction(0), q)
            level = below
        return Draft(tokens, parents, probs)


def context(text, vocab_size=99, room=Budget(99, 99)): return Context(Tokens(text), room, None, vocab_size=vocab_size)
def proposal(drafter, text, **kwargs): return drafter.begin(c := context(text, **kwargs), None).propose(c, None)
