"Wrong answers to the exercises of Part VI"
import math


def check_worth(c):
    def ratio(alpha, gamma, beta, m, r, cost, more): return (sum(alpha**i for i in range(gamma + 1)) + more) / (1 + gamma * cost + m * r)
    def whole(alpha, gamma, beta, m, r, cost):
        "The phrase, once begun, is always right"
        return ratio(alpha, gamma, beta, m, r, cost, alpha**gamma * m) > ratio(alpha, gamma, beta, 0, 0, cost, 0)
    def unreached(alpha, gamma, beta, m, r, cost):
        "The draft is always accepted"
        return ratio(alpha, gamma, beta, m, r, cost, sum(beta**i for i in range(1, m + 1))) > ratio(alpha, gamma, beta, 0, 0, cost, 0)
    return {"always": lambda *a: True, "never": lambda *a: False, "better than its price": lambda alpha, gamma, beta, m, r, c: beta > r,
            "reached or not": lambda alpha, gamma, beta, m, r, c: alpha**gamma > m * r, "a phrase is right or wrong": whole, "the draft is right": unreached,
            "drafting is free": lambda alpha, gamma, beta, m, r, cost: c.solution(alpha, gamma, beta, m, r, 0.)}


def check_unasked(c):
    def runs(first):
        def f(d, v, best, n):
            if len(v.path) == len(d): return []
            answers = [*map(best, range(first(v), len(d) + 1))]
            return [tuple(answers[i:i + n]) for i in range(len(answers) - n + 1)]
        return f
    return {"nothing": lambda d, v, best, n: [], "from the top": runs(lambda v: 0), "after the token": runs(lambda v: len(v.path) + 1),
            "the guesses": lambda d, v, best, n: [d.tokens[i:i + n] for i in range(len(v.path), len(d) + 1 - n)],
            "accepted as well": lambda d, v, best, n: [tuple(map(best, range(i, i + n))) for i in range(len(v.path), len(d) + 2 - n)],
            "the first": lambda d, v, best, n: c.solution(d, v, best, n)[:1]}


def check_price(c):
    def own(price): return tuple(max(range(len(v) + 1), key=lambda n: (1 + sum(v[:n])) / (1 + .2 * n)) for v in c.CALLS)
    def each(price): return tuple(sum(x > .2 * price for x in v[:1]) for v in c.CALLS)
    return {"its own ratio": (own, c.solution_point), "a price of one": (c.solution, lambda: 1.), "a constant": (lambda price: (0, 3), c.solution_point),
            "one guess": (each, c.solution_point), "the price alone": (lambda price: (0, 0), c.solution_point)}


def check_weight(c):
    return {"a share": lambda heads, n: heads / n, "a half": lambda heads, n: .5, "heads alone": lambda heads, n: 1 / (1 + math.exp(-heads)),
            "half the lead": lambda heads, n: 1 / (1 + math.exp(n / 2 - heads)), "the first's": lambda heads, n: 1 - c.solution(heads, n)}


def check_sizes_by_hand(c):
    found = {"the price alone": (1, 2, 0), "ratio alone": (1, 1, 1), "all": (3, 3, 3), "none": (0, 0, 0), "every node that is worth something": (1, 1, 3)}
    return {kind: (answer,) for kind, answer in found.items()}


def check_true_speed(c):
    def shown(calls): return sum(t / k for t, k in calls) / len(calls)
    def tokens(calls): return sum(t for t, _ in calls) / len(calls)
    def best(calls): return max(t / k for t, k in calls)
    def upside_down(calls): return sum(k for _, k in calls) / sum(t for t, _ in calls)
    return {"as given": shown, "tokens a call": tokens, "the best call": best, "a constant": lambda calls: 1., "upside down": upside_down}


def check_brought(c):
    def unpaired(calls):
        asked, others = ([len(t) for t, asked, _ in calls if asked is w] for w in (True, False))
        return None if not asked else sum(asked) / len(asked) - (sum(others) / len(others) if others else 0)
    def own_token(calls): return c.solution([(t[:-1], asked, cheap) for t, asked, cheap in calls])
    def everywhere(calls): return c.solution([(t, True, cheap) for t, _, cheap in calls])
    def length(calls):
        more = [len(t) - 1 - len(cheap) for t, asked, cheap in calls if asked]
        return sum(more) / len(more) if more else None
    def total(calls): return c.solution(calls) and c.solution(calls) * sum(asked for _, asked, _ in calls)
    return {"asked against not asked": unpaired, "the target's own token forgotten": own_token, "every call": everywhere, "the draft's length": length,
            "a sum": total, "a constant": lambda calls: 2}


def check_deeper(c):
    def each(hits, price, c_): return next((d for d, h in enumerate(hits) if h <= price * c_), len(hits))
    def best(hits, price, c_):
        def left(n): return sum(math.prod(hits[:d + 1]) - price * c_ for d in range(n))
        return max(range(len(hits) + 1), key=lambda n: (left(n), -n))
    return {"all": lambda hits, price, c_: len(hits), "none": lambda hits, price, c_: 0, "each level alone": each,
            "the price forgotten": lambda hits, price, c_: c.solution(hits, 1, c_), "the forward's cost forgotten": lambda hits, price, c_: c.solution(hits, price, .1),
            "one too many": lambda hits, price, c_: min(c.solution(hits, price, c_) + 1, len(hits)), "one too few": lambda hits, price, c_: max(c.solution(hits, price, c_) - 1, 0)}


def check_leaves_by_hand(c):
    return {"the forwards forgotten": ((-.9, .1, True),), "without the target's own token": ((-1.9, -1.7, True),), "it does not pay": ((-.9, -.7, False),),
            "one forward": ((-.9, -.3, True),), "tokens alone": ((1.3, 2.7, True),)}


def check_gains(c):
    word, both, longer = c.solution
    return {"tokens alone": [1.75, 1.75, 1.875], "forwards of three": [word, both, 1.875 / 1.2], "no forwards": [word, 1.75, 1.875], "the target's own forgotten": [.75 / 1.2, .75 / 1.1, .875 / 1.1], "sure tokens": [word, both, 2.75 / 1.1],
            "the other way round": [longer, both, word]}
