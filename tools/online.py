"""Learning while serving, on the real model: a trained drafter serves questions of another kind than it was trained for, and learns from them.

    nice python tools/online.py --near spec_bench_dev.jsonl --far humaneval_dev.jsonl --json results/online.json

Before, and after so many questions of the far kind, and in the end: tokens a call and how often the first guess is right, on questions of both
kinds that it never learnt from, with the weights of that moment. Every answer is compared with plain decoding's.
"""
import argparse, copy, time
from pathlib import Path

from specdec_nb.bench.questions import encode, read_questions
from specdec_nb.decode import decode
from specdec_nb.learned.online import Online
from specdec_nb.models.native import load_default
from specdec_nb.sampling import Law
from specdec_nb.stops import Stop
from specdec_nb.verify import Trace
from specdec_nb.workshop.files import write_json
from specdec_nb.workshop.ledger import command_line, load_average, provenance


class Lives:
    "A drafter, and what is asked of it"
    def __init__(self, o):
        self.model, self.tokenizer = load_default()
        self.stop, self.plain = Stop(o.max_new_tokens, eos={self.tokenizer.eos_token_id}), {}
        far = self.asked(o.far)
        self.lessons, self.judged = far[:o.lessons], {"near": self.asked(o.near, o.n), "far": far[o.lessons:][:o.n]}

    def asked(self, file, n=None):
        "Prompts of a file: all, or `n` spread over it"
        questions = read_questions([file])
        step = max(1, len(questions) // n) if n else 1
        return [encode(self.tokenizer, q, [dict(role="user", content=q.turns[0])]) for q in questions[::step][:n]]

    def serve(self, drafter, prompt):
        "ValueError if the text is not plain decoding's"
        def trace(drafter): return Trace(decode(self.model, drafter, prompt, stop=self.stop, law=Law(temperature=0)))
        key, said = tuple(prompt), trace(drafter)
        if key not in self.plain: self.plain[key] = trace("none").tokens
        if said.tokens != self.plain[key]: raise ValueError(f"another text than plain decoding's after {len(prompt)} tokens")
        return said

    def figures(self, drafter):
        "Of each kind, with the weights as they are"
        return {kind: self._of([self.serve(drafter, p) for p in prompts]) for kind, prompts in self.judged.items()}

    @staticmethod
    def _of(traces):
        judged, kept = (sum(t.judged[0][i] for t in traces if t.judged) for i in (0, 1))
        calls, tokens = sum(t.calls for t in traces), sum(len(t.tokens) for t in traces)
        return dict(questions=len(traces), tokens=tokens, calls=calls, tau=round(tokens / calls, 3), first=round(kept / judged, 3))


def frozen(online, name):
    "A drafter with what was learnt so far, which learns no more"
    still = Online(name)
    still.network.load_state_dict(copy.deepcopy(online.network.state_dict()))
    return still.inner


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--near", type=Path, required=True, help="questions of the kind it was trained for")
    p.add_argument("--far", type=Path, required=True, help="questions of another kind")
    p.add_argument("--drafter", default="eagle3:tree=8")
    p.add_argument("--lessons", type=int, default=60, help="questions of the far kind that it learns from")
    p.add_argument("--n", type=int, default=20, help="questions of each kind that it is judged by")
    p.add_argument("--max-new-tokens", type=int, default=64)
    p.add_argument("--every", type=int, default=24)
    p.add_argument("--lr", type=float, nargs="+", default=[1e-3, 1e-4])
    p.add_argument("--looks", type=int, default=3, help="how often it is judged on the way")
    p.add_argument("--json", type=Path)
    o = p.parse_args()
    lives, rows, began = Lives(o), [], time.process_time()
    for lr in o.lr:
        online = Online(o.drafter, every=o.every, lr=lr)
        marks = {len(lives.lessons) * i // o.looks for i in range(o.looks + 1)}
        learning = time.process_time()
        for i, prompt in enumerate([*lives.lessons, None]):
            if i in marks:
                spent = time.process_time() - learning
                rows.append(dict(lr=lr, served=i, **online.record, seconds=round(spent, 1), **lives.figures(frozen(online, o.drafter))))
                print(rows[-1], flush=True)
                learning = time.process_time() - spent
            if prompt is not None: lives.serve(online, prompt)
    if o.json: write_json(o.json, dict(rows=rows, provenance=provenance(lives.model) | dict(command=command_line("tools/online.py"), load=load_average(), seconds=round(time.process_time() - began, 1))))


if __name__ == "__main__": main()
