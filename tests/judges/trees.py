"Wrong answers to the exercises of Part V"
from fractions import Fraction

import numpy as np


def check_chunked(c):
    def by_columns(draft, base, w):
        sees, at = c.solution(draft, base, 1 << 30), np.arange(base + 1 + len(draft))
        return sees & (at[base:, None] // w == at[None] // w)
    return {"by columns": by_columns, "a wider chunk": lambda d, b, w: c.solution(d, b, w + 1), "no chunks": lambda d, b, w: c.solution(d, b, 1 << 30),
            "a constant": lambda d, b, w: np.ones((1 + len(d), b + 1 + len(d)), bool), "the last four": lambda d, b, w: last(c, d, b, w)}


def last(c, draft, base, w):
    "A sliding window instead of chunks"
    at = np.array([*range(base + 1), *(base + d for d in draft.depth)])
    return c.solution(draft, base, 1 << 30) & (at[base:, None] - at < w)


def check_program(c):
    class Ignores(c.TreeMask):
        def __init__(self, rows, w): super().__init__(rows)
    class Inside(c.Solution):
        def set(self, draft, base):
            self.number = base
            return super().set(draft, base)
        def __call__(self, batch, head, row, column):
            node = (column - self.number).clamp(0, self.rows - 1)
            position = c.torch.where(column < self.number, column, self.number + self.depth[node])
            return c.TreeMask.__call__(self, batch, head, row, column) & (position // self.w == (self.number + self.depth[row]) // self.w)
    class Columns(c.Solution):
        def __call__(self, batch, head, row, column):
            return c.TreeMask.__call__(self, batch, head, row, column) & (column // self.w == (self.base + row) // self.w)
    return {"no chunks": Ignores, "the base inside": Inside, "by columns": Columns}


def check_rejection_acceptance(c):
    def stays(p, q, k): return 1 - (1 - c.overlap(p, q))**k
    def other(p, q, k):
        "The draft's law changes, the target's stays"
        lost = 1
        for _ in range(k):
            lost *= 1 - c.overlap(p, q)
            if lost: q = c.residual(q, p)
        return 1 - lost
    return {"a constant": lambda p, q, k: 1, "independent": stays, "one sibling": lambda p, q, k: c.overlap(p, q), "k times": lambda p, q, k: k * c.overlap(p, q), "q's residual": other}


def check_greedy_fan(c):
    def best(q, k): return np.argsort(-q, kind="stable")[:k - 1]
    def forgets(q, k): # the last node carries q, though drawn from the rest
        right = c.solution(q, k)
        return lambda rng: c.Draft((d := right(rng)).tokens, d.parents, [None] * (k - 1) + [q])
    def repeats(q, k): # and here it is drawn from q
        return lambda rng: c.Draft([*best(q, k), rng.categorical(q)], [-1] * k, [None] * (k - 1) + [q])
    def top(q, k): return lambda rng: c.Draft(np.argsort(-q, kind="stable")[:k].tolist(), [-1] * k, [None] * k)
    def drawn(q, k): return c.iid(q, k)
    return {"q recorded": forgets, "drawn from q": repeats, "all chosen": top, "all drawn": drawn}


def check_lead(c):
    worst, mean = c.solution()
    return {"never worse": lambda: (Fraction(0), mean), "twice the mean": lambda: (worst, mean * 2), "the mean twice": lambda: (mean, mean), "nothing": lambda: (Fraction(0), Fraction(0)),
            "the other way round": lambda: (-worst, mean)}


def check_late(c):
    def longer(n): return c.solution(n + 1)
    def exchanged(n): return c.solution(n)[::-1]
    def never(n): return 1, 1
    def first_only(n): return Fraction(3, 8) * 2 + Fraction(3, 32), 1
    return {"one node more": longer, "exchanged": exchanged, "always alike": never, "the tail forgotten": first_only, "a constant": lambda n: c.solution(4)}


def check_mildest(c):
    def near(n): return lambda wanted: (found := c.solution(wanted)) and (found[0] + Fraction(n, 20), found[1])
    return {"one milder": near(1), "one bolder": near(-1), "no bias": lambda wanted: (found := c.solution(wanted)) and (found[0], 0),
            "always": lambda wanted: c.solution(wanted) or (Fraction(1, 2), 1.), "a constant": lambda wanted: (Fraction(1), 0.)}


def check_lenient_law(c):
    def share(p, q, l): return np.minimum(q, p / l)
    def rest(p, q, l, of):
        kept = share(p, q, l)
        return kept + (1 - kept.sum()) * of(p, q, l) if kept.sum() < 1 else kept
    return {"nothing has changed": lambda p, q, l: p, "the draft's": lambda p, q, l: q, "lenience the other way round": lambda p, q, l: c.solution(p, q, 1 / l),
            "what is lost is drawn from p": lambda p, q, l: rest(p, q, l, lambda p, q, l: p), "what is lost comes to nothing": share,
            "the residual of what is accepted": lambda p, q, l: rest(p, q, l, lambda p, q, l: (x := np.maximum(p / l - q, 0)) / x.sum()),
            "a constant": lambda p, q, l: np.array([Fraction(1, len(p))] * len(p))}


def check_lattice(c):
    class Never(c.TokenGraph):
        def __init__(self, text, repeat): super().__init__(text, -1)
    class Tokens(c.Solution):
        def __init__(self, text, repeat): super().__init__(text, 0)
    class Pairs(c.Solution):
        def __init__(self, text, repeat): super().__init__(text, 1)
    return {"any depth": c.TokenGraph, "no meetings": Never, "r is 0": Tokens, "r is 1": Pairs}


def check_worst(c):
    TableLM = c.TableLM
    return {"the chapter's": c.moody, "a fair die": TableLM({(): [1, 1, 1]}), "one word for ever": TableLM({(): [0, 0, 1]}), "its neighbour, the first course":
            TableLM({(): [0, 0, 1], (c.SUN,): [1, 0, 0], (c.SNOW,): [0, 1, 0], (c.SUN, c.RAIN): [1, 0, 0], (c.SNOW, c.RAIN): [0, 0, 1]}),
            "wrong now and then": TableLM({(): [0, 0, 1], (c.SUN,): [0, 0, 1], (c.SNOW,): [0, 1, 0], (c.SUN, c.RAIN): [1, 0, 0], (c.SNOW, c.RAIN): [1, 0, 1]})}


def check_packed(c):
    Draft, right = c.Draft, c.solution
    return {"the mask written out": lambda d, base, w=None: c.PackedMask.of([c.mask_of(d, base)]), "no window": lambda d, base, w=None: right(d, base),
            "a chain": lambda d, base, w=None: right(Draft.chain(d.tokens), base, w), "a wider window": lambda d, base, w=None: right(d, base, w and w + 1),
            "a constant": lambda d, base, w=None: right(Draft(), 3, None)}


def check_free(c):
    def ridge(m): return m["flops"] / m["bandwidth"]
    return {"a constant": lambda m, G, itemsize=2: 73.8, "wider is dearer": lambda m, G, itemsize=2: ridge(m) / G * 2 / itemsize, "heads forgotten": lambda m, G, itemsize=2: ridge(m) / 2 * itemsize,
            "one operation": lambda m, G, itemsize=2: ridge(m) * itemsize / G, "bytes forgotten": lambda m, G, itemsize=2: ridge(m) / G}


def check_coins(c):
    return {"a constant": lambda d: 4, "its depth": lambda d: max(d.depth, default=0) + 1, "its nodes": lambda d: len(d) + 1, "none for the end": lambda d: c.solution(d) - 1,
            "the first level": lambda d: len(d.children(-1)) + 1}


def check_sees(c):
    def nearly(parents):
        mask = np.eye(len(parents), dtype=bool)
        for i, p in enumerate(parents):
            if p >= 0: mask[i, p] = True
        return mask
    def not_itself(parents): return c.solution(parents) & ~np.eye(len(parents), dtype=bool)
    return {"as given": nearly, "not itself": not_itself, "all before": lambda parents: np.tril(np.ones((len(parents),) * 2, bool)), "descendants": lambda parents: c.solution(parents).T,
            "a constant": lambda parents: np.ones((len(parents),) * 2, bool)}


def check_two_siblings(c):
    F = Fraction
    found = {"one sibling": (F(3, 4),) * 3, "tries add up": (F(15, 16), 1, F(15, 16)), "replacement forgotten": (F(13, 16), F(13, 16), F(15, 16)), "a constant": (1, 1, 1), "the optimum is rejection": (F(13, 16), 1, F(13, 16))}
    return {kind: (answer,) for kind, answer in found.items()}


def check_merged(c):
    def lucky(A, B):
        (m, z, a), (n, y, b) = A, B
        top = max(m, n)
        return top, 2.**(m - top) * z + 2.**(n - top) * y, a + 2.**(n - top) * b
    def plain(A, B): return max(A[0], B[0]), A[1] + B[1], A[2] + B[2]
    def larger(A, B): return max(A, B, key=lambda piece: piece[0])
    def grows(A, B):
        low = min(A[0], B[0])
        return low, 2.**(A[0] - low) * A[1] + 2.**(B[0] - low) * B[1], 2.**(A[0] - low) * A[2] + 2.**(B[0] - low) * B[2]
    return {"as given": lucky, "sums": plain, "the larger one": larger, "by the smaller maximum": grows, "a constant": lambda A, B: (0., 1., 0.)}


def check_three_counts(c):
    return {"a tree": [5, 0, 5], "circles": [2, 3, 6], "edges": [5, 2, 6], "not unrolled": [3, 2, 3], "one meeting": [3, 1, 6], "a constant": [0, 0, 0]}


def check_compacted(c):
    def shuffled(rows, path):
        for i in reversed(range(len(path))): rows[i] = rows[path[i]]
        return rows
    def shortened(rows, path):
        rows[:] = [rows[j] for j in path]
        return rows
    def swapped(rows, path):
        for i, j in enumerate(path): rows[j] = rows[i]
        return rows
    return {"as given": shuffled, "a new list": lambda rows, path: [rows[j] for j in path] + rows[len(path):], "shortened": shortened, "to where they came from": swapped, "nothing": lambda rows, path: rows}
