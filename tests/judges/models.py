"Wrong answers to the exercises of Part II"
import torch


def check_embedding_share(c):
    def rows(m): return m.config.vocab_size / sum(w.numel() for w in m.parameters())
    def twice(m): return c.solution(m) * 2
    def layers(m): return 1 - sum(w.numel() for w in m.model.layers.parameters()) / sum(w.numel() for w in m.parameters())
    return {"a constant": lambda m: .5, "words, not numbers": rows, "head and embedding": twice, "all but the layers": layers}


def check_comb(c):
    def by(rounding, levels=15):
        def comb(b): return b.min() + rounding((b - b.min()) / (b.max() - b.min()) * levels) * (b.max() - b.min()) / levels
        return comb
    return {"as it was": lambda b: b, "a grid of its own": lambda b: torch.round(b * 8) / 8, "the level below": by(torch.floor), "a constant": torch.zeros_like,
            "eight levels": by(torch.round, 7), "seventeen": by(torch.round, 16)}


def check_intensity(c):
    return {"one row": lambda config, r, b: 2 / b, "four bytes": lambda config, r, b: r / 2, "a constant": lambda config, r, b: .5,
            "a product": lambda config, r, b: 2 * r * b, "one operation a weight": lambda config, r, b: r / b, "of this width": lambda config, r, b: 2 * r / b * config.hidden_size / 64}


def check_shifted(c):
    def change(size):
        def f(llama, tokens, by):
            n = len(tokens)
            at = lambda by: llama.forward(torch.tensor(tokens), torch.arange(n) + by, c.Forgetful(llama, n))
            return float(size(at(by) - at(0)))
        return f
    return {"a constant": lambda *a: 0., "shifted or not": lambda llama, tokens, by: 1e-3 * bool(by), "a mean": change(lambda d: d.abs().mean()),
            "upwards": change(lambda d: d.max()), "the last row's first": change(lambda d: d[-1, 0].abs())}


def check_indexed(c):
    return {"right positions": c.worst_row, "a constant": lambda m, d: 1., "a chain or not": lambda m, d: 0. if d.is_chain else 1.,
            "siblings or not": lambda m, d: 0. if d.is_chain else float(m.embed.abs().max()), "how far off the positions are": lambda m, d: max([i + 1 - x for i, x in enumerate(d.depth)])}


def check_fooled(c):
    HFTarget = c.HFTarget
    class Says(HFTarget): branches = False
    class Always(HFTarget):
        def forward(self, feeds): return [(rows if rows is None else rows + 1, hidden) for rows, hidden in super().forward(feeds)]
    class Refuses(HFTarget):
        def forward(self, feeds):
            if not all(f.below.is_chain for f in feeds): raise AssertionError("this target takes no trees")
            return super().forward(feeds)
    class Noisy(HFTarget):
        def forward(self, feeds):
            return [(rows if rows is None or f.below.is_chain else rows + 1, hidden) for f, (rows, hidden) in zip(feeds, super().forward(feeds))]
    return {"nothing changed": HFTarget, "a constant": Says, "chains as well": Always, "no trees at all": Refuses, "other rows": Noisy}


def check_agree(c):
    def both(same, **fixed):
        def f(model, prompt, options):
            options = fixed or options
            return same(c.generate(model, prompt, do_sample=False, **options), model.generate(prompt, do_sample=False, **options))
        return f
    return {"yes": lambda *a: True, "no": lambda *a: False, "nothing": lambda *a: None, "lengths": both(lambda a, b: a.shape == b.shape),
            "the first token": both(lambda a, b: bool(a[0, 6] == b[0, 6])), "the last token": both(lambda a, b: bool(a[0, -1] == b[0, -1])),
            "the length alone of the options": lambda model, prompt, options: c.solution(model, prompt, dict(max_new_tokens=options["max_new_tokens"])), "other options": both(torch.equal, max_new_tokens=6)}


def check_filled(c):
    return {"a constant": lambda lengths: 1., "the mean": lambda lengths: sum(lengths) / len(lengths), "the shortest": lambda lengths: min(lengths) / max(lengths),
            "the waste": lambda lengths: 1 - sum(lengths) / (len(lengths) * max(lengths))}


def check_budget(c):
    class Base:
        def __init__(self, word, n, prompt): self.word, self.n, self.prompt, self.calls = word, n, prompt, 0
    class Never(Base):
        def __call__(self, input_ids, scores): return scores
    class Counts(Base):
        "By its own calls"
        def __call__(self, input_ids, scores):
            self.calls += int(input_ids[0, -1]) == self.word
            return scores.index_fill(1, c.torch.tensor([self.word]), float("-inf")) if self.calls >= self.n else scores
    class Whole(Base):
        "The prompt's words, too"
        def __call__(self, input_ids, scores):
            return scores.index_fill(1, c.torch.tensor([self.word]), float("-inf")) if int((input_ids == self.word).sum()) >= self.n else scores
    class Always(Base):
        def __call__(self, input_ids, scores): return scores.index_fill(1, c.torch.tensor([self.word]), float("-inf"))
    return {"never": Never, "calls counted": Counts, "the prompt counts": Whole, "always": Always}


