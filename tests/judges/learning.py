"Wrong answers to the exercises of Part IV"
from fractions import Fraction

import numpy as np


def check_words(c):
    class Same:
        def __init__(self, texts): self.train = self.held = texts
    class Swapped:
        def __init__(self, corpus): self.train, self.held = corpus.held, corpus.train
    class ByDocument:
        def __init__(self, corpus): self.train, self.held = [np.unique(text) for text in corpus.train], corpus.held
    def larger_first(corpus, share):
        train, held = np.concatenate(corpus.train), np.concatenate(corpus.held)
        count = np.bincount(train, minlength=held.max() + 1)
        covered = np.cumsum(np.bincount(held, minlength=len(count))[np.argsort(count, kind="stable")[::-1]]) / len(held)
        return int(np.searchsorted(covered, share - 1e-12)) + 1
    return {"in how many documents": lambda corpus, s: c.solution(ByDocument(corpus), s), "the larger id first": larger_first, "a constant": lambda corpus, s: 1, "a share of three": lambda corpus, s: int(np.ceil(3 * s)), "one or three": lambda corpus, s: 1 if s <= .25 else 3,
            "the training text twice": lambda corpus, s: c.solution(Same(corpus.train), s), "the other twice": lambda corpus, s: c.solution(Same(corpus.held), s),
            "the other way round": lambda corpus, s: c.solution(Swapped(corpus), s)}


def check_pinsker(c):
    tv, kl = c.variation_loss, c.forward_kl
    return {"a constant": lambda z, p: 0 * z[:, 0], "no root": lambda z, p: kl(z, p) - tv(z, p), "no half": lambda z, p: kl(z, p).clamp_min(0).sqrt() - tv(z, p),
            "the other divergence": lambda z, p: (c.reverse_kl(z, p).clamp_min(0) / 2).sqrt() - tv(z, p), "the bound alone": lambda z, p: (kl(z, p).clamp_min(0) / 2).sqrt()}


def check_blind(c):
    def unweighted(lm, text): return sum(c.solution(lm, [*text, x]) for x in range(lm.vocab_size)) / lm.vocab_size
    def flat(lm, text):
        after = [lm.p([*text, x]) for x in range(lm.vocab_size)]
        return sum(w * sum(map(min, sum(after) / len(after), law)) for w, law in zip(lm.p(text), after))
    def guessed(lm, text):
        "Accepted by equality: sum of p q"
        after = [lm.p([*text, x]) for x in range(lm.vocab_size)]
        mean = sum(w * law for w, law in zip(lm.p(text), after))
        return sum(w * sum(mean * law) for w, law in zip(lm.p(text), after))
    return {"a constant": lambda lm, text: Fraction(1), "half": lambda lm, text: Fraction(1, 2), "a word later": unweighted, "words alike": flat, "by equality": guessed,
            "the favourite": lambda lm, text: max(lm.p(text))}


def check_longest_run(c):
    def padded(draft, best):
        runs = []
        for leaf in range(len(draft)):
            nodes = [*draft.path(leaf), *[leaf] * 9]              # filled up with token 0 below the last node
            tokens = [draft.tokens[i] for i in draft.path(leaf)] + [0] * 9
            after, run = -1, []
            for i, token in zip(nodes, tokens):
                if token != best[after + 1]: break
                run.append(i)
                after = i
            runs.append(tuple(run))
        return max(runs, key=len, default=())
    def everywhere(draft, best): return tuple(i for i in range(len(draft)) if draft.tokens[i] == best[draft.parents[i] + 1])
    return {"a constant": lambda draft, best: (), "filled up with 0": padded, "right nodes anywhere": everywhere, "one level": lambda draft, best: c.solution(draft, best)[:1],
            "a bonus counted": lambda draft, best: (*c.solution(draft, best), -1)}


