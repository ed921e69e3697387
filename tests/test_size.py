"""Chapter 09a: the best size for a machine, by force; what one run foretells; and the size it chooses on the real model."""
import math

import numpy as np
import pytest

from enumeration import trees
from specdec_nb import Draft, Keyed, Law, TableLM, Trace, Verdict
from specdec_nb.decode import decode
from specdec_nb.models.hub import chat
from specdec_nb.roles import Drafter, as_target
from specdec_nb.sampling import softmax
from specdec_nb.shape import best_first, level_by_level, rerank
from specdec_nb.size import best_size, best_tree, tokens_by_size, tree_speedups
from specdec_nb.speedup import CostCurve, three_machines


@pytest.mark.parametrize("level", [0, .07, .3])
@pytest.mark.parametrize("curve", [*three_machines().values(), CostCurve((1, 2, 3, 9), (1, 1.4, 1.1, 1.5))], ids=lambda c: repr(c)[:24])
def test_best_tree_is_the_best_of_all(curve, level):
    for seed in range(3):
        acc = (np.random.default_rng(seed).dirichlet(np.ones(3), 3) * .9)[:, :2].tolist()
        def speed(tree):
            worth = sum(math.prod(acc[d][r] for d, r in enumerate(path)) for path in tree)
            return (1 + worth) / (curve.relative(1 + len(tree)) + level * max(map(len, tree), default=0))
        force = max(speed(t) for m in range(6) for t in trees(m, 2) if all(len(path) <= 3 for path in t))
        draft, S = best_tree(acc, curve, level, most=5)
        paths = [tuple(draft.tokens[j] for j in draft.path(i)) for i in range(len(draft))]
        assert math.isclose(S, force) and math.isclose(speed(paths), S)


def test_levels_that_cost_too_much_are_not_drafted():
    assert best_tree([[.5, .2]] * 4, three_machines()["free"], level=2) == (Draft(), 1.)
    assert best_tree([[.5]] * 9, three_machines()["free"], level=.1)[0] == Draft.chain([0, 0])


class Confident(Drafter):
    def __init__(self, lm, n): self.lm, self.n = lm, n
    def propose(self, ctx, rng):
        return best_first(lambda path: enumerate(self.lm.p([*ctx.tokens, *path])), min(self.n, ctx.budget.nodes), ctx.budget.depth)[0]


def test_one_run_foretells_every_size():
    """1 500 tokens of a table model. Where the next word does not depend on the last, every call is alike, and prefix counts estimate what
    smaller trees get: means over at least 400 calls whose counts spread by about 1, so 4 standard errors are .2."""
    model, crude = TableLM({(): [4, 3, 2, 1]}), TableLM({(): [5, 3, 1, 1]})
    def run(n, seed): return Trace(decode(model, Confident(crude, n), [0], limit=1500, rng=Keyed(seed)))
    counts = tokens_by_size(run(12, 1).steps, 12)
    assert counts[0] == 1 and (np.diff(counts) >= 0).all()
    for n in (1, 4, 12): assert abs(counts[n] - run(n, 2).tokens_per_call) < .2
    assert abs(counts[12] - run(1, 2).tokens_per_call) > .2, "the control: another size is told apart"


def test_falling_values_are_demanded():
    with pytest.raises(ValueError, match="must fall"): tree_speedups([.1, .5], three_machines()["free"])
    assert best_size([.9, .5, .1], CostCurve((1, 2), (1, 2))) == 0


@pytest.mark.slow
def test_the_chosen_size_on_the_real_model(smollm2):
    """Within 5 % of the best fixed size of an exhaustive search. The drafter is the model with a memory of eight tokens; it depends on the text
    alone, so the drafts of every position give every run of every size. Greedy, two answers of 64 tokens."""
    model, tokenizer = smollm2
    target = as_target(model)
    def draft_at(text):
        state = target.open(text[-8:])
        def expand_all(paths):
            draft, where = Draft.merge(paths)
            [scores] = target.score([(state, draft)])
            laws = [softmax(scores.row(nodes[-1] + 1 if nodes else 0)) for nodes in where]
            return [[(int(x), q[x]) for x in np.argpartition(-q, 4)[:4]] for q in laws]
        return rerank(*level_by_level(expand_all, 5, 4), 24)[0]
    def accepted(draft, ahead, n=99):
        path, node = [], -1
        for token in ahead:
            node = next((i for i in draft.children(node) if i < n and draft.tokens[i] == token), None)
            if node is None: break
            path.append(node)
        return path
    answers = []
    for ask in ("Write a Python function that counts the vowels of a word.", "Why is the sky blue?"):
        prompt = chat(tokenizer, ask)[0].tolist()
        text = Trace(decode(target, "none", prompt, limit=70, law=Law(temperature=0))).tokens
        answers.append([(draft_at(prompt + text[:i]), text[i:]) for i in range(len(text) - 6)])
    steps = [(draft, Verdict.of(draft, accepted(draft, ahead), None)) for answer in answers for draft, ahead in answer]
    counts = tokens_by_size(steps, 24)
    def taken(n):
        tokens = calls = 0
        for answer in answers:
            at = 0
            while at < len(answer): at, calls = at + 1 + len(accepted(*answer[at], n)), calls + 1
            tokens += at
        return tokens / calls
    search = np.array([taken(n) for n in range(25)])
    assert search[0] == 1 and search[8] > 1.3
    for name, curve in three_machines().items():
        S = search / curve.relative(1 + np.arange(25))
        chosen = int(np.argmax(counts / curve.relative(1 + np.arange(25))))
        assert S[chosen] >= .95 * S.max(), (name, chosen, S.round(2).tolist())
    worst = int(np.argmin(S))
    assert S[worst] < .95 * S.max(), "the control: on the processor, the last of the three, a wrong size does lose more"
