"""Is a trained drafter better than the one that comes with the package? If it is, it takes its place, and its run is written down.

    python tools/ship.py eagle3 training/eagle3 --questions spec_bench_dev.jsonl --features training/features
    python tools/ship.py eagle3 training/eagle3 --questions … --features … --dry      only measure

Better: on documents kept apart the first guess is right more often, and on questions (greedy, float32, a tree of 8 or, for a draft model, a
chain of 4) a call brings more tokens; the first of its kind is better than none. Every text must be that of plain decoding. The run, its curve
and both figures go to results/training.jsonl.
"""
import argparse, json, shutil, sys, time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
WEIGHTS, LEDGER, MOST = ROOT / "specdec_nb" / "weights", ROOT / "results" / "training.jsonl", 24_000_000
FILES = ("model.safetensors", "config.json", "README.md", "log.json")


def drafter_of(kind, folder):
    from specdec_nb.roles import make_drafter
    from specdec_nb.drafters.model import ModelDrafter
    return ModelDrafter(folder, k=4) if kind == "draft" else make_drafter(kind, network=folder, tree=8)


def on_questions(kind, folders, questions, limit):
    "For each folder: tokens a call and acceptance by depth. ValueError if a text is not plain decoding's"
    from specdec_nb.bench.questions import encode
    from specdec_nb.verify import Trace
    from specdec_nb.stops import Stop
    from specdec_nb.decode import decode
    from specdec_nb.models.native import load_default
    from specdec_nb.sampling import Law
    model, tokenizer = load_default()
    drafters, found = {f: drafter_of(kind, f) for f in folders}, {f: [] for f in folders}
    for q in questions:
        ids, run = encode(tokenizer, q, [dict(role="user", content=q.turns[0])]), dict(law=Law(temperature=0))
        def trace(drafter): return Trace(decode(model, drafter, ids, stop=Stop(limit, eos={tokenizer.eos_token_id}), **run))
        plain = trace("none").tokens
        for folder, drafter in drafters.items():
            found[folder].append(t := trace(drafter))
            if t.tokens != plain: raise ValueError(f"{folder}: another text than plain decoding's at {q.id}")
    return {f: figures(traces) for f, traces in found.items()}


def figures(traces):
    deep = max(len(t.judged) for t in traces)
    judged = [[sum(t.judged[d][i] for t in traces if d < len(t.judged)) for i in (0, 1)] for d in range(deep)]
    calls, tokens = sum(t.calls for t in traces), sum(len(t.tokens) for t in traces)
    return dict(questions=len(traces), tokens=tokens, calls=calls, tau=round(tokens / calls, 3), acceptance=[round(a / j, 3) for j, a in judged])


def kept_apart(folders, data, features):
    "For each folder, the figures of `held_out` on the same documents"
    import torch
    from specdec_nb.models.hub import load_hf
    from specdec_nb.training.corpus import Corpus
    from specdec_nb.learned.network import Trained
    from specdec_nb.learned.fingerprint import Lender
    from specdec_nb.training.features import Batches, Features
    from specdec_nb.training.fit import held_out, prefers_half
    half = prefers_half(torch.device("cpu"))
    model, corpus = load_hf(None, torch.bfloat16 if half else torch.float32)[0], Corpus(data)
    n = model.config.num_hidden_layers
    read, found = Features(model, corpus.held, sorted({2, n // 2, n - 3, n}), features / "held"), {}
    for folder in folders:
        net = Trained.from_pretrained(folder).join(Lender(model))
        found[folder] = held_out(net, Batches(read, net, begins=corpus.begins["held"]), 400, half)
    return found


def entry(kind, folder, held, dev, shipped):
    "A line of the ledger"
    record, log = json.loads((folder / "config.json").read_text())["record"], json.loads((folder / "log.json").read_text())
    curve = [[r["step"], r.get("cpu_seconds", r["seconds"]), *r["held"]["top1"]] for r in log if "held" in r]
    before = dict(held_before=held[WEIGHTS / kind], dev_before=dev[WEIGHTS / kind]) if WEIGHTS / kind in held else {}
    about = {k: record.get(k) for k in ("command", "commit", "cpu", "threads", "torch", "tokens", "documents", "steps", "batch", "lr", "objective", "begun_with")}
    return dict(what="run", kind=kind, date=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), hours=round(record.get("cpu_seconds", record["seconds"]) / 3600, 3), **about,
                curve=curve, held=held[folder], dev=dev[folder], **before, shipped=shipped)


def main():
    from specdec_nb.bench.questions import read_questions
    from specdec_nb.workshop.registry import names
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("kind", choices=names("networks"))
    add("folder", type=Path)
    add("--questions", type=Path, required=True, help="the development half of Spec-Bench")
    add("--n", type=int, default=1, help="questions a category (default: 1)")
    add("--max-new-tokens", type=int, default=64)
    add("--data", type=Path, default=ROOT / "data" / "smollm2-135m")
    add("--features", type=Path, required=True, help="where the target's hidden states lie")
    add("--dry", action="store_true", help="only measure")
    o = parser.parse_args()
    o.folder, ours = o.folder.resolve(), WEIGHTS / o.kind
    folders = [ours] * ours.exists() + [o.folder] * (o.folder != ours)
    held = kept_apart(folders, o.data, o.features)
    dev = on_questions(o.kind, folders, read_questions(o.questions, n=o.n), o.max_new_tokens)
    for folder in folders: print(folder, held[folder]["top1"], dev[folder])
    better = ours not in held or held[o.folder]["top1"][0] > held[ours]["top1"][0] and dev[o.folder]["tau"] > dev[ours]["tau"]
    if o.dry: return
    size = sum(f.stat().st_size for f in WEIGHTS.rglob("*") if f.is_file() and f.parent != ours) + sum((o.folder / f).stat().st_size for f in FILES)
    if size > MOST: raise SystemExit(f"all drafters together would take {size} bytes, {MOST} is the most")
    line = entry(o.kind, o.folder, held, dev, better)
    if better:
        ours.mkdir(exist_ok=True)
        for name in FILES: shutil.copy(o.folder / name, ours)
    with open(LEDGER, "a", encoding="utf-8") as f: f.write(json.dumps(line) + "\n")
    print("shipped" if better else "not better: written down, not shipped")


if __name__ == "__main__": main()
