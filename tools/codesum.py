"""Chapter 39b's summarisers, trained on the Python programs of this machine, and what they and their drafters are worth.

    nice python tools/codesum.py --out results/codesum.json [--weights specdec_nb/weights/codesum] [--steps 600] [--long 2400]

Six networks (places absolute, distances, directed distances; with and without copying) of `--steps` each, and one that is trained longer and kept.
The functions are split by package, and by module of the standard library; nothing of their texts goes to the report. A run that was stopped goes on with --resume.
"""
import argparse, json, sysconfig, time, warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from specdec_nb.draft import Draft, trim
from specdec_nb.models.generate import generate
from specdec_nb.roles import Drafter, introduce, make_drafter
from specdec_nb.decoding.codesum import Summariser, SummariserConfig, load_summariser
from specdec_nb.decoding.copylaw import PAD, Vocabulary, documented
from specdec_nb.workshop.files import read_json, write_json
from specdec_nb.workshop.ledger import Ledger, command_line, load_average, provenance

PACKAGES = dict(sympy="sympy", sklearn="scikit-learn", numba="numba", matplotlib="matplotlib", numpy="numpy",
                IPython="ipython", huggingface_hub="huggingface_hub", tornado="tornado", mpmath="mpmath", networkx="networkx", rich="rich")
HELD = {"networkx", "rich", "std.email", "std.asyncio", "std.logging", "std.http", "std.statistics", "std.pathlib", "std.zipfile", "std.json", "std.shutil"}
SIZES = dict(words=3000, slots=32, width=96, heads=4, inner=256, encoder_layers=2, decoder_layers=2, clip=16, reads=72, writes=18)
VARIANTS = [dict(positions=p, copies=c) for p in ("absolute", "distance", "directed") for c in (False, True)]
DRAFTERS = ("none", "lookup:shortest=1", "suffix:shortest=1", "recycling", "recycling, cold", "pointing", "pointing + recycling")


def roots():
    "Where each package's programs are: `{name: folder or file}`"
    std, site = (Path(sysconfig.get_paths()[k]) for k in ("stdlib", "purelib"))
    skip = {"site-packages", "test", "idlelib", "lib2to3", "turtledemo", "ensurepip", "tests", "__pycache__"}
    own = {f"std.{p.stem}": p for p in sorted(std.iterdir()) if p.name not in skip and (p.is_dir() or p.suffix == ".py")}
    return own | {name: site/name for name in PACKAGES if (site/name).is_dir()}


def collect(where=None, shortest=3, longest=16):
    "Functions and first lines by package, each once: `{package: [(code, doc), ...]}`"
    seen, found = set(), {}
    for name, root in (roots() if where is None else where).items():
        found[name] = []
        for path in [root] if root.is_file() else sorted(root.rglob("*.py")):
            if {"tests", "test", "_vendor", "_vendored", "externals", "extern"} & {*path.parts}: continue
            try: pairs = documented(path.read_text("utf-8"))
            except (SyntaxError, ValueError, RecursionError): continue
            for code, doc in pairs:
                key = " ".join(code)
                if not shortest <= len(doc) <= longest or len(code) < 15 or key in seen: continue
                seen.add(key)
                found[name].append((code, doc))
    return found


def batches(vocabulary, pairs, size=16, seed=0):
    "Batches without end, of sources of about one length each"
    gen = np.random.default_rng(seed)
    while True:
        order = gen.permutation(len(pairs))
        for pool in np.array_split(order, max(1, len(order)//(32 * size))):
            pool = sorted(pool, key=lambda i: min(len(pairs[i][0]), SIZES["reads"]))
            groups = [pool[i:i + size] for i in range(0, len(pool) - size + 1, size)]
            for g in gen.permutation(len(groups)): yield vocabulary.batch([pairs[i] for i in groups[g]], SIZES["reads"], SIZES["writes"])


def train(model, batches, steps, rate=3e-3):
    "Train in place. Returns the mean loss of the last fifty steps, nats a word"
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps, pct_start=.1)
    losses = []
    model.train()
    for _, (sources, targets) in zip(range(steps), batches):
        optimizer.zero_grad()
        loss = model(sources, (sources != PAD).long(), labels=targets).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if len(losses) % 200 == 0: print(f"  {len(losses)}: {np.mean(losses[-50:]):.3f}", flush=True)
    model.eval()
    return float(np.mean(losses[-50:]))


def summaries(model, vocabulary, pairs):
    "What a network says of functions, greedily"
    said = []
    for i in range(0, len(pairs), 64):
        part = [vocabulary.read(code[:SIZES["reads"]]) for code, _ in pairs[i:i + 64]]
        ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(r) for r, _ in part], batch_first=True, padding_value=PAD)
        out = model.generate(ids, attention_mask=(ids != PAD).long(), max_new_tokens=SIZES["writes"] - 1, do_sample=False)
        said += [vocabulary.say(row.tolist(), unknown) for row, (_, unknown) in zip(out, part)]
    return said


