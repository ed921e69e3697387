"""JupyterLab. As `make edit` serves it: each chapter opens, runs, saves and stays in step. As `make lab` does, in a
browser: a student's hour, after which git has nothing to say. And what becomes of answers when the book changes."""
import json, os, secrets, socket, subprocess, sys, time, urllib.error, urllib.request, uuid
from copy import deepcopy

import browser, dress, nbformat, nbsync, pytest, reading
from nbformat.sign import NotebookNotary
from nbformat.v4 import new_code_cell, new_notebook
from nbrun import directives
from websocket import create_connection


class Lab:
    "A JupyterLab server of a folder, on a free port of this machine"
    def __init__(self, root, *options):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        self.token, self.log = secrets.token_hex(8), open(root/"lab.log", "w+")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", "--allow-root", "--no-browser", "--ip=127.0.0.1",
             f"--port={self.port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={self.token}",
             "--LabApp.expose_app_in_browser=True", *options], cwd=root, stdout=self.log, stderr=self.log,
            env={**os.environ, "PYTHONPATH": str(root), "TQDM_DISABLE": "1"})
        for _ in range(300):
            try: return self.call("GET", "api/status") and None
            except (urllib.error.URLError, ConnectionError): time.sleep(.2)
            if self.process.poll() is not None: break
        self.close()
        raise RuntimeError(f"JupyterLab did not start:\n{(root/'lab.log').read_text()[-3000:]}")

    def call(self, method, path, body=None):
        "The answer to a request, as `(status, text)`"
        headers = {"Authorization": f"token {self.token}", "Content-Type": "application/json"}
        r = urllib.request.Request(f"http://127.0.0.1:{self.port}/{path}", method=method, headers=headers,
                                   data=None if body is None else json.dumps(body).encode())
        with urllib.request.urlopen(r, timeout=60) as answer: return answer.status, answer.read().decode()

    def run(self, notebook, source):
        "What `source` prints in the kernel of a notebook's session"
        session = dict(path=notebook, name=notebook, type="notebook", kernel={"name": "python3"})
        kernel = json.loads(self.call("POST", "api/sessions", session)[1])["kernel"]["id"]
        url = f"ws://127.0.0.1:{self.port}/api/kernels/{kernel}/channels?token={self.token}"
        ws, id = create_connection(url, timeout=60), uuid.uuid4().hex
        header = dict(msg_id=id, msg_type="execute_request", session=id, version="5.3")
        ws.send(json.dumps(dict(channel="shell", content=dict(code=source, silent=False), header=header,
                                metadata={}, parent_header={})))
        printed = ""
        while True:
            m = json.loads(ws.recv())
            if m["parent_header"].get("msg_id") != id: continue
            if m["msg_type"] in ("stream", "error"): printed += m["content"].get("text") or str(m["content"])
            if m["content"].get("execution_state") == "idle": break
        ws.close()
        return printed

    def close(self):
        self.process.terminate()
        try: self.process.wait(20)
        except subprocess.TimeoutExpired: self.process.kill()
        self.log.close()


@pytest.fixture
def lab(copy):
    server = Lab(copy)
    yield server
    server.close()


def test_lab(lab, copy):
    for page in ("lab", "lab/tree/nbs/index.ipynb"): assert lab.call("GET", page)[0] == 200
    before, book = {k: p.read_text() for k, p in nbsync.texts(copy).items()}, dress.Book(copy, nbsync.texts(copy))
    for key, path in nbsync.notebooks(copy).items():
        path.touch()                             # newer than its text, as after storing outputs
        url, stored = f"api/contents/nbs/{key}.ipynb", path.read_text()
        model = json.loads(lab.call("GET", f"{url}?content=1")[1])
        assert model["type"] == "notebook"
        assert lab.call("PUT", url, {k: model[k] for k in ("type", "format", "content")})[0] == 200
        nbsync.to_notebook(key, nbsync.texts(copy)[key], path, copy, book)
        assert path.read_text() == stored, f"{key} changed when saved"
    assert nbsync.check(root=copy) == []
    changed = [k for k, p in nbsync.texts(copy).items() if p.read_text() != before[k]]
    assert not changed, f"a save in JupyterLab rewrites these texts; keep what it writes: {changed}"


