"""Measure Ouroboros, mechanism by mechanism, beside plain decoding, speculative decoding and lookahead, in one run of the bench.

    python tools/ablation.py QUESTIONS.jsonl --n 8 --max-new-tokens 64 --out results/ouroboros.json

QUESTIONS is a file that `specdec bench --questions` reads, HumanEval for instance. The draft model is the one that comes with the
package; `--layers 0-9,15-29` takes those layers of the default model instead, for its counts (its times mean nothing).
It is chapter 41's `bench`, which measures each method cold and, if it learns, warm; what it cannot know is counted here: the
forwards of the draft model and their rows.
"""
import argparse, sys
from datetime import datetime, timezone
from pathlib import Path

from specdec_nb import load_default
from specdec_nb.bench.bench import Log, bench
from specdec_nb.bench.timing import Setting
from specdec_nb.bench.questions import read_questions
from specdec_nb.roles import as_target
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
    "A draft model that counts its calls and their rows"
    def __init__(self, target): self.target, self.calls, self.rows = target, 0, 0
    def __getattr__(self, name): return getattr(self.target, name)
    def score(self, pairs):
        self.calls, self.rows = self.calls + 1, self.rows + sum(1 + len(draft or ()) for _, draft in pairs)
        return self.target.score(pairs)


class Counts(Log):
    "The bench's log, which notes with each answer what its draft model was asked"
    def __init__(self, small):
        super().__init__()
        self.small = small

    def each(self, todo):
        "What is to be done, item by item, counted from nothing"
        for item in todo:
            self.small.calls = self.small.rows = 0
            yield item

    def add(self, record):
        super().add(dict(record, drafted_calls=self.small.calls, drafted_rows=self.small.rows))
        print(record["id"], record["drafter"], "(warm)" * record["warm"], record["calls"], file=sys.stderr, flush=True)


def layers(text):
    "'0-9,15-29' as a list"
    spans = [[int(x) for x in part.split("-")] for part in text.split(",")]
    return [i for span in spans for i in range(span[0], span[-1] + 1)]


def methods(small, k, n, window):
    settings, found = dict(OFF, k=k, n=n, window=window, guesses=window), {}
    found["lookahead"] = lambda: Lookahead(window, n, window, text=False)
    for name, switch in SWITCHES.items():
        settings |= switch
        found[name] = lambda settings=dict(settings): Ouroboros(small, **settings)
    return found


def shown(r):
    "A record of the bench, as chapter 29 reads it"
    return dict(question=r["id"], method="plain" if r["drafter"] == "none" else r["drafter"], warm=r["warm"], tokens=r["tokens"],
                calls=r["calls"], rows=r["calls"] + r["nodes"], drafted_calls=r["drafted_calls"], drafted_rows=r["drafted_rows"],
                seconds=round(r["seconds"] - r["prefill"], 4), identical=r["divergence"] is None)


def main():
    ask = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ask.add_argument("questions")
    for name, default in (("n", 8), ("max-new-tokens", 64), ("k", 4), ("ngram", 4), ("window", 4)): ask.add_argument(f"--{name}", type=int, default=default)
    ask.add_argument("--layers", type=layers)
    ask.add_argument("--out", type=Path, required=True)
    args = ask.parse_args()
    model, tokenizer = load_default()
    small = Counted(as_target(some_layers(model, args.layers)) if args.layers else draft_target(None, as_target(model)))
    setting, log = Setting.of(model, max_new_tokens=args.max_new_tokens), Counts(small)
    records = bench(model, tokenizer, read_questions([args.questions], n=args.n), methods(small, args.k, args.ngram, args.window),
                    setting, log=log, progress=log.each)
    note = dict(provenance(model), command=command_line("python tools/ablation.py"),
                date=datetime.now(timezone.utc).isoformat(timespec="minutes"), load=load_average(), target="SmolLM2-135M-Instruct, 30 layers",
                draft=f"{len(args.layers)} of its layers" if args.layers else f"the package's draft model, {small.target.layers} layers",
                settings={key: value for key, value in vars(args).items() if key in ("n", "max_new_tokens", "k", "ngram", "window")})
    write_json(args.out, dict(provenance=note, records=[shown(r) for r in records]), indent=0)


if __name__ == "__main__": main()
