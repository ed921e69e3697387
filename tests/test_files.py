"""Files whole or not at all: whoever dies, whatever is full, whatever lies there instead."""
import os, resource, signal, threading
from contextlib import contextmanager

import numpy as np
import pytest

from learners import build
from saved import HEADER, JUNK, matrix, names, pool, python
from specdec_nb.drafters.indices import Datastore
from specdec_nb.drafters.pool import PhrasePool
from specdec_nb.drafters.recycling import Successors
from specdec_nb.learned.medusa import Medusa
from specdec_nb.models import hub
from specdec_nb.models.generate import custom_generate_folder
from specdec_nb.serving.vllm import export_drafter
from specdec_nb.speedup import CostCurve
from specdec_nb.training.features import Features
from specdec_nb.workshop import files
from specdec_nb.workshop.files import fault, standin, sweep, whole, write_together
from specdec_nb.workshop.ledger import Ledger

CURVE = CostCurve((1, 2, 4), (1., 1.1, 1.5), {"times": [[1., 1.], [1.1, 1.2], [1.5, 1.6]]})
KEPT = {"pool": (pool, PhrasePool), "matrix": (matrix, Successors), "curve": (lambda: CURVE, CostCurve),
        "datastore": (lambda: Datastore.build([list(range(50))], 64), Datastore)}        # everything that has save and load


@pytest.fixture(params=KEPT)
def kept(request):
    make, cls = KEPT[request.param]
    return make(), cls


# -- writing

def test_threads_may_save_one_file(kept, tmp_path):
    thing, cls = kept
    failed = []
    def save():
        try:
            for _ in range(10): thing.save(tmp_path/"x")
        except Exception as e: failed.append(e)
    threads = [threading.Thread(target=save) for _ in range(4)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert not failed and names(tmp_path) == ["x"]
    cls.load(tmp_path/"x")


def test_a_name_of_the_process_is_not_enough(tmp_path):
    "The negative control: with the process's number for a name, as it was, two threads collide"
    gate = threading.Barrier(2, timeout=20)
    failed = []
    def old(path):
        work = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with open(work, "wb"): gate.wait()
            gate.wait()
            os.replace(work, path)
        except OSError as e: failed.append(e)
    threads = [threading.Thread(target=old, args=[tmp_path/"x"]) for _ in range(2)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert failed


@contextmanager
def full(size):
    "No file becomes longer than `size`: a full disk for whoever writes"
    was, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, was[1]))
    try: yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, was)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_raises(kept, tmp_path):
    "A limit on the size of files is a full disk for whoever writes; SIGXFSZ and SIGBUS would kill"
    thing, cls = kept
    thing.save(tmp_path/"x")
    before = (tmp_path/"x").read_bytes()
    with full(16), pytest.raises(OSError) as e: thing.save(tmp_path/"x")
    assert str(tmp_path/"x") in str(e.value) and names(tmp_path) == ["x"] and (tmp_path/"x").read_bytes() == before


def unpacked(path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hub, "_unpack", lambda gguf, work: hub.save_hf(build(), work))
        return hub.convert(path.parent/"x.gguf", path, need=1)


def reported(path):
    ledger = Ledger(path, HEADER)
    try:
        ledger.add({"question": 0})
        ledger.close({"rows": "long " * 9999})
    finally: ledger.leave()


def medusa(model): return Medusa.of(model, list(range(9)), heads=2)
WRITERS = {"unpacked": (unpacked, 9000), "trained": (lambda path: medusa(build()).save_pretrained(path), 100), "weights of a trained": (lambda path: medusa(build()).save_pretrained(path), 700),
           "exported": (lambda path: export_drafter(medusa(m := build()), m, path), 100), "weights of an exported": (lambda path: export_drafter(medusa(m := build()), m, path), 2000),
           "hidden states": (lambda path: Features(build(), [np.arange(9)] * 3, [0, 4], path), 100), "a folder for generate": (custom_generate_folder, 40), "reported": (reported, 900), "begun": (reported, 9)}


@pytest.mark.parametrize("what", WRITERS)
def test_whoever_writes_names_what_has_no_room(what, tmp_path):
    "And leaves nothing half: what stood there before still stands, or what can be resumed"
    write, size = WRITERS[what]
    with full(size), pytest.raises(OSError) as e: write(tmp_path/"x")
    assert str(tmp_path/"x") in str(e.value) and ".part'" not in str(e.value)
    left = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file() and p.suffix != ".lock")
    assert left == {"hidden states": ["x.hidden", "x.logz", "x.marks"], "reported": ["x.partial.jsonl"]}.get(what, [])
    if what != "reported": write(tmp_path/"x")