def judged(model, vocabulary, pairs):
    "BLEU (sacrebleu, one corpus, words as they are), ROUGE-L (rouge-score, mean F), and the share of the truth's unlisted source words that were said"
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu import corpus_bleu
    said, truth = summaries(model, vocabulary, pairs), [" ".join(doc) for _, doc in pairs]
    scorer = RougeScorer(["rougeL"])
    rare = [({*doc} & {*vocabulary.read(code[:SIZES["reads"]])[1]}, {*s.split()}) for (code, doc), s in zip(pairs, said)]
    return dict(bleu=corpus_bleu(said, [truth], tokenize="none").score, rouge_l=100 * float(np.mean([scorer.score(t, s)["rougeL"].fmeasure for t, s in zip(truth, said)])),
                rare=100 * sum(len(w & s) for w, s in rare)/max(1, sum(len(w) for w, _ in rare)), n_rare=sum(len(w) for w, _ in rare))


def loss_on(model, vocabulary, pairs):
    "Nats a word on functions that were not learnt"
    with torch.no_grad():
        parts = [vocabulary.batch(pairs[i:i + 64], SIZES["reads"], SIZES["writes"]) for i in range(0, len(pairs), 64)]
        scored = [(float(model(s, (s != PAD).long(), labels=t).loss), int((t >= 0).sum())) for s, t in parts]
    return sum(x * n for x, n in scored)/sum(n for _, n in scored)


class Both(Drafter):
    "Two drafters, one tree, with half of the nodes for each"
    learns = True
    def __init__(self, names, nodes=8): self.two = [make_drafter(f"{name}:nodes={nodes // 2}") for name in names]
    def bind(self, target):
        for one in self.two: introduce(one, target)
        self.asks = self.two[0].asks | self.two[1].asks
    def begin(self, ctx, state): return Side([one.begin(ctx, state) or one for one in self.two])


class Side:
    "One request of `Both`"
    def __init__(self, two): self.two = two
    def propose(self, ctx, rng):
        made = [one.propose(ctx, rng) for one in self.two]
        return trim(Draft.merge([[d.tokens[j] for j in d.path(i)] for d in made for i in range(len(d))])[0], ctx.budget)
    def observe(self, step):
        for one in self.two: one.observe(step)


def drafter_of(name):
    "By its name in `DRAFTERS`"
    return Both(name.split(" + ")) if " + " in name else make_drafter(name.split(",")[0])


def speculated(model, vocabulary, pairs):
    "Each drafter on single functions: words a call, and whether every text is plain decoding's, greedily and sampled. One that is cold knows nothing of the functions before"
    model, rows = model.double(), []
    for drafter in DRAFTERS:
        for sampled in (False, True):
            made, tokens, calls, same = drafter_of(drafter), 0, 0, 0
            for i, (code, _) in enumerate(pairs):
                ids = torch.tensor([vocabulary.read(code[:SIZES["reads"]])[0]])
                call = dict(max_new_tokens=SIZES["writes"] - 1, do_sample=sampled, return_dict_in_generate=True, **(dict(seed=i, temperature=.7, top_k=0) if sampled else {}))
                if "cold" in drafter: made = drafter_of(drafter)
                plain, out = (generate(model, ids, drafter=d, **call) for d in ("none", made))
                same += torch.equal(plain.sequences, out.sequences)
                tokens, calls = tokens + len(out.trace.tokens), calls + out.trace.calls
            rows.append(dict(drafter=drafter, sampled=sampled, n=len(pairs), identical=same, tokens=tokens, calls=calls))
            print(rows[-1], flush=True)
    return rows


def even(pairs, n):
    "`n` of them, evenly spread"
    return [pairs[i] for i in np.linspace(0, len(pairs) - 1, min(n, len(pairs))).astype(int)]


