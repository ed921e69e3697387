"Wrong answers to the exercises of Part VIII"
import numpy as np


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


def check_goes_on(c):
    def rows(tokens, place, grid): return len(tokens)
    def text(tokens, place, grid): return len(tokens) - tokens.count(place)
    def height(tokens, place, grid): return len(tokens) - tokens.count(place) + grid[0]
    def both(tokens, place, grid): return len(tokens) - tokens.count(place) + sum(grid)
    return {"rows are positions": rows, "pictures take no place": text, "rows of the picture": height, "rows and columns": both, "a constant": lambda *args: 3}
