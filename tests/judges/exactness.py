"Wrong answers to the exercises of Part I"
from fractions import Fraction
from types import SimpleNamespace

import numpy as np


def check_placed(c):
    right = c.solution
    return {"nothing": {}, "one place for all": dict.fromkeys(right, "who"),
            "the layers are the target": {**right, "skip every other layer of the target": "target"},
            "memory and who swapped": {x: {"memory": "who", "who": "memory"}.get(y, y) for x, y in right.items()}}


def check_entropy_rate(c):
    right = c.solution
    return {"a constant": lambda lm, s, n: 1., "not divided": lambda lm, s, n: n * right(lm, s, n),
            "nats": lambda lm, s, n: right(lm, s, n) * np.log(2), "the next token alone": lambda lm, s, n: right(lm, s, 1),
            "the prefix forgotten": lambda lm, s, n: right(lm, [], n), "the last token alone": lambda lm, s, n: n * right(lm, s, n) - (n - 1) * right(lm, s, max(n - 1, 1)),
            "as if the mean of 0 and 1": lambda lm, s, n: float(len(lm.law(s, n)) > 1)}


def check_longest(c):
    return {"a constant": lambda v, most: 3, "a quotient": lambda v, most: most // v, "rounded": lambda v, most: round(np.log(most) / np.log(v)),
            "a logarithm cut": lambda v, most: int(np.log(most) / np.log(v)), "one too many": lambda v, most: c.solution(v, most) + 1}


def check_not_snow(c):
    p, snow = c.p, c.SNOW
    def shared(rng):
        q = p + p[snow] / 2
        q[snow] = 0 * q[snow]
        return rng.categorical(q)
    return {"it may snow": lambda rng: rng.categorical(p), "a fair coin": lambda rng: int(rng.bernoulli(Fraction(1, 2))),
            "a constant": lambda rng: c.SUN, "snow's mass in equal parts": shared,
            "two draws, then sun": lambda rng: c.SUN if (x := rng.categorical(p)) == snow and (x := rng.categorical(p)) == snow else x}


def check_keep_typical(c):
    def nearest(p, mass):
        surprise = -np.log(np.maximum(p, 1e-300))
        at = np.argmin(abs(surprise - (p * surprise).sum()))
        return p if mass == 1 else np.eye(len(p))[at]
    def by_number(p, mass):
        "Nearest to a probability of one half"
        order = np.argsort(abs(p - .5), kind="stable")
        kept = np.isin(np.arange(len(p)), order[np.cumsum(p[order]) - p[order] < mass - 1e-12])
        return kept * p / (kept * p).sum()
    return {"top-p": c.keep_top_p, "min-p": c.keep_min_p, "all": lambda p, mass: p, "the nearest alone": nearest,
            "not normalised": lambda p, mass: p * (c.solution(p, mass) > 0), "near one half": by_number}


def check_lenient(c):
    def own_residual(p, q, l):
        kept, left = np.minimum(q, p / l), np.maximum(p / l - q, 0)
        return dict(enumerate(kept + (1 - kept.sum()) * left / left.sum() if left.sum() else kept))
    def again(p, q, l):
        kept = np.minimum(q, p / l)
        return dict(enumerate(kept + (1 - kept.sum()) * p))
    return {"p": lambda p, q, l: dict(enumerate(p)), "q": lambda p, q, l: dict(enumerate(q)), "p or q": lambda p, q, l: dict(enumerate(p if l == 1 else q)),
            "p - lq": lambda p, q, l: dict(enumerate(p - l * q)), "a mixture": lambda p, q, l: dict(enumerate(l * p + (1 - l) * q)),
            "a residual of its own": own_residual, "drawn again from p": again}


def check_bias(c):
    return {"total variation": c.total_variation, "times the overlap": lambda p, q: c.total_variation(p, q) * c.overlap(p, q),
            "a constant": lambda p, q: c.epsilon, "none": lambda p, q: Fraction(0), "squared": lambda p, q: c.total_variation(p, q) ** 2}


def check_shared(c):
    def texts(d): return [tuple(d.tokens[j] for j in d.path(i)) for i in range(len(d))]
    def pairs(keys): return sum(keys[i] == keys[j] for i in range(len(keys)) for j in range(i))
    return {"a constant": lambda d: 0, "tokens alone": lambda d: pairs(d.tokens), "drawn or not": lambda d: 2 * (d.probs is not None),
            "equal siblings": lambda d: pairs([*zip(d.tokens, d.parents)]), "token and depth": lambda d: pairs([*zip(d.tokens, d.depth)]),
            "token, depth and the parent's token": lambda d: pairs([(x, n, d.tokens[p] if p >= 0 else None) for x, n, p in zip(d.tokens, d.depth, d.parents)]),
            "repeats, not pairs": lambda d: len(d) - len(set(texts(d)))}


