"""The phrase pool: bounds, recency, sources, saving; and the drafter made of it, exact cold and warm."""
import os, signal, subprocess, sys, time
import zipfile

import numpy as np
import pytest

from conftest import ROOT
from saved import altered, pool, put
from specdec_nb import Draft, Keyed, Law, PhrasePool, TableLM, Trace, Verdict, exact_law as law
from specdec_nb.roles import make_drafter
from specdec_nb.decode import decode
from specdec_nb.drafters.pool import SOURCES, PoolDrafter, discarded_phrases
from specdec_nb.workshop.files import load_arrays, save_arrays


class Shelf:
    "An honest pool: a list, searched from the end"
    def __init__(self, per_key): self.per_key, self.all = per_key, []
    def add(self, key, tail):
        "What goes on from the new one stays, the latest of it comes last; else what the new one goes on from gives way"
        longer = [t for k, t in self.all if k == key and len(t) > len(tail) and t[:len(tail)] == tail]
        tail = longer[-1] if longer else tail
        self.all = [(k, t) for k, t in self.all if k != key or t != tail[:len(t)]] + [(key, tail)]
        mine = [e for e in self.all if e[0] == key]
        if len(mine) > self.per_key: self.all.remove(mine[0])
    def after(self, key): return [t for k, t in reversed(self.all) if k == key]


def test_equals_an_honest_list():
    gen = np.random.default_rng(0)
    for per_key in (1, 2, 5):
        pool, shelf = PhrasePool(per_key=per_key, key=2), Shelf(per_key)
        for _ in range(400):
            phrase = tuple(gen.integers(0, 3, gen.integers(3, 7)).tolist())
            pool.add(phrase, "verified")
            shelf.add(phrase[:2], phrase[2:])
            assert pool.after([9, *phrase[:2]]) == shelf.after(phrase[:2])
        assert len(pool) == len(shelf.all) == sum(pool.by_source().values())


def test_bounds_hold_and_the_unused_go_first():
    pool = PhrasePool(capacity=100, per_key=3, longest=4)
    for i in range(500):
        pool.add([i, *range(10)], "history")
        assert pool.after([0]) == [(0, 1, 2, 3)], "what is asked for stays"
        assert len(pool) <= 100
    assert pool.after([3]) == [] and pool.after([499]) and len(pool) == 100


def test_hits_by_source():
    pool = PhrasePool()
    for phrase, source in [((1, 2, 3), "verified"), ((1, 4), "discarded"), ((1, 5, 6), "lookahead")]: pool.add(phrase, source)
    offered = pool.after([1])
    assert offered == [(5, 6), (4,), (2, 3)]
    pool.credit([7, 1], offered, (2, 3, 9))
    assert pool.rates == {"lookahead": (1, 0, 0), "verified": (1, 1, 2), "discarded": (1, 0, 0)}
    assert pool.after([1])[0] == (2, 3), "a hit is recent again"
    pool.credit([7, 1], [(8,)], (8,))
    assert sum(c[0] for c in pool.counts.values()) == 3, "what the pool does not hold is nobody's"


def test_discarded_phrases_by_hand():
    draft = Draft.merge([[1, 2, 3], [4, 2, 5], [4, 6]])[0]          # nodes 1 2 3 | 4 2 5 6
    best = [7, 2, 3, 9, 2, 5, 8, 8].__getitem__                      # rows 0, 1+i
    found = list(discarded_phrases(draft, Verdict.of(draft, (), 7), best))
    assert found == [(1, 2, 3, 9), (2, 3, 9), (4, 2, 5, 8), (2, 5, 8)]
    assert list(discarded_phrases(draft, Verdict.of(draft, (0, 1), 9), best)) == [(4, 2, 5, 8), (2, 5, 8)], "what was accepted is text"
    two = list(discarded_phrases(draft, Verdict.of(draft, (), 7), best, before=[0, 9], key=2))
    assert two[:2] == [(9, 1, 2, 3, 9), (1, 2, 3, 9)]
    assert len(list(discarded_phrases(draft, Verdict.of(draft, (), 7), best, least=2))) == 2


@pytest.mark.parametrize("mode", ["greedy", "keyed"])
def test_a_warm_drafter_changes_nothing(mode):
    model, drafter = TableLM.random(3, 2, 5), PoolDrafter()
    for i in range(100):
        run = dict(law=Law(temperature=0)) if mode == "greedy" else dict(rng=Keyed(1, i))
        plain, ours = (Trace(decode(model, d, [i % 3, 1, 2], limit=20, **run)) for d in ("none", drafter))
        assert ours.tokens == plain.tokens
    assert len(drafter.pool) and sum(ours.drafted), "it drafted and was right at times"


def test_exact_law_cold_and_warm():
    model, drafter = TableLM.random(3, 1, 2), PoolDrafter(k=2)
    list(decode(model, drafter, [0, 1, 2, 0, 1], limit=6))
    def run(rng):
        twin = PoolDrafter(k=2, pool=PhrasePool(key=1))
        for phrase in ([0, 1, 2], [0, 2], [1, 0, 0], [2, 2]): twin.pool.add(phrase, "history")
        return tuple(Trace(decode(model, twin, [0], limit=3, rng=rng)).tokens)
    assert law(run) == model.law([0], 3)


def test_saved_and_loaded(tmp_path):
    pool, gen = PhrasePool(capacity=300, per_key=4, key=2, vocab_size=1 << 40), np.random.default_rng(1)
    for source in SOURCES:
        for row in gen.integers(0, 6, (200, 5)).tolist(): pool.add([x << 33 for x in row], source)
    pool.credit([0, 0], pool.after([0, 0]), [0])
    twin = PhrasePool.load(pool.save(tmp_path / "deep" / "pool.npz"))
    assert (len(twin), twin.counts, twin.by_source(), twin.vocab_size) == (len(pool), pool.counts, pool.by_source(), 1 << 40)
    for a in range(6):
        for b in range(6): assert twin.after([a << 33, b << 33]) == pool.after([a << 33, b << 33])
    assert len(PhrasePool.load(PhrasePool().save(tmp_path / "empty"))) == 0


