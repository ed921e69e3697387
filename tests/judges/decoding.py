"Wrong answers to the exercises of Part VIII"
import numpy as np


def check_keep_sigma(c):
    def cut(z, kept): return np.where(kept, z, -np.inf)
    def of_all(z, n): return cut(z, z >= z.max() - n * np.nan_to_num(z, neginf=-9.).std())
    return {"nothing": lambda z, n: z, "the largest": lambda z, n: cut(z, z == z.max()), "masked ones counted": of_all,
            "from the mean": lambda z, n: cut(z, z >= z[np.isfinite(z)].mean() - n * z[np.isfinite(z)].std()),
            "half as far": lambda z, n: c.solution(z, n / 2)}


def check_cooling(c):
    class Never(c.Law):
        def start(self, prompt): return 0
        def step(self, s, token, scores=None, i=0): return s
        def row(self, s, scores, i): return c.softmax(scores.row(i), 1.)
    class Inside(c.Solution):
        n = []
        def start(self, prompt): self.n.clear(); return 0
        def step(self, s, token, scores=None, i=0): self.n.append(token); return 0
        def row(self, s, scores, i): return super().row(len(self.n), scores, i)
    class Endless(c.Solution):
        def row(self, s, scores, i): return c.softmax(scores.row(i), max(1 - s / 10, .01))
    class Prompt(c.Solution):
        def start(self, prompt): return len(prompt)
    return {"never": Never, "a clock in the object": Inside, "no floor": Endless, "the prompt counts": Prompt}


