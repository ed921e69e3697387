"""Rows of bytes: what a kernel computes is what the definition means, the same bits in any company, and never without being asked for."""
import ctypes, os, subprocess, sys

import numpy as np
import pytest
import torch

from conftest import ROOT
from specdec_nb import Draft, Keyed, Law, Trace, generate, in_bytes
from specdec_nb.decode import decode
from specdec_nb.drafters.layerskip import some_layers
from specdec_nb.models import linear, narrow
from specdec_nb.models.linear import PANEL, panels
from specdec_nb.models.machine import TRIPLE
from specdec_nb.models.native import Native, load_default
from specdec_nb.roles import as_target
from specdec_nb.serving.quant import blocks, few_bits
from specdec_nb.workshop.ledger import of_model
from families import claimed as build

TOKENS = [x * 7 % 48 for x in range(60)]
GREEDY, DRAWN = Law(temperature=0), Law(temperature=1.)
DRAFTERS = "lookup", "recycling", "auto", "rest", "lookahead"


def small(bits, name="llama"):
    "A small model in blocks, its twin in bytes"
    model = few_bits(Native.from_hf(build(name).float(), 1), bits)
    return model, in_bytes(model)


def rows_of(model, draft, text=TOKENS):
    target = as_target(model)
    return target.score([(target.open(text), draft)])[0].rows


def rounded(x):
    b = x.reshape(-1, 32).astype(float)
    s = np.maximum(abs(b).max(-1, keepdims=True), 1e-30) / 127
    return (np.rint(b / s) * s).reshape(x.shape)