def test_corrupt_files_are_refused(tmp_path):
    pool = PhrasePool()
    pool.add_text(list(range(100)), "history")
    whole = pool.save(tmp_path / "pool").read_bytes()
    flipped = 0
    for at in range(0, len(whole), 7):
        (tmp_path / "pool").write_bytes(whole[:at] + bytes([whole[at] ^ 64]) + whole[at + 1:])
        try: twin = PhrasePool.load(tmp_path / "pool")
        except ValueError: flipped += 1
        else: assert twin.by_source() == pool.by_source() and twin.after([5]) == pool.after([5]), "a flip that changes nothing"
    assert flipped > 100
    with pytest.raises(FileNotFoundError, match="phrase pool"): PhrasePool.load(tmp_path / "nothing")
    save_arrays(tmp_path / "other", "recipe", {}, a=np.zeros(3))
    with pytest.raises(ValueError, match="recipe, not a phrase pool"): PhrasePool.load(tmp_path / "other")
    assert load_arrays(tmp_path / "other", "recipe")[0] == {}


def test_killed_while_saving(tmp_path):
    "A process saves over and over until it is killed; whatever is found there is a whole pool"
    program = ("import sys; from specdec_nb import PhrasePool\npool = PhrasePool()\n"
               "for i in range(10**9):\n    pool.add([i, 1, 2], 'history'); pool.save(sys.argv[1])\n    if not i: print('saved', flush=True)")
    for n in range(4):
        path = tmp_path / f"pool{n}"
        child = subprocess.Popen([sys.executable, "-c", program, str(path)], cwd=ROOT, stdout=subprocess.PIPE)
        child.stdout.readline()
        time.sleep(.03 + .011 * n)
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert len(PhrasePool.load(path)) >= 1


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    pool = PhrasePool()
    pool.add([1, 2], "history")
    path = pool.save(tmp_path / "pool")
    pool.add([3, 4], "history")
    def dies(*_): raise OSError("no space left")
    monkeypatch.setattr(os, "fsync", dies)
    with pytest.raises(OSError): pool.save(path)
    assert len(PhrasePool.load(path)) == 1 and [p.name for p in tmp_path.iterdir()] == ["pool"]


@pytest.mark.parametrize("call,says", [
    (lambda: PhrasePool(capacity=0), "capacity"), (lambda: PhrasePool(per_key=0), "per_key"), (lambda: PhrasePool(key=0), "key"),
    (lambda: PhrasePool(longest=1.5), "longest"),
    (lambda: PhrasePool().add([1], "history"), "at least one more"), (lambda: PhrasePool(key=3).add([1, 2, 3], "history"), "3 tokens"),
    (lambda: PhrasePool().add([1, 2], "hearsay"), "lookahead"), (lambda: PoolDrafter(k=-1), "k >= 0"), (lambda: PoolDrafter(most=0), "most"),
    (lambda: list(decode(TableLM.random(3, 1, 0), PoolDrafter(pool=PhrasePool(vocab_size=7)), [0], limit=2)), "vocabulary of 7"),
])
def test_bad_input(call, says):
    with pytest.raises(ValueError, match=says): call()


def test_by_name_and_k():
    drafter = make_drafter("pool", k=0)
    assert Trace(decode(TableLM.random(3, 1, 0), drafter, [0, 1], limit=9, k=0)).calls == 9
    assert drafter.learns


def test_several_continuations_survive_a_short_one():
    pool = PhrasePool()
    for phrase in ([1, 5, 2], [1, 5, 3], [1, 5]): pool.add(phrase, "verified")
    assert pool.after([1]) == [(5, 3), (5, 2)] and len(pool) == 2
    pool.add([1, 5, 2, 7], "verified")
    assert pool.after([1]) == [(5, 2, 7), (5, 3)] and len(pool) == 2


@pytest.mark.parametrize("change", [
    put("rows", 0, 99), put("rows", 0, -1), put("rows", 1, 100), put("rows", 1, -3), put("lengths", 0, 10_000), put("lengths", 0, 0),
    put("lengths", 0, -5), lambda a: a.pop("rows"), lambda a: a.update(rows=a["rows"].astype(float)), lambda a: a.update(rows=a["rows"][:-1])])
def test_pools_out_of_range(tmp_path, change):
    with pytest.raises(ValueError, match="x holds a damaged phrase pool"): PhrasePool.load(altered(tmp_path, pool(), "phrase pool", change))


@pytest.mark.parametrize("settings", [dict(capacity=0), dict(key="one"), dict(key=None), dict(per_key=2.5), dict(counts={}), dict(counts=None),
                                      dict(counts=dict.fromkeys(SOURCES, [0])), dict(longest=True), dict(vocab_size="x")])
def test_pools_with_other_settings(tmp_path, settings):
    path = altered(tmp_path, pool(), "phrase pool", lambda a: None, lambda s: {k: v for k, v in s.items() if k != "kind"} | settings)
    with pytest.raises(ValueError, match="x holds a damaged phrase pool"): PhrasePool.load(path)


def test_an_archive_that_unpacks_to_something_else(tmp_path):
    with zipfile.ZipFile(tmp_path/"x", "w") as z: z.writestr("header.npy", b"\x93NUMPY\x01\x00\x10\x00" + b"{" * 16)
    with pytest.raises(ValueError, match="phrase pool"): PhrasePool.load(tmp_path/"x")
