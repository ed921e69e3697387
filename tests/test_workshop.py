"""Files whole or not at all, ledgers, manners: whoever dies, whatever is full, whatever lies there instead."""
import json, os, resource, signal, subprocess, sys, threading, zipfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from learners import build
from specdec_nb.drafters.indices import Datastore
from specdec_nb.drafters.pool import SOURCES, PhrasePool
from specdec_nb.drafters.recycling import Successors
from specdec_nb.learned.medusa import Medusa
from specdec_nb.models import hub
from specdec_nb.models.generate import custom_generate_folder
from specdec_nb.serving.vllm import export_drafter
from specdec_nb.speedup import CostCurve
from specdec_nb.training.features import Features
from specdec_nb.cost import cached_cost
from specdec_nb.workshop import files
from specdec_nb.workshop.files import fault, load_arrays, read_json, save_arrays, standin, sweep, whole, write_json, write_together
from specdec_nb.workshop.ledger import Ledger, commit
from specdec_nb.workshop.shell import content, exit_code, narrowed, one_line

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


CURVE = CostCurve((1, 2, 4), (1., 1.1, 1.5), {"times": [[1., 1.], [1.1, 1.2], [1.5, 1.6]]})
KEPT = {"pool": (pool, PhrasePool), "matrix": (matrix, Successors), "curve": (lambda: CURVE, CostCurve),
        "datastore": (lambda: Datastore.build([list(range(50))], 64), Datastore)}        # everything that has save and load


@pytest.fixture(params=KEPT)
def kept(request):
    make, cls = KEPT[request.param]
    return make(), cls


# -- writing -------------------------------------------------------------------------------------------

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


@pytest.mark.parametrize("device, fails", [("/dev/full", "No space left on device: '/dev/full'"), ("/dev/null", None)])
def test_nothing_lies_beside_a_device(device, fails):
    before = names(Path("/dev"))
    ledger = Ledger(device, HEADER)
    ledger.add({"question": 0})
    assert names(Path("/dev")) == before and ledger.path.exists()
    if fails:
        with pytest.raises(OSError, match=fails): ledger.close({})
        ledger.leave()
    else: ledger.close({})
    assert names(Path("/dev")) == before and not ledger.path.exists()


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


# -- reading -------------------------------------------------------------------------------------------

JUNK = {"empty": b"", "text": b"hello", "brackets": b"[" * 100_000, "list": b"[1]", "null": b"null", "binary": bytes(range(256)) * 9,
        "zip": b"PK\x03\x04" + bytes(100), "npy": b"\x93NUMPY\x01\x00" + bytes(200), "latin": "{\"é\": 1}".encode("latin-1")}


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


def altered(tmp_path, thing, kind, change, settings=lambda s: s):
    "A file with a right checksum and wrong contents"
    header, arrays = load_arrays(thing.save(tmp_path/"x"), kind)
    change(arrays)
    return save_arrays(tmp_path/"x", kind, settings(header), **arrays)


def put(name, at, value): return lambda arrays: arrays[name].__setitem__(at, value)


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


@pytest.mark.parametrize("change", [put("after", (0, 0), 50), put("after", (0, 0), -2), put("after_pair", (0, 0), 1 << 20), lambda a: a.pop("whose"),
                                    lambda a: a.update(whose=a["whose"][:-1]), lambda a: a.update(after=a["after"][0]),
                                    lambda a: a.update(after=a["after"][:, :0], after_pair=a["after_pair"][:, :0])])
def test_matrices_out_of_range(tmp_path, change):
    with pytest.raises(ValueError, match="x holds a damaged successor matrix"):
        Successors.load(altered(tmp_path, matrix(), "successor matrix", change))


@pytest.mark.parametrize("what", ["order", "text"])
def test_datastores_out_of_range(tmp_path, what):
    store = Datastore.build([list(range(50))], 64)
    changed = getattr(store, what).copy()
    changed[3] = 1000
    setattr(store, what, changed)
    with pytest.raises(ValueError, match="out of range"): Datastore.load(store.save(tmp_path/"x"))


def test_an_archive_that_unpacks_to_something_else(tmp_path):
    with zipfile.ZipFile(tmp_path/"x", "w") as z: z.writestr("header.npy", b"\x93NUMPY\x01\x00\x10\x00" + b"{" * 16)
    with pytest.raises(ValueError, match="phrase pool"): PhrasePool.load(tmp_path/"x")