def check_same_in_law(c):
    def by_length(draft, prefix):
        laws = [c.exact_law(lambda rng, rule=rule: rule(draft, c.rows(c.target, prefix, draft), rng).tokens[:1]) for rule in (c.verify_walk, c.verify_rejection)]
        return laws[0] == laws[1]
    return {"always": lambda d, s: True, "never": lambda d, s: False, "nothing recorded": lambda d, s: d.probs is None,
            "nothing drawn": lambda d, s: not any(q is not None for q in d.probs or ()), "the first token alone": by_length,
            "more than one node": lambda d, s: len(d) != 1,
            "more than one node, none drawn": lambda d, s: len(d) != 1 and not any(q is not None and max(q) < 1 for q in d.probs or ())}


def check_surprise(c):
    half, Draft = Fraction(1, 2), c.Draft
    fair, sure = np.array([half] * 2, dtype=object), np.array([Fraction(1), Fraction(0)], dtype=object)
    def mean(rule, below=1, apart=False):
        def run(rng):
            first = rng.categorical(fair)
            second = 1 - first if apart else rng.categorical(fair)
            draft = Draft([first, second, 0, 0, 0], [-1, -1, below, 2, 3], [fair, fair, None, None, None])
            return len(rule(draft, [fair] + [sure] * 5, rng).tokens)
        return sum(n * w for n, w in c.exact_law(run).items())
    return {"a constant": lambda rule: Fraction(5, 2), "by name": lambda rule: Fraction(5, 2) if rule is c.verify_walk else 2,
            "below the first": lambda rule: mean(rule, below=0), "without replacement": lambda rule: mean(rule, apart=True),
            "accepted, not committed": lambda rule: mean(rule) - 1}


def check_mixture(c):
    def of(rows, both=True, kept=True):
        class Wrong(c.Solution):
            def open(self, prompt, asks=None):
                pair = super().open(prompt, c.Asks())
                if not kept: pair.keep = lambda verdict: None
                return pair
            def score(self, pairs):
                one, two = (t.score([(pair.states[i], draft) for pair, draft in pairs]) for i, t in enumerate(self.both))
                return [c.Scores(rows(x.rows, y.rows)) for x, y in zip(one, two)][:None if both else 1]
        return Wrong
    class Silent(c.Solution):
        def open(self, prompt, asks=None):
            pair = super().open(prompt, c.Asks())
            return SimpleNamespace(states=pair.states, keep=pair.keep)
    def half(x, y): return (x + y) / 2
    def pending_alone(x, y): return c.np.concatenate([half(x, y)[:1], x[1:]])
    class Singly(c.Solution):
        def score(self, pairs): return [scores for pair in pairs for scores in super(Singly, self).score([pair])]
    return {"the first": of(lambda x, y: x), "the second": of(lambda x, y: y), "not halved": of(lambda x, y: x + y), "nothing kept": of(half, kept=False),
            "one state's answer": of(half, both=False), "the pending token's row alone": of(pending_alone), "state by state": Singly,
            "says nothing of what is unread": Silent}


def check_echo(c):
    Draft, Drafter = c.Draft, c.Drafter
    class Last(Drafter):
        def __init__(self, n): self.n = n
        def propose(self, ctx, rng): return Draft.chain([ctx.tokens[-1]] * self.n)
    class Fixed(Drafter):
        def __init__(self, n, tokens=(0, 1, 2)): self.tokens = tokens
        def propose(self, ctx, rng): return Draft.chain(self.tokens)
    class First(Drafter):
        def __init__(self, n): self.n = n
        def propose(self, ctx, rng): return Draft.chain(ctx.tokens[:self.n])
    return {"no guess": lambda n: Fixed(n, []), "always two": lambda n: c.Solution(2), "always three": lambda n: c.Solution(3),
            "the last token, repeated": Last, "a constant": Fixed, "from the beginning": First}


def check_batched(c):
    return {"one stream": lambda curve, b: curve.v, "units of one row": lambda curve, b: lambda k: curve.relative(b * (k + 1)),
            "drafts added, not multiplied": lambda curve, b: lambda k: curve.relative(b + k), "a constant": lambda curve, b: lambda k: 1.,
            "b times as long": lambda curve, b: lambda k: b * curve.v(k)}


def check_better(c):
    def fixed(k): return lambda alpha, cost: "faster" if c.speedup(alpha, k, cost / 2) > c.speedup((1 + alpha) / 2, k, cost) else "surer"
    return {"surer": lambda alpha, cost: "surer", "faster": lambda alpha, cost: "faster", "dear or not": lambda alpha, cost: "faster" if cost >= .5 else "surer",
            "sure or not": lambda alpha, cost: "faster" if alpha >= .9 else "surer", "four tokens": fixed(4), "one token": fixed(1)}


