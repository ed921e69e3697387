"""The ledger of performance: a commit against the one before it, in fresh processes that take turns.

    python tools/history.py                         HEAD against its parent, five rounds, one thread
    python tools/history.py --commit X --before Y --rounds 9

Each round is two processes, one a commit, in an order that alternates; each decodes the same three questions twice, plainly and with `auto`,
and says how many tokens it wrote in a second of its processor time. The pair's ratios give the line's median and the middle 90 %.
A line is added to results/history.jsonl; chapter 44a draws it.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT/"results/history.jsonl"
MEASURE = """
import json, time, torch
torch.set_num_threads(1)
from specdec_nb import load_default
from specdec_nb.bench.timing import Setting
from specdec_nb.bench.questions import SAMPLE, encode
from specdec_nb.roles import as_target, introduce, make_drafter
model, tokenizer = load_default()
target, setting, rates = as_target(model), Setting.of(model, max_new_tokens=48), {}
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


def git(*words): return subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def measured(folder):
    "Tokens a second of a checkout, from a fresh process"
    env = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    run = subprocess.run([sys.executable, "-c", MEASURE], cwd=folder, env=env, capture_output=True, text=True)
    if run.returncode: raise SystemExit(f"{folder} cannot be measured:\n{run.stderr[-800:]}")
    return json.loads(run.stdout.splitlines()[-1])


def summary(values):
    "Median and middle 90 %"
    return [round(float(x), 4) for x in np.quantile(values, [.5, .05, .95])]


def line(commit, before, rounds):
    "Both checkouts in turns; the line of the ledger"
    from specdec_nb.workshop.ledger import provenance
    with tempfile.TemporaryDirectory() as work:
        folders = {c: Path(work)/c[:12] for c in (commit, before)}
        for c, folder in folders.items(): git("worktree", "add", "--detach", str(folder), c)
        try:
            for folder in folders.values(): measured(folder)                    # compiled, unpacked, costs measured
            pairs = []
            for i in range(rounds):
                order = (commit, before) if i % 2 else (before, commit)
                pairs.append({c: measured(folders[c]) for c in order})
                print(f"round {i + 1}: {pairs[-1]}", file=sys.stderr)
        finally:
            for folder in folders.values(): git("worktree", "remove", "--force", str(folder))
    here = provenance()
    return dict(commit=commit, before=before, date=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), cores=here["cores"], threads=1, cpu=here["cpu"],
                torch=here["torch"], load=round(os.getloadavg()[0], 2), rounds=rounds,
                rates={d: round(float(np.median([p[commit][d] for p in pairs])), 2) for d in ("none", "auto")},
                ratio={d: summary([p[commit][d] / p[before][d] for p in pairs]) for d in ("none", "auto")})


if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--commit", default="HEAD")
    p.add_argument("--before", help="default: the commit's parent")
    p.add_argument("--rounds", type=int, default=5)
    o = p.parse_args()
    commit = git("rev-parse", o.commit)
    row = line(commit, git("rev-parse", o.before or f"{commit}^"), o.rounds)
    with open(OUT, "a") as f: f.write(json.dumps(row) + "\n")
    print(json.dumps(row))