def check_mask(c):
    def lower(n): return np.tri(n, dtype=bool)
    def eye(n): return np.eye(n, dtype=bool)
    def blocks(T, n, own): return np.block([[lower(T) if b == 0 and a == 0 else own(a, b, T) for b in range(n)] for a in range(n)])
    return {"all before": lambda T, n: lower(T * n), "every level alike": lambda T, n: np.tile(lower(T), (n, n)), "places alone": lambda T, n: np.kron(lower(n), eye(T)),
            "all": lambda T, n: np.ones((T * n, T * n), bool), "its own level alone": lambda T, n: blocks(T, n, lambda a, b, T: lower(T) if b == 0 else eye(T) & (a == b))}


def check_calibration(c):
    def grouped(pairs, tenth, value):
        tenths = {}
        for p, a in pairs: tenths.setdefault(tenth(p), []).append(value(p, a))
        return {t: float(np.mean(rest)) for t, rest in tenths.items()}
    return {"nothing": lambda pairs: {}, "1 alone": lambda pairs: grouped(pairs, lambda p: int(10 * p), lambda p, a: a - p),
            "rounded": lambda pairs: grouped(pairs, lambda p: min(round(10 * p), 9), lambda p, a: a - p), "the other sign": lambda pairs: {t: -x for t, x in c.solution(pairs).items()},
            "accepted alone": lambda pairs: grouped(pairs, lambda p: min(int(10 * p), 9), lambda p, a: a), "against the middle": lambda pairs: grouped(pairs, lambda p: min(int(10 * p), 9), lambda p, a: a - min(int(10 * p), 9) / 10 - .05)}


def check_foretell(c):
    def pace(log, steps, i): return log[-1]["seconds"] + (steps - log[-1]["step"]) * (log[-1]["seconds"] - log[i]["seconds"]) / (log[-1]["step"] - log[i]["step"])
    return {"a constant": lambda log, n: 500, "from nothing": lambda log, n: log[-1]["seconds"] / log[-1]["step"] * n, "half a second each": lambda log, n: n / 2,
            "the whole run's pace": lambda log, n: pace(log, n, 0), "what was there is forgotten": lambda log, n: pace(log, n, 4) - log[-1]["seconds"]}


def check_digits(c):
    import torch
    def whole(w):
        scale = w.abs().max() / 127
        return float(((w / scale).round() * scale - w).abs().max() / w.abs().max())
    def absolute(w):
        scale = w.abs().amax(1, keepdim=True).clamp_min(1e-9) / 127
        return float(((w / scale).round() * scale - w).abs().max())
    def entries(w):
        scale = w.abs().amax(1, keepdim=True).clamp_min(1e-9) / 127
        return float((((w / scale).round() * scale - w).abs() / w.abs().clamp_min(1e-9)).max())
    return {"a constant": lambda w: .5 / 127, "one scale for all": whole, "not by the row's size": absolute, "by each entry": entries,
            "floored": lambda w: float(((w / (s := w.abs().amax(1, keepdim=True).clamp_min(1e-9) / 127)).floor() * s - w).abs().amax() / torch.ones(()))}


def check_gigabytes(c):
    return {"a constant": lambda n, layers, d: 5.721, "no normaliser": lambda n, layers, d: 2 * n * layers * d / 1e9, "in single": lambda n, layers, d: n * (4 * layers * d + 4) / 1e9,
            "one layer": lambda n, layers, d: n * (2 * d + 4) / 1e9, "by 2 ** 30": lambda n, layers, d: n * (2 * layers * d + 4) / 2 ** 30}


def check_share(c):
    return {"a constant": lambda t, i: 1 / 8, "the newest alone": lambda t, i: float(t == i), "all alike": lambda t, i: 1 / t, "its step's share": lambda t, i: min(1, 8 / (i + 7)),
            "of the last eight": lambda t, i: 1 / min(t, 8) if t - i < 8 else 0}


def check_share_read(c):
    return {"thirty layers": lambda n, of, per, rows, d: c.solution(n, 30, per, rows, d), "a constant": lambda *a: 1, "layers alone": lambda n, of, per, rows, d: n / of, "the head alone": lambda n, of, per, rows, d: rows / 49152,
            "all of the head": lambda n, of, per, rows, d: (n * per + 49152 * d) / (of * per + 49152 * d), "a mean of both": lambda n, of, per, rows, d: (n / of + rows / 49152) / 2}


