"""JupyterLab, served from the root as `make lab` does: each chapter opens, runs, saves and stays in step."""
import json, os, secrets, socket, subprocess, sys, time, urllib.error, urllib.request, uuid

import nbsync, pytest
from websocket import create_connection


class Lab:
    "A JupyterLab server of a folder, on a free port of this machine"
    def __init__(self, root):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        self.token, self.log = secrets.token_hex(8), open(root/"lab.log", "w+")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", "--allow-root", "--no-browser", "--ip=127.0.0.1",
             f"--port={self.port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={self.token}",
             "--LabApp.default_url=/lab/tree/nbs/index.ipynb"], cwd=root, stdout=self.log, stderr=self.log,
            env={**os.environ, "PYTHONPATH": str(root)})
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
    before = {k: p.read_text() for k, p in nbsync.texts(copy).items()}
    for key, path in nbsync.notebooks(copy).items():
        path.touch()                             # newer than its text, as after storing outputs
        url, stored = f"api/contents/nbs/{key}.ipynb", path.read_text()
        model = json.loads(lab.call("GET", f"{url}?content=1")[1])
        assert model["type"] == "notebook"
        assert lab.call("PUT", url, {k: model[k] for k in ("type", "format", "content")})[0] == 200
        saved, was = json.loads(path.read_text()), json.loads(stored)
        assert saved["cells"] == was["cells"], f"{key} changed when saved"
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
    assert "Added in the lab." in nbsync.texts(copy)[key].read_text() and nbsync.check(root=copy) == []
