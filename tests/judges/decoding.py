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


def check_survivors(c):
    return {"all": lambda z, a: len(z), "one": lambda z, a: 1, "of the logit": lambda z, a: int((z >= a * z.max()).sum()),
            "of the whole": lambda z, a: int((c.softmax(z) >= a).sum())}


def check_best_sum(c):
    return {"a constant": lambda rows, b: (0,) * len(rows), "the worst": lambda rows, b: rows.argmin(1), "one word": lambda rows, b: rows.argmax(1)[:1],
            "backwards": lambda rows, b: rows.argmax(1)[::-1]}


def check_goes_on(c):
    return {"always": lambda b, a, g: True, "never": lambda b, a, g: False, "any": lambda b, a, g: any(h[-1] in g[h[:-1]] for h in a),
            "by anybody": lambda b, a, g: all(any(h[-1] in w for w in g.values()) for h in a), "as many": lambda b, a, g: len(a) == len(b)}
