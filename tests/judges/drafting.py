"Wrong answers to the exercises of Part III"
import math


def check_held(c):
    def added(asked): return [*dict.fromkeys(int(x) for act, x in asked if act == "+")]
    def unrefreshed(asked):
        "A question does not count as use"
        recent = []
        for act, x in asked:
            if act == "+": recent = [*(y for y in recent if y != int(x)), int(x)][-3:]
        return set(recent)
    def anything(asked):
        "A question brings a key in"
        recent = []
        for _, x in asked: recent = [*(y for y in recent if y != int(x)), int(x)][-3:]
        return set(recent)
    return {"a constant": lambda asked: {0, 1, 2}, "by age": lambda asked: set(added(asked)[-3:]), "all": lambda asked: set(added(asked)),
            "questions are no use": unrefreshed, "questions add": anything}


def check_expected(c):
    return {"a constant": lambda n, a, l: 1., "from every guess": lambda n, a, l: n * a**l, "one agreement": lambda n, a, l: (n - l) * a,
            "one too few": lambda n, a, l: max(n - l - 1, 0) * a**l, "exactly so long": lambda n, a, l: max(n - l, 0) * a**l * (1 - a)}


def check_by_entropy(c):
    class Never(c.ModelDrafting):
        def unsure(self, rows, i): return False
    class Always(c.ModelDrafting):
        def unsure(self, rows, i): return True
    class AfterTheDraw(c.Solution):
        def draw(self, depth, rng):
            draft = yield from super().draw(depth, rng)
            return draft.take(range(next((d for d, x in enumerate(draft.tokens) if draft.q(d)[x] < c.Fraction(1, 2)), len(draft))))
    class Favourite(c.Solution):
        h = 1.2
    return {"never": Never, "always": Always, "after the draw": AfterTheDraw, "too late": Favourite}


def check_borrowed(c):
    class Recorded(c.Solution):
        def draw(self, depth, rng):
            draft = yield from super().draw(depth, rng)
            return c.Draft.chain(draft.tokens, [c.drafter.p([*self.state.tokens, *draft.tokens[:d]]) for d in range(len(draft))])
    class Unrecorded(c.ModelDrafting):
        def draw(self, depth, rng): return c.Draft.chain((yield from super().draw(depth, rng)).tokens)
    class Sun(c.ModelDrafting):
        def draw(self, depth, rng):
            yield from self.ask(c.Draft())
            return c.Draft.chain([c.SUN] * depth)
    class Late(c.Solution):
        "The noise of the next position"
        def draw(self, depth, rng):
            class Shifted:
                def at(self, d, what): return rng.at(d + 1, what)
            return (yield from super().draw(depth, Shifted()))
    return {"noise of its own": c.ModelDrafting, "q recorded": Recorded, "q lost": Unrecorded, "a constant": Sun, "the next position's noise": Late}


def check_early(c):
    return {"a constant": lambda n: 1., "the share of layers": lambda n: n / 30, "the last layers": lambda n: c.asked(c.state, range(30 - n, 30), 60),
            "fewer words": lambda n: c.asked(c.state, range(n), 20)}


def check_unreachable(c):
    return {"none": lambda w, t: [], "all": lambda w, t: list(t), "by the other's ids": lambda w, t: [x for x in t if x not in w.mine.tolist()],
            "those that can": lambda w, t: [x for x in t if x in w.table]}


def check_levels(c):
    return {"a constant": lambda m, price: 9, "one price": lambda m, price: 4 * m + 1, "one up": lambda m, price: math.ceil((m + 1) / price - m),
            "m for m + 1": lambda m, price: math.floor(m / price - m + 1e-9), "rounded": lambda m, price: round((m + 1) / price - m - 1)}


