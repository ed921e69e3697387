"""Measure Ouroboros, mechanism by mechanism, beside plain decoding, speculative decoding and lookahead, in one run.

    python tools/ablation.py QUESTIONS.jsonl --n 8 --max-new-tokens 64 --out results/ouroboros.json

QUESTIONS is a file that `specdec bench --questions` reads, HumanEval for instance. The draft model is the one that comes with the
package; `--layers 0-9,15-29` takes those layers of the default model instead, for its counts (its times mean nothing).
Each method answers every question, greedily, with a new drafter (cold); those that keep a memory also with one drafter for all (warm).
Recorded for each answer: tokens, target calls and their rows, forwards of the draft model and theirs, seconds without prefill.
"""
import argparse, sys, time
from datetime import datetime, timezone
from pathlib import Path

from specdec_nb import Law, Trace, load_default
from specdec_nb.bench.questions import encode, read_questions
from specdec_nb.roles import as_target
from specdec_nb.stops import Stop
from specdec_nb.decode import decode
from specdec_nb.drafters.lookahead import Lookahead
from specdec_nb.drafters.layerskip import some_layers
from specdec_nb.drafters.model import draft_target
from specdec_nb.phrases.ouroboros import Ouroboros
from specdec_nb.workshop.files import write_json
from specdec_nb.workshop.ledger import command_line, load_average, provenance

OFF = dict(phrases=False, lengthen=0, discarded=False, corrected=False, history=False)
SWITCHES = {"speculative decoding": {}, "+ phrases": dict(phrases=True), "+ lengthening": dict(lengthen=3),
            "+ verification": dict(discarded=True, corrected=True), "+ history": dict(history=True),
            "+ unsure": dict(unsure=1), "+ text": dict(text=True), "all but phrases": dict(phrases=False)}


class Counted:
    "A target that counts its calls and their rows"
    def __init__(self, target): self.target, self.calls, self.rows = target, 0, 0
    def __getattr__(self, name): return getattr(self.target, name)
    def score(self, pairs):
        self.calls, self.rows = self.calls + 1, self.rows + sum(1 + len(draft) for _, draft in pairs)
        return self.target.score(pairs)


def layers(text):
    "'0-9,15-29' as a list"
    spans = [[int(x) for x in part.split("-")] for part in text.split(",")]
    return [i for span in spans for i in range(span[0], span[-1] + 1)]


def methods(small, k, n, window):
    settings, found = dict(OFF, k=k, n=n, window=window, guesses=window), {}
    found["plain"] = lambda: "none"
    found["lookahead"] = lambda: Lookahead(window, n, window, text=False)
    for name, switch in SWITCHES.items():
        settings |= switch
        found[name] = lambda settings=dict(settings): Ouroboros(small, **settings)
    return found


def answer(target, small, drafter, prompt, stop):
    calls, rows, began, trace = small.calls, small.rows, time.perf_counter(), Trace()
    for step in decode(target, drafter, prompt, law=Law(temperature=0), stop=stop): trace.add(step)
    seconds = time.perf_counter() - began - trace.seconds.get("prefill", 0.)
    return dict(tokens=trace.tokens, calls=trace.calls, rows=trace.calls + sum(len(d) for d, _ in trace.steps),
                drafted_calls=small.calls - calls, drafted_rows=small.rows - rows, seconds=round(seconds, 4))


def main():
    ask = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ask.add_argument("questions")
    for name, default in (("n", 8), ("max-new-tokens", 64), ("k", 4), ("ngram", 4), ("window", 4)): ask.add_argument(f"--{name}", type=int, default=default)
    ask.add_argument("--layers", type=layers)
    ask.add_argument("--out", type=Path, required=True)
    args = ask.parse_args()
    model, tokenizer = load_default()
    target = as_target(model)
    small = Counted(as_target(some_layers(model, args.layers)) if args.layers else draft_target(None, target))
    made = methods(small, args.k, args.ngram, args.window)
    questions = read_questions(args.questions, n=args.n)
    warm, records = {name: make() for name, make in made.items() if getattr(make(), "learns", False)}, []
    for i, q in enumerate(questions):
        prompt, plain = encode(tokenizer, q, [{"role": "user", "content": q.turns[0]}]), None
        runs = [(name, False) for name in made] + [(name, True) for name in warm]
        for name, kept in runs[:1] + runs[1:][i % 3:] + runs[1:][:i % 3]:
            drafter = warm[name] if kept else made[name]()
            r = answer(target, small, drafter, prompt, Stop(args.max_new_tokens, model.generation_config.eos_token_id and {model.generation_config.eos_token_id}))
            plain = plain or r["tokens"]
            records.append(dict(question=q.id, method=name, warm=kept, **dict(r, tokens=len(r["tokens"])), identical=r["tokens"] == plain))
            print(records[-1], file=sys.stderr, flush=True)
    blocks = len(small.target.model.blocks)
    note = dict(provenance(model), command=command_line("python tools/ablation.py"),
                date=datetime.now(timezone.utc).isoformat(timespec="minutes"), load=load_average(), target="SmolLM2-135M-Instruct, 30 layers",
                draft=f"{blocks} of its layers" if args.layers else f"the package's draft model, {blocks} layers",
                settings={key: value for key, value in vars(args).items() if key in ("n", "max_new_tokens", "k", "ngram", "window")})
    write_json(args.out, dict(provenance=note, records=records), indent=0)


if __name__ == "__main__": main()