def check_search_calls(c):
    return {"one a word": lambda n, m: n, "two a round": lambda n, m: -(-n // (m + 1)) * 2, "one a round": lambda n, m: -(-n // (m + 1)),
            "all drafted": lambda n, m: 2 if m else n, "a constant": lambda n, m: 12}


def check_exit(c):
    class Deaf(c.Solution):
        def row(self, s, scores, i): return c.Law.row(self, s, scores, i)
    class First(c.Solution):
        def row(self, s, scores, i): return super().row(s, scores, 0)
    class Next(c.Solution):
        @property
        def asks(self): return c.Asks(hidden=(self.layer - 1,))
    class Everything(c.Solution):
        @property
        def asks(self): return c.Asks(hidden=(1, 2, 3, 4))
    return {"the last layer": Deaf, "the first row": First, "another layer": Next, "all layers": Everything}


def check_level(c):
    return {"a constant": lambda r, s: .5, "the ratio": lambda r, s: np.log(r) / np.log(s), "upside down": lambda r, s: np.log(s) / np.log(r) - 1,
            "without logarithms": lambda r, s: r / (s - r)}


def check_plausible(c):
    return {"all": lambda z, a: len(z), "one": lambda z, a: 1, "of the logit": lambda z, a: int((z >= a * z.max()).sum()),
            "of the whole": lambda z, a: int((c.softmax(z) >= a).sum())}


def check_best_sum(c):
    return {"a constant": lambda rows, b: (0,) * len(rows), "the worst": lambda rows, b: rows.argmin(1), "one word": lambda rows, b: rows.argmax(1)[:1],
            "backwards": lambda rows, b: rows.argmax(1)[::-1]}


def check_goes_on(c):
    return {"always": lambda b, a, g: True, "never": lambda b, a, g: False, "any": lambda b, a, g: any(h[-1] in g[h[:-1]] for h in a),
            "by anybody": lambda b, a, g: all(any(h[-1] in w for w in g.values()) for h in a), "as many": lambda b, a, g: len(a) == len(b)}


def check_elected(c):
    return {"a constant": lambda p, n: c.Fraction(1, 2), "one sample": lambda p, n: p, "all of them": lambda p, n: p**n,
            "any of them": lambda p, n: 1 - (1 - p)**n, "a tie is enough": lambda p, n: sum(c.comb(n, m) * p**m * (1 - p)**(n - m) for m in range(n // 2, n + 1))}


def check_brackets(c):
    A = c.Automaton
    def endless(depth): return A({(d, 0): d + 1 for d in range(9)} | {(d + 1, 1): d for d in range(9)} | {(0, 2): "end", ("end", 2): "end"}, 3)
    def anywhere(depth): return A({(d, 0): d + 1 for d in range(depth)} | {(d + 1, 1): d for d in range(depth)} | {(d, 2): "end" for d in range(depth + 1)} | {("end", 2): "end"}, 3)
    def on(depth): return A({(d, 0): d + 1 for d in range(depth)} | {(d + 1, 1): d for d in range(depth)} | {(0, 2): 0}, 3)
    return {"no bound": endless, "ends anywhere": anywhere, "goes on after the end": on, "one less": lambda depth: c.solution(depth - 1), "anything": lambda depth: A({(0, x): 0 for x in range(3)}, 3)}


def check_certain(c):
    def places(g, text):
        place, n = g.start(), 0
        for x in text:
            place = g.step(place, x)
            n += int(g.allowed(place).sum() == 1)
        return c.Fraction(n, len(text))
    return {"none": lambda g, t: 0, "all": lambda g, t: 1, "a place late": places, "a count": lambda g, t: c.solution(g, t) * len(t) + 0 * len(t)}


def check_rollouts(c):
    return {"no reuse": lambda k, b: (1 + k * b, 1 + k * b), "the answer apart": lambda k, b: (k * b, (k - 1) * b), "one look": lambda k, b: (1 + k, k),
            "a constant": lambda k, b: (7, 5), "squares": lambda k, b: (1 + k ** b, 1 + (k - 1) ** b)}


def check_needed(c):
    return {"as good": lambda p, q, e, a: e, "the gap": lambda p, q, e, a: e + p - q, "the other way": lambda p, q, e, a: e - (1 - a) * (p - q) / a,
            "no weight": lambda p, q, e, a: e + (p - q) / a}


def check_distances(c):
    def rows(draft, base): return np.arange(base + 1 + len(draft))[None] - np.arange(base, base + 1 + len(draft))[:, None]
    return {"rows, not positions": rows, "the other way round": lambda draft, base: -c.solution(draft, base), "a constant": lambda draft, base: np.zeros((1 + len(draft), base + 1 + len(draft)), int),
            "without the committed rows": lambda draft, base: c.solution(draft, base)[:, base:] if base else c.solution(draft, base) + 1}


def check_agreement(c):
    def rejection(p, q): return sum(map(min, p, q))
    def apart(p, q): return sum(x * y for x, y in zip(p, q))
    def bound(p, q):
        d = 1 - rejection(p, q)
        return (1 - d) / (1 + d)
    return {"rejection's": rejection, "of two independent draws": apart, "the lower bound": bound, "a constant": lambda p, q: 1}


def check_text_goes_on(c):
    def rows(tokens, place, grid): return len(tokens)
    def text(tokens, place, grid): return len(tokens) - tokens.count(place)
    def height(tokens, place, grid): return len(tokens) - tokens.count(place) + grid[0]
    def both(tokens, place, grid): return len(tokens) - tokens.count(place) + sum(grid)
    return {"rows are positions": rows, "pictures take no place": text, "rows of the picture": height, "rows and columns": both, "a constant": lambda *args: 3}


def check_copied(c):
    def places(p, a, source, gate, word): return gate * max([x for x, w in zip(a, source) if w == word], default=0) / c.copy_law(p, a, source, gate, 1)[word]
    def mass(p, a, source, gate, word): return gate * sum(x for x, w in zip(a, source) if w == word)
    def ungated(p, a, source, gate, word): return c.solution(p, a, source, c.F(1, 2), word)
    def present(p, a, source, gate, word): return gate if word in source else 0
    return {"the largest place": places, "not divided": mass, "without the gate": ungated, "the gate": present, "a constant": lambda *args: c.F(5, 9),
            "one list of words": lambda p, a, source, gate, word: c.solution([c.F(5, 10), c.F(3, 10), c.F(2, 10)], a, source, gate, word), "one source": lambda p, a, source, gate, word: c.solution(p, a, [1, 3, 1], gate, word),
            "one attention": lambda p, a, source, gate, word: c.solution(p, [c.F(1, 4), c.F(1, 4), c.F(1, 2)], source, gate, word),
            "said, not copied": lambda *args: 1 - c.solution(*args)}


def check_next_word(c):
    F = c.F
    found = {"the larger": ((F(3, 10), F(1, 4), F(1, 4)), "the"), "added, not mixed": ((F(3, 5), F(9, 10), F(1, 2)), "the"), "the vocabulary's": ((F(3, 5), F(2, 5), 0), "the"),
            "one vocabulary twice": ((F(3, 10), F(9, 20), F(1, 4)), "file"), "the first place": ((F(3, 10), F(13, 40), F(1, 4)), "the")}
    return {kind: (answer,) for kind, answer in found.items()}


def check_worth(c):
    def pointed(source, a, word): return {s: sum(x for x, w in zip(a, source) if w == s) for s in source if s != word}
    def behind(source, a, word): return {s: sum(x for x, w, v in zip(a, source, source[1:]) if w == word and v == s) for s in source[1:] if s != word}
    return {"pointed at only": pointed, "behind only": behind, "a constant": lambda *args: {6: c.F(3, 4), 7: c.F(1, 4)},
            "with the word itself": lambda source, a, word: c.solution(source, a, word) | {word: sum(x for x, w in zip(a, source) if w == word)}}


def check_place_worth(c):
    def pointed(source, a, word): return {s: sum(x for x, w in zip(a, source) if w == s) for s in source if s != word}
    def behind(source, a, word): return {s: sum(x for x, w, v in zip(a, source, source[1:]) if w == word and v == s) for s in source[1:] if s != word}
    return {"pointed at only": pointed, "behind only": behind, "a constant": lambda *args: {6: c.F(3, 4), 7: c.F(1, 4)},
            "with the word itself": lambda source, a, word: c.solution(source, a, word) | {word: sum(x for x, w in zip(a, source) if w == word)}}
