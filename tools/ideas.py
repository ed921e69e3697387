"""Ideas for speed, measured: what results/ideas.jsonl tells of, and chapter 44b shows.

    python tools/ideas.py peaks         what this machine can do, and what the kernels make of it
    python tools/ideas.py fetch         the one-row and the two-row kernel with fetches at several distances
    python tools/ideas.py tiles         tiles of other widths and heights
    python tools/ideas.py masks         masks of nibbles done by loads (needs AVX-512)
    python tools/ideas.py chains        two blocks, and two panels, at once
    python tools/ideas.py floats        weights widened to floats before, for the many rows of a prompt
    python tools/ideas.py whole         four-bit weights by factors and by digits (chapter 14d), with and without the next panel fetched meanwhile
    python tools/ideas.py overhead      a step of `none` and of `auto` outside the kernel
    python tools/ideas.py prompt        reading a prompt in chunks of several lengths
    python tools/ideas.py prices        what guesses in vain add to a call, by price lists of short and of long turns (chapter 08a), and in decoding
    python tools/ideas.py auto FILE…    `auto` with other settings, replayed on written answers by the price list of this machine

One thread, its own clock, what is compared in turns; medians.
"""
import sys
import time

import numpy as np

from kernel_ideas import chains, clocked, fetches, floats, masks, peaks, tiles, whole

# -- a step, a prompt, a drafter -------------------------------------------------------------------------

def loaded():
    from specdec_nb import load_default
    model, tokenizer = load_default(runtime="native", threads=1)
    return model, tokenizer


def overhead(tokens=48, rounds=9):
    from specdec_nb.decode import decode
    from specdec_nb.models.hub import chat
    from specdec_nb.roles import make_drafter
    from specdec_nb.sampling import Law
    from specdec_nb.verify import Trace
    model, tokenizer = loaded()
    ids, inside, compiled = chat(tokenizer, "Why do leaves change their colour in autumn?")[0].tolist(), [], model.team.work
    def run(*args):
        began = time.thread_time()
        compiled(*args)
        inside.append(time.thread_time() - began)
    def once(drafter):
        steps, trace = decode(model, drafter, ids, limit=tokens, law=Law(temperature=0)), Trace()
        trace.add(next(steps))
        inside.clear()
        began = time.thread_time()
        for step in steps: trace.add(step)
        return (time.thread_time() - began - sum(inside)) / len(inside), sum(inside) / len(inside)
    model.team.work, told = run, {"none": [], "auto": []}
    for _ in range(rounds):
        for name, pairs in told.items(): pairs.append(once(make_drafter(name)))
    for name, pairs in told.items(): print("{}: {:.3f} ms outside the kernel, {:.2f} inside".format(name, *1e3 * np.median(pairs, 0)))


def prices(tokens=100, rounds=6):
    from specdec_nb import Drafter, generate
    from specdec_nb.cost import measure_cost
    from specdec_nb.draft import Draft
    from specdec_nb.models.hub import chat
    class Vain(Drafter):
        "So many guesses a call, all of them wrong"
        def __init__(self, nodes): self.nodes = nodes
        def propose(self, ctx, rng): return Draft.chain([model.vocab_size - 1] * min(self.nodes, ctx.budget.depth))
    model, tokenizer = loaded()
    prompt, nodes = chat(tokenizer, "Write a short story about a fox that learns to swim.")[0].tolist(), (0, 1, 3, 7)
    for turn in (0., .1):
        curve = measure_cost(model, rows=tuple(n + 1 for n in nodes) + (16, 32), turn=turn)
        told = ", ".join(f"{n} {curve.relative(n + 1) - 1:.2f}" for n in nodes[1:])
        print(f"added by a list of turns of {turn} s, one row {1e3 * curve(1):.1f} ms: {told}")
    def spent(drafter, limit):
        began = time.thread_time()
        generate(model, prompt, drafter=drafter, max_new_tokens=limit)
        return time.thread_time() - began
    calls = {n: [] for n in nodes}
    for _ in range(rounds):
        for n in nodes: calls[n].append((spent(Vain(n), tokens) - spent(Vain(n), 1)) / (tokens - 1))
    plain, *vain = (float(np.median(calls[n])) for n in nodes)
    print(f"added in decoding, one row {1e3 * plain:.1f} ms:", ", ".join(f"{n} {v / plain - 1:.2f}" for n, v in zip(nodes[1:], vain)))