def test_files_that_belong_together(tmp_path):
    "The second does not fit: the first stays what it was"
    write_together(tmp_path, {"a": b"1", "b": b"1"})
    for both in ({"a": b"2", "b": b"2" * 99}, {"b": b"2" * 99, "a": b"2"}):
        with full(64), pytest.raises(OSError, match="/b'"): write_together(tmp_path, both)
        assert names(tmp_path) == ["a", "b"] and (tmp_path/"a").read_bytes() == (tmp_path/"b").read_bytes() == b"1"
    write_together(tmp_path, {"a": b"2", "b": b"2"})
    assert (tmp_path/"a").read_bytes() == b"2"


def test_a_full_disk_is_seen_before(tmp_path, monkeypatch):
    monkeypatch.setattr(files.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 100})())
    for thing in (pool(), Datastore.build([list(range(50))])):
        with pytest.raises(OSError, match="GB are needed"): thing.save(tmp_path/"x")
    assert names(tmp_path) == []


@pytest.mark.parametrize("folder", [False, True])
def test_leftovers_of_the_dead_are_swept(tmp_path, folder):
    program = ("import os, sys\nfrom specdec_nb.workshop.files import standin\n"
               f"with standin(sys.argv[1], folder={folder}): os.kill(os.getpid(), 9)")
    for _ in range(2): assert python(program, tmp_path/"x [1].y").returncode == -9
    assert len(names(tmp_path)) == 1, "the second has swept the first one's"
    with standin(tmp_path/"x [1].y", folder=folder) as work:
        sweep(tmp_path/"x [1].y")
        assert names(tmp_path) == [work.name], "what somebody writes is left alone"
    assert names(tmp_path) == ["x [1].y"]


def test_what_stands_there_is_kept_as_it_is(tmp_path):
    (tmp_path/"real").write_text("old")
    (tmp_path/"real").chmod(0o640)
    (tmp_path/"link").symlink_to(tmp_path/"real")
    with whole(tmp_path/"link") as f: f.write(b"new")
    assert (tmp_path/"link").is_symlink() and (tmp_path/"real").read_text() == "new"
    assert (tmp_path/"real").stat().st_mode & 0o777 == 0o640
    os.mkfifo(tmp_path/"pipe")
    heard = []
    reader = threading.Thread(target=lambda: heard.append((tmp_path/"pipe").read_bytes()))
    reader.start()
    with whole(tmp_path/"pipe") as f: f.write(b"said")
    reader.join()
    told = python("from specdec_nb.workshop.files import write_json; write_json('/dev/stdout', [1])")
    assert told.stdout == "[\n 1\n]\n" and not told.stderr, "what has no name of its own, too"
    assert heard == [b"said"] and (tmp_path/"pipe").is_fifo(), "a device or a pipe is written to, not replaced"


def test_who_may_not_is_told_which_file(kept, tmp_path):
    thing, _ = kept
    (tmp_path/"folder").mkdir()
    with pytest.raises(IsADirectoryError, match="folder"): thing.save(tmp_path/"folder")
    (tmp_path/"file").write_text("")
    with pytest.raises(OSError, match="file"): thing.save(tmp_path/"file"/"x")


# -- reading

@pytest.mark.parametrize("junk", JUNK)
def test_junk_is_named(kept, tmp_path, junk):
    _, cls = kept
    (tmp_path/"x").write_bytes(JUNK[junk])
    with pytest.raises(ValueError, match=str(tmp_path/"x")): cls.load(tmp_path/"x")


def test_missing_permission_is_not_damage(kept, tmp_path, monkeypatch):
    thing, cls = kept
    path = thing.save(tmp_path/"x")
    real = open
    def closed(file, *args, **kwargs):
        if str(file) == str(path): raise PermissionError(13, "Permission denied", str(file))
        return real(file, *args, **kwargs)
    monkeypatch.setattr("builtins.open", closed)
    monkeypatch.setattr("io.open", closed)
    with pytest.raises(PermissionError) as e: cls.load(path)
    assert "damaged" not in str(e.value) and "delete" not in str(e.value)
    monkeypatch.undo()
    with pytest.raises(IsADirectoryError): cls.load(tmp_path)
    with pytest.raises(FileNotFoundError): cls.load(tmp_path/"nothing")


def test_shapes():
    shape = {"a": [{"n": int}], "b": (str, None), "c": float}
    good = {"a": [{"n": 1, "more": 0}], "b": None, "c": 1, "d": 0}
    assert fault(good, shape) is None
    for change, says in ((dict(a=[{"n": 1}, {"n": True}]), "a[1].n"), (dict(a={}), "a is"), (dict(a=[{}]), "a[0] lacks 'n'"), (dict(b=3), "b is 3"),
                         (dict(c=float("nan")), "c is nan"), (dict(c=10 ** 400), "c is"), (dict(c="1"), "c is '1'"), (dict(c=True), "c is True")):
        assert says in fault({**good, **change}, shape), change
    assert fault([], shape) and fault(None, shape) and "lacks 'a', 'b', 'c'" in fault({}, shape)