def test_shapes():
    shape = {"a": [{"n": int}], "b": (str, None), "c": float}
    good = {"a": [{"n": 1, "more": 0}], "b": None, "c": 1, "d": 0}
    assert fault(good, shape) is None
    for change, says in ((dict(a=[{"n": 1}, {"n": True}]), "a[1].n"), (dict(a={}), "a is"), (dict(a=[{}]), "a[0] lacks 'n'"), (dict(b=3), "b is 3"),
                         (dict(c=float("nan")), "c is nan"), (dict(c=10 ** 400), "c is"), (dict(c="1"), "c is '1'"), (dict(c=True), "c is True")):
        assert says in fault({**good, **change}, shape), change
    assert fault([], shape) and fault(None, shape) and "lacks 'a', 'b', 'c'" in fault({}, shape)


# -- the cache of the cost curve -------------------------------------------------------------------------

class Clock:
    "A target whose calls take what we say"
    def __new__(cls):
        from specdec_nb.roles import TableTarget
        from specdec_nb.lm import TableLM
        from specdec_nb.sampling import Scores
        class Metronome(TableTarget):
            measured = 0
            def score(self, pairs):
                Metronome.measured += 1
                [(_, draft)] = pairs
                return [Scores(super().score(pairs)[0].rows, seconds=.01 + .001 * len(draft))]
        return Metronome(TableLM.random(3, 1, 0))


def damage(path, how):
    good = json.loads(path.read_text())
    if how == "folder":
        path.unlink()
        path.mkdir()
    elif how == "no times": path.write_text(json.dumps({**good, "provenance": {}}))
    elif how == "infinite": path.write_text(json.dumps({**good, "seconds": [float("inf")] * 3}))
    elif how == "times of text": path.write_text(json.dumps({**good, "provenance": {"times": [["a"]] * 3}}))
    elif how == "times missing": path.write_text(json.dumps({**good, "provenance": {"times": [[1.]]}}))
    elif how == "times empty": path.write_text(json.dumps({**good, "provenance": {"times": [[]] * 3}}))
    elif how == "other rows": path.write_text(json.dumps({**good, "rows": [1, 2, 3]}))
    elif how == "text rows": path.write_text(json.dumps({**good, "rows": "123"}))
    elif how == "negative": path.write_text(json.dumps({**good, "seconds": [-1, 1, 2]}))
    else: path.write_bytes(JUNK[how])


@pytest.mark.parametrize("how", ["folder", "no times", "infinite", "times of text", "times missing", "times empty", "other rows", "text rows",
                                 "negative", *JUNK])
def test_a_bad_cache_is_measured_again(tmp_path, how):
    target, sizes = Clock(), dict(context=8, rows=(1, 2, 4), repeats=2)
    first = cached_cost(target, "clock", tmp_path, **sizes)
    [path] = tmp_path.iterdir()
    n = type(target).measured
    assert cached_cost(target, "clock", tmp_path, **sizes) == first and type(target).measured == n, "kept"
    damage(path, how)
    if how == "folder":
        with pytest.warns(UserWarning, match="could not be kept"): again = cached_cost(target, "clock", tmp_path, **sizes)
    else: again = cached_cost(target, "clock", tmp_path, **sizes)
    assert again.seconds == first.seconds and type(target).measured > n
    assert how == "folder" or len(CostCurve.load(path).provenance["times"]) == 3, "and kept in its place"


# -- ledgers -------------------------------------------------------------------------------------------

HEADER = {"seed": 1, "questions": {"n": 3, "chosen": "abc"}}


def begun(tmp_path, *lines):
    (tmp_path/"out.json.partial.jsonl").write_text("\n".join([json.dumps(HEADER), *lines, ""]))
    return tmp_path/"out.json"


@pytest.mark.parametrize("line", ['{"question": 0, "te', "null", "[1]", '"text"', "{}", '{"question": "one"}', "[" * 100_000, "", "\x00\x00"])
def test_a_corrupt_line_is_named(tmp_path, line):
    out = begun(tmp_path, '{"question": 0}', line, '{"question": 2}')
    before = (tmp_path/"out.json.partial.jsonl").read_bytes()
    with pytest.raises(ValueError, match=r"out\.json\.partial\.jsonl:3 "): Ledger(out, HEADER, resume=True, shape={"question": int})
    assert (tmp_path/"out.json.partial.jsonl").read_bytes() == before, "nothing was thrown away"