def keep(model, vocabulary, folder, about):
    "The network in half precision, its words and sizes, and a note"
    folder.mkdir(parents=True, exist_ok=True)
    own = {k: w.half().contiguous() for k, w in model.state_dict().items() if k not in ("encoder.embed.weight", "decoder.embed.weight")}
    save_file(own, folder/"model.safetensors")
    sizes = {k: getattr(model.config, k) for k in (*SIZES, "positions", "copies")}
    (folder/"config.json").write_text(json.dumps(dict(sizes=sizes, words=vocabulary.known)))
    (folder/"README.md").write_text(about)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", default="results/codesum.json")
    p.add_argument("--weights", type=Path, default=None, help="where the longest trained network goes")
    p.add_argument("--steps", type=int, default=600)
    p.add_argument("--long", type=int, default=2400)
    p.add_argument("--test", type=int, default=800, help="functions to be judged by")
    p.add_argument("--speculate", type=int, default=60, help="functions to be drafted for")
    p.add_argument("--drafts", action="store_true", help="measure the drafters of an earlier report again, on the network that the package has")
    for flag in ("--resume", "--force"): p.add_argument(flag, action="store_true")
    a = p.parse_args()
    warnings.simplefilter("ignore")
    began, clock = time.time(), time.process_time()
    if a.drafts: return again(a)
    ledger = Ledger(a.out, resume=a.resume, force=a.force)
    found = collect()
    learnt = [pair for name, pairs in found.items() if name not in HELD for pair in pairs]
    held = [pair for name in sorted(HELD) for pair in found.get(name, [])]
    vocabulary, test = Vocabulary.of((w for pair in learnt for w in pair), SIZES["words"], SIZES["slots"]), even(held, a.test)
    data = dict(learnt=len(learnt), held=len(held), tested=len(test), held_packages=sorted(HELD), packages={p: version(d) for p, d in PACKAGES.items()})
    print(data, f"{time.process_time() - clock:.0f} s", flush=True)
    ledger.begin(dict(provenance(), sizes=SIZES, steps=a.steps, long=a.long, data=data))
    plans = [*((v, a.steps) for v in VARIANTS), (dict(positions="directed", copies=True), a.long)]
    for variant, steps in plans[len(ledger.records):]:
        torch.manual_seed(0)
        model, start = Summariser(SummariserConfig(**SIZES, **variant)), time.process_time()
        seen = train(model, batches(vocabulary, learnt), steps)
        record = dict(variant, steps=steps, loss_seen=seen, loss=loss_on(model, vocabulary, test), **judged(model, vocabulary, test),
                      seconds=time.process_time() - start, weights=sum(w.numel() for w in model.parameters()))
        print(record, flush=True)
        if steps == a.long and a.weights:
            keep(model, vocabulary, a.weights, note(data, record))
            torch.save(model.state_dict(), f"{a.out}.pt")
        ledger.add(record)
    model = Summariser(SummariserConfig(**SIZES, **plans[-1][0])).eval()
    model.load_state_dict({k: w.half().float() for k, w in torch.load(f"{a.out}.pt").items()})     # as it is shipped
    std = [pair for name in sorted(HELD) if name.startswith("std") for pair in found.get(name, [])]
    rows = speculated(model, vocabulary, even(std, a.speculate))
    header = dict(provenance(), device="cpu", dtype="float32", sizes=SIZES, data=data, command=command_line("python tools/codesum.py"), load=load_average(),
                  date=now(), seconds=time.time() - began, cpu_seconds=time.process_time() - clock)
    ledger.close(dict(provenance=header, records=ledger.records, rows=rows))
    Path(f"{a.out}.pt").unlink()


def again(a):
    "The drafters' part of a report, measured anew"
    report = read_json(a.out, "report of tools/codesum.py", {"provenance": dict, "rows": [dict]})
    model, vocabulary = load_summariser()
    found = collect({name: root for name, root in roots().items() if name in HELD and name.startswith("std")})
    report["rows"] = speculated(model, vocabulary, even([pair for name in sorted(found) for pair in found[name]], a.speculate))
    report["provenance"]["drafts"] = dict(commit=provenance()["commit"], command=command_line("python tools/codesum.py"), load=load_average(), date=now())
    write_json(a.out, report)


def now(): return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def note(data, record):
    return f"""# A summariser of Python functions

An encoder-decoder of {record['weights']} weights with directed relative positions and copying (chapter 39b), in half precision; the encoder's and decoder's embedding is one.

- **Data:** {data['learnt']} functions of the standard library and of {', '.join(p for p in data['packages'] if p not in HELD)}, with the first line of their docstrings, which are taken out of them. Kept apart, by package: {', '.join(data['held_packages'])}
- **Training:** {record['steps']} steps of 16 functions, {record['seconds']/60:.0f} minutes of one core
- **On {data['tested']} functions kept apart:** {record['loss']:.2f} nats a word, BLEU {record['bleu']:.1f}, ROUGE-L {record['rouge_l']:.1f}
- **Command:** `python tools/codesum.py --weights specdec_nb/weights/codesum`
"""


if __name__ == "__main__": main()
