"""Check the kernels of chapters 28 and 28a: on a GPU, and as far as that is possible without one.

    python tools/gpu_check.py                            on a GPU: are they right, how fast -> results/gpu_check.json
    python tools/gpu_check.py --interpret                the same checks, small, on Triton's interpreter; writes only with --out
    python tools/gpu_check.py --compile 80 90 100        compile for A100, H100, B200; prints JSON; needs no GPU (--only NAME ...)

Times are medians over replays of a recorded graph of calls whose caches rotate, so that none is found in the second-level cache;
`bytes` is what one call must read of its cache, and `machine` the same GPU's bandwidth, measured in the same run.
"""
import argparse, contextlib, io, json, os, re, statistics, subprocess, sys, tempfile, time
from datetime import datetime, timezone
from itertools import product
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


# -- compiled ahead of time ----------------------------------------------------------------------------

def cases():
    "Every kernel with the blocks it is launched with: `{name: (kernel, types of its pointers, constants and options)}`"
    from specdec_nb.trees import kernels as k, verdict_kernels as v
    types = {**dict.fromkeys("SIZES FIRST TABLE BASE PATH SAYS TOKENS PARENTS OWN LAWS".split(), "*i32"),
             **dict.fromkeys("LOG PART P Q COINS".split(), "*fp32"), "BITS": "*i64", "scale": "fp32"}
    def attention(rows, D, kind="bf16", page=0):
        data = dict.fromkeys(("Q", "K", "V", "OUT"), f"*{kind}")
        return k._attention, {**types, **data}, dict(G=3, D=D, PAGE=page, UP=False, **k._tiles(rows, D, kind == "fp32"))
    wide = {f"attention, {r} rows of {D}": attention(r, D) for r, D in ((16, 64), (64, 64), (128, 64), (64, 128), (128, 128), (64, 256))}
    return {**wide, "attention, paged": attention(64, 64, page=16), "attention, fp32": attention(64, 64, "fp32"),
            "combine": (k._combine, {**types, "OUT": "*bf16"}, dict(D=64, BD=64, BR=16)),
            "keep": (v._keep, {**types, "CACHE": "*bf16"}, dict(D=64, BD=64, BP=16, PAGE=0)),
            "walk": (v._walk, types, dict(BT=64)), "rejection": (v._reject, types, dict(BT=64, BV=1024))}


def assemble(kernel, types, constants, capability):
    "Compile one kernel: registers a thread, bytes spilled, shared memory, matrix instructions, and the assembly"
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    options = {n: constants.pop(n) for n in ("num_warps", "num_stages") if n in constants}
    types = {n: "constexpr" if n in constants else types.get(n, "i32") for n in kernel.arg_names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(types) if types[n][0] == "*" or n[:2] == "s_"}
    source = ASTSource(fn=kernel, signature=types, constexprs=constants, attrs=aligned)
    with contextlib.redirect_stdout(io.StringIO()) as log:
        made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    found, log = re.findall(r"(mma\.sync|wgmma\.mma_async|tcgen05\.mma)", made.asm["ptx"]), log.getvalue()
    return dict(registers=int(re.search(r"Used (\d+) registers", log)[1]), spilled=sum(map(int, re.findall(r"(\d+) bytes spill", log))),
                shared=made.metadata.shared, matrix=len(found), instruction=found[0] if found else "", ptx=made.asm["ptx"])


def compile_report(capabilities=(80, 90, 100), only=None, ptx=False):
    "A dictionary a kernel and capability, see `assemble`; compiled afresh. The process must not interpret"
    import triton
    if triton.knobs.runtime.interpret: raise RuntimeError("Triton interprets in this process: unset TRITON_INTERPRET")
    if unknown := {*(only or ())} - {*cases()}: raise ValueError(f"no such kernel: {', '.join(unknown)}; known: {', '.join(cases())}")
    with tempfile.TemporaryDirectory() as folder:
        triton.knobs.cache.dir, triton.knobs.nvidia.dump_ptxas_log = folder, True
        rows = [dict(kernel=n, capability=c, **assemble(*cases()[n], c)) for n in only or cases() for c in capabilities]
    return [{k: v for k, v in row.items() if ptx or k != "ptx"} for row in rows]


