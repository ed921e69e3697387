"""A headless Chromium, driven over its DevTools protocol; and a little server for it to visit."""
import functools, http.server, json, shutil, subprocess, threading, time, urllib.request
from contextlib import contextmanager

from websocket import create_connection

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ("--headless --no-sandbox --disable-gpu --disable-background-networking --disable-quic "
         "--disable-component-update --disable-sync --no-first-run --remote-debugging-port=0").split()
FLAGS.append("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")         # nothing leaves this machine
# wait until MathJax, where a page asks for it, has drawn every formula; then say what is on the page
LOOK = """(async () => {
  if (document.querySelector('script[src*="tex-svg.js"]')) {
    for (let i = 0; i < 100 && !(window.MathJax && MathJax.startup && MathJax.startup.promise); i++)
      await new Promise(r => setTimeout(r, 100));
    await MathJax.startup.promise;
  }
  const text = document.querySelector('article') || document.body, code = 'pre, code, script, style';
  const copy = text.cloneNode(true);
  copy.querySelectorAll(code).forEach(e => e.remove());
  return {title: document.title, text: copy.textContent.length,
          formulas: document.querySelectorAll('mjx-container svg').length,
          marked: document.querySelectorAll('.math').length,
          failed: [...document.querySelectorAll('[data-mjx-error]')].map(e => e.outerHTML),
          raw: copy.textContent.match(/\\$\\$|\\\\\\(|\\\\begin\\{/g) || []};
})()"""


@contextmanager
def served(folder):
    "Serve a folder on a free port of this machine; its address"
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args): pass
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try: yield f"http://127.0.0.1:{server.server_port}"
    finally: server.shutdown()


class Browser:
    "One tab. `visit(url)` says what is on a page, what went wrong there, and what it requested"
    def __init__(self, profile):
        self.process = subprocess.Popen([CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        port = profile/"DevToolsActivePort"
        for _ in range(300):
            if port.exists() and port.read_text().strip(): break
            time.sleep(.1)
        else: raise RuntimeError(f"{CHROMIUM} did not start within 30 seconds")
        with urllib.request.urlopen(f"http://127.0.0.1:{port.read_text().split()[0]}/json/list") as r:
            page = next(t for t in json.load(r) if t["type"] == "page")
        self.ws, self.sent, self.events = create_connection(page["webSocketDebuggerUrl"], timeout=60,
                                                            suppress_origin=True), 0, []
        for domain in ("Page", "Runtime", "Log", "Network"): self.call(f"{domain}.enable")

    def receive(self):
        m = json.loads(self.ws.recv())
        if "method" in m: self.events.append((m["method"], m["params"]))
        return m

    def call(self, method, **params):
        self.sent += 1
        self.ws.send(json.dumps(dict(id=self.sent, method=method, params=params)))
        while (m := self.receive()).get("id") != self.sent: pass
        if "error" in m: raise RuntimeError(f"{method}: {m['error']}")
        return m["result"]

    def visit(self, url):
        self.events.clear()
        self.call("Page.navigate", url=url)
        while not any(method == "Page.loadEventFired" for method, _ in self.events): self.receive()
        how = dict(awaitPromise=True, returnByValue=True)
        page = self.call("Runtime.evaluate", expression=LOOK, **how)["result"]["value"]
        def problems():
            for method, p in self.events:
                if method == "Runtime.exceptionThrown": yield p["exceptionDetails"]["text"]
                if method == "Runtime.consoleAPICalled" and p["type"] == "error": yield str(p["args"])
                if method == "Log.entryAdded" and p["entry"]["level"] == "error":
                    yield f"{p['entry']['text']} {p['entry'].get('url', '')}"
        requests = [p["request"]["url"] for method, p in self.events if method == "Network.requestWillBeSent"]
        return {**page, "problems": list(problems()), "requests": requests}

    def close(self):
        self.ws.close()
        self.process.terminate()
        self.process.wait(20)
