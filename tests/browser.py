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

# elements of the page's own width that reach out of the window; what scrolls in a box of its own does not
WIDE = """(() => {
  const root = document.documentElement, inside = e => {
    for (e = e.parentElement; e && e !== document.body; e = e.parentElement)
      if (/auto|scroll/.test(getComputedStyle(e).overflowX) && e.clientWidth <= root.clientWidth) return true;
    return false;
  };
  const out = [...document.querySelectorAll('article *, footer *, .bd-header-article *')].filter(e => {
    const r = e.getBoundingClientRect();
    return r.width > 1 && r.height > 1 && r.right > root.clientWidth + 1 && !inside(e);
  });
  return {page: root.scrollWidth - root.clientWidth,
          out: out.slice(0, 5).map(e => e.outerHTML.slice(0, 120)), window: root.clientWidth};
})()"""
# the contrast (WCAG's ratio) of every visible text and formula with what is painted behind it; the poorest first
CONTRAST = """(async () => {
  const dark = matchMedia('(prefers-color-scheme: dark)').matches, theme = document.documentElement.dataset;
  for (let i = 0; i < 50 && theme.theme && theme.theme !== (dark ? 'dark' : 'light'); i++)
    await new Promise(r => setTimeout(r, 20));            // the theme follows the system after a moment
  document.head.insertAdjacentHTML('beforeend', '<style>* { transition: none !important; }</style>');
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true}), known = {};
  const rgba = c => known[c] ||= (canvas.clearRect(0, 0, 1, 1), canvas.fillStyle = '#000', canvas.fillStyle = c,
    canvas.fillRect(0, 0, 1, 1), [...canvas.getImageData(0, 0, 1, 1).data].map(v => v / 255));
  const over = (top, below) => [0, 1, 2].map(i => top[i]*top[3] + below[i]*(1 - top[3]));
  const light = c => c.map(v => v <= .03928 ? v/12.92 : ((v + .055)/1.055)**2.4)
                      .reduce((s, v, i) => s + v*[.2126, .7152, .0722][i], 0);
  const behind = new Map();
  const paper = e => {
    if (!e) return [1, 1, 1];
    if (!behind.has(e)) behind.set(e, over(rgba(getComputedStyle(e).backgroundColor), paper(e.parentElement)));
    return behind.get(e);
  };
  const shapes = (e, below) => {           // in a drawing: the filled shapes below the text's middle
    const m = e.getBoundingClientRect(), x = (m.left + m.right)/2, y = (m.top + m.bottom)/2;
    for (const s of e.ownerSVGElement.querySelectorAll('rect, circle, ellipse, polygon')) {
      const r = s.getBoundingClientRect(), style = getComputedStyle(s);
      if (!(s.compareDocumentPosition(e) & 4) || style.fill === 'none') continue;
      if (x < r.left || x > r.right || y < r.top || y > r.bottom) continue;
      const fill = rgba(style.fill).slice();
      fill[3] *= style.fillOpacity*style.opacity;
      below = over(fill, below);
    }
    return below;
  };
  const root = document.querySelector('main') || document.body, found = new Map();
  const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  for (let n; n = walker.nextNode();) {
    const e = n.parentElement;
    if (n.data.trim() && !e.closest('mjx-container, script, style')) found.set(e, n.data.trim());
  }
  for (const e of root.querySelectorAll('mjx-container')) found.set(e, 'formula');
  const all = [...found].filter(([e]) => e.checkVisibility({visibilityProperty: true}) && e.getClientRects().length)
    .map(([e, text]) => {
      const style = getComputedStyle(e), drawn = e.ownerSVGElement && style.fill !== 'none';
      let below = paper(drawn ? e.ownerSVGElement.parentElement : e);
      if (drawn) below = shapes(e, below);
      const ink = rgba(drawn ? style.fill : style.color).slice();
      for (let a = e; a; a = a.parentElement) ink[3] *= getComputedStyle(a).opacity;
      const [a, b] = [light(over(ink, below)), light(below)].sort((x, y) => y - x);
      return [Math.round(100*(a + .05)/(b + .05))/100, text.slice(0, 40), e.tagName + '.' + e.className];
    }).sort((x, y) => x[0] - y[0]);
  return {theme: document.documentElement.dataset.theme, paper: light(paper(document.body)), texts: all.length,
          poorest: all.slice(0, 5)};
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
    """One tab. `visit(url)` says what is on a page, what went wrong there, and what it requested;
    `screen` changes the window and the theme, `ask` evaluates JavaScript, for instance `WIDE` and `CONTRAST`."""
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

    def ask(self, expression):
        "The value of a JavaScript expression on the page"
        found = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in found: raise RuntimeError(str(found["exceptionDetails"]))
        return found["result"].get("value")

    def screen(self, width=1300, height=1000, dark=False):
        "Be a window of this size, for somebody who likes it light or dark"
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
                  mobile=width < 600)
        theme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[theme])

    def load(self, url):
        self.events.clear()
        self.call("Page.navigate", url=url)
        while not any(method == "Page.loadEventFired" for method, _ in self.events): self.receive()

    def visit(self, url, **window):
        "Load a page into a window as `screen` makes it, and look"
        self.load("about:blank")                    # or the page before would be laid out for this window, too
        self.screen(**window)
        self.load(url)
        page = self.ask(LOOK)
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
