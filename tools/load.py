"""What an engine gives under load: requests one after another, so many at once, or as they come.

    python tools/load.py --questions spec_bench_dev.jsonl --json results/load.json --force

Each answer is compared with the answer of plain `generate`. Seconds of the clock and of the processor: on a machine that does
other things as well, the second are what the work took. What is compared is measured in turns, as often as `--repeats` says.
"""
import argparse, statistics, threading, time
from itertools import product
from pathlib import Path

import numpy as np
import torch

from specdec_nb import Law, Stop, generate
from specdec_nb.bench.questions import encode, read_questions
from specdec_nb.models.narrow import in_bytes
from specdec_nb.models.native import load
from specdec_nb.phrases.price import cost_of
from specdec_nb.roles import as_target, make_drafter, read
from specdec_nb.serving.engine import Engine
from specdec_nb.workshop.files import write_json
from specdec_nb.workshop.ledger import command_line, load_average, of_model, provenance, set_aside


class Watch:
    "When each request's tokens came"
    def __init__(self): self.sent, self.came, self.texts = {}, {}, {}

    def hear(self, i, tokens):
        self.came.setdefault(i, []).extend([time.perf_counter()] * len(tokens))
        self.texts.setdefault(i, []).extend(tokens)

    def figures(self):
        first = [self.came[i][0] - self.sent[i] for i in self.came]
        gaps = np.concatenate([np.diff(c) for c in self.came.values()])
        at = lambda x, q: round(float(np.quantile(x, q)), 4)
        return dict(first_p50=at(first, .5), first_p95=at(first, .95), gap_p50=at(gaps, .5), gap_p95=at(gaps, .95))


class Streamed:
    "A streamer of `generate`: the prompt comes first"
    def __init__(self, watch, i): self.watch, self.i, self.prompt = watch, i, True
    def put(self, ids):
        if not self.prompt: self.watch.hear(self.i, ids.flatten().tolist())
        self.prompt = False
    def end(self): pass


class Forwards:
    "What the target's forwards take of the processor, how many rows they have, and what the price list says of such calls"
    def __init__(self, target, curve):
        self.target, self.forward, self.curve = target, target.forward, curve
        target.forward = self
        self.clear()
    def clear(self): self.seconds, self.calls, self.rows, self.booked = 0., 0, 0, 0.
    def __call__(self, feeds):
        began = time.process_time()
        made = self.forward(feeds)
        self.seconds += time.process_time() - began
        rows = sum(len(f.tokens) for f in feeds)
        self.calls, self.rows, self.booked = self.calls + 1, self.rows + rows, self.booked + float(self.curve(rows))
        return made


def apart(target, drafter, prompts, stop):
    "One after another, by `generate`"
    watch, drafter = Watch(), make_drafter(drafter)
    for i, p in enumerate(prompts):
        watch.sent[i] = time.perf_counter()
        generate(target, [p], drafter=drafter, do_sample=False, max_new_tokens=stop.limit, eos_token_id=[*stop.eos],
                 streamer=Streamed(watch, i))
    return watch, None


def loaded(target, drafter, prompts, stop, load, chunk=None, most=16):
    "So many at once, each followed by the next; or as a Poisson process sends them"
    engine, watch, todo = Engine(target, drafter, chunk=chunk, most=most), Watch(), list(enumerate(prompts))
    rate, over = float(load.partition("poisson:")[2] or 0), threading.Semaphore(0)
    def send():
        if not todo: return
        i, p = todo.pop(0)
        watch.sent[i] = time.perf_counter()
        engine.submit(p, Law(temperature=0), stop, told=lambda r, step: hear(i, step))
    def hear(i, step):
        watch.hear(i, step.verdict.tokens)
        if step.stopped:
            over.release()
            if not rate: send()
    if not rate:
        for _ in range(int(load)): send()
        engine.run()
        return watch, engine
    worker = threading.Thread(target=engine.work)
    worker.start()
    for gap in np.random.default_rng(0).exponential(1 / rate, len(prompts)):
        time.sleep(gap)
        send()
    for _ in prompts: over.acquire()
    engine.close()
    worker.join()
    return watch, engine