def check_break_even(c):
    static_tree = c.static_tree
    def forgets_rows(acc, curve): return max(sum(static_tree(acc[:d], 64)[1]) / d for d in range(1, len(acc) + 1))
    def full_depth(acc, curve):
        v = static_tree(acc, 64)[1]
        return max(np.cumsum(v) + 1 - curve.relative(2 + np.arange(len(v)))) / len(acc)
    def one_level(acc, curve): return (np.cumsum(acc[0]) + 1 - curve.relative(2 + np.arange(len(acc[0])))).max()
    return {"rows are free": forgets_rows, "all levels": full_depth, "one level": one_level, "a constant": lambda acc, curve: .5}


def check_rank_accuracies(c):
    ids = lambda t, d, texts: sum(t.p(s) for s in texts) / Fraction(len(texts))
    own = lambda t, d, texts: sum(np.sort(d.p(s))[::-1] for s in texts) / Fraction(len(texts))
    def best(t, d, texts): return sum(np.sort(t.p(s))[::-1] for s in texts) / Fraction(len(texts))
    return {"the drafter's confidence": own, "by id": ids, "ranked by the target": best,
            "a constant": lambda t, d, texts: [Fraction(1, 2), Fraction(11, 36), Fraction(7, 36)], "not a mean": lambda t, d, texts: len(texts) * c.solution(t, d, texts)}


def check_phrase(c):
    def anywhere(tokens, prompt): return lambda text: text[-len(tokens):] == list(tokens)
    def last(tokens, prompt): return lambda text: text[-1] == tokens[-1]
    def set_(tokens, prompt): return lambda text: set(tokens) <= set(text[prompt:])
    return {"the prompt counts": anywhere, "its last token": last, "in any order": set_, "never": lambda tokens, prompt: lambda text: False,
            "at once": lambda tokens, prompt: lambda text: True, "one token late": lambda tokens, prompt: lambda text: text[prompt:-1][-len(tokens):] == list(tokens)}


def check_kept_by_hand(c):
    kept, after, agreed = c.solution
    found = {"agreeing": (agreed, after, agreed), "not normalised": (kept, [Fraction(1, 3), 0, 0], agreed), "drawn from p": (kept, [Fraction(1, 2), Fraction(1, 3), Fraction(1, 6)], agreed),
             "a constant": (1, [1, 0, 0], 1), "the other way round": (kept, [0, 0, 1], agreed), "kept twice": (kept, after, kept)}
    return {kind: (answer,) for kind, answer in found.items()}


def check_without(c):
    def hasty(p, q, tokens, rng):
        for x in tokens:
            if rng.bernoulli(c.accept_probability(p, q, x)): return x
            p = c.residual(p, q)
        return rng.categorical(p)
    def unscaled(p, q, tokens, rng):
        for x in tokens:
            if rng.bernoulli(c.accept_probability(p, q, x)): return x
            p, q = c.residual(p, q), np.where(np.arange(len(q)) == x, 0, q)
        return rng.categorical(p)
    def same_debt(p, q, tokens, rng):
        for x in tokens:
            if rng.bernoulli(c.accept_probability(p, q, x)): return x
            q = np.where(np.arange(len(q)) == x, 0, q)
            q = q / q.sum()
        return rng.categorical(c.residual(p, q))
    def first_alone(p, q, tokens, rng):
        x = tokens[0]
        return x if rng.bernoulli(c.accept_probability(p, q, x)) else rng.categorical(c.residual(p, q))
    return {"as given": hasty, "not scaled up": unscaled, "one debt": same_debt, "the first alone": first_alone, "a constant": lambda p, q, tokens, rng: 0, "draws for itself": lambda p, q, tokens, rng: rng.categorical(p)}


def check_several(c):
    def one(rng, q, k): return (rng.at(0, "draft").categorical(q),) * k
    def again(rng, q, k): return tuple(rng.at(0, "draft").categorical(q) for _ in range(k))
    def places(rng, q, k): return tuple(rng.at(i, "draft").categorical(q) for i in range(k, 0, -1))
    def without(rng, q, k):
        noise, drawn = rng.at(0, "draft"), []
        for _ in range(k):
            rest = q.copy()
            rest[drawn] = 0
            drawn.append(noise.categorical(rest / rest.sum()))
        return tuple(drawn)
    def targets(rng, q, k): return c.solution(type("R", (), dict(at=lambda self, i, what: rng.at(i, "target")))(), q, k)
    return {"one draw copied": one, "as given": again, "other places": places, "without replacement": without, "the target's noise": targets, "a constant": lambda rng, q, k: (0,) * k,
            "always two": lambda rng, q, k: c.solution(rng, q, 2), "one law for all": lambda rng, q, k: c.solution(rng, c.drafter.p([c.SUN]), k)}