def applied(bits, w, x):
    "Rows times a matrix in blocks by the kernels for bytes, `[n, N]`"
    name, rows = blocks(w, bits)
    kind, packed = panels(name, rows)
    packed = packed.reshape(-1).view(np.uint8)
    if kind == linear.Q8: packed, kind = narrow.in_words(packed), narrow._BYTES
    else: kind = narrow._NIBBLES
    def code(k): return ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 10)(linear.address_of(k))
    n, K = x.shape
    N = -(-len(w) // PANEL) * PANEL
    xp, xs, y = np.zeros_like(x), np.zeros((n, K // 32), np.float32), np.zeros((n, N), np.float32)
    code(narrow._READY)(x.ctypes.data, K, xs.ctypes.data, n, K, xp.ctypes.data, 0, 0, 0, 0)
    code(kind)(xp.ctypes.data, K, xs.ctypes.data, n, K, packed.ctypes.data, 0, N // PANEL, y.ctypes.data, N)
    return y[:, :len(w)], rows


@pytest.mark.parametrize("bits", [4, pytest.param(8, marks=pytest.mark.skipif(not narrow.WHOLE, reason="no instruction for signed bytes here"))])
def test_the_kernels_compute_what_the_definition_means_whatever_the_rows(bits):
    import gguf
    gen = np.random.default_rng(bits)
    for N, K in ((1, 32), (70, 96), (PANEL, 576), (200, 160)):
        w = gen.standard_normal((N, K)).astype(np.float32)
        w[0] *= 100
        x = (gen.standard_normal((13, K)) * 10.**gen.integers(-3, 4, (13, 1))).astype(np.float32)
        x[1] = 0
        x[2, ::2] *= -1e4
        y, rows = applied(bits, w, x)
        held = gguf.dequantize(rows, gguf.GGMLQuantizationType[f"Q{bits}_0"]).astype(float)
        if bits == 8: want = rounded(x) @ held.T
        else:       # the minimum meets the row as it is
            d = rows.reshape(N, -1, 18)[..., :2].copy().view(np.float16).astype(float)
            least = np.repeat((d * -8)[..., 0], 32, 1)
            want = rounded(x) @ (held - least).T + x.astype(float) @ least.T
        scale = abs(x).max(-1, keepdims=True) * np.sqrt((held**2).sum(-1)) * 8
        assert (abs(y - want) <= 1e-5 * scale + 1e-6 * abs(want) + 1e-25).all()
        if K > 32: assert abs(y - x.astype(float) @ held.T).max() > 1e-5 * abs(want).max()          # the negative control: it is no float product
        for some in ([0], [3, 1], [5, 6, 7], [*range(7)], [12, 2, 2, 2, 9, 1, 0, 4]):
            assert (applied(bits, w, np.ascontiguousarray(x[some]))[0] == y[some]).all()


@pytest.mark.skipif("x86_64" not in TRIPLE, reason="a processor of another family")
def test_processors_without_the_instruction_have_pairs():
    "Four bits by three older instructions, in a process that believes its processor to be one of 2013"
    old = dict(os.environ, NUMBA_CPU_NAME="haswell", NUMBA_CPU_FEATURES="+avx2,+avx,+fma,+f16c,+bmi,+bmi2,+lzcnt,+popcnt,+sse4.2,+sse4.1,+ssse3")
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", "definition or no_number"], env=old, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "2 passed, 1 skipped" in done.stdout, done.stdout[-2000:]


def test_what_is_no_number_stays_none():
    x = np.random.default_rng(0).standard_normal((3, 64)).astype(np.float32)
    for bad in (np.nan, np.inf, -np.inf):
        x[1, 40] = bad
        for bits in (4, 8) if narrow.WHOLE else (4,):
            y = applied(bits, np.ones((5, 64), np.float32), x)[0]
            assert not np.isfinite(y[1]).any() and np.isfinite(y[[0, 2]]).all()


@pytest.mark.parametrize("bits", [4, 8])
def test_a_twin_is_another_model_whose_rows_do_not_depend_on_their_company(bits):
    if bits == 8 and not narrow.WHOLE: pytest.skip("no instruction for signed bytes here")
    model, twin = small(bits)
    draft = Draft.merge([[4, 5, 6, 7], [4, 5, 8], [9, 5], [9, 6, 4], [1], [2, 2, 2]])[0]
    full, rough = rows_of(model, draft), rows_of(twin, draft)
    assert twin.activations == "int8" and model.activations == "float32" and as_target(model).stored != as_target(twin).stored
    off = float((full - rough).abs().max() / full.abs().max())
    assert 1e-5 < off < .5           # a small random model magnifies; the default one is asked in chapter 14l
    for node in range(len(draft)):
        path, at = [], node
        while at >= 0: path, at = [draft.tokens[at], *path], draft.parents[at]
        alone = rows_of(twin, Draft(), TOKENS + path)[0]
        assert torch.equal(alone, rough[node + 1]) and not torch.equal(alone, full[node + 1])


@pytest.mark.parametrize("law", [GREEDY, DRAWN], ids=["greedy", "keyed"])
@pytest.mark.parametrize("drafter", DRAFTERS)
def test_speculation_is_exact_for_the_twin(law, drafter):
    model, twin = small(4, "qwen2")
    for text in (TOKENS[:5], TOKENS[:40], [7] * 12):
        plain = Trace(decode(twin, "none", text, limit=40, law=law, rng=Keyed(3)))
        fast = Trace(decode(twin, drafter, text, limit=40, law=law, rng=Keyed(3)))
        assert fast.tokens == plain.tokens
    ids = torch.tensor([TOKENS[:9], TOKENS[20:29]])
    both = generate(twin, ids, drafter=drafter, max_new_tokens=20, do_sample=False, pad_token_id=0)
    for row in range(2): assert torch.equal(generate(twin, ids[row:row + 1], drafter="none", max_new_tokens=20, do_sample=False, pad_token_id=0)[0], both[row][:len(both[row])])


def test_a_twin_shares_what_it_may_and_leaves_the_model_alone():
    model, _ = small(4)
    maps, blob = model.weights.maps.copy(), model.packed.blob.copy()
    twin = in_bytes(model)
    assert twin.packed is model.packed and twin.team is model.team
    before = rows_of(model, Draft.chain(TOKENS[:5]))
    rows_of(twin, Draft.chain(TOKENS[:5]))
    assert (model.weights.maps == maps).all() and (model.packed.blob == blob).all()
    assert torch.equal(rows_of(model, Draft.chain(TOKENS[:5])), before)
    again = few_bits(twin, 8)           # other numbers: floats again, and it says so
    assert again.activations == "float32"
    assert torch.equal(rows_of(again, Draft()), rows_of(few_bits(model, 8), Draft()))


def test_it_is_refused_by_name_where_it_cannot_be():
    with pytest.raises(ValueError, match="runtime='native'"): in_bytes(build("llama"))
    with pytest.raises(ValueError, match="in blocks of four"): in_bytes(Native.from_hf(build("llama").float(), 1))


def test_nobody_gets_it_unasked():
    model, _ = load_default(threads=1)
    assert model.activations == "float32"
    names = {linear.address_of(k) for k in (linear.Q4, linear.Q8)}
    assert set(model.weights.maps[:, 0].tolist()) <= names


def test_words_are_bytes_in_another_order():
    gen = np.random.default_rng(2)
    raw = gen.integers(0, 256, (3, 34 * PANEL), dtype=np.uint8)
    words = narrow.in_words(raw.reshape(-1)).reshape(3, -1)
    assert (words[:, :2 * PANEL] == raw[:, :2 * PANEL]).all()
    for k, c in ((0, 0), (5, 1), (31, PANEL - 1), (13, 7)):
        assert (words[:, 2 * PANEL + 4 * (PANEL * (k // 4) + c) + k % 4] == raw[:, 2 * PANEL + PANEL * k + c]).all()


def test_what_was_measured_says_so():
    "A table of the twin's is not headed like the model's"
    model, twin = small(4)
    told = [of_model(m) for m in (model, twin)]
    assert [t["runtime"] for t in told] == ["native", "native int8"] and [t["activations"] for t in told] == ["float32", "int8"]


def test_some_layers_of_a_twin_are_a_twins():
    "Whoever leaves layers out before, or after: the same bits"
    model, twin = small(4)
    keep = [0]
    one, other = in_bytes(some_layers(model, keep)), some_layers(twin, keep)
    assert one.activations == other.activations == "int8"
    assert torch.equal(rows_of(one, Draft()), rows_of(other, Draft())) and not torch.equal(rows_of(one, Draft()), rows_of(some_layers(model, keep), Draft()))
