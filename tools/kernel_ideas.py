"""Kernels that were tried: `tools/ideas.py` measures them."""
import time

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from specdec_nb.models import simd
from specdec_nb.models.machine import PANEL, kernel, piece
from specdec_nb.models.nibbles import SHAPE, _sewn, by_digits, by_factors, nibbles
from specdec_nb.models.simd import halves, outer, put, scaled, singles, tile, total, words32, zeros_like

F32, I32, BYTE = ir.FloatType(), ir.IntType(32), ir.IntType(8)
BLOCK, DEPTH = 20 * PANEL, 576 # bytes of a block of four-bit weights; the default model's width


def clocked(runs, rounds=9):
    "Median seconds of each of some functions, called in turns"
    times = {name: [] for name in runs}
    for f in runs.values(): f()
    for _ in range(rounds):
        for name, f in runs.items():
            began = time.thread_time()
            f()
            times[name].append(time.thread_time() - began)
    return {name: float(np.median(t)) for name, t in times.items()}


def fetch(locality):
    "An intrinsic `fetch(w, i)`; locality 0 keeps the line out of the larger caches, if the processor listens"
    @intrinsic
    def go(typing, a, i):
        def emit(context, builder, sig, args):
            kind = ir.FunctionType(ir.VoidType(), [BYTE.as_pointer(), I32, I32, I32])
            f = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
            spot = simd._pointer(context, builder, a, *args, BYTE)
            builder.call(f, [spot, *(ir.Constant(I32, k) for k in (0, locality, 1))])
            return context.get_dummy_value()
        return types.void(a, types.intp), emit
    return go