def check_distinct(c):
    def states(text):
        automaton = c.SuffixAutomaton()
        for token in text: automaton.extend(token)
        return len(automaton.link) - 1
    def lengths(text):
        automaton = c.SuffixAutomaton()
        for token in text: automaton.extend(token)
        return sum(automaton.length)
    return {"a constant": lambda text: 1, "as if all differed": lambda text: len(text) * (len(text) + 1) // 2, "twice the length": lambda text: 2 * len(text),
            "one a state": states, "links forgotten": lengths}


def check_ranks(c):
    def levels(rates, n):
        rows, out = [()], []
        while len(out) < n:
            rows = [(*path, r) for path in rows for r in range(len(rates))]
            out += rows
        return out[:n]
    def by_sum(rates, n):
        paths = {(0,) * i + (r,) * j for i in range(n) for j in range(n) for r in range(len(rates)) if i + j}
        return sorted(paths, key=lambda path: (-sum(rates[r] for r in path) / len(path), len(path), path))[:n]
    return {"one level": lambda rates, n: [(r,) for r in range(n)], "a chain": lambda rates, n: [(0,) * d for d in range(1, n + 1)], "level by level": levels,
            "means, not products": by_sum, "a constant": lambda rates, n: [(0,), (1,), (0, 0), (0, 1)][:n], "the best last": lambda rates, n: c.solution(rates, n)[::-1]}


def check_survivors(c):
    return {"a thousand places": lambda n, m: c.solution(n, 1000), "a constant": lambda n, m: m, "all that fit": lambda n, m: min(n, m), "alone in a place": lambda n, m: n * (1 - 1 / m) ** (n - 1),
            "linear": lambda n, m: n * (1 - n / m), "none lost": lambda n, m: n}


def check_tokens(c):
    return {"a constant": lambda a, g, b: 2., "one phrase": lambda a, g, b: 1 + sum(a**i for i in range(1, g + 1)), "b times one phrase": lambda a, g, b: 1 + b * sum(a**i for i in range(1, g + 1)),
            "levels apart": lambda a, g, b: 1 + sum(1 - (1 - a)**(b * i) for i in range(1, g + 1)), "each level anew": lambda a, g, b: 1 + sum((1 - (1 - a)**b)**i for i in range(1, g + 1)),
            "without the bonus": lambda a, g, b: c.solution(a, g, b) - 1}


def check_slid(c):
    def from_its_end(columns, m, text):
        gone = min(m - 1, len(columns))
        return columns[gone:] + [text[-len(columns[0]):]] * gone
    def apart(columns, m, text):
        gone, n = min(m - 1, len(columns)), len(columns[0])
        return columns[gone:] + [text[i * n:i * n + n] for i in range(gone)]
    return {"nothing moves": lambda columns, m, t: columns, "more columns": lambda columns, m, t: columns[m - 1:] + [t[i:i + 2] for i in range(m - 1)],
            "pairs always": lambda columns, m, t: columns[min(m - 1, len(columns)):] + [t[i:i + 2] for i in range(min(m - 1, len(columns)))],
            "m, not m - 1": lambda columns, m, t: c.solution(columns, m + 1, t), "the text's end": from_its_end, "pieces side by side": apart}


def check_forks(c):
    return {"a constant": lambda counts, m, least: 1, "all of them": lambda counts, m, least: len(counts), "not shared": lambda counts, m, least: len(counts) * ((m + 1) / (m + 2) >= least),
            "without Laplace": lambda counts, m, least: sum(n / sum(counts) >= least for n in counts), "the first alone": lambda counts, m, least: int(c.solution(counts, m, least) > 0),
            "in equal parts": lambda counts, m, least: len(counts) * ((m + 1) / (m + 2) / len(counts) >= least)}


def check_still_counts(c):
    found = {"one behind": ((20, 0), (22, 0), (24, 0)), "the last guess read": ((20, 0), (22, 0), (24, 0)), "all drafted rows": ((23, 0), (23, 0), (23, 1)), "the pending token unread": ((20, 1), (22, 1), (23, 2)),
             "a constant": ((20, 0),) * 3, "without the pending row": ((19, 0), (21, 0), (22, 1))}
    return {kind: (answer,) for kind, answer in found.items()}