def check_told_gain(c):
    def pairs(texts, before): return [(b, d) for t in texts for a, b, d in zip(t, t[1:], t[2:]) if a == before]
    def top(seen): return max(seen.count(x) for x in seen) / max(len(seen), 1)
    return {"a constant": lambda texts, before, word: .5, "told alone": lambda texts, before, word: top([d for b, d in pairs(texts, before) if b == word]),
            "the other way round": lambda texts, before, word: -c.solution(texts, before, word) - .1,
            "the word between": lambda texts, before, word: top([d for b, d in pairs(texts, before) if b == word]) - top([b for b, _ in pairs(texts, before)])}


def check_told_overlap(c):
    def unweighted(lm, text, q): return sum(sum(map(min, lm.p([*text, x]), q[x])) for x in range(lm.vocab_size)) / Fraction(lm.vocab_size)
    def by_equality(lm, text, q): return sum(w * sum(a * b for a, b in zip(lm.p([*text, x]), q[x])) for x, w in enumerate(lm.p(text)))
    def blind(lm, text, q):
        law = lm.p(text)
        mean = [sum(w * q[x][y] for x, w in enumerate(law)) for y in range(lm.vocab_size)]
        return sum(w * sum(map(min, lm.p([*text, x]), mean)) for x, w in enumerate(law))
    return {"a constant": lambda lm, text, q: Fraction(1, 2), "words alike": unweighted, "by equality": by_equality, "not told": blind}


def check_drift(c):
    def laws(old, new, text, n): return old.law(text, n), new.law(text, n)
    def undivided(*given): return 2 * c.solution(*given)
    def of_the_old(*given):
        p, q = laws(*given)
        return sum((abs(w - q.get(x, 0)) for x, w in p.items()), Fraction(0)) / 2
    def added(old, new, text, n):
        "The bound"
        return sum((w * c.solution(old, new, [*text, *x], 1) for t in range(n) for x, w in old.law(text, t).items()), Fraction(0))
    return {"a constant": lambda *given: Fraction(1, 14), "not halved": undivided, "only what the old one says": of_the_old, "added up": added,
            "one word": lambda old, new, text, n: c.solution(old, new, text, 1), "the most of a text": lambda *given: max((abs(w - laws(*given)[1].get(x, 0)) for x, w in laws(*given)[0].items()))}


def check_felt(c):
    return {"a constant": lambda *a: .2, "as given": lambda w, n, places: w, "the other way round": lambda w, n, places: w * n / places,
            "the rest": lambda w, n, places: w * (places - n) / places, "without a weight": lambda w, n, places: places / n}


def check_belongs(c):
    return {"a constant": lambda name, layers: True, "Qwen's alone": lambda name, layers: name.startswith("mtp."),
            "the one behind the last": lambda name, layers: name.startswith("mtp.") or name.startswith(f"model.layers.{layers}."),
            "by the first digits": lambda name, layers: name.startswith(("mtp.", f"model.layers.{layers}"[:-1])), "DeepSeek's alone": lambda name, layers: "model.layers.61." in name,
            "DeepSeek's count": lambda name, layers: c.solution(name, 61)}


def check_untold(c):
    def laws(lm, text): return lm.p(text), [lm.p([*text, x]) for x in range(lm.vocab_size)]
    def far(a, b): return sum(abs(x - y) for x, y in zip(a, b)) / 2
    def flat(lm, text):
        p, after = laws(lm, text)
        mean = [sum(law[y] for law in after) / Fraction(len(after)) for y in range(lm.vocab_size)]
        return sum(w * far(mean, law) for w, law in zip(p, after))
    def unweighted(lm, text):
        p, after = laws(lm, text)
        mean = [sum(w * law[y] for w, law in zip(p, after)) for y in range(lm.vocab_size)]
        return sum(far(mean, law) for law in after) / Fraction(len(after))
    return {"a constant": lambda lm, text: Fraction(1, 2), "words alike in the mean": flat, "words alike in the distance": unweighted, "no half": lambda lm, text: 2 * c.solution(lm, text) + Fraction(1, 99)}


