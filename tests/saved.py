"""What tests of files share: things that are saved, files altered under a right checksum, junk, a ledger's header."""
import os, subprocess, sys

from conftest import ROOT
from specdec_nb.drafters.pool import PhrasePool
from specdec_nb.drafters.recycling import Successors
from specdec_nb.workshop.files import load_arrays, save_arrays

ENV = {**os.environ, "PYTHONPATH": str(ROOT)}


def python(program, *args, **how): return subprocess.run([sys.executable, "-c", program, *map(str, args)], text=True, capture_output=True, env=ENV, **how)


def names(folder): return sorted(p.name for p in folder.iterdir())


def pool():
    made = PhrasePool(vocab_size=100)
    made.add_text(list(range(100)), "history")
    return made


def matrix():
    made = Successors(50, 4, 16)
    made.learn([1, 2], [3, 4], [[5, 6, 7, 8], [9, 9, 9, 9]])
    return made


JUNK = {"empty": b"", "text": b"hello", "brackets": b"[" * 100_000, "list": b"[1]", "null": b"null", "binary": bytes(range(256)) * 9,
        "zip": b"PK\x03\x04" + bytes(100), "npy": b"\x93NUMPY\x01\x00" + bytes(200), "latin": "{\"é\": 1}".encode("latin-1")}


def altered(tmp_path, thing, kind, change, settings=lambda s: s):
    "A file with a right checksum and wrong contents"
    header, arrays = load_arrays(thing.save(tmp_path/"x"), kind)
    change(arrays)
    return save_arrays(tmp_path/"x", kind, settings(header), **arrays)


def put(name, at, value): return lambda arrays: arrays[name].__setitem__(at, value)


HEADER = {"seed": 1, "questions": {"n": 3, "chosen": "abc"}}