def test_lab_runs_cells(lab):
    assert lab.run("nbs/index.ipynb", "import specdec_nb; print(6 * 7)") == "42\n"


def test_lab_writes_the_text(lab, copy):
    key = next(k for k in nbsync.notebooks(copy) if k != "index")
    model = json.loads(lab.call("GET", f"api/contents/nbs/{key}.ipynb?content=1")[1])
    cell = dict(cell_type="markdown", id="added", metadata={}, source="Added in the lab.")
    model["content"]["cells"].append(cell)
    lab.call("PUT", f"api/contents/nbs/{key}.ipynb", {k: model[k] for k in ("type", "format", "content")})
    text, path = nbsync.texts(copy)[key], nbsync.notebooks(copy)[key]
    assert "Added in the lab." in text.read_text()
    nbsync.to_notebook(key, text, path, copy)
    assert nbsync.check(root=copy) == [] and "Added in the lab." in path.read_text()


# -- the reader's copy ---------------------------------------------------------------------------------

CHAPTER = "1_exactness/04_rejection"


def git(root, *command):
    done = subprocess.run(["git", "-c", "user.name=x", "-c", "user.email=x@example.org", *command], cwd=root, text=True,
                          capture_output=True, check=True)
    return done.stdout


@pytest.fixture
def reader(copy):
    "A checkout with a reader's copy in it: its root, and what signs notebooks"
    git(copy, "init", "-q")
    git(copy, "add", "-A")
    git(copy, "commit", "-qm", "the book")
    (home := copy/".venv/share/jupyter").mkdir(parents=True)
    notary = NotebookNotary(data_dir=str(home))
    reading.renew(copy, copy/"reading", notary)
    return copy, notary


def test_a_reader_gets_exercises_to_answer(reader):
    root, notary = reader
    for key, path in nbsync.notebooks(root).items():
        book, mine = nbformat.read(path, 4), nbformat.read(root/f"reading/{key}.ipynb", 4)
        assert notary.check_signature(mine), f"JupyterLab would not trust {key}"
        code = [c.source for c in mine.cells if c.cell_type == "code"]
        solutions = [c.source for c in book.cells if 'code-summary: "Solution"' in c.source]
        assert sum(s.startswith(reading.JUDGE.split("\n")[0]) for s in code) == len(solutions), key
        for s in solutions:
            body = reading.MACHINES.sub("", s).strip()
            assert body not in code and any(body in c.source for c in mine.cells if c.cell_type == "markdown"), key
        stubs = [c.source for c in book.cells if c.cell_type == "code" and directives(c.source).get("eval") == "false"]
        assert not {reading.ASK.sub("", s.replace("#| eval: false\n", "")).rstrip() for s in stubs} - {*code}, "the cell below asks the judge"
    assert git(root, "status", "--porcelain") == ""


def test_answers_survive_an_update():
    def cells(**source): return [new_code_cell(s, id=i) for i, s in source.items()]
    def say(cells): return [(c.id, c.source) for c in cells]
    was = cells(a="1", b="...", c="3", d="4", e="5")
    mine = [*cells(a="1", b="mine", note="a note", c="3 of mine"), *cells(e="5")]        # and d thrown away
    new = cells(a="1!", b="...", c="3!", d="4", f="6", e="5")
    got = reading.merged(deepcopy(mine), was, deepcopy(new))
    assert say(got) == [("a", "1!"), ("b", "mine"), ("note", "a note"), ("c", "3!"), ("c-mine", "3 of mine"), ("f", "6"), ("e", "5")]
    assert say(reading.merged(deepcopy(got), new, deepcopy(new))) == say(got), "nothing changes twice"
    assert say(reading.merged(deepcopy(was), was, deepcopy(new))) == say(new), "who wrote nothing gets the book"
    gone = reading.merged(deepcopy(mine), was, cells(a="1"))
    assert {"mine", "a note", "3 of mine"} <= {c.source for c in gone}, "also where the book drops a cell"
    assert {"mine", "a note"} <= {c.source for c in reading.merged(deepcopy(mine), [], deepcopy(new))}, "or the record is lost"


