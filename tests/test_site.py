"""The site builds without a warning; in a browser formulas are drawn, and nothing fails or leaves."""
import fcntl, importlib, os, re
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import browser, nbformat, nbsync, pytest, sitebuild
from nbrun import turn

pytestmark = pytest.mark.timeout(600)


class Page(HTMLParser):
    "The ids, links and loaded files of a page"
    def __init__(self, html):
        super().__init__()
        self.ids, self.links, self.loads = set(), [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        self.ids |= {a.get("id"), a.get("name")}
        if tag == "a" and a.get("href"): self.links.append(a["href"])
        if tag in ("script", "img", "iframe", "source") and a.get("src"): self.loads.append(a["src"])
        if tag == "link" and a.get("rel") in ("stylesheet", "icon", "preload"): self.loads.append(a["href"])


def broken(pages, root):
    "Links within the site that lead nowhere"
    for path, page in pages.items():
        for href in page.links + page.loads:
            url = urlsplit(href)
            if url.scheme or url.netloc: continue
            anchor = unquote(url.fragment)
            to = (path.parent/unquote(url.path)).resolve() if url.path else path
            if not to.exists(): yield f"{path.relative_to(root)}: {href}"
            elif anchor and to in pages and anchor not in pages[to].ids:
                yield f"{path.relative_to(root)}: no {anchor} in {to.relative_to(root)}"


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    "The site, built once for all workers, and in `said` what Sphinx has against it"
    base = tmp_path_factory.getbasetemp().resolve()
    out = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base)/"site"
    out.mkdir(exist_ok=True)
    with turn(), open(out/"lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (out/"said").exists():
            done = sitebuild.build(out, capture_output=True, text=True)
            said = f"{done.stderr[-5000:]}\nexit {done.returncode}" if done.returncode else ""
            (out/"said").write_text(said)
    return out


@pytest.fixture(scope="session")
def site(built): return built/"html"


@pytest.fixture(scope="session")
def pages(site):
    return {p: Page(p.read_text()) for p in site.rglob("*.html") if "_static" not in p.parts}


def test_builds(site, built):
    said = (built/"said").read_text()
    assert not said, said
    chapters = [k for k in nbsync.notebooks() if not (site/f"{k}.html").exists()]
    assert not chapters, f"no page for {chapters}"


def test_links(pages, site):
    assert not list(broken(pages, site))


def test_a_broken_link_is_seen(site):
    at = site/"index.html"
    page = Page('<a href="#here" id="here">1</a><a href="nowhere.html">2</a><a href="#there">3</a>')
    assert len(list(broken({at: page}, site))) == 2


def test_pages_load_nothing_from_elsewhere(pages):
    if not sitebuild.mathjax(): pytest.skip("npm: MathJax could not be fetched, so pages name a CDN")
    assert not {u for page in pages.values() for u in page.loads if urlsplit(u).netloc}


def exported():
    "`{name in its module: full name}`: functions, classes, public methods and constants"
    index = importlib.import_module("specdec_nb._modidx").d["syms"]
    full = {m: {*s, *(f"{m}.{n}" for n in importlib.import_module(m).__all__)} for m, s in index.items()}
    return {n.removeprefix(f"{m}."): n for m, names in full.items() for n in names if not re.search(r"\._", n)}


def test_every_exported_name_is_in_the_api(pages, site):
    names = {*exported().values()}
    assert names and not names - pages[site/"api.html"].ids


def test_back_ticked_names_link(site, pages):
    names, missing = exported(), []
    for key, path in nbsync.notebooks().items():
        text = "\n".join(c.source for c in nbformat.read(path, 4).cells if c.cell_type == "markdown")
        text = re.sub(r"(?s:```.*?```)|^#.*$|\[[^]]*\]\([^)]*\)", "", text, flags=re.M)
        linked = {unquote(urlsplit(u).fragment) for u in pages[site/f"{key}.html"].links}
        said = set(re.findall(r"(?<!`)`([\w.]+)`(?!`)", text)) & names.keys()
        missing += [f"{key}: {n}" for n in said if names[n] not in linked]
    assert not missing


@pytest.fixture(scope="session")
def tab(tmp_path_factory):
    if not browser.CHROMIUM: pytest.skip("Chromium is not installed")
    tab = browser.Browser(tmp_path_factory.mktemp("profile"))
    yield tab
    tab.close()


def test_in_a_browser(site, pages, tab):
    if not sitebuild.mathjax(): pytest.skip("npm: MathJax could not be fetched, so pages need a CDN")
    drawn = 0
    with browser.served(site) as address:
        for path in sorted(p for p in pages if "_modules" not in p.parts):
            seen = tab.visit(f"{address}/{path.relative_to(site)}")
            assert not seen["problems"] and not seen["failed"] and not seen["raw"], (path.name, seen)
            away = [u for u in seen["requests"] if not u.startswith((address, "data:"))]
            assert not away, (path.name, away)
            assert seen["formulas"] >= bool(seen["marked"]), (path.name, seen)
            drawn += seen["formulas"]
    assert drawn > 0


def test_the_browser_sees_trouble(tmp_path, tab):
    (tmp_path/"bad.html").write_text("<article>$$x$$ <img src='http://nowhere.invalid/x.png'></article>"
                                     "<script>console.error('oh'); nonsense()</script>")
    with browser.served(tmp_path) as address: seen = tab.visit(f"{address}/bad.html")
    assert len(seen["problems"]) >= 3 and seen["raw"] == ["$$", "$$"]
    assert any("nowhere.invalid" in u for u in seen["requests"])