def measured(target, forwards, drafter, prompts, stop, load, chunk=None) -> tuple: # `(row, texts)`
    "One load, once"
    forwards.clear()
    clock, cpu, machine = time.perf_counter(), time.process_time(), load_average()
    how = (apart, ()) if load == "generate" else (loaded, (load, chunk))
    watch, engine = how[0](target, drafter, prompts, stop, *how[1])
    clock, cpu = time.perf_counter() - clock, time.process_time() - cpu
    counts = engine.counts if engine else {}
    row = dict(load=load, drafter=drafter, tokens=sum(map(len, watch.texts.values())), seconds=round(clock, 3), cpu=round(cpu, 3),
               forward_cpu=round(forwards.seconds, 3), booked=round(forwards.booked, 3), calls=forwards.calls, rows=forwards.rows, **watch.figures(), machine=machine,
               read=sum(map(len, prompts)) - len(prompts) - counts.get("shared", 0), drafted=counts.get("drafted"), accepted=counts.get("accepted"))
    return row, watch.texts


def reading(target, prompts) -> float: # seconds of the processor
    "What the prompts alone take, all but their last tokens"
    began = time.process_time()
    for ids in prompts: read(target.open(ids))
    return round(time.process_time() - began, 3)


def brief(rows):
    "The rows of one load and drafter in a line"
    per = {what: statistics.median(r["tokens"] / r[what] for r in rows) for what in ("seconds", "cpu")}
    one, last = rows[0], rows[-1]
    return (f"{one['threads']} threads {one['load']:12} {one['drafter']:8} {per['seconds']:6.1f} tokens a second, {per['cpu']:6.1f} of the processor; first "
            f"{one['first_p50']:.2f} s, between {1e3 * one['gap_p50']:.0f} and {1e3 * one['gap_p95']:.0f} ms; "
            f"outside forwards {1 - last['forward_cpu'] / last['cpu']:.1%}; equal {one['equal']} of {one['n']}; load {last['machine']}")


def options():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--questions", type=Path, required=True)
    p.add_argument("--n", type=int, default=32, help="questions, spread over the file")
    p.add_argument("--longest", type=int, default=400, help="only those whose prompt has at most so many tokens")
    p.add_argument("--tokens", type=int, default=64)
    p.add_argument("--loads", nargs="+", default=["generate", "1", "2", "4", "8", "poisson:0.5"])
    p.add_argument("--drafters", nargs="+", default=["none", "auto"])
    p.add_argument("--repeats", type=int, default=2)
    p.add_argument("--threads", nargs="+", type=int, default=[1], help="of a forward, one number after another")
    p.add_argument("--runtime", default="native")
    p.add_argument("--activations", default="float32", choices=["float32", "int8"], help="int8: rows of bytes (chapter 14l)")
    p.add_argument("--model")
    p.add_argument("--chunk", type=int)
    p.add_argument("--json", type=Path)
    p.add_argument("--force", action="store_true", help="replace the file of --json")
    return p


def main(argv=None):
    o = options().parse_args(argv)
    if o.json and o.json.exists() and not o.force: raise SystemExit(f"{o.json} is there already: give --force to replace it")
    began = dict(date=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), load=load_average(), command=command_line("tools/load.py"))
    told = dict(rows=[], reading={}, curves={})
    for threads in o.threads: model, told["prompts"] = under(threads, o, told)
    if o.json: write_json(o.json, dict(provenance=dict(provenance(), **of_model(model), **began, threads=max(o.threads)), **told), indent=1)


def under(threads, o, told) -> tuple: # `(model, tokens of all prompts)`
    "All loads, with forwards of so many threads"
    torch.set_num_threads(threads)
    model, tokenizer = load(o.model, runtime=o.runtime, threads=threads)
    if o.activations == "int8": model = in_bytes(model)
    target, stop = as_target(model), Stop(o.tokens, {tokenizer.eos_token_id})
    every = [encode(tokenizer, q, [{"role": "user", "content": q.turns[0]}]) for q in read_questions(o.questions)]
    every = [p for p in every if len(p) <= o.longest]
    prompts = every[::max(1, len(every) // o.n)][:o.n]
    curve = cost_of(target)
    forwards, plain = Forwards(target, curve), None
    told["curves"][threads] = {n: round(float(curve(n)), 6) for n in (1, 2, 4, 8, 16, 64)}
    for d in o.drafters: apart(target, d, prompts[:1], Stop(8, {tokenizer.eos_token_id}))                      # warming up
    set_aside()
    for _ in range(o.repeats):
        told["reading"].setdefault(threads, []).append(reading(target, prompts))
        for load_, d in product(o.loads, o.drafters):
            row, texts = measured(target, forwards, d, prompts, stop, load_, o.chunk)
            plain = plain or texts
            told["rows"].append(dict(row, threads=threads, equal=sum(texts[i] == plain[i] for i in plain), n=len(plain)))
            print(brief([r for r in told["rows"] if (r["threads"], r["load"], r["drafter"]) == (threads, load_, d)]), flush=True)
    return model, sum(map(len, prompts))


if __name__ == "__main__": main()
