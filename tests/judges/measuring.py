"Wrong answers to the exercises of Part IX"
import sys

import numpy as np


def check_alpaca(c):
    return {"the input alone": lambda row, stem: ("alpaca", (row["input"] or "-",), True), "the instruction alone": lambda row, stem: ("alpaca", (row["instruction"],), True),
            "two messages": lambda row, stem: ("alpaca", tuple(filter(None, (row["instruction"], row["input"]))), True), "the file's name": lambda row, stem: (stem, *c.solution(row, stem)[1:]),
            "always an empty line": lambda row, stem: ("alpaca", (f"{row['instruction']}\n\n{row['input']}",), True), "a constant": lambda row, stem: ("alpaca", ("Translate to German.\n\nGood morning.",), True)}


def check_faster(c):
    return {"a constant": lambda a, b: "a", "the wall": lambda a, b: "a" if a[0] < b[0] else "b",
            "no tie": lambda a, b: "a" if a[1] < b[1] else "b", "the slower": lambda a, b: {"a": "b", "b": "a"}.get(c.solution(a, b)),
            "both clocks": lambda a, b: "a" if sum(a) < sum(b) else "b"}


def check_lies(c):
    return {"nobody": lambda pairs, way: [], "too long": lambda pairs, way: [i for i, (t, h) in enumerate(pairs) if t > h],
            "too short": lambda pairs, way: [i for i, (t, h) in enumerate(pairs) if t < h - way], "unequal": lambda pairs, way: [i for i, (t, h) in enumerate(pairs) if t != h],
            "everybody": lambda pairs, way: list(range(len(pairs)))}


def check_counted(c):
    def until(blocks, eos, limit):
        "Without the token that ends the text"
        tokens = [t for block in blocks for t in block]
        return min(limit, next((i for i, t in enumerate(tokens) if t in eos), len(tokens)))
    def whole(blocks, eos, limit):
        "Whole blocks"
        n = 0
        for block in blocks:
            n += len(block)
            if n >= limit or set(block) & eos: break
        return n
    return {"two is the end": lambda b, e, n: c.solution(b, {2}, n), "one end": lambda b, e, n: c.solution(b, {min(e)} if e else set(), n), "a constant": lambda b, e, n: 4, "no end": lambda b, e, n: min(n, sum(map(len, b))), "all but ends": lambda b, e, n: sum(t not in e for x in b for t in x), "the end not counted": until, "whole blocks": whole,
            "no limit": lambda b, e, n: c.solution(b, e, 10**9)}


def check_tells(c):
    def names(records, kept): return {r["drafter"] for r in records if kept(r)}
    return {"answer by answer": lambda rs: names(rs, lambda r: r["again"] and r["again"]["cpu"] < .6 * r["cpu"]), "nobody": lambda rs: set(),
            "all answers": lambda rs: {r["drafter"] for r in rs if sum((x["again"] or {"cpu": 0})["cpu"] for x in rs if x["drafter"] == r["drafter"])
                                       < .6 * sum(x["cpu"] for x in rs if x["drafter"] == r["drafter"])} | ({"z"} if len(rs) > 1 else set()),
            "everybody": lambda rs: names(rs, lambda r: True)}


def check_wanted(c):
    return {"a constant": lambda r, g: 16, "the whole interval": lambda r, g: None if r.value <= g else r.n * ((r.high - r.low) / 2 / (r.value - g)) ** 2,
            "no root": lambda r, g: None if r.value <= g else r.n * (r.value - r.low) / (r.value - g), "below the goal, too": lambda r, g: r.n * ((r.value - r.low) / abs(r.value - g)) ** 2}


