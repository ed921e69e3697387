"""The ledger of performance: a commit against the one before it, in fresh processes that take turns.

    python tools/history.py                         HEAD against its parent, five rounds, one thread
    python tools/history.py --commit X --before Y --rounds 9

Each round is two processes, one a commit, in an order that alternates; each decodes the same three questions twice, plainly and with `auto`,
and says how many tokens it wrote in a second of its processor time. The pair's ratios give the line's median and the middle 90 %.
Each commit has a folder for its caches, so that none goes by costs or kernels of the other. A line is added to results/history.jsonl;
chapter 44a draws it. `--program FILE` measures something else: a Python program whose last line is JSON, `{"none": …, "auto": …}`.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
WHO = ("none", "auto")
MEASURE = """
import gc, json, sys, time, torch
torch.set_num_threads(1)
from specdec_nb import load_default
from specdec_nb.bench.timing import Setting
from specdec_nb.bench.questions import SAMPLE, encode
from specdec_nb.roles import as_target, introduce, make_drafter
model, tokenizer = load_default()
gc.collect(), gc.freeze()
target, setting, rates = as_target(model), Setting.of(model, max_new_tokens=int(sys.argv[1])), {}
for name in ("none", "auto"):
    for timed in (False, True):
        tokens, began = 0, time.process_time()
        for q in SAMPLE:
            introduce(drafter := make_drafter(name), target)
            ids = encode(tokenizer, q, [{"role": "user", "content": q.turns[0]}])
            for step in setting.decode(target, drafter, ids): tokens += len(step.verdict.tokens)
        rates[name] = tokens / (time.process_time() - began)
print(json.dumps(rates))
"""
CHECK = """
import sys, specdec_nb
from pathlib import Path
if not Path(specdec_nb.__file__).is_relative_to(Path.cwd()):
    sys.exit(f"{specdec_nb.__file__} would be measured, which is not of this checkout")
"""


def git(root, *words):
    "What git says. SystemExit with its complaint"
    done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True)
    if done.returncode: raise SystemExit(f"git {words[0]}: {done.stderr.strip()}")
    return done.stdout.strip()


def measured(folder, tokens, program=MEASURE):
    "Tokens a second of a checkout, from a fresh process"
    env = {**os.environ, "PYTHONPATH": str(folder), "XDG_CACHE_HOME": f"{folder}.cache",
           "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    run = subprocess.run([sys.executable, "-c", CHECK + program, str(tokens)], cwd=folder, env=env,
                         capture_output=True, text=True)
    if run.returncode: raise SystemExit(f"{folder} cannot be measured:\n{run.stderr[-800:]}")
    rates = json.loads(run.stdout.splitlines()[-1])
    return {who: float(rates[who]) for who in WHO}


def summary(values):
    "Median and middle 90 %"
    return [round(float(x), 4) for x in np.quantile(values, [.5, .05, .95])]


def paired(commit, before, rounds, rate):
    "The rates of both in each round, `rate(commit)` asked for in turns"
    for c in (commit, before): rate(c)                                # compiled, unpacked, costs measured
    pairs = []
    for i in range(rounds):
        order = (commit, before) if i % 2 else (before, commit)
        pairs.append({c: rate(c) for c in order})
        print(f"round {i + 1}: {pairs[-1]}", file=sys.stderr)
    return pairs


def line(root, commit, before, rounds, tokens, program=MEASURE):
    "Both checkouts in turns; the line of the ledger"
    from specdec_nb.workshop.ledger import provenance
    if commit == before: raise SystemExit(f"{commit[:12]} against itself: give another commit with --before")
    with tempfile.TemporaryDirectory() as work, ExitStack() as at_last:
        folders = {c: Path(work)/c[:12] for c in (commit, before)}
        for c, folder in folders.items():
            git(root, "worktree", "add", "--detach", str(folder), c)
            at_last.callback(git, root, "worktree", "remove", "--force", str(folder))
        pairs = paired(commit, before, rounds, lambda c: measured(folders[c], tokens, program))
    here = provenance()
    return dict(commit=commit, before=before, date=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                cores=here["cores"], threads=1, cpu=here["cpu"], torch=here["torch"],
                load=round(os.getloadavg()[0], 2), rounds=rounds, tokens=tokens,
                rates={d: round(float(np.median([p[commit][d] for p in pairs])), 2) for d in WHO},
                ratio={d: summary([p[commit][d] / p[before][d] for p in pairs]) for d in WHO})


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = p.add_argument
    add("--commit", default="HEAD")
    add("--before", help="default: the commit's parent")
    add("--rounds", type=int, default=5)
    add("--tokens", type=int, default=48, help="of each answer (default: 48)")
    add("--program", type=Path, help="a file with another program to measure by")
    add("--root", type=Path, default=ROOT, help="the repository (default: this one)")
    add("--out", type=Path, help="default: results/history.jsonl of the repository")
    o = p.parse_args()
    if o.rounds < 1: p.error(f"need at least one round, got {o.rounds}")
    commit = git(o.root, "rev-parse", "--verify", f"{o.commit}^{{commit}}")
    before = git(o.root, "rev-parse", "--verify", f"{o.before or commit + '^'}^{{commit}}")
    program = o.program.read_text() if o.program else MEASURE
    row = line(o.root, commit, before, o.rounds, o.tokens, program)
    with open(o.out or o.root/"results/history.jsonl", "a") as f: f.write(json.dumps(row) + "\n")
    print(json.dumps(row))


if __name__ == "__main__": main()