def four_bits(locality=3, far=0):
    "Chapter 14d by factors, with fetches of one's own"
    ahead = fetch(locality)
    @piece
    def times(acc, x, xs, i, stride, K, w, o, c, _):
        for b in range(K // 32):
            if far:
                for j in range(o + far, o + far + BLOCK, 64): ahead(w, j)
            acc = by_factors(acc, x, xs, i + 32 * b, stride, 32, w, o, c, 0)
            o += BLOCK
        return acc
    return times


def over_panels(times, rows, lanes, far=0):
    "A kernel over some panels, `far` bytes ahead of which are fetched, a share with each tile"
    @kernel
    def go(x, xs, w, y, panels):
        for p in range(panels):
            for c in range(0, PANEL, lanes):
                acc = times(tile(rows, lanes), x, xs, 0, DEPTH, DEPTH, w, p * (DEPTH // 32) * BLOCK, c, far)
                put(acc, y, p * PANEL + c, PANEL * panels)
    return go


def rates(kernels, megabytes=60):
    "What kernels `{name: (function, rows)}` make of matrices that no cache holds, and of one that it does"
    panel = DEPTH // 32 * BLOCK
    many, w = (megabytes << 20) // panel, np.full(megabytes + 1 << 20, 0x11, np.uint8) # a page of zeros would be one page only
    def run(f, rows, panels, repeats):
        x, y = np.ones(rows * DEPTH, np.float32), np.zeros(rows * PANEL * panels, np.float32)
        def go():
            for _ in range(repeats): f(x, x, w, y, panels)
        return go
    for panels, repeats, where in ((many, 1, "from memory"), (9, many // 9, "from the cache")):
        seconds = clocked({name: run(f, rows, panels, repeats) for name, (f, rows) in kernels.items()})
        for name, s in seconds.items():
            done = panels * repeats
            print(f"{name}, {where}: {done * panel / s / 1e9:.1f} GB/s, {kernels[name][1] * done * DEPTH * PANEL / s / 1e9:.1f} GMAC/s")


def peaks():
    @kernel
    def multiply(x, y, n):
        acc, w = tile(6, 64), simd.full(np.float32(1.5), 64)
        for _ in range(n): acc = outer(acc, x, 0, 1, w)
        put(acc, y, 0, 64)

    ahead = fetch(3)
    @kernel
    def read(w, n):
        t = tile(1, 64)
        a, b, c, d = singles(t, w, 0), singles(t, w, 256), singles(t, w, 512), singles(t, w, 768)
        for i in range(1024, n - 2048, 1024):
            for j in range(i + 2048, i + 3072, 64): ahead(w, j)
            a, b = a + singles(t, w, i), b + singles(t, w, i + 256)
            c, d = c + singles(t, w, i + 512), d + singles(t, w, i + 768)
        return total(a + b + c + d)

    x, y, w = np.ones(64, np.float32), np.zeros(6 * 64, np.float32), np.ones(96 << 20, np.uint8)
    seconds = clocked({"products": lambda: multiply(x, y, 200_000), "memory": lambda: read(w, len(w))})
    print(f"products: {200_000 * 6 * 64 / seconds['products'] / 1e9:.1f} GMAC/s; memory: {len(w) / seconds['memory'] / 1e9:.1f} GB/s")
    rates({f"four bits, {n} row{'s' * (n > 1)}": (over_panels(four_bits(), n, 64), n) for n in (1, 2, 4, 6)})


def fetches():
    at = ((3, 0), (3, 2048), (3, 4096), (0, 1024))
    rates({f"{n} row{'s' * (n > 1)}, {far} bytes ahead{', past the caches' * (not where)}": (over_panels(four_bits(where, far), n, 64), n)
           for n in (1, 2) for where, far in at})


@intrinsic(prefer_literal=True)
def low_bytes(typing, t, w, i, n):
    "Of each word at `w[i]` the first n bytes, as floats, the others left out by the load"
    out = simd.Vector(types.float32, t.lanes)
    def emit(context, builder, sig, args):
        bytes_, mask = ir.VectorType(BYTE, 64), ir.VectorType(ir.IntType(1), 64)
        kind = ir.FunctionType(bytes_, [bytes_.as_pointer(), I32, mask, bytes_])
        load, parts = cgutils.get_or_insert_function(builder.module, kind, "llvm.masked.load.v64i8.p0"), []
        kept = ir.Constant(mask, [int(b % 4 < n.literal_value) for b in range(64)])
        for k in range(0, 4 * t.lanes, 64):
            at = builder.gep(simd._pointer(context, builder, w, *args[1:3], BYTE), [ir.Constant(ir.IntType(64), k)])
            v = builder.call(load, [builder.bitcast(at, bytes_.as_pointer()), ir.Constant(I32, 1), kept, ir.Constant(bytes_, None)])
            parts.append(builder.bitcast(v, ir.VectorType(I32, 16)))
        return builder.sitofp(_sewn(builder, parts), out.ll)
    return out(t, w, types.intp, n), emit


@piece
def masked(acc, x, xs, i, stride, K, w, o, c, _):
    "Three of eight masks done by loads"
    for b in range(K // 32):
        s, k = zeros_like(acc), i + 32 * b
        for g in range(4):
            at = o + 4 * (PANEL * (1 + g) + c)
            v = words32(acc, w, at)
            s = outer(s, x, k + g, stride, nibbles(v, 0))
            s = outer(s, x, k + g + 4, stride, low_bytes(acc, w, at, 1))
            s = outer(s, x, k + g + 8, stride, nibbles(v, 2))
            s = outer(s, x, k + g + 12, stride, low_bytes(acc, w, at, 2))
            s = outer(s, x, k + g + 16, stride, nibbles(v, 4))
            s = outer(s, x, k + g + 20, stride, low_bytes(acc, w, at + 2, 1))
            s = outer(s, x, k + g + 24, stride, nibbles(v, 6))
            s = outer(s, x, k + g + 28, stride, nibbles(v, 7))
        acc = scaled(acc, s, halves(acc, w, o + 2 * c))
        acc = outer(acc, xs, k // 32, stride // 32, halves(acc, w, o + 2 * (PANEL + c)))
        o += BLOCK
    return acc


@piece
def both(s, t, x, i, j, stride, v, u):
    "A word of each of two blocks"
    s, t = outer(s, x, i, stride, nibbles(v, 0)), outer(t, x, j, stride, nibbles(u, 0))
    s, t = outer(s, x, i + 4, stride, nibbles(v, 1)), outer(t, x, j + 4, stride, nibbles(u, 1))
    s, t = outer(s, x, i + 8, stride, nibbles(v, 2)), outer(t, x, j + 8, stride, nibbles(u, 2))
    s, t = outer(s, x, i + 12, stride, nibbles(v, 3)), outer(t, x, j + 12, stride, nibbles(u, 3))
    s, t = outer(s, x, i + 16, stride, nibbles(v, 4)), outer(t, x, j + 16, stride, nibbles(u, 4))
    s, t = outer(s, x, i + 20, stride, nibbles(v, 5)), outer(t, x, j + 20, stride, nibbles(u, 5))
    s, t = outer(s, x, i + 24, stride, nibbles(v, 6)), outer(t, x, j + 24, stride, nibbles(u, 6))
    return outer(s, x, i + 28, stride, nibbles(v, 7)), outer(t, x, j + 28, stride, nibbles(u, 7))


@piece
def paired(acc, x, xs, i, stride, K, w, o, c, _):
    "Two blocks of a column at once, in the same order"
    for b in range(0, K // 32, 2):
        s, t, k = zeros_like(acc), zeros_like(acc), i + 32 * b
        for g in range(4):
            at = o + 4 * (PANEL * (1 + g) + c)
            s, t = both(s, t, x, k + g, k + g + 32, stride, words32(acc, w, at), words32(acc, w, at + BLOCK))
        acc = scaled(acc, s, halves(acc, w, o + 2 * c))
        acc = outer(acc, xs, k // 32, stride // 32, halves(acc, w, o + 2 * (PANEL + c)))
        acc = scaled(acc, t, halves(acc, w, o + BLOCK + 2 * c))
        acc = outer(acc, xs, k // 32 + 1, stride // 32, halves(acc, w, o + BLOCK + 2 * (PANEL + c)))
        o += 2 * BLOCK
    return acc


@kernel
def two_panels(x, xs, w, y, panels):
    "One row over two panels at once"
    size = DEPTH // 32 * BLOCK
    for p in range(0, panels - 1, 2):
        a, d, o = tile(1, 64), tile(1, 64), p * size
        for b in range(DEPTH // 32):
            s, t = zeros_like(a), zeros_like(a)
            for g in range(4):
                at, k = o + 4 * PANEL * (1 + g), 32 * b + g
                s, t = both(s, t, x, k, k, DEPTH, words32(a, w, at), words32(a, w, at + size))
            a, d = scaled(a, s, halves(a, w, o)), scaled(d, t, halves(a, w, o + size))
            a = outer(a, xs, b, DEPTH // 32, halves(a, w, o + 2 * PANEL))
            d = outer(d, xs, b, DEPTH // 32, halves(a, w, o + size + 2 * PANEL))
            o += BLOCK
        put(a, y, PANEL * p, PANEL)
        put(d, y, PANEL * (p + 1), PANEL)


def masks(): rates({f"{n}, {what}": (over_panels(f, n, 64), n) for n in (1, 2) for what, f in (("masks", four_bits()), ("loads", masked))})


def chains():
    rates({"one block at a time": (over_panels(four_bits(), 1, 64), 1), "two": (over_panels(paired, 1, 64), 1), "two panels": (two_panels, 1)})


def floats():
    "Weights that are floats already, as they would be if a panel were widened once for all tiles of a prompt"
    from specdec_nb.models.linear import _f32
    @piece
    def ready(acc, x, xs, i, stride, K, w, o, c, _): return _f32(acc, x, xs, i, stride, K, w, 0, c, 0)
    rates({"four bits, 6 rows": (over_panels(four_bits(), 6, 64), 6), "floats, 6 rows": (over_panels(ready, 6, 64), 6)}, 12)


def tiles():
    rates({f"{n} rows x {lanes}": (over_panels(four_bits(), n, lanes), n) for n, lanes in ((2, 64), (2, 32), (4, 64), (4, 32), (6, 64), (6, 32), (8, 32))})


def whole():
    "Both ways of chapter 14d; the second also with the next panel fetched meanwhile"
    panel = DEPTH // 32 * BLOCK
    for n, lanes in ((1, SHAPE[0]), (2, SHAPE[1]), (4, SHAPE[2]), (6, SHAPE[2])):
        rates({f"{n} row{'s' * (n > 1)} by factors": (over_panels(by_factors, n, 64), n), "by digits": (over_panels(by_digits, n, lanes), n),
               "by digits, a panel ahead": (over_panels(by_digits, n, lanes, panel), n)})