def check_least_committed(c):
    return {"one row dearer, whatever k": lambda s, k: 1 + s, "all guesses": lambda s, k: k + 1, "a constant": lambda s, k: 1, "the share alone": lambda s, k: s * k}


def check_tallest(c):
    return {"no line of weights": lambda r, lanes, e: (r - 1) * e // lanes, "a constant": lambda r, lanes, e: 6, "no row's number": lambda r, lanes, e: (r * e - lanes) // lanes,
            "registers, not rows": lambda r, lanes, e: r - 1 - lanes // e}


def check_goal(c):
    return {"the bug": lambda count, threads: count + threads, "a constant": lambda count, threads: 8, "the last one's only": lambda count, threads: count + 1,
            "the meeting before": lambda count, threads: count // threads * threads}


def check_head_share(c):
    return {"bits for bytes": lambda w, n, b, t: w * n * b / t, "words only": lambda w, n, b, t: w * b / 8 / t, "a constant": lambda w, n, b, t: .5, "upside down": lambda w, n, b, t: t / (w * n * b / 8)}


def check_in_digits(c):
    def unsigned(n): return n >> 16, n >> 8 & 255, n & 255
    def truncated(n): h = int(n / 65536); return h, int((n - 65536 * h) / 256), 0
    def borrowed_once(n): low = (n + 128) % 256 - 128; return (n - low) // 65536, (n - low) // 256 % 256, low
    return {"unsigned": unsigned, "a digit lost": truncated, "borrowed from one only": borrowed_once, "a constant": lambda n: (0, 0, 0), "two digits": lambda n: divmod(n, 256)}


def check_q5_0(c):
    def low(raw): d, q = c.solution(raw); return [d, (q + 16) % 16 - 16]
    def unsigned(raw): d, q = c.solution(raw); return [d, (q + 16).astype(q.dtype)]
    def swapped(raw): d, q = c.solution(raw); return [d, q[..., ::-1].copy()]
    kept = []
    def first(raw):
        kept.append(c.solution(raw))
        return kept[0]
    return {"a constant": first, "without the fifth bit": low, "without the 16": unsigned, "backwards": swapped}


def check_pays(c):
    return {"the pending token left out": lambda ms, counts, k, a: a > c.np.interp(1 + k, counts, ms) / ms[0], "always": lambda ms, counts, k, a: True,
            "a price a row": lambda ms, counts, k, a: 1 + a > 1 + .4 * k,
            "the first list of prices": lambda ms, counts, k, a: c.solution([10., 14., 40.][:len(counts)], counts, k, a), "the first numbers of rows": lambda ms, counts, k, a: c.solution(ms, [1, 2, 6], k, a), "k rows": lambda ms, counts, k, a: 1 + a > c.np.interp(k, counts, ms) / ms[0]}


def check_in_view(c):
    right = c.solution
    return {"a constant": lambda length, w, d: 3, "the window": lambda length, w, d: w, "its own row counted": lambda length, w, d: min(length, max(0, w - d)),
            "no matter how deep": lambda length, w, d: min(length, w - 1), "no matter how short": lambda length, w, d: max(0, w - 1 - d),
            "below nothing": lambda length, w, d: min(length, w - 1 - d), "fewer rows below": lambda length, w, d: min(length - d, max(0, w - 1 - d)), "two, if any": lambda length, w, d: min(2, right(length, w, d))}


def check_told(c):
    return {"always": lambda window, text, draft: True, "never": lambda window, text, draft: False, "any branch": lambda window, text, draft: not draft.is_chain,
            "a window below the text": lambda window, text, draft: window < text and not draft.is_chain,
            "the last node alone": lambda window, text, draft: len(draft) > draft.depth[-1] and 1 < window < text + draft.depth[-1]}


def check_positions(c):
    return {"as they stand": lambda mask: c.torch.arange(len(mask)), "from one": lambda mask: mask.cumsum(-1), "below zero": lambda mask: mask.cumsum(-1) - 1,
            "zero under zeros": lambda mask: (mask.cumsum(-1) - 1).clamp(min=0) * mask, "from the first seen": lambda mask: (c.torch.arange(len(mask)) - int(mask.argmax())).clamp(min=0)}
def check_two_sums(c):
    found = {"exact": (6., 6.), "swapped": (6., 4.), "a constant": (0, 0), "nothing lost": (6, 4.5), "both lost": (4, 4)}
    return {kind: (answer,) for kind, answer in found.items()}


def check_honest(c):
    def generous(one, other, rounding):
        error, top = (one - other).abs().max(), one.topk(2).values
        return bool((top[:, 0] - top[:, 1])[one.argmax(1) != other.argmax(1)].le(2 * error).all())
    def same(one, other, rounding): return torch.equal(one.argmax(1), other.argmax(1))
    def close(one, other, rounding): return bool((one - other).abs().max() <= rounding)
    def some(one, other, rounding):
        top = one.topk(2).values
        return bool((top[:, 0] - top[:, 1]).min() <= 2 * rounding)
    return {"one rounding": lambda one, other, rounding: c.solution(one, other, .001), "the first row alone": lambda one, other, rounding: c.solution(one[:1], other[:1], rounding), "measured on itself": generous, "no flip at all": same, "by the size of errors": close, "some near-tie": some,
            "yes": lambda *a: True, "no": lambda *a: False}


def check_place(c):
    def base(rows, kv, group, s): return sum(rows[:s]) * kv * group
    return {"a constant": lambda *a: 0, "by row, then by head": lambda rows, kv, group, s, r, h: base(rows, kv, group, s) + r * kv * group + h,
            "rows of one request only": lambda rows, kv, group, s, r, h: c.solution(rows[s:], kv, group, 0, r, h),
            "key heads interleaved": lambda rows, kv, group, s, r, h: base(rows, kv, group, s) + (h % kv * rows[s] + r) * group + h // kv,
            "by key head, head, row": lambda rows, kv, group, s, r, h: base(rows, kv, group, s) + h * rows[s] + r}


def check_meetings(c):
    return {"a constant": lambda n: 303, "without what is behind the layers": lambda n: 10 * n, "two behind the layers": lambda n: 10 * n + 2, "norms forgotten": lambda n: 8 * n + 3,
            "a norm twice": lambda n: 11 * n + 3, "once a map": lambda n: 7 * n + 1}


def check_packed_bytes(c):
    linear = c.panels.__globals__
    panel, deep, size = linear["PANEL"], linear["DEEP"], linear["SIZE"]
    return {"a constant": lambda kind, n, k: 4096, "no padding": lambda kind, n, k: n * k // deep[kind] * size[kind] // panel, "one panel": lambda kind, n, k: k // deep[kind] * size[kind],
            "rounded down": lambda kind, n, k: n // panel * (k // deep[kind]) * size[kind], "a block a number": lambda kind, n, k: -(-n // panel) * k * size[kind]}


def check_padded(c):
    def right(prompts, texts, pad): return c.solution(prompts, texts, pad)
    def left(prompts, texts, pad):
        longest = max(map(len, texts))
        return [[*[pad] * (longest - len(t)), *p, *t] for p, t in zip(prompts, texts)]
    return {"padded on the left": left, "ragged": lambda prompts, texts, pad: [[*p, *t] for p, t in zip(prompts, texts)],
            "always zero": lambda prompts, texts, pad: right(prompts, texts, 0), "no prompts": lambda prompts, texts, pad: right([[]] * len(prompts), texts, pad)}


def check_unwrapped(c):
    def one(model): return getattr(model, "inner", model)
    def never(model): return model if not hasattr(model, "inner") else never(model.inner)
    def outer(model):
        if getattr(model, "prefix", None): raise ValueError
        return never(model)
    def caught(f):
        def tried(model):
            try: return f(model)
            except ValueError: return None
        return tried
    return {"one wrapper": one, "whatever the prefix": never, "the outermost prefix": outer, "None for a prefix": caught(c.solution)}


def check_columns(c):
    np = c.np
    def best(row, k): return np.argsort(-row)[:k]
    return {"as many as entries": lambda row, w, k: k, "columns at most": lambda row, w, k: min(w, k), "rows of the fold": lambda row, w, k: len({*(best(row, k) // w).tolist()}),
            "of the smallest": lambda row, w, k: len({*(np.argsort(row)[:k] % w).tolist()}), "columns of 64": lambda row, w, k: len({*(best(row, k) % 64).tolist()})}


def check_one_digit(c):
    np = c.np
    def by(most): return lambda x: (np.rint(x / (abs(x).max() / most)), abs(x).max() / most)
    return {"by 128": by(128), "by 100": by(100), "cut off": lambda x: (np.trunc(x / (abs(x).max() / 127)), abs(x).max() / 127), "not whole": lambda x: (x / (abs(x).max() / 127), abs(x).max() / 127),
            "the largest, not the largest in size": lambda x: (np.rint(x / (x.max() / 127)), x.max() / 127), "only the numbers of a third": lambda x: (c.solution(x)[0][:10], c.solution(x)[1])}


def check_tally(c):
    np = c.np
    def flipped(w, n): return int(((w.view(np.uint8) ^ 128).astype(int) * n.astype(int)).sum())
    return {"as given": c.tally, "nothing taken away": flipped, "128 times the weights' sum": lambda w, n: flipped(w, n) - 128 * int(w.astype(int).sum()), "127": lambda w, n: flipped(w, n) - 127 * int(n.astype(int).sum()),
            "zero": lambda w, n: 0}


def check_layers_share(c):
    return {"one level": lambda b: (.3 + b) / 5, "only the bytes": lambda b: 4 * .3 / 5, "only what is between": lambda b: 4 * b / 5, "of the whole round": lambda b: 4 * (.3 + b) / (5 + 4 * (.3 + b)),
            "between the levels": lambda b: (4 * .3 + 3 * b) / 5}


def check_features(c):
    return {"as given": c.features, "one too far": lambda made, parents: made[[min(p + 2, len(made) - 1) for p in parents]], "the pending word's for all": lambda made, parents: made[[0] * len(parents)],
            "only of the first level": lambda made, parents: made[[max(p, 0) for p in parents]]}