def prompt(length=384):
    from specdec_nb.roles import as_target, read
    target = as_target(loaded()[0])
    ids = np.random.default_rng(0).integers(0, target.vocab_size, length + 1).tolist()
    def run(chunk):
        def go():
            target.chunk = chunk
            read(target.open(ids))
        return go
    for chunk, s in clocked({n: run(n) for n in (32, 48, 64, 96, 128)}, 5).items(): print(f"chunks of {chunk}: {1e3 * s / length:.3f} ms a token")


class Written:
    "A target that reads from an answer written before; a state is a text"
    max_nodes, branches, window, chunk = 256, True, None, 1 << 20
    def __init__(self, prompt, tokens, tops, vocab_size): self.text, self.tops, self.start, self.vocab_size = prompt + tokens, tops, len(prompt), vocab_size
    def open(self, ids, asks=None):
        return type("State", (), dict(tokens=list(ids), unread=(), keep=lambda s, v: s.tokens.extend(v.tokens)))()
    def score(self, pairs): return [self.rows(len(state.tokens), draft) for state, draft in pairs]
    def rows(self, at, draft):
        from specdec_nb.sampling import Scores
        best, tops, node = np.full(1 + len(draft), -1), np.full((1 + len(draft), 8), -1), 0
        while node is not None and at < len(self.text):
            best[node], tops[node] = self.text[at], self.tops[at - self.start]
            node = next((i + 1 for i in draft.children(node - 1) if draft.tokens[i] == self.text[at]), None)
            at += 1
        rows = Scores(np.broadcast_to(np.float32(0), (1 + len(draft), self.vocab_size)))
        rows.best, rows.top = best.__getitem__, lambda k: tops[:, :k]
        return rows


def auto(*files, n=3, tokens=64):
    "By category: tokens for the time of a one-row call, with settings of `Auto` cold and warm; files of questions, or the book's three"
    from specdec_nb.bench.questions import SAMPLE, encode, read_questions
    from specdec_nb.decode import decode
    from specdec_nb.phrases.tuning import Auto
    from specdec_nb.phrases.price import cost_of
    from specdec_nb.roles import as_target
    from specdec_nb.sampling import Law
    from specdec_nb.speedup import CostCurve
    from specdec_nb.verify import Trace
    greedy, (model, tokenizer), answers = Law(temperature=0), loaded(), []
    curve = cost_of(as_target(model))
    for q in read_questions(files, None, n) if files else SAMPLE:
        ids = encode(tokenizer, q, [{"role": "user", "content": q.turns[0]}])
        if len(ids) > 500: continue
        steps = list(decode(model, "none", ids, limit=tokens, law=greedy))
        answers.append((q.category, ids, [s.verdict.tokens[0] for s in steps], np.concatenate([s.scores.top(8) for s in steps])))
    half = CostCurve(curve.rows, (1 + np.array(curve.seconds) / curve.seconds[0]) / 2)
    def made(margin=1.2, error=.15, curve=curve, **options):
        drafter = Auto(curve=curve, **options)
        drafter.bind(Written([0], [], (), model.vocab_size))
        drafter.pace.margin, believe = margin, drafter.rate
        drafter.rate = lambda record: max(believe(record) - (error - .15) * (record[0] * (1 - record[0]) / min(record[1], 1 / drafter.speed)) ** .5, 0.)
        return drafter
    settings = {"as it is": {}, "no margin": dict(margin=1.), "margin 1.5": dict(margin=1.5), "half an error off": dict(error=.5),
                "an error off": dict(error=1.), "without ranks": dict(sources=("suffix", "phrases")), "suffix alone": dict(sources=("suffix",)), "rows at half their price": dict(curve=half)}
    for name, options in settings.items():
        for warm in (False, True):
            told, shared = {}, made(**options)
            for category, ids, text, tops in answers:
                drafter = shared if warm else made(**options)
                trace = Trace(decode(Written(ids, text, tops, model.vocab_size), drafter, ids, limit=len(text), law=greedy))
                paid = sum(float(options.get("curve", curve).relative(1 + len(draft))) for draft, _ in trace.steps)
                for c in (category, "all"): told[c] = told.get(c, 0) + np.array([len(text), paid])
            rates = {c: round(float(a / b), 3) for c, (a, b) in told.items()}
            print(f"{name}{', warm' * warm}: {rates.pop('all')}; {rates}", flush=True)


IDEAS = dict(peaks=peaks, fetch=fetches, tiles=tiles, masks=masks, chains=chains, floats=floats, whole=whole,
             overhead=overhead, prompt=prompt, prices=prices, auto=auto)

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in IDEAS: raise SystemExit(__doc__)
    IDEAS[sys.argv[1]](*sys.argv[2:])
