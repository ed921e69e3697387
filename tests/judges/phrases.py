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