def test_each_setting_that_differs_is_named(tmp_path):
    out = begun(tmp_path)
    with pytest.raises(ValueError) as e: Ledger(out, {"seed": 2, "questions": {"n": 3, "chosen": "x"}, "k": 4}, resume=True)
    assert all(said in str(e.value) for said in ("seed = 1, now it is 2", "questions.chosen = abc, now it is x", "k = None, now it is 4"))
    assert "questions.n" not in str(e.value)


def test_two_runs_with_one_output(tmp_path):
    first = Ledger(tmp_path/"out.json", HEADER)
    for resume in (False, True):
        with pytest.raises(ValueError, match="another run is writing"): Ledger(tmp_path/"out.json", HEADER, resume)
    first.add({"question": 0})
    program = ("import sys\nfrom specdec_nb.workshop.ledger import Ledger\ntry: Ledger(sys.argv[1], {}, resume=True)\nexcept ValueError as e: print(e)")
    assert "another run" in python(program, tmp_path/"out.json").stdout, "another process is told, too"
    first.leave()
    assert Ledger(tmp_path/"out.json", HEADER, resume=True).records == [{"question": 0}]


def test_a_lock_dies_with_its_process(tmp_path):
    program = ("import os, sys\nfrom specdec_nb.workshop.ledger import Ledger\nl = Ledger(sys.argv[1], {'seed': 1})\nl.add({'question': 0})\nos.kill(os.getpid(), 9)")
    python(program, tmp_path/"out.json")
    assert len(Ledger(tmp_path/"out.json", {"seed": 1}, resume=True).records) == 1


def test_a_finished_report_is_not_overwritten_unasked(tmp_path):
    write_json(tmp_path/"out.json", {"rows": 1})
    with pytest.raises(FileExistsError, match="--force"): Ledger(tmp_path/"out.json", HEADER)
    assert names(tmp_path) == ["out.json"] and read_json(tmp_path/"out.json", "report") == {"rows": 1}
    Ledger(tmp_path/"out.json", HEADER, force=True).close({"rows": 2})
    assert names(tmp_path) == ["out.json"] and read_json(tmp_path/"out.json", "report") == {"rows": 2}


def test_a_run_that_never_began_leaves_nothing(tmp_path):
    Ledger(tmp_path/"out.json").leave()
    assert names(tmp_path) == []


def test_a_commit_is_of_this_repository(tmp_path):
    "A package that was installed into somebody's project lies in his repository: that commit says nothing about us"
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in ([*git, "init", "-q"], [*git, "commit", "-q", "--allow-empty", "-m", "his"]): subprocess.run(command, cwd=tmp_path, check=True)
    (tmp_path/"site.py").write_text("")
    assert commit(tmp_path/"site.py") is None
    subprocess.run([*git, "add", "site.py"], cwd=tmp_path, check=True)
    subprocess.run([*git, "commit", "-q", "-m", "mine"], cwd=tmp_path, check=True)
    assert len(commit(tmp_path/"site.py")) == 40
    (tmp_path/"site.py").write_text("x = 1")
    assert commit(tmp_path/"site.py").endswith("+")


# -- manners -------------------------------------------------------------------------------------------

def test_one_line():
    assert one_line(OSError(28, "No space left", "a.json")) == "No space left: a.json" and one_line(ValueError("a\n b")) == "a b"
    assert one_line(ValueError()) == "ValueError" and "memory" in one_line(MemoryError())
    def fault(): raise AssertionError("ours")
    with pytest.raises(AssertionError): exit_code(fault, "toy")


def test_columns_that_fit():
    heads, rows = ["a", "bb", "ccc"], [["x" * 10, "y" * 5, "z"]]
    assert narrowed(heads, rows, 40, ["bb", "ccc"]) == heads and narrowed(heads, rows, 18, ["bb", "ccc"]) == ["a", "ccc"]
    assert narrowed(heads, rows, 1, ["bb", "ccc"]) == ["a"]


def test_a_closed_standard_input_is_told(monkeypatch):
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(OSError, match="standard input is closed"): content("-")