def check_interval(c):
    def drawn(value, seed=0):
        def f(plain, method, seed=seed):
            draws = np.random.default_rng(seed).integers(0, len(plain), (1000, len(plain)))
            return np.quantile(value(plain, method, draws), [.05, .95])
        return f
    def unpaired(plain, method, seed=0):
        a, b = np.random.default_rng(seed).integers(0, len(plain), (2, 1000, len(plain)))
        return np.quantile(plain[a].sum(1) / method[b].sum(1), [.05, .95])
    def all_of_it(plain, method, seed=0):
        draws = np.random.default_rng(seed).integers(0, len(plain), (1000, len(plain)))
        ratios = plain[draws].sum(1) / method[draws].sum(1)
        return ratios.min(), ratios.max()
    return {"unpaired": unpaired, "means of ratios": drawn(lambda p, m, d: (p / m)[d].mean(1)), "one point": lambda p, m, seed=0: (p.sum() / m.sum(),) * 2,
            "a constant": lambda p, m, seed=0: (2., 2.), "single questions": lambda p, m, seed=0: np.quantile(p / m, [.05, .95]), "everything": all_of_it}


def check_prompt(c):
    return {"nothing to copy": "Name a cat.", "the book's": c.EXAMPLES["repeat"].turns[0], "too long": "Repeat: " + "to be or not to be, " * 40, "nothing": "", "no text": ...}


def check_drafted_share(c):
    return {"of the pieces": lambda p: sum(d for _, d in p) / len(p), "a constant": lambda p: 3 / 4, "the others'": lambda p: 1 - c.solution(p),
            "of letters": lambda p: sum(len(t.strip()) * d for t, d in p) / sum(len(t.strip()) for t, _ in p), "of bytes": lambda p: c.solution([(t.encode(), d) for t, d in p]),
            "of pieces with text": lambda p: sum(d for t, d in p if t) / sum(bool(t) for t, _ in p), "drafted to not drafted": lambda p: sum(len(t) * d for t, d in p) / max(sum(len(t) * (not d) for t, d in p), 1)}


def check_guarded(c):
    def catching(*kinds, says=lambda e: " ".join(str(e).split()), code=2):
        def guard(f):
            def call():
                try: f()
                except kinds as e:
                    print(says(e), file=sys.stderr)
                    return code
                return 0
            return call
        return guard
    return {"hides all": catching(Exception), "catches nothing": lambda f: lambda: f() or 0, "as many lines as there were": catching(ValueError, OSError, says=str),
            "says nothing": catching(ValueError, OSError, says=lambda e: ""), "a constant": lambda f: lambda: 0, "files alone": catching(OSError), "another code": catching(ValueError, OSError, code=1)}


def check_spread(c):
    def picked(keep):
        def f(report, method):
            still = [r["seconds_plain"] / r["seconds"] for r in report.rows if keep(r, method)]
            return (min(still), max(still)) if still else None
        return f
    def name(r, method): return r["drafter"] == method[0]
    def silent(r): return r["tokens"] == r["calls"]
    return {"a constant": lambda report, method: (.75, 1.25), "drafts as well": picked(lambda r, m: (r["drafter"], r["warm"]) == m and r["category"] != "all"),
            "cold and warm": picked(lambda r, m: name(r, m) and silent(r) and r["category"] != "all"), "the sum of all": picked(lambda r, m: (r["drafter"], r["warm"]) == m and silent(r)),
            "the other way round": lambda report, method: (s := c.solution(report, method)) and s[::-1], "never none": lambda report, method: c.solution(report, method) or (1., 1.),
            "first and last": lambda report, method: (v := [r["seconds_plain"] / r["seconds"] for r in report.rows if (r["drafter"], r["warm"]) == method and silent(r) and r["category"] != "all"]) and (v[0], v[-1]) or None}


def check_least_alpha(c):
    from fractions import Fraction
    return {"c itself": lambda x: x, "a tenth more": lambda x: x + Fraction(1, 10), "a constant": lambda x: Fraction(21, 100), "not to be slower": lambda x: max(x, Fraction(1, 100))}


def check_fickle(c):
    def always(answer): return lambda numbers: answer
    return {"the right answer": lambda numbers: sorted(numbers)[1], "a wrong one": always(0), "nothing": always(None)}


