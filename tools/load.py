"""What an engine gives under load: requests one after another, so many at once, or as they come. Every answer is compared with the answer alone.

    python tools/load.py --questions spec_bench_dev.jsonl --n 32 --loads 1 8 poisson:1.5 --drafters none auto --json load.json

Seconds of the clock and of the processor: on a machine that does other things as well, the second is what the work took.
"""
import argparse, json, threading, time
from pathlib import Path

import numpy as np

from specdec_nb import Law, Stop
from specdec_nb.bench.questions import encode, read_questions
from specdec_nb.decode import Request, serve
from specdec_nb.models.native import load
from specdec_nb.roles import as_target, make_drafter, read
from specdec_nb.serving.engine import Engine
from specdec_nb.workshop.ledger import command_line, load_average, provenance


class Watch:
    "When each request's tokens came"
    def __init__(self): self.sent, self.came, self.texts = {}, {}, {}
    def step(self, i, step):
        now = time.perf_counter()
        self.came.setdefault(i, []).extend([now] * len(step.verdict.tokens))
        self.texts.setdefault(i, []).extend(step.verdict.tokens)
    def figures(self):
        first = [self.came[i][0] - self.sent[i] for i in self.came]
        gaps = np.concatenate([np.diff(self.came[i]) for i in self.came if len(self.came[i]) > 1])
        mean = [(c[-1] - c[0]) / (len(c) - 1) for c in self.came.values() if len(c) > 1]
        at = lambda x, q: round(float(np.quantile(x, q)), 4)
        return dict(first_p50=at(first, .5), first_p95=at(first, .95), gap_p50=at(gaps, .5), gap_p95=at(gaps, .95), per_token_p50=at(mean, .5))


def apart(target, drafter, prompts, stop):
    "One after another, through `serve` alone: what `generate` does"
    watch, drafter = Watch(), make_drafter(drafter)
    for i, p in enumerate(prompts):
        watch.sent[i] = time.perf_counter()
        for _, step in serve([Request(target, drafter, p, Law(temperature=0), stop=stop)]): watch.step(i, step)
    return watch, {}


def loaded(target, drafter, prompts, stop, load, chunk, most=16):
    "So many at once, each followed by the next; or as a Poisson process sends them"
    engine, watch, todo = Engine(target, drafter, chunk=chunk, most=most), Watch(), list(enumerate(prompts))
    over = threading.Semaphore(0)
    def send():
        if not todo: return
        i, p = todo.pop(0)
        watch.sent[i] = time.perf_counter()
        engine.submit(p, Law(temperature=0), stop, told=lambda r, step: hear(i, step))
    def hear(i, step):
        watch.step(i, step)
        if step.stopped:
            over.release()
            if not poisson: send()
    poisson = str(load).startswith("poisson:")
    if not poisson:
        for _ in range(int(load)): send()
        engine.run()
        return watch, engine.counts
    worker, gaps = threading.Thread(target=engine.work), np.random.default_rng(0).exponential(1 / float(load[8:]), len(prompts))
    worker.start()
    for gap in gaps: time.sleep(gap); send()
    for _ in prompts: over.acquire()
    engine.close(); worker.join()
    return watch, engine.counts


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--questions", type=Path, required=True); p.add_argument("--n", type=int, default=32)
    p.add_argument("--longest", type=int, default=1500, help="only questions whose prompt has at most so many tokens")
    p.add_argument("--tokens", type=int, default=64); p.add_argument("--loads", nargs="+", default=["1", "2", "4", "8", "poisson:1"])
    p.add_argument("--drafters", nargs="+", default=["none", "auto"]); p.add_argument("--runtime", default="native")
    p.add_argument("--model"); p.add_argument("--chunk", type=int); p.add_argument("--json", type=Path)
    o = p.parse_args()
    model, tokenizer = load(o.model, runtime=o.runtime)
    target, stop = as_target(model), Stop(o.tokens, {tokenizer.eos_token_id})
    every = [encode(tokenizer, q, [{"role": "user", "content": q.turns[0]}]) for q in read_questions(o.questions)]
    every = [p for p in every if len(p) <= o.longest]
    prompts = every[::max(1, len(every) // o.n)][:o.n]
    for d in o.drafters: Engine(target, d); apart(target, d, prompts[:1], Stop(8))                # warming up; costs are measured
    reading = time.process_time()
    for ids in prompts: read(target.open(ids))
    plain, rows, reading = None, [], time.process_time() - reading
    print(f"{len(prompts)} questions, {sum(map(len, prompts))} prompt tokens, {o.runtime}, read in {reading:.1f} s of the processor, load of the machine {load_average()}", flush=True)
    for load_ in ["apart", *o.loads]:
        for d in o.drafters:
            clock, cpu, machine = time.perf_counter(), time.process_time(), load_average()
            watch, counts = apart(target, d, prompts, stop) if load_ == "apart" else loaded(target, d, prompts, stop, load_, o.chunk)
            clock, cpu = time.perf_counter() - clock, time.process_time() - cpu
            plain = plain or watch.texts
            tokens = sum(map(len, watch.texts.values()))
            row = dict(load=load_, drafter=d, tokens=tokens, seconds=round(clock, 2), cpu=round(cpu, 2), per_second=round(tokens / clock, 1), per_cpu_second=round(tokens / cpu, 1), without_reading=round(tokens / max(cpu - reading, 1e-9), 1),
                       equal=sum(watch.texts[i] == plain[i] for i in plain), n=len(plain), **watch.figures(), machine=machine, calls=counts.get("calls"), drafted=counts.get("drafted"), accepted=counts.get("accepted"))
            rows.append(row)
            print(json.dumps(row), flush=True)
    if o.json: o.json.write_text(json.dumps(dict(provenance=dict(provenance(), runtime=o.runtime, model=o.model or "the default model", command=command_line("tools/load.py"), date=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), load=load_average()), rows=rows), indent=1))


if __name__ == "__main__": main()
