"""The kernels of chapter 28: right (interpreted), sound (compiled for processors that are not there), and not needed (without Triton).

Triton decides at its first import whether it interprets or compiles, so every test has a process of its own.
"""
import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec

import pytest
from conftest import ROOT

needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed: pip install triton")


def python(*command, **env):
    "Run this Python; its completed process"
    path = os.pathsep.join([str(ROOT), str(ROOT/"tools"), str(ROOT/"tests")])
    return subprocess.run([sys.executable, *command], cwd=ROOT, text=True, capture_output=True,
                          env={**os.environ, "PYTHONPATH": path, **env})


def program(f, **env):
    "Run a function of this file in another process; it prints JSON"
    done = python("-c", f"import json, test_kernels; print(json.dumps(test_kernels.{f.__name__}()))", **env)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


# -- right ---------------------------------------------------------------------------------------------

@needs_triton
def test_the_gpu_check_on_the_interpreter(tmp_path):
    "The very script that a GPU will run, small: all kernels against float64 and against the book's rules"
    done = python("tools/gpu_check.py", "--interpret", "--out", str(tmp_path/"check.json"))
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path/"check.json").read_text())
    names = " ".join(c["name"] for c in found["correct"])
    assert all(c["ok"] for c in found["correct"])
    for part in ("float32", "float16", "bfloat16", "rows [1] after [0]", "rows [33, 1, 7] after [100, 0, 5]", "rows [128]", "shares 3", "window", "page", "keep",
                 "rejection", "walk"):
        assert part in names, part
    assert {"kernel", "sdpa", "bytes"} <= found["times"][0].keys() and "interpreter" in found["provenance"]["device"]


def broken():
    "What the checks say of four bugs"
    import torch
    import gpu_check
    from specdec_nb.trees import kernels, verdict_kernels
    from specdec_nb.trees.kernels import PackedMask
    q, [cache], masks, packed, table = gpu_check.call("cpu", [9, 4], [200, 3], 4, 2, 16, torch.float32, window=50)
    ref, found = gpu_check.exact(q, cache, masks, table), {}
    def error(packed): return float((kernels.kernel_attention(q, *cache, packed).double() - ref).norm() / ref.norm())
    found["right"] = error(packed)
    found["no window"] = error(PackedMask(packed.sizes, torch.zeros_like(packed.first), packed.bits))
    found["no tree"] = error(PackedMask(packed.sizes, packed.first, torch.full_like(packed.bits, -1)))
    found["one row short"] = error(PackedMask(packed.sizes - torch.tensor([0, 1, 0], dtype=torch.int32), packed.first, packed.bits))
    right = verdict_kernels.rejection_batch
    verdict_kernels.rejection_batch = lambda drafts, p, coins: right(drafts, p, coins.flip(1))
    found["coins from the back"] = min(c["ok"] for c in gpu_check.check_verdicts("cpu", True))
    def forward(cache, bases, paths):
        for b, (base, path) in enumerate(zip(bases, paths)):
            for i, j in reversed([*enumerate(path)]): cache[:, :, b, :, base + i] = cache[:, :, b, :, base + j]
    verdict_kernels.compact_rows = forward
    found["written before read"] = min(c["ok"] for c in gpu_check.check_keep("cpu", True))
    return found


@needs_triton
def test_the_check_sees_bugs():
    found = program(broken, TRITON_INTERPRET="1")
    assert found.pop("right") < 3e-6
    assert not found.pop("coins from the back") and not found.pop("written before read")
    assert len(found) == 3 and min(found.values()) > 1e-3, found


def hooks():
    "The kernel inside the runtime, and inside models of transformers that the book does not name"
    import torch
    import transformers as hf
    from specdec_nb.models.trials import tree_equals_paths
    from specdec_nb.models.hf import HFTarget
    from specdec_nb.models.llama import grouped_attention
    from specdec_nb.trees import kernels
    from specdec_nb.trees.kernels import PackedMask, grouped_kernel, register_kernel
    from gpu_check import call
    found, launched = {}, []
    kernel = kernels.kernel_attention
    kernels.kernel_attention = lambda *args, **options: launched.append(args[3]) or kernel(*args, **options)
    q, [cache], [mask], _, _ = call("cpu", [12], [150], 6, 2, 16, torch.float32, window=30)
    tall = mask.repeat(3, 1)
    for _ in range(2): found["same"] = torch.allclose(grouped_kernel(q[0], *cache[:, 0], tall), grouped_attention(q[0], *cache[:, 0], tall), atol=1e-5)
    found["one packing a mask"] = launched[0] is launched[1]
    long = torch.ones(200, 200, dtype=torch.bool).tril()                                # a prompt's mask is no tree's
    q, kv = torch.randn(200, 2, 8), torch.randn(2, 2, 200, 8)
    found["prompt"] = torch.equal(grouped_kernel(q, *kv, long), grouped_attention(q, *kv, long)) and len(launched) == 2
    found["double"] = grouped_kernel(q[:3].double(), *kv.double(), long[-3:]).dtype == torch.float64 and len(launched) == 2
    sizes = dict(vocab_size=48, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                 max_position_embeddings=128, initializer_range=.5, bos_token_id=None, eos_token_id=None, pad_token_id=None)
    register_kernel()
    families = {"Qwen3Config": dict(use_sliding_window=True, sliding_window=5, max_window_layers=1, head_dim=8), "GPTNeoXConfig": {},
                "Gemma3TextConfig": dict(sliding_window=4, head_dim=8, query_pre_attn_scalar=8, tie_word_embeddings=False)}
    for name, options in families.items():
        torch.manual_seed(0)
        model = hf.AutoModelForCausalLM.from_config(getattr(hf, name)(**{**sizes, **options})).eval()
        model.set_attn_implementation("tree_kernel")
        before = len(launched)
        found[name] = tree_equals_paths(HFTarget(model)) and len(launched) > before
    model = hf.AutoModelForCausalLM.from_config(hf.Gemma2Config(**{**sizes, "head_dim": 8})).eval()
    model.set_attn_implementation("tree_kernel")
    try: model(torch.tensor([[1, 2, 3]]))
    except ValueError as e: found["refused"] = "softcap" in str(e)
    try: PackedMask.of([torch.arange(300)[None] % 2 == 0])
    except ValueError as e: found["pieces"] = "in pieces" in str(e)
    return found