def test_a_chapter_that_moves_takes_its_answers_along(tmp_path):
    notary = NotebookNotary(db_file=":memory:", secret=b"x")
    def book(key, *sources):
        for old in (tmp_path/"nbs").rglob("*.ipynb"): old.unlink()
        (path := tmp_path/f"nbs/{key}.ipynb").parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(new_notebook(cells=[new_code_cell(s, id=f"c{i}") for i, s in enumerate(sources)]), path)
        return reading.renew(tmp_path, tmp_path/"reading", notary)
    assert book("1_part/05_draft", "1", "...") == []
    nb = nbformat.read(tmp_path/"reading/1_part/05_draft.ipynb", 4)
    nb.cells[1].source = "mine"
    nbformat.write(nb, tmp_path/"reading/1_part/05_draft.ipynb")
    assert book("2_part/07_draft", "1!", "...", "more") == ["2_part/07_draft"]
    assert [c.source for c in nbformat.read(tmp_path/"reading/2_part/07_draft.ipynb", 4).cells] == ["1!", "mine", "more"]
    assert not (tmp_path/"reading/1_part/05_draft.ipynb").exists()


def wait(tab, condition, seconds=60):
    for _ in range(5 * seconds):
        if tab.ask(condition): return
        time.sleep(.2)
    raise TimeoutError(condition)


HERE = "[...jupyterapp.shell.widgets('main')][0]"
OPEN = f"window.jupyterapp && {HERE}?.context?.isReady"
BUSY = "[...document.querySelectorAll('.jp-InputPrompt')].some(e => e.textContent.includes('*'))"
CELLS = f"[...{HERE}.content.model.sharedModel.cells].map(c => [c.id, c.source, JSON.stringify(c.toJSON().outputs || '')])"
# each picture: is it drawn, and how light is its corner, with what it lies on? The page is dark
PICTURES = r"""[...document.querySelectorAll('.jp-OutputArea-output img')].map(e => {
  const draw = document.createElement('canvas').getContext('2d'), ground = getComputedStyle(e).backgroundColor;
  for (const c of ['#111', ground]) { draw.fillStyle = c; draw.fillRect(0, 0, 300, 300); }
  draw.drawImage(e, 0, 0, 300, 300);
  return [e.naturalWidth > 0, Math.min(...draw.getImageData(1, 1, 1, 1).data)];
})"""