def check_marginal(c):
    def law(lm, text): return list(lm.p(text))
    def flat(lm, text, d): return law(lm, text) if not d else [sum(flat(lm, [*text, x], d - 1)[y] for x in range(lm.vocab_size)) / Fraction(lm.vocab_size) for y in range(lm.vocab_size)]
    def favourite(lm, text, d): return law(lm, text) if not d else favourite(lm, [*text, max(range(lm.vocab_size), key=lambda x: lm.p(text)[x])], d - 1)
    return {"a constant": lambda lm, text, d: [Fraction(1, 2)] * 2, "the next word's": lambda lm, text, d: law(lm, text), "words alike": flat, "after the favourite": favourite,
            "a place too far": lambda lm, text, d: c.solution(lm, text, d + 1)}


def check_run(c):
    def late(T, t, m, reach):
        states, words, foretold = c.solution(T, t, m, reach)
        return states, [x - 1 for x in words], foretold
    def uncut(T, t, m, reach): return list(range(max(0, t + 1 - m) if m else 0, t + 1)), list(range(t + 1, t + 1 + reach)), list(range(t + 2, t + 2 + reach))
    def wide(T, t, m, reach): return list(range(max(0, t - m) if m else 0, t + 1)), *c.solution(T, t, m, reach)[1:]
    def none(T, t, m, reach): return list(range(max(0, t + 1 - m), t + 1)), *c.solution(T, t, m, reach)[1:]
    return {"ten words": lambda T, t, m, reach: c.solution(10, t, m, reach), "a constant": lambda T, t, m, reach: ([4], [5, 6, 7], [6, 7, 8]), "words a place early": late, "beyond the end": uncut, "a state too many": wide,
            "0 is none": none, "below the first": lambda T, t, m, reach: (list(range(t + 1 - m if m else 0, t + 1)), *c.solution(T, t, m, reach)[1:])}


def check_rows_by_hand(c):
    return {"all alike": [5, 5, 5], "the state left out": [10, 4, 11.5], "a window for each level": [14, 5, 20], "the other way round": [5, 14, 15.5], "whole rows": [14, 5, 17]}


def check_slot_mask(c):
    low, eye = (lambda n: np.tri(n, dtype=bool)), (lambda n: np.eye(n, dtype=bool))
    def blocks(n, own): return np.block([[low(n) if b == 0 else own(a, b, n) for b in range(3)] for a in range(3)])
    def none(n): return np.zeros((n, n), bool)
    return {"all": lambda n: np.ones((3 * n, 3 * n), bool), "a constant": lambda n: np.tri(9, dtype=bool), "the released mask": lambda n: blocks(n, lambda a, b, n: low(n) if b <= a else none(n)),
            "every kind alike": lambda n: np.tile(low(n), (3, 3)), "not the first slot's row": lambda n: blocks(n, lambda a, b, n: eye(n) if a == b else none(n)),
            "not itself": lambda n: blocks(n, lambda a, b, n: eye(n) if b < a else none(n)), "the other way round": lambda n: c.solution(n).T}


def check_weights_by_hand(c):
    return {"one head": [262, 34, 201], "heads of d": [524, 67, 201], "the first matrix alone": [1049, 134, 151], "in weights": [1048576000, 134217728, 201326592], "a constant": [1, 1, 1]}


def check_comparable(c):
    def right(n, draft, text): return sum(a == b for a, b in zip(draft, text[n:]))
    return {"a constant": lambda n, draft, text: 1, "all": lambda n, draft, text: len(draft), "as far as there is text": lambda n, draft, text: len(draft[:max(0, len(text) - n)]),
            "the accepted ones": lambda n, draft, text: max(0, c.solution(n, draft, text) - 1), "the right ones": right,
            "one more than accepted": lambda n, draft, text: next((i for i, (a, b) in enumerate(zip(draft, text[n:])) if a != b), len(draft)) + 1}