def check_orders(c):
    F, (one, other) = c.Fraction, c.solution
    return {"one order twice": [one, one], "swapped": [other, one], "not renormalised": [[F(9, 14), F(4, 14), 0], other], "no temperature": [[F(3, 5), F(2, 5), 0], other],
            "top-p alone": [one, [F(1, 2), F(1, 3), F(1, 6)]]}


def check_shape(c):
    depths, path, ones = c.solution
    return {"depths from 0": [tuple(d - 1 for d in depths), path, ones], "numbers for depths": [range(6), path, ones], "the parent alone": [depths, (3, 4), ones],
            "tokens before it": [depths, range(5), ones], "without the pending token": [depths, path, 11], "a chain's mask": [depths, path, 28]}


def check_answer(c):
    def cut(prompt, new, ends):
        text = [*prompt, *new]
        at = next((i for i, token in enumerate(text) if token in ends), len(text))
        return text[len(prompt):at + 1]
    return {"as given": cut, "all": lambda p, new, ends: new, "without the end": lambda p, new, ends: c.solution(p, new, ends)[:-1], "nothing": lambda p, new, ends: [],
            "the last end": lambda p, new, ends: new[:max((i for i, t in enumerate(new, 1) if t in ends), default=len(new))]}


def check_twelve(c):
    return {"no target's own": [(3, 4), (12, 38)], "uncut drafts": [(3, 1), (12, 48)], "a call a token": [(12, 4), (12, 38)], "no last draft": [(3, 0), (12, 38)], "cut a word late": [(3, 2), (12, 42)]}


def check_alpha_of(c):
    def share(calls): return sum(n for _, n in calls) / max(sum(k for k, _ in calls), 1)
    return {"as given": share, "a constant": lambda calls: .7, "whole chains": lambda calls: sum(n == k for k, n in calls) / len(calls),
            "one refusal a call": lambda calls: sum(n for _, n in calls) / sum(n + 1 for _, n in calls), "the first guess alone": lambda calls: sum(n > 0 for _, n in calls) / len(calls)}


def check_small_tree(c):
    return {"without the target's own": [1.1, 4, 1.63], "the chain": [1.8, 2, 1.5], "all nodes": [2.1, 6, 1.53], "too small": [2.1, 3, 1.62], "probabilities added": [2.4, 4, 1.63]}


def check_favourite(c):
    Drafter, Draft = c.Drafter, c.Draft
    class Muddled(Drafter):
        def __init__(self): self.counts = [0, 0, 0]
        def begin(self, ctx, state):
            for x in ctx.tokens: self.counts[x] += 1
            return self
        def propose(self, ctx, rng): return Draft.chain([int(np.argmax(self.counts))] * ctx.budget.depth)
        def observe(self, step):
            for x in step.verdict.tokens: self.counts[x] += 1
    class Latest(Drafter):
        def propose(self, ctx, rng): return Draft.chain([ctx.tokens[-1]] * ctx.budget.depth)
    class Prompt(Drafter):
        def begin(self, ctx, state):
            mine = Prompt()
            mine.word = int(np.argmax(np.bincount(ctx.tokens[:])))
            return mine
        def propose(self, ctx, rng): return Draft.chain([self.word] * ctx.budget.depth)
    class Short(c.Reader):
        def propose(self, ctx, rng): return Draft.chain(super().propose(ctx, rng).tokens[:1])
    return {"as given": Muddled, "the latest word": Latest, "the prompt's favourite": Prompt, "one guess": Short}


def check_order(c):
    return {"one after the other": lambda sizes, n: [x for x in sizes for _ in range(n)], "there and back": lambda sizes, n: [x for i in range(n) for x in (sizes if i % 2 == 0 else sizes[::-1])],
            "once": lambda sizes, n: [*sizes], "the first only": lambda sizes, n: [sizes[0]] * (n * len(sizes))}


def check_by_median(c):
    return {"the two swapped": [1.85, .70, 1.25, 1.04], "nine rows": [1.5, .87, 2.7, .48], "milliseconds": [25, .05, 37, .04], "costs for speed-ups": [1.25, 1.25, 1.85, 1.85], "five ninths of the way": [1.28, 1.02, 1.94, .67]}


def check_best_nodes(c):
    return {"a constant": lambda values, n: [0, 1], "turned round": lambda values, n: list(np.argsort(values)[::-1][:n]), "all": lambda values, n: c.solution(values, len(values)),
            "the first": lambda values, n: list(range(min(n, len(values)))), "by index": lambda values, n: sorted(c.solution(values, n)), "the smallest": lambda values, n: list(np.argsort(values, kind="stable")[:n])}