# -- random calls, and what they should give -----------------------------------------------------------

def tree(n, gen):
    from specdec_nb import Draft
    return Draft(range(n), [int(gen.integers(-1, i)) if i else -1 for i in range(n)])


def call(device, rows, pasts, heads, kv_heads, D, dtype, window=None, page=0, sets=1, seed=0):
    "A ragged batch: queries, `sets` caches `[2, ...]`, masks, a `PackedMask` and a table (None: one buffer a request)"
    import numpy as np, torch
    from transformers import MistralConfig
    from specdec_nb.models.kvcache import tree_masks
    from specdec_nb.trees.kernels import PackedMask
    gen, noise = np.random.default_rng(seed), torch.Generator(device).manual_seed(seed)
    config = MistralConfig(sliding_window=window)
    masks = [torch.from_numpy(tree_masks(config, tree(n - 1, gen), past)[None]).to(device) for n, past in zip(rows, pasts)]
    random = lambda *shape: torch.randn(*shape, generator=noise, device=device, dtype=torch.float32).to(dtype)
    B, most, table = len(rows), max(m.shape[1] for m in masks), None
    if page:
        per = -(-most // page)
        table = torch.randperm(B * per + 3, generator=noise, device=device)[:B * per].view(B, per).int()
        caches = [random(2, B * per + 3, kv_heads, page, D) for _ in range(sets)]
    else: caches = [random(2, B, kv_heads, most, D) for _ in range(sets)]
    return random(B, max(rows), heads, D), caches, masks, PackedMask.of(masks), table


def exact(q, cache, masks, table):
    "The formula in float64, with masks written out and keys copied for every head"
    import torch
    out = torch.zeros(q.shape, dtype=torch.float64, device=q.device)
    for b, m in enumerate(masks):
        k, v = (x[b] if table is None else x[table[b].long()].transpose(0, 1).flatten(1, 2) for x in cache)
        k, v = (x[:, :m.shape[1]].double().repeat_interleave(q.shape[2] // len(x), 0) for x in (k, v))
        s = torch.einsum("nhd,hld->hnl", q[b, :len(m)].double(), k) / q.shape[3] ** .5
        out[b, :len(m)] = torch.einsum("hnl,hld->nhd", s.masked_fill(~m[None], -torch.inf).softmax(-1), v)
    return out


def check_attention(device, small):
    import torch
    from specdec_nb.trees.kernels import kernel_attention
    far = 100 if small else 4000
    for dtype, limit in ((torch.float32, 3e-6), (torch.float16, 2e-3), (torch.bfloat16, 2e-2)):
        for rows, pasts, options in (([1], [0], {}), ([33, 1, 7], [far, 0, 5], {}), ([64 - 24 * small, 2], [far, 130], dict(window=90)),
                                     ([20, 9], [far, 3], dict(page=16)), ([128], [far // 2], {})):
            if small and dtype != torch.float32 and rows[0] != 33: continue
            shapes = ((6, 2, 32),) if small else ((9, 3, 64), (32, 8, 128), (4, 4, 80))
            shares = (None, 3) if not small or rows[0] == 33 else (3,) if options else (None,)
            for (heads, kv, D), splits in product(shapes, shares):
                q, [cache], masks, packed, table = call(device, rows, pasts, heads, kv, D, dtype, **options)
                out, ref = kernel_attention(q, *cache, packed, table, splits=splits).double(), exact(q, cache, masks, table)
                error = max(float((o - r).norm() / r.norm()) for o, r in zip(out, ref))
                yield dict(name=f"attention {str(dtype)[6:]} rows {rows} after {pasts} heads {heads}/{kv}x{D} shares {splits} {options or ''}".strip(),
                           error=error, ok=bool(error < limit))


def check_keep(device, small):
    import torch
    from specdec_nb.trees.verdict_kernels import compact_rows
    for trial in range(2 if small else 50):
        gen = torch.Generator().manual_seed(trial)
        cache = torch.randn(2, 3, 4, 2, 300, 64, generator=gen).to(device)
        paths = [sorted(torch.randperm(128, generator=gen)[:n].tolist()) for n in (9, 1, 0, 64)]
        bases, moved = [0, 17, 100, 150], cache.clone()
        compact_rows(moved, bases, paths)
        for b, (base, path) in enumerate(zip(bases, paths)):
            cache[:, :, b, :, base:base + len(path)] = cache[:, :, b, :, [base + i for i in path]]
        yield dict(name=f"keep, trial {trial}", error=0., ok=bool(torch.equal(moved, cache)))


def forest(B, N, V, seed):
    "Random trees, some nodes drawn and some chosen, with target rows and coins"
    import numpy as np
    from specdec_nb import Draft
    gen = np.random.default_rng(seed)
    def law():
        w = gen.gamma(.1, size=V) + 1e-12
        return w / w.sum()
    drafts, p = [], np.array([[law() for _ in range(N + 1)] for _ in range(B)])
    for b in range(B):
        tokens, parents, probs = [], [], []
        for i in range(int(gen.integers(0, N + 1))):
            parents.append(int(gen.integers(-1, min(i, 3))))
            q = (p[b, parents[i] + 1] + law()) / 2
            drawn = gen.random() < .6
            tokens.append(int(gen.choice(V, p=q)) if drawn else int(p[b, parents[i] + 1].argmax()))
            taken = any(x == parents[i] and y == tokens[i] and z is None for x, y, z in zip(parents, tokens[:-1], probs))
            probs.append(q if drawn or taken else None)
        drafts.append(Draft(tokens, parents, probs))
    return drafts, p, gen.random((B, N + 1))


def check_verdicts(device, small):
    import numpy as np, torch
    from specdec_nb import verify_rejection, verify_walk
    from specdec_nb.chance import Dice, Point
    from specdec_nb.trees.verdict_kernels import Coins, rejection_batch, walk_batch
    for V in (300,) if small else (300, 49152, 128256):
        drafts, p, u = forest(16 if small else 48, 12, V, seed=V)
        got = rejection_batch(drafts, torch.from_numpy(p).float().to(device), torch.from_numpy(u).float().to(device))
        want = [verify_rejection(d, rows, Coins(coins)) for d, rows, coins in zip(drafts, p, u)]
        other = sum(a != b for a, b in zip(got, want))              # a coin within rounding of its threshold may fall either way
        yield dict(name=f"rejection, {V} words", error=other / len(drafts), ok=other <= len(drafts) // 40)
        says = p.argmax(-1)
        for b, d in enumerate(drafts):
            for i in range(0, len(d), 2): says[b, d.parents[i] + 1] = d.tokens[i]
        want = [verify_walk(d, [Point(x, V) for x in row], Dice()) for d, row in zip(drafts, says)]
        yield dict(name=f"walk, {V} words", error=0., ok=walk_batch(drafts, torch.from_numpy(np.ascontiguousarray(says)).to(device)) == want)


def check_model(device, small):
    "The default model: rows of a tree by the kernel and by PyTorch's operator"
    import torch
    from specdec_nb import Draft, Llama
    from specdec_nb.roles import as_target
    from specdec_nb.models.hub import load_hf
    from specdec_nb.models.llama import grouped_attention
    from specdec_nb.trees.kernels import grouped_kernel
    model, tokenizer = load_hf(None, torch.float32)
    llama, ids = Llama.from_hf(model.to(device)), tokenizer("The quick brown fox jumps over the lazy dog. The quick").input_ids
    draft = Draft.merge([ids[2:6], ids[3:7], ids[:3]])[0]
    def rows(attend):
        llama.attend, target = attend, as_target(llama)
        return target.score([(target.open(ids), draft)])[0].rows
    a, b = rows(grouped_attention), rows(grouped_kernel)
    yield dict(name="SmolLM2, float32, a tree's rows", error=float((a - b).abs().max()), ok=torch.equal(a.argmax(-1), b.argmax(-1)))


def checked(device, small):
    "All checks; one that raises is not right"
    for check in (check_attention, check_keep, check_verdicts) + (() if small else (check_model,)):
        try: yield from check(device, small)
        except Exception as e: yield dict(name=check.__name__, error=None, ok=False, raised=f"{type(e).__name__}: {e}"[:500])


# -- times ---------------------------------------------------------------------------------------------

def timed(calls, device, repeats):
    "Seconds a call, over `repeats` rounds of all calls: a graph's replays on a GPU, or the host's clock"
    import torch
    if device == "cpu":
        def once():
            began = time.perf_counter()
            for f in calls: f()
            return time.perf_counter() - began
        how, rounds = "clock", [once() / len(calls) for _ in range(repeats)]
    else:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for f in calls * 2: f()
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        try:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                for f in calls: f()
            go, how = graph.replay, "graph"
        except Exception:
            torch.cuda.synchronize()
            go, how = lambda: [f() for f in calls], "events"
        for _ in range(3): go()
        marks = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repeats)]
        for a, b in marks: a.record(); go(); b.record()
        torch.cuda.synchronize()
        rounds = [a.elapsed_time(b) / 1e3 / len(calls) for a, b in marks]
    return dict(median=statistics.median(rounds), min=min(rounds), max=max(rounds), n=repeats, how=how)


def machine(device):
    "What a roofline needs, measured where it can be"
    import torch
    if device == "cpu": return {}
    props, gib = torch.cuda.get_device_properties(0), 1 << 30
    a, b = torch.randint(255, (2, gib), dtype=torch.uint8, device=device)
    x = torch.randn(8192, 8192, device=device, dtype=torch.bfloat16)
    little = torch.ones(1, device=device)
    near = a[:12 << 20].view(2, -1)
    clock = getattr(props, "clock_rate", 0) * 1e3
    if not clock:
        said = subprocess.run(["nvidia-smi", "--query-gpu=clocks.max.sm", "--format=csv,noheader,nounits"], text=True, capture_output=True).stdout
        clock = float(said.split()[0]) * 1e6 if said.split() else 1.7e9
    seconds = lambda f, n=1: timed([f] * n, device, 20)["min"]
    return dict(bandwidth=2 * gib / seconds(lambda: b.copy_(a)), flops=2 * 8192**3 / seconds(lambda: x @ x),
                l2=2 * near[0].numel() / seconds(lambda: near[1].copy_(near[0]), 50), launch=seconds(lambda: little.add_(1), 100),
                sms=props.multi_processor_count, clock=clock, per_sm=64 * clock)


LLAMA, SMOL = dict(heads=32, kv_heads=8, D=128), dict(heads=9, kv_heads=3, D=64)
CALLS = {f"{rows} rows after {past}": dict(batch=1, rows=rows, past=past, **LLAMA)
         for rows, past in product((1, 16, 64), (1024, 8192, 65536))}
CALLS |= {"8 requests, 16 rows after 8192": dict(batch=8, rows=16, past=8192, **LLAMA),
          "SmolLM2, 16 rows after 1024": dict(batch=1, rows=16, past=1024, **SMOL)}


def competitors(device, batch, rows, past, heads, kv_heads, D, sets):
    "`{name: a call a set}`: the kernel, PyTorch's operator with a mask in the book's layout, FlexAttention with the mask in a buffer"
    import torch
    import torch.nn.functional as F
    from specdec_nb.trees.kernels import kernel_attention
    q, caches, masks, packed, _ = call(device, [rows] * batch, [past] * batch, heads, kv_heads, D, torch.bfloat16, sets=sets)
    G, mask = heads // kv_heads, torch.stack(masks)
    folded = q.view(batch, rows, kv_heads, G, D).permute(0, 2, 3, 1, 4).reshape(batch, kv_heads, G * rows, D).contiguous()
    tall = mask.repeat(1, G, 1)[:, None]
    def kernel(c): return kernel_attention(q, c[0], c[1], packed)
    def sdpa(c): return F.scaled_dot_product_attention(folded, c[0], c[1], attn_mask=tall)
    found = {"kernel": [lambda c=c: kernel(c) for c in caches], "sdpa": [lambda c=c: sdpa(c) for c in caches]}
    if device != "cpu":
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention
        flex, turned = torch.compile(flex_attention), q.transpose(1, 2).contiguous()
        block = create_block_mask(lambda b, h, i, j: mask[b, i, j], batch, None, rows, past + rows, device=device)
        found["flex"] = [lambda c=c: flex(turned, c[0], c[1], block_mask=block, enable_gqa=True) for c in caches]
    return found


def times(device, small):
    "A row a call: its shape, the bytes of its cache, and how long each way takes"
    calls = {"small": dict(batch=2, rows=5, past=40, **SMOL)} if small else CALLS
    for name, shape in calls.items():
        bytes_ = 2 * 2 * shape["batch"] * shape["kv_heads"] * (shape["past"] + shape["rows"]) * shape["D"]
        row = dict(name=name, call=shape, bytes=bytes_)
        try:
            sets = 2 if small else max(2, min(64, -(-(512 << 20) // bytes_)))     # half a GiB: more than any second-level cache
            for way, some in competitors(device, **shape, sets=sets).items():
                try: row[way] = timed(some, device, 2 if small else 50)
                except Exception as e: row[f"{way} raised"] = f"{type(e).__name__}: {e}"[:300]
        except Exception as e: row["raised"] = f"{type(e).__name__}: {e}"[:500]
        yield row


# -- the run -------------------------------------------------------------------------------------------

def provenance(device):
    import platform, torch, triton
    def said(*command):
        try: return subprocess.run(command, cwd=ROOT, text=True, capture_output=True).stdout.strip()
        except OSError: return ""
    gpu = {} if device == "cpu" else dict(capability=list(torch.cuda.get_device_capability()), cuda=torch.version.cuda,
                                          driver=said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"))
    return dict(device="Triton's interpreter on a CPU" if device == "cpu" else torch.cuda.get_device_name(), **gpu, torch=torch.__version__,
                triton=triton.__version__, python=platform.python_version(), system=f"{platform.system()} {platform.machine()}",
                commit=said("git", "rev-parse", "HEAD"), changed=bool(said("git", "status", "--porcelain")),
                command=" ".join([Path(sys.argv[0]).name, *sys.argv[1:]]), date=datetime.now(timezone.utc).isoformat(timespec="seconds"))


def main(argv=None):
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--interpret", action="store_true", help="small checks on the interpreter")
    a.add_argument("--compile", nargs="*", type=int, metavar="CAPABILITY", help="compile only; default 80 90 100")
    a.add_argument("--only", nargs="*", help="with --compile: these kernels")
    a.add_argument("--out", type=Path, help="default: results/gpu_check.json; nothing with --interpret")
    o = a.parse_args(argv)
    os.environ.pop("TRITON_INTERPRET", None)
    if o.interpret: os.environ["TRITON_INTERPRET"] = "1"
    try: import triton                                                # noqa: F401
    except ImportError: sys.exit("Triton is not installed: pip install triton")
    if o.compile is not None:
        print(json.dumps(compile_report(o.compile or (80, 90, 100), o.only)))
        return 0
    import torch
    device = "cpu" if o.interpret else "cuda"
    if device == "cuda" and not torch.cuda.is_available():
        sys.exit("no CUDA device: nothing was run (--interpret and --compile need none)")
    correct = []
    for c in checked(device, o.interpret):
        correct.append(c)
        if not c["ok"]: print("WRONG", c, file=sys.stderr, flush=True)
    print(f"{sum(c['ok'] for c in correct)} of {len(correct)} checks right", file=sys.stderr)
    result = dict(what="tools/gpu_check.py: the kernels of chapter 28; times in seconds", provenance=provenance(device),
                  machine=machine(device), correct=correct, times=list(times(device, o.interpret)))
    out = o.out or (None if o.interpret else ROOT/"results/gpu_check.json")
    if out:
        from specdec_nb.workshop.files import write_json
        write_json(out, result)
    for row in result["times"]:
        print(row["name"], {k: f"{1e6 * v['median']:.1f} µs ({v['how']})" if isinstance(v, dict) else v
                            for k, v in row.items() if k not in ("name", "call", "bytes")}, file=sys.stderr)
    return int(not all(c["ok"] for c in correct))


if __name__ == "__main__": sys.exit(main())