def check_copies(c):
    found = {"the first occurrence": ([2, 0, 1, 3], [6, 4, 5, 6], []), "ends with the text": ([3, 0, 1], [6, 4, 5], []), "one token matches": ([3, 0, 1, 3], [6, 4, 5, 6], [9, 8, 9, 8]),
             "nothing": ([], [], []), "the match, too": ([0, 1, 3, 0], [4, 5, 6, 4], [])}
    return {kind: (answer,) for kind, answer in found.items()}


def check_all_of(c):
    def most_of(phrase, answers):
        n = 0
        while n < len(phrase) - 1 and phrase[n] == answers[n]: n += 1
        return answers[:n + 1]
    def no_bonus(phrase, answers): return c.solution(phrase, answers)[:len(phrase)]
    def anywhere(phrase, answers): return answers[:1 + sum(a == b for a, b in zip(phrase, answers))]
    return {"one phrase for all": lambda phrase, answers: c.solution([5, 6, 7], answers), "as given": most_of, "no bonus": no_bonus, "counts hits": anywhere, "everything": lambda phrase, answers: answers, "a constant": lambda phrase, answers: answers[:1], "the phrase": lambda phrase, answers: phrase}


def check_discarded(c):
    right = c.solution
    return {"nothing": [], "the guesses themselves": [(1, 2, 3, 4)], "one phrase": right[:1], "without the last token": [p[:-1] for p in right], "every guess": [*right, (3, 9), (4, 7)],
            "the other way round": right[::-1]}


def check_half_the_layers(c):
    cost, one, two, least = c.solution
    return {"the head is free": [.49, 1.7 / 1.49, 2.19 / 1.98, .49], "half": [.5, 1.7 / 1.5, 2.19 / 2, .5], "drafting is free": [cost, 1.7, 2.19, least], "swapped": [cost, two, one, least],
            "half is enough": [cost, one, two, .5], "one draft for both": [cost, one, 2.19 / 1.51, least]}


def check_bridges(c):
    return {"not cut": [.5, .5, .25, 1], "as greedy": [.75, .5, 1, 1], "products": [.375, .5, .5, 1], "p everywhere": [.5, .5, .5, .5], "swapped": [.5, .75, .5, 1]}


def check_matches(c):
    pairs, token = c.solution
    return {"every length": [[(3, 3), (2, 3), (1, 3)], token], "the first places": [[(3, 3), (1, 1)], token], "the longest alone": [pairs[:1], token], "the last token": [pairs, 1],
            "places of the end": [[(3, 2), (1, 2)], token]}


def check_learnt_in(c):
    return {"as given": lambda n, path: [*range(n + 1)], "accepted first": lambda n, path: [0, *(i + 1 for i in path), *(i for i in range(1, n + 1) if i - 1 not in path)],
            "accepted alone": lambda n, path: [0, *(i + 1 for i in path)], "row 0 forgotten": lambda n, path: [0, *sorted(range(1, n + 1), key=lambda row: row - 1 in path)],
            "nodes for rows": lambda n, path: sorted(range(n + 1), key=lambda row: row in path), "backwards": lambda n, path: [*range(n, -1, -1)]}


def check_after(c):
    def joined(texts, ending, k):
        text, n = sum(texts, []), len(ending)
        places = [i for i in range(n, len(text)) if text[i - n:i] == ending]
        return text[places[-1]:places[-1] + k] if places else []
    def first(texts, ending, k):
        n = len(ending)
        return next((t[i:i + k] for t in texts for i in range(n, len(t)) if t[i - n:i] == ending), [])
    def latest_text(texts, ending, k): return c.solution(texts[-1:], ending, k)
    return {"as given": joined, "the first place": first, "the latest text alone": latest_text, "nothing": lambda *a: [], "one token": lambda t, e, k: c.solution(t, e, 1), "all of it": lambda t, e, k: c.solution(t, e, 99)}
