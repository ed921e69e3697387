"Wrong answers to the exercises of Part VII"
import torch


def check_differences(c):
    right, back = c.solution, c.solution_back
    return {"the ids": (lambda w: w, back), "the other way round": (lambda w: torch.arange(len(w)) - w, back), "constant": (lambda w: w * 0, back),
            "differences of neighbours": (lambda w: torch.diff(w, prepend=w[:1]), back), "no way back": (right, lambda d: d), "twice": (right, lambda d: d + 2 * torch.arange(len(d)))}


def check_committed(c):
    return {"guesses alone": (108, 1.08), "all that were proposed": (400, 4.), "the deepest alone": (106, 1.06), "a constant": (0, 0.), "divided by the guesses": (208, .52)}
import math


def check_unequal(c):
    tokens = c.expected_tokens
    return {"a constant": lambda alphas, k: 1, "the slowest row": lambda alphas, k: tokens(min(alphas), k), "the mean row": lambda alphas, k: tokens(sum(alphas) / len(alphas), k),
            "one draft longer": lambda alphas, k: tokens(math.prod(alphas), k + 1), "each at its own pace": lambda alphas, k: sum(tokens(a, k) for a in alphas) / len(alphas)}


def check_turning(c):
    def alone(curve, alpha, c_, most): return None if c.best_k(alpha, c_, curve.v, most=16) else 1
    def last(curve, alpha, c_, most): return next((b for b in range(most, 0, -1) if c.best_k(alpha, c_, c.in_company(curve, b).v, most=16)), None)
    def single(curve, alpha, c_, most):
        "Only one of them drafts"
        return next((b for b in range(1, most + 1) if c.best_k(alpha, c_, lambda k: curve.relative(b + k) / curve.relative(b), most=16) == 0), None)
    return {"never": lambda *a: None, "always": lambda *a: 1, "one request": alone, "the last that drafts": last, "one of them drafts": single}


def check_overfull(c):
    def largest(sizes, limit):
        "The largest goes first"
        left, gone = dict(enumerate(sizes)), []
        while len(left) > 1 and sum(left.values()) > limit:
            gone.append(max(left, key=left.get))
            del left[gone[-1]]
        return gone
    def skipping(sizes, limit):
        "Whoever does not fit, wherever he stands"
        held, gone = 0, []
        for i, n in enumerate(sizes):
            if i and held + n > limit: gone.append(i)
            else: held += n
        return gone
    return {"nobody": lambda sizes, limit: [], "all but the first": lambda sizes, limit: [*range(1, len(sizes))], "the largest": largest, "who does not fit": skipping,
            "one": lambda sizes, limit: [len(sizes) - 1] if sum(sizes) > limit else []}


def check_bound(c):
    return {"nothing": lambda alpha, k, c_: 1., "drafting is free": lambda alpha, k, c_: 1 + k * c_, "twice": lambda alpha, k, c_: 2.,
            "as the clock": lambda alpha, k, c_: c.two_machines(alpha, k, c_, k + 1) / c.two_machines(alpha, k, c_) - .1, "one token": lambda alpha, k, c_: 1 + c_}


def check_pair(c):
    def apart(a, b, curve):
        "Each as if it were alone"
        def best(x): return max(range(9), key=lambda n: c.expected_tokens(x, n) / curve(1 + n))
        return best(a), best(b)
    def alike(a, b, curve): return (max(range(9), key=lambda n: (c.expected_tokens(a, n) + c.expected_tokens(b, n)) / curve(2 + 2 * n)),) * 2
    return {"none": lambda a, b, curve: (0, 0), "the most": lambda a, b, curve: (8, 8), "alone": apart, "both alike": alike,
            "the better one alone": lambda a, b, curve: (c.solution(a, 0., curve)[0], 0)}


def check_held_back(c):
    return {"nothing": lambda text, strings: 0, "the longest string": lambda text, strings: max(map(len, strings)) - 1, "one letter": lambda text, strings: int(any(text.endswith(s[0]) for s in strings)),
            "the first string": lambda text, strings: c.solution(text, strings[:1]), "the shortest": lambda text, strings: min((n for s in strings for n in range(1, len(s)) if text.endswith(s[:n])), default=0),
            "everything": lambda text, strings: len(text)}


def check_waits(c):
    return {"always the same": lambda retries, first, u: [first] * retries, "all of it": lambda retries, first, u: [min(first * 2**i, 30) for i in range(retries)],
            "from nothing": lambda retries, first, u: [min(first * 2**i, 30) * u[i] for i in range(retries)], "without an end": lambda retries, first, u: [first * 2**i * (1 + u[i]) / 2 for i in range(retries)],
            "longer by one": lambda retries, first, u: [min(first * (i + 1), 30) * (1 + u[i]) / 2 for i in range(retries)]}


def check_between(c):
    np, right = c.np, c.solution
    def symmetric(b, bits):
        d = abs(b).max() / (2**(bits - 1) - 1)
        return d, 0., np.rint(b / d)
    def shifted(b, bits):
        "One step too many: both ends are missed by a little"
        d, m = (b.max() - b.min()) / 2**bits, b.min()
        return d, m, np.rint((b - m) / (d or 1)).clip(0, 2**bits - 1)
    def floored(b, bits):
        d, m, _ = right(b, bits)
        return d, m, np.floor((b - m) / (d or 1) + 1e-9)
    return {"a constant": lambda b, bits: (1., 0., np.zeros(32)), "no minimum": symmetric, "one step too many": shifted, "rounded down": floored,
            "not whole": lambda b, bits: (right(b, bits)[0], b.min(), (b - b.min()) / (right(b, bits)[0] or 1)), "the mean alone": lambda b, bits: (0., b.mean(), np.zeros(32))}


def check_lengths(c):
    return {"a constant": ((0, 0),), "a quarter of all": ((28000, 1 / 4),), "thousands": ((28, 5 / 8),), "the wrong half": ((7000, 5 / 8),), "the other ratio": ((28000, 8 / 5),)}


def check_becomes(c):
    alone = 102 * .5 / 127
    return {"not rounded": [.4, .4], "a constant": [0, 0], "each alone": [alone, alone], "the other way round": [0, alone], "whole numbers": [102, 0], "rounded up": [alone, 1]}


def check_rows_apart(c):
    def channels(x):
        scale = x.abs().amax(0, keepdim=True) / 127
        return (x / scale).round() * scale
    def whole(x):
        scale = x.abs().amax() / 127
        return (x / scale).round() * scale
    def divided(x):
        scale = x.abs().amax(-1, keepdim=True) / 127
        return (x / scale).round() * scale
    def floored(x):
        scale = x.abs().amax(-1, keepdim=True) / 127
        return (x / scale.where(scale > 0, 1)).floor() * scale
    return {"as the colleague": channels, "one scale a call": whole, "zeros divided": divided, "rounded down": floored, "not rounded": lambda x: x, "a constant": lambda x: x * 0}


def check_same(c):
    def texts(a, b): return c.json.dumps(a) == c.json.dumps(b)
    def kinds(a, b): return type(a) is type(b) and a == b
    def shallow(a, b): return a is b if isinstance(a, bool) or isinstance(b, bool) else a == b
    return {"Python's ==": lambda a, b: a == b, "as it is written": texts, "of one type": kinds, "only on top": shallow, "a constant": lambda a, b: True}