def test_a_students_hour(reader, tmp_path_factory):
    "Open, answer, run all, save, in the dark: nothing overwritten, every picture visible, git clean; then the book changes"
    if not browser.CHROMIUM: pytest.skip("Chromium is not installed")
    root, notary = reader
    server = Lab(root, f"--ServerApp.root_dir={root}/reading", f"--NotebookNotary.data_dir={root}/.venv/share/jupyter",
                 f"--LabApp.app_settings_dir={root}/tools/lab")
    tab = browser.Browser(tmp_path_factory.mktemp("profile"))
    answer = "def bias(p, q):\n    kept = np.minimum(p, q)\n    return total_variation(kept, kept.sum() * p)"
    try:
        tab.screen(1440, 1000)
        tab.load(f"http://127.0.0.1:{server.port}/lab/tree/{CHAPTER}.ipynb?token={server.token}")
        wait(tab, OPEN)
        wait(tab, "document.querySelectorAll('.jp-OutputArea-output img').length")
        assert all(drawn for drawn, _ in tab.ask(PICTURES)), "stored drawings show in a fresh copy"
        stubs = {s for _, s, _ in tab.ask(CELLS) if s.startswith("def lenient_law")}
        hidden = tab.ask(f"[...{HERE}.content.widgets].filter(w => w.inputHidden).map(w => w.model.sharedModel.source)")
        assert [s for s in hidden if s.startswith("def check_bias")], "what a judge expects is folded"
        assert not tab.ask("document.querySelectorAll('.Toastify__toast').length"), "nobody asks whether one wants news"
        tab.ask(f"jupyterapp.shell.activateById({HERE}.id)")
        tab.ask(f"(() => {{ for (const c of {HERE}.content.model.sharedModel.cells)"
                f" if (c.source.startsWith('def bias(')) c.source = {json.dumps(answer)}; }})()")
        tab.ask("jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Dark'})")
        wait(tab, f"{HERE}.sessionContext.session?.kernel?.status === 'idle'")
        tab.ask(f"(() => {{ document.activeElement?.blur(); {HERE}.content.node.focus(); jupyterapp.shell.activateById({HERE}.id); "
                f"{HERE}.node.dispatchEvent(new FocusEvent('focusin', {{bubbles: true}})); {HERE}.node.dispatchEvent(new FocusEvent('focus')); }})()")
        wait(tab, f"jupyterapp.shell.currentWidget === {HERE}")   # a page without a person before it has no focus
        tab.ask("jupyterapp.commands.execute('notebook:run-all-cells')")
        wait(tab, f"[...{HERE}.content.model.sharedModel.cells].filter(c => c.source.includes('assess(')).every(c => c.toJSON().outputs.length)")
        wait(tab, f"!({BUSY}) && {HERE}.sessionContext.session.kernel.status === 'idle'")
        cells = tab.ask(CELLS)
        assert answer in {s for _, s, _ in cells} and stubs <= {s for _, s, _ in cells}
        verdicts = {s.split("(")[-2].split()[-1]: out for _, s, out in cells if s.startswith("from specdec_nb.bench.exercises")}
        assert "right" in verdicts["check_bias"] and "not yet" in verdicts["check_lenient"] and "asked" in verdicts["check_lenient"]
        assert not [s for _, s, out in cells if '"output_type":"error"' in out or '"stderr"' in out], "no red"
        wait(tab, "document.body.dataset.jpThemeName === 'JupyterLab Dark'")
        seen = tab.ask(PICTURES)
        assert len(seen) >= 2 and all(drawn and ground > 200 for drawn, ground in seen), f"on a light ground: {seen}"
        bare = "data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>"
        tab.ask(f"(() => {{ document.querySelector('.jp-OutputArea-output img').src = {json.dumps(bare)} }})()")
        wait(tab, "document.querySelector('.jp-OutputArea-output img').naturalWidth === 9")
        assert not all(ground > 200 for _, ground in tab.ask(PICTURES)), "or this would not see a dark one"
        tab.ask(f"{HERE}.context.save()")
        wait(tab, f"!{HERE}.context.model.dirty")
    finally:
        tab.close()
        server.close()
        (root/"lab.log").unlink()
    assert git(root, "status", "--porcelain") == "", "reading dirties nothing"
    saved = nbformat.read(root/f"reading/{CHAPTER}.ipynb", 4)
    assert answer in {c.source for c in saved.cells} and notary.check_signature(saved), "still trusted"
    text, path = root/f"nbs/_src/{CHAPTER}.md", root/f"nbs/{CHAPTER}.ipynb"
    text.write_text(text.read_text().replace("## Exercises", "A new word of the book's.\n\n## Exercises"))
    nbsync.to_notebook(CHAPTER, text, path, root)
    assert reading.renew(root, root/"reading", notary) == [CHAPTER]
    renewed = "\n".join(c.source for c in nbformat.read(root/f"reading/{CHAPTER}.ipynb", 4).cells)
    assert answer in renewed and "A new word of the book's." in renewed
