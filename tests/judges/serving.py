"Wrong answers to the exercises of Part VII"
import torch


def check_differences(c):
    right, back = c.solution, c.solution_back
    return {"the ids": (lambda w: w, back), "the other way round": (lambda w: torch.arange(len(w)) - w, back), "constant": (lambda w: w * 0, back),
            "differences of neighbours": (lambda w: torch.diff(w, prepend=w[:1]), back), "no way back": (right, lambda d: d), "twice": (right, lambda d: d + 2 * torch.arange(len(d)))}


def check_committed(c):
    return {"guesses alone": (108, 1.08), "all that were proposed": (400, 4.), "the deepest alone": (106, 1.06), "a constant": (0, 0.), "divided by the guesses": (208, .52)}