def check_caught(c):
    last, first, count = "-1", "0", "len(rows) - 1"
    return {"nothing": {}, "a constant": dict.fromkeys((last, first, count), "served"), "told, since it hears": {last: "told", first: "told", count: None},
            "the first is fine": {last: "served", first: None, count: None}, "the last is fine": {last: None, first: "served", count: None}}


def check_told_later(c):
    def unrepaired(p, q, r):
        kept = [x * min(1, y / z) if z else x for x, y, z in zip(q, p, r)]
        return [k / sum(kept) for k in kept]
    def owed_by_q(p, q, r):
        kept = [x * min(1, y / z) if z else x for x, y, z in zip(q, p, r)]
        owed = [max(y - z, 0) for y, z in zip(p, q)]
        return [k + (1 - sum(kept)) * o / sum(owed) for k, o in zip(kept, owed)] if sum(owed) else kept
    return {"a constant": lambda p, q, r: [Fraction(1, len(p))] * len(p), "lossless whatever is told": lambda p, q, r: p, "the draft's": lambda p, q, r: q, "no residual": unrepaired,
            "the residual of q": owed_by_q, "q and r exchanged": lambda p, q, r: c.solution(p, r, q)}


def check_versions(c):
    def newest(events): return [sum(e == "step" for e in events[:i]) for i, e in enumerate(events) if e[0] == "draft"]
    def first(events):
        began = {}
        for i, e in enumerate(events):
            if e[0] == "begin": began.setdefault(e[1], sum(x == "step" for x in events[:i]))
        return [began[e[1]] for e in events if e[0] == "draft"]
    return {"a constant": lambda events: [0], "the newest": newest, "none ever": lambda events: [0 for e in events if e[0] == "draft"], "the first beginning": first,
            "one too many": lambda events: [v + 1 for v in c.solution(events)], "the last beginning": lambda events: c.solution(sorted(events, key=lambda e: e[0] == "draft"))}
def check_hours(c):
    def in_turns(durations, workers): return max(sum(durations[i::workers]) for i in range(workers))
    def rounds(durations, workers): return sum(max(durations[i:i + workers]) for i in range(0, len(durations), workers))
    return {"a constant": lambda d, w: 3, "shared out": lambda d, w: sum(d) / w, "the longest": lambda d, w: max(d), "in turns": in_turns,
            "in rounds": rounds, "the longest first": lambda d, w: c.solution(sorted(d)[::-1], w)}


def check_foretold(c):
    def mean(a): return sum(np.mean(a) ** i for i in range(len(a) + 1)) if len(a) else 1.
    return {"a constant": lambda a: 1.5, "without its own": lambda a: c.solution(a) - 1, "each for itself": lambda a: 1 + sum(a),
            "all or nothing": lambda a: 1 + len(a) * float(np.prod(a)), "the mean for all": mean}


def check_can_hold(c):
    def made(out):
        try: out.mkdir(parents=True, exist_ok=True)
        except OSError: return False
        return True
    return {"what exists": lambda out: out.exists(), "no file": lambda out: not out.is_file(), "a folder around it": lambda out: out.parent.is_dir() and not out.is_file(),
            "it was made": made, "a constant": lambda out: True}


def check_distance(c):
    np = c.np
    def length(x): return max(float(np.linalg.norm(x)), 1e-9)
    return {"absolute": lambda a, b: float(np.linalg.norm(np.array(a) - b)), "of the other": lambda a, b: float(np.linalg.norm(np.array(a) - b)) / length(b),
            "lengths only": lambda a, b: abs(length(a) - length(b)) / length(a), "a constant": lambda a, b: 0.,
            "the largest entry": lambda a, b: float(abs(np.array(a) - b).max()) / length(a)}