@needs_triton
def test_in_models():
    found = program(hooks, TRITON_INTERPRET="1")
    assert len(found) == 9 and all(found.values()), found


# -- sound ---------------------------------------------------------------------------------------------

FEW = ["attention, 64 rows of 64", "combine", "keep", "walk", "rejection"]


def compiled(only=FEW):
    "The report, and that of blocks too large for the registers"
    import gpu_check
    kernel, types, constants = gpu_check.cases()["attention, 64 rows of 128"]
    large = gpu_check.compile_report((90,), ["walk"])                     # sets the log and the cache
    spilling = gpu_check.assemble(kernel, types, {**constants, "BM": 64, "BN": 64, "TAIL": 1, "num_warps": 4}, 80)
    return dict(report=gpu_check.compile_report((80, 90, 100), only, ptx=True), spilling=spilling["spilled"], large=len(large))


def everything(): return compiled(None)


def sound(row):
    "What is wrong with a compiled kernel, in words; empty if nothing is"
    matrix = row["kernel"].startswith("attention") and "fp32" not in row["kernel"]
    kind = {80: "mma.sync", 90: "wgmma.mma_async", 100: "tcgen05.mma"}[row["capability"]]
    small = "16 rows" in row["kernel"]                                    # fewer than 64 rows: the warp's instruction everywhere
    return [what for what, wrong in {"spills": row["spilled"], "too much shared memory": row["shared"] > 99 * 1024, "registers": not 0 < row["registers"] <= 255,
                                     "matrix instructions": matrix and (not row["matrix"] or row["instruction"] != ("mma.sync" if small else kind))}.items() if wrong]


def in_order(ptx):
    "Is there a barrier between the last load of a row and the first store?"
    lines = [line.split(";")[0] for line in ptx.splitlines()]
    where = {k: [i for i, line in enumerate(lines) if re.search(k, line)] for k in (r"ld\.global", r"bar\.sync", r"st\.global")}
    loads, barriers, stores = where.values()
    return bool(loads and stores) and any(max(loads) < i < min(stores) for i in barriers)


@needs_triton
@pytest.mark.parametrize("what", [compiled, pytest.param(everything, marks=pytest.mark.slow)])
def test_compiled_for_three_generations(what):
    found = program(what, TRITON_INTERPRET="")
    report = found["report"]
    assert {r["capability"] for r in report} == {80, 90, 100} and len(report) >= 3 * len(FEW)
    assert not {(r["kernel"], r["capability"]): bad for r in report if (bad := sound(r))}
    assert found["spilling"] > 0, "the report would not notice a spill"
    assert sound({**report[0], "matrix": 0}) and sound({**report[0], "shared": 10**5 * 2})
    for r in report:
        if r["kernel"] != "keep": continue
        assert in_order(r["ptx"]) and not in_order(re.sub(r"bar\.sync", "nop", r["ptx"]))
    print([(r["kernel"], r["capability"], r["registers"]) for r in report])


# -- not needed ----------------------------------------------------------------------------------------

def without():
    "The same checks where Triton cannot be imported"
    sys.modules["triton"] = None
    import torch
    import gpu_check
    from specdec_nb.trees.kernels import refuses
    found = [*gpu_check.checked("cpu", True)]
    return dict(why=refuses(torch.zeros(1)), wrong=[c for c in found if not c["ok"]], checks=len(found))


def test_without_triton():
    found = program(without)
    assert "not installed" in found["why"] and not found["wrong"] and found["checks"] > 10


def test_no_gpu_is_said():
    done = python("tools/gpu_check.py", CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 1 and ("no CUDA device: nothing was run" in done.stderr or "Triton is not installed" in done.stderr)


@pytest.mark.gpu
@needs_triton
def test_on_this_gpu(tmp_path):
    done = python("tools/gpu_check.py", "--out", str(tmp_path/"check.json"))
    assert done.returncode == 0, done.stderr[-3000:]
