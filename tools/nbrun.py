"""Run notebooks in real Jupyter kernels and compare what they print with what they store.

    python tools/nbrun.py [NOTEBOOK ...]          exit 1 if a cell fails or a stored output differs
    python tools/nbrun.py --write [NOTEBOOK ...]  store the fresh outputs instead

Every text output (streams, text, HTML, SVG) must equal the stored one, except in cells tagged `timing`; when their outputs are
to be stored, these run while no other notebook does. Images count by presence. `#| eval: false` and cells that
carry a flag of settings.ini's `tst_flags` (`#| slow`, `#| gpu`) are skipped; `--flags slow` runs them.
`--write` also notes in docs/times.json how long a notebook took; the site's table of chapters shows it.
"""
import argparse, contextlib, difflib, fcntl, json, os, re, sys, tempfile, time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from uuid import uuid4

import nbclient, nbformat
from traitlets.config import Config

sys.path.insert(0, str(Path(__file__).resolve().parent))
from dress import directives
from forks import Fork
from nbsync import ROOT, notebooks, save, settings

ENV = dict(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", PYTHONHASHSEED="0", SOURCE_DATE_EPOCH="0",
           PYTHONWARNINGS="ignore:IProgress not found", TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1",
           TQDM_DISABLE="1", COLUMNS="100", PYTHONPATH=str(ROOT))
FLAGS = set(settings()["tst_flags"].split())


def skipped(cell, flags=()):
    "Is this cell not run: text, `#| eval: false`, or a test flag that was not asked for?"
    if cell.cell_type != "code": return True
    d = directives(cell.source)
    return d.get("eval", "").lower() == "false" or bool((FLAGS - set(flags)) & d.keys())


def timing(cell): return "timing" in cell.metadata.get("tags", [])


# -- one machine, several workers: whoever times something is alone ------------------------------------

_held = False

@contextlib.contextmanager
def turn(alone=False):
    "Share the machine with other turns, or have it `alone`; first come, first served"
    global _held
    if _held:                                    # a turn inside a turn is the same turn
        yield
        return
    stem = Path(tempfile.gettempdir())/f"specdec_nb-{os.getuid()}"
    with open(f"{stem}.queue", "w") as queue, open(f"{stem}.room", "w") as room:
        fcntl.flock(queue, fcntl.LOCK_EX)
        fcntl.flock(room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(queue, fcntl.LOCK_UN)
        _held = True
        try: yield
        finally: _held = False


# -- running -------------------------------------------------------------------------------------------

class Client(nbclient.NotebookClient):
    "Runs the cells that are to be run, each within its own limit and all within `deadline`"
    flags, cell_timeout, deadline, waited, alone = (), 120, 0.0, 0.0, False

    def create_kernel_manager(self):
        km = super().create_kernel_manager()
        sets = any("os.environ[" in c.source for c in self.nb.cells)        # for libraries, before it imports them
        if not (self.alone or sets): km.provisioner = Fork(kernel_id=str(uuid4()), kernel_spec=km.kernel_spec, parent=km)
        return km

    async def async_execute_cell(self, cell, cell_index, **kw):
        if skipped(cell, self.flags): return cell
        asked = time.monotonic()
        with turn(alone=self.alone and timing(cell)):
            self.waited += time.monotonic() - asked
            self.deadline += time.monotonic() - asked
            left = self.deadline - time.monotonic()
            if left <= 0: raise TimeoutError(f"the notebook was over its time limit before cell {cell_index}")
            self.timeout = max(1, int(min(self.cell_timeout, left)))
            return await super().async_execute_cell(cell, cell_index, **kw)


def execute(path, flags=(), cell_timeout=120, nb_timeout=600, alone=False):
    "The notebook at `path` with fresh outputs, and in its metadata the `seconds`; cells that time something may have the machine `alone`; raises what cells raise"
    nb, begun = nbformat.read(path, 4), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="nbk") as sockets:           # ipc: no ports, no warnings
        cfg = Config({"KernelManager": {"transport": "ipc", "ip": f"{sockets}/k"}})
        client = Client(nb, kernel_name="python3", record_timing=False, config=cfg,
                        resources={"metadata": {"path": str(Path(path).parent)}})
        client.flags, client.cell_timeout, client.alone = flags, cell_timeout, alone
        client.deadline = time.monotonic() + nb_timeout
        client.execute(env={**os.environ, **ENV})
    nb.metadata.seconds = time.monotonic() - begun - client.waited       # the kernel's start included
    return nb


# -- comparing -----------------------------------------------------------------------------------------

NUMBER = re.compile(r"(-?\d+\.\d+(?:e-?\d+)?)")
ANSI = re.compile(r"\x1b\[[0-9;]*m")
NOISE = [(re.compile(r"( at)? 0x[0-9a-fA-F]{6,}"), ""),                  # addresses of objects
         (re.compile(r"<(dc:date|dc:title)>.*?</\1>", re.S), ""),
         (re.compile(r"Matplotlib v[\d.]+"), "Matplotlib"),
         (re.compile(r"\b[a-z]{1,2}[0-9a-f]{10}\b"), "id"),              # matplotlib's ids of paths and clips
         (re.compile(r"^Compiling .* for this processor, once …\n?", re.M), "")]  # the first time on a machine


def plain(text):
    "`text` without what differs from run to run and means nothing"
    text = "".join(text)
    for pattern, to in NOISE: text = pattern.sub(to, text)
    return text.rstrip()