def check_refuses(c):
    def some(*lists, spoiled=True):
        def check(f):
            for given in lists:
                kept = list(given)
                assert f(kept) == sorted(given)[len(given) // 2] and (not spoiled or kept == given), f"not of {given}"
            return "right"
        return check
    def mute(f):
        for given in ([3, 1, 2], [1, 9, 2, 8, 7]):
            kept = list(given)
            assert f(kept) == sorted(given)[len(given) // 2] and kept == given
        return "right"
    def strict(f): raise AssertionError("never")
    return {"always right": lambda f: "right", "never right": strict, "sorted already": some([1, 2, 3], [1, 2, 7, 8, 9]), "threes only": some([3, 1, 2], [1, 1, 10]),
            "the list may be sorted": some([3, 1, 2], [1, 9, 2, 8, 7], spoiled=False), "without a word": mute, "says nothing": lambda f: c.solution(f) and None}


def check_mended(c):
    Broken, Draft = c.Broken, c.Draft
    class First(c.Solution):
        def propose(self, ctx, rng):
            draft = super().propose(ctx, rng)
            return draft.take(range(min(1, len(draft))))
    class Into(c.Drafter):
        def propose(self, ctx, rng):
            text = ctx.tokens
            draft = c.Solution().propose(ctx, rng)
            text.extend(draft.tokens)
            return draft
    class Copies(c.Drafter):
        def propose(self, ctx, rng):
            text = list(ctx.tokens)
            at = next((i for i in range(len(text) - 2, -1, -1) if text[i] == text[-1]), None)
            return Draft.chain(text[at + 1:at + 1 + ctx.budget.depth] if at is not None else [])
    class Silent(c.Drafter):
        def propose(self, ctx, rng): return Draft()
    return {"as it was": Broken, "one word": First, "written into the text": Into, "all that followed": Copies, "nothing": Silent}


def check_by_hand(c):
    F = c.Fraction
    found = {"the other way round": (F(25, 17), F(40, 23)), "a constant": (1, 1), "without the bonus": (F(25, 23), F(10, 17)),
            "rows for free": (F(8, 3), F(5, 3)), "the guesses' rows only": (F(40, 8), F(25, 2))}
    return {kind: (answer,) for kind, answer in found.items()}


def check_own_pair(c):
    np, Draft, Drafter, weather, Fraction = c.np, c.Draft, c.Drafter, c.weather, c.Fraction
    def made(second, laws=None, first=None):
        class Made(Drafter):
            def propose(self, ctx, rng):
                q, dice = weather()[1].p(ctx.tokens), rng.at(0, "draft")
                x = dice.categorical(q) if first is None else first
                rest = np.where(np.arange(3) == x, Fraction(0), q)
                rest = rest / rest.sum()
                y = dice.categorical(rest if second == "rest" else q)
                return Draft([x, y], [-1, -1], (laws or (lambda q, rest: [q, rest]))(q, rest))
        return Made
    class Chain(Drafter):
        def propose(self, ctx, rng):
            q = weather()[1].p(ctx.tokens)
            return Draft.chain([rng.at(i, "draft").categorical(q) for i in range(2)], [q, q])
    class Chosen(Drafter):
        def propose(self, ctx, rng): return Draft([0, 1], [-1, -1])
    def halves(q, rest): return [q, np.where(rest > 0, Fraction(1, 2), Fraction(0))]
    return {"with replacement": made("q", lambda q, rest: [q, q]), "said to be with replacement": made("rest", lambda q, rest: [q, q]),
            "a chain": Chain, "chosen": Chosen, "another law for the second": made("rest", halves), "the first was chosen, and said to be drawn": made("rest", first=0)}


def check_in_order(c):
    return {"as they come": list, "the quickest first": lambda trials: sorted(trials, key=lambda n: trials[n][0]), "the likeliest first": lambda trials: sorted(trials, key=lambda n: -trials[n][1]),
            "the dearest first": lambda trials: c.solution(trials)[::-1], "one is enough": lambda trials: c.solution(trials)[:1], "a constant": lambda trials: ["names", "files", "report", "model"]}
