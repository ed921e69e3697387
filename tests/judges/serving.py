"Wrong answers to the exercises of Part VII"
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