def shown(outputs):
    "What a cell shows: `[(kind, text)]`; streams joined, since a kernel may deliver them in pieces"
    streams, rest = {}, []
    for o in outputs:
        if o.output_type == "stream": streams[o.name] = streams.get(o.name, "") + "".join(o.text)
        elif o.output_type == "error": rest.append(("error", plain(f"{o.ename}: {o.evalue}")))
        else:
            for mime, data in sorted(o.data.items()):
                text = mime.startswith("text/") or mime == "image/svg+xml"
                rest.append((mime, plain(data) if text else "(present)"))
    return [(n, said) for n, s in sorted(streams.items()) if (said := plain(s))] + rest


def same(a, b):
    "Equal text; in drawings, numbers may differ by a hundredth of a point"
    if a == b: return True
    if a[0] != b[0] or "<svg" not in a[1]: return False
    x, y = NUMBER.split(a[1]), NUMBER.split(b[1])
    return x[::2] == y[::2] and all(abs(float(u) - float(v)) < .01 for u, v in zip(x[1::2], y[1::2]))


def difference(stored, fresh, lines=12):
    "A short diff of what two runs of one cell show; empty if they show the same"
    a, b = shown(stored), shown(fresh)
    if len(a) == len(b) and all(map(same, a, b)): return ""
    a, b = ([f"[{kind}] {s}" for kind, text in ab for s in text.splitlines() or [""]] for ab in (a, b))
    diff = list(difflib.unified_diff(a, b, "stored", "fresh", lineterm="", n=1))
    at = max(0, min((len(os.path.commonprefix([x[1:], y[1:]])) for x, y in zip(diff[3:], diff[4:]) if x[0] == "-" and y[0] == "+"), default=0) - 60)
    return "\n".join([d if len(d) < 200 else f"{d[0]}… {d[1 + at:201 + at]}" for d in diff[:lines]] + ["..."]*(len(diff) > lines))


def compare(stored, fresh, flags=()):
    "How the outputs of two runs of a notebook differ, cell by cell, `timing` cells excepted"
    return [f"code cell {n} (id {s.id}) stores what a fresh run does not show:\n{d}"
            for n, (s, f) in enumerate(zip(stored.cells, fresh.cells))
            if not skipped(s, flags) and not timing(s) and (d := difference(s.outputs, f.outputs))]


def store(fresh, path):
    "Write fresh outputs into the notebook, cell by cell: an edit made while it ran is kept"
    new, nb = {c.id: c for c in fresh.cells}, nbformat.read(path, 4)
    for c in nb.cells:
        f = new.get(c.id)
        if c.cell_type == "code" and f and f.source == c.source: c.outputs = f.outputs
    save(nb, path)


TIMES = ROOT/"docs/times.json"


def note_times(seconds, file=TIMES, known=None):
    "Note how long notebooks took, `{part/chapter: seconds}`; a time that hardly changed stays as it is"
    known = notebooks() if known is None else known
    old = json.loads(file.read_text())["seconds"] if file.exists() else {}
    def settled(k): return k in old and abs(seconds.get(k, old[k]) - old[k]) <= max(2, .25*old[k])
    new = {k: old[k] if settled(k) else max(1, round(seconds[k])) for k in known if k in old or k in seconds}
    if new == old: return
    note = "seconds a notebook takes on two cores, one thread a kernel; written by tools/nbrun.py --write"
    file.write_text(json.dumps({"what": note, "seconds": new}, indent=1) + "\n")


def run(path, write=False, flags=(), cell_timeout=120, nb_timeout=600):
    "`(problem or '', seconds)`: run one notebook, and compare its outputs or `write` them"
    t = time.monotonic()
    try: fresh = execute(path, flags, cell_timeout, nb_timeout, alone=write)
    except Exception as e: return ANSI.sub("", f"{type(e).__name__}: {e}").strip(), time.monotonic() - t
    if write: store(fresh, path)
    found = [] if write else compare(nbformat.read(path, 4), fresh, flags)
    advice = [f"If the fresh outputs are right: python tools/nbrun.py --write {os.path.relpath(path, ROOT)}"]
    return "\n".join(found + advice if found else []), fresh.metadata.seconds


def main(argv=None):
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("notebooks", nargs="*", help="default: all")
    a.add_argument("--write", action="store_true", help="store the outputs")
    a.add_argument("--check", action="store_true", help="compare them (the default)")
    a.add_argument("--workers", type=int, default=2)
    a.add_argument("--cell-timeout", type=int, default=120)
    a.add_argument("--nb-timeout", type=int, default=600)
    a.add_argument("--flags", default="", help="run cells with these flags too, e.g. 'slow gpu'")
    o = a.parse_args(argv)
    todo, bad, times = o.notebooks or list(notebooks().values()), 0, {}
    with ProcessPoolExecutor(o.workers) as pool:
        how = o.write, o.flags.split(), o.cell_timeout, o.nb_timeout
        jobs = {pool.submit(run, str(n), *how): os.path.relpath(n, ROOT) for n in todo}
        for job in as_completed(jobs):
            problem, seconds = job.result()
            bad += bool(problem)
            if not problem: times[os.path.relpath(ROOT/jobs[job], ROOT/"nbs").removesuffix(".ipynb")] = seconds
            print(f"{'FAIL' if problem else 'ok  '} {jobs[job]} {seconds:.1f} s", flush=True)
            if problem: print(problem, flush=True)
    if o.write and not o.flags: note_times(times)
    print(f"{len(todo)-bad} passed, {bad} failed")
    return bool(bad)


if __name__ == "__main__": sys.exit(main())
