"""The site builds without a warning, its links lead somewhere and its boxes are numbered; in a browser formulas
are drawn, search finds, nothing fails or leaves, a phone shows it all and the dark theme can be read."""
import ast, fcntl, importlib, json, os, re, sys
from html import unescape
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import browser, dress, nbformat, nbrun, nbsync, pytest, readme, sitebuild, specdec_nb
from conftest import ROOT
from nbrun import turn

sys.path.append(str(ROOT/"docs/_ext"))
import nbdev_sphinx

pytestmark = pytest.mark.timeout(600)


class Page(HTMLParser):
    "The ids, links and loaded files of a page"
    def __init__(self, html):
        super().__init__()
        self.ids, self.links, self.loads, self.images, self.metas, self.title = set(), [], [], [], {}, None
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        self.ids |= {a.get("id"), a.get("name")}
        if tag == "a" and a.get("href"): self.links.append(a["href"])
        if tag in ("script", "img", "iframe", "source") and a.get("src"): self.loads.append(a["src"])
        if tag == "img": self.images.append(a)
        if tag == "meta" and a.get("content"): self.metas[a.get("name") or a.get("property")] = a["content"]
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


def weight(path, page):
    "Bytes of a page and its pictures; what all pages share (themes, MathJax) is not counted"
    pictures = {(path.parent/unquote(u)).resolve() for u in page.loads if "_images/" in u}
    return path.stat().st_size + sum(p.stat().st_size for p in pictures)


def test_pages_are_small(pages, tmp_path):
    assert not {p.name: w for p, page in pages.items() if (w := weight(p, page)) > 1_500_000}
    (tmp_path/"_images").mkdir()
    (tmp_path/"_images/x.png").write_bytes(bytes(1_500_000))
    (tmp_path/"big.html").write_text('<img src="_images/x.png">')
    assert weight(tmp_path/"big.html", Page((tmp_path/"big.html").read_text())) > 1_500_000


# -- names, boxes, figures, works: none is lost on the way ---------------------------------------------

def exported():
    "`{name in its module: full name}`: functions, classes, public methods and constants"
    index = importlib.import_module("specdec_nb._modidx").d["syms"]
    def public(m):                                           # read, not imported: some modules import torch
        source = (ROOT/f"{m.replace('.', '/')}.py").read_text()
        return ast.literal_eval(re.search(r"^__all__ = (\[.*?\])", source, re.M | re.S)[1])
    full = {m: {*s, *(f"{m}.{n}" for n in public(m))} for m, s in index.items()}
    return {n.removeprefix(f"{m}."): n for m, names in full.items() for n in names if not re.search(r"\._", n)}


def test_every_exported_name_is_in_the_api(pages, site):
    names, there = {*exported().values()}, {i for path, page in pages.items() if path.parent == site/"api" for i in page.ids}
    assert names and not names - there
    face = pages[site/"api.html"].links
    assert not [n for n, (m, there) in specdec_nb._HOME.items() if not any(u.endswith(f"#specdec_nb.{m}.{there}") for u in face)]
    assert not [n for names in nbdev_sphinx.FACE.values() for n in names.split() if n not in specdec_nb._HOME], "a group names what is gone"


def test_the_face_is_told_in_whole_sentences(site):
    said = " ".join(unescape(re.sub(r"<[^>]+>", "", (site/"api.html").read_text())).split())
    for name in ("race", "verify_rejection", "LayerSkip"):
        about = getattr(specdec_nb, name).__doc__.split("\n\n")[0].replace("`", "")
        assert " ".join(about.split()) in said, name


def test_parameters_are_complete(site):
    "Each parameter of a function is listed, with or without words"
    def listed(page, function):
        entry = (site/page).read_text().partition(f'id="{function}"')[2].partition("</dl>\n</dd>")[0]
        return {*re.findall(r"<li><p><strong>(\w+)</strong>", entry)} or {*re.findall(r"<p><strong>(\w+)</strong>", entry)}
    assert {"steps", "words", "most", "tokens"} <= listed("api/verify.html", "specdec_nb.verify.rounds")
    assert {"rule", "rng"} <= listed("api/verify.html", "specdec_nb.verify.make_rule"), "none of these has a comment"


def test_back_ticked_names_link(site, pages):
    names, missing = exported(), []
    for key, path in nbsync.notebooks().items():
        text = "\n".join(c.source for c in nbformat.read(path, 4).cells if c.cell_type == "markdown")
        text = re.sub(r"(?s:```.*?```)|^#.*$|\[[^]]*\]\([^)]*\)", "", text, flags=re.M)
        linked = {unquote(urlsplit(u).fragment) for u in pages[site/f"{key}.html"].links}
        said = set(re.findall(r"(?<!`)`([\w.]+)`(?!`)", text)) & names.keys()
        missing += [f"{key}: {n}" for n in said if names[n] not in linked]
    assert not missing


def chapters():
    "`{part/chapter: its cells}`"
    return {k: nbformat.read(p, 4).cells for k, p in nbsync.notebooks().items() if "/" in k}


def prose(cells): return "\n\n".join(c.source for c in cells if c.cell_type == "markdown")


def exercises(text):
    "The numbers of the exercises in a chapter's text"
    return re.findall(r"^\*\*(\d+)\.\*\* ", text.partition("## Exercises")[2].partition("\n## ")[0], re.M)


def test_exercises_are_boxes_with_folded_solutions(site, pages):
    for key, cells in chapters().items():
        page, n = (site/f"{key}.html").read_text(), dress.number(key)
        said = exercises(prose(cells))
        assert said == [str(i) for i, _ in enumerate(said, 1)], f"{key}: exercises are numbered from 1"
        assert not [i for i in said if f"ex-{key.split('/')[1].split('_')[0]}-{i}" not in pages[site/f"{key}.html"].ids], key
        titles = re.findall(r'caption-number">Exercise (\d+[a-z]?\.\d+)', page)
        assert titles == [f"{n}.{i}" for i in said], key
        solutions = [c for c in cells if "code-summary: \"Solution\"" in c.source]
        folded = re.findall(r'<details class="admonition hide above-input">\s*<summary[^>]*>\s*<p class="collapsed '
                            r'admonition-title">Solution</p>', page)
        assert len(folded) == len(solutions), key
        below = next((i for i, c in enumerate(cells) if c.cell_type == "markdown" and "## Exercises" in c.source), len(cells))
        judges = [c for c in cells[below:] if c.cell_type == "code" and dress.judges(c.source)]
        assert page.count('admonition-title">The judge</p>') == 2 * len(judges), f"{key}: what a judge expects is not read before it is tried"


def test_exercise_boxes_open_and_close():
    walk = nbdev_sphinx.Exercises("07")
    assert walk.text("**1.** no exercise") == "**1.** no exercise"
    one, two = walk.text("## Exercises\n\n**1.** One"), walk.text("**2.** Two\n\n## References\n\n**3.** no")
    assert one.endswith("::::{exercise-start}\n:label: ex-07-1\n::::\n\nOne")
    assert two.count("{exercise-end}") == 2 and two.index("ex-07-2") < two.rindex("{exercise-end}") < two.index("## Ref")
    assert "**3.** no" in two and walk.close() == "", "nothing is open after the heading"


def test_figures_and_theorems_are_numbered_by_chapter(site):
    for key, cells in chapters().items():
        page, n = (site/f"{key}.html").read_text(), dress.number(key)
        captions = [c for c in cells if c.cell_type == "code" and "fig-cap" in nbrun.directives(c.source)]
        found = re.findall(r"<figcaption>.*?caption-number\">Figure (\d+[a-z]?\.\d+)", page, re.S)
        assert found == [f"{n}.{i}" for i, _ in enumerate(captions, 1)], key
        boxes = re.findall(r"^> \*\*(?:Theorem|Lemma|Corollary|Proposition|Definition)\b", prose(cells), re.M | re.I)
        found = re.findall(r'caption-number">(?:Theorem|Lemma|Corollary|Proposition|Definition) (\d+[a-z]?\.\d+)', page)
        assert found == [f"{n}.{i}" for i, _ in enumerate(boxes, 1)], key


def test_works_lead_to_the_references(site, pages):
    known = nbdev_sphinx.works()
    for key, cells in chapters().items():
        said = set(nbdev_sphinx.ARXIV.findall(prose(cells)))
        assert not said - known.keys(), f"{key} names what docs/refs.bib has not: {said - known.keys()}"
        links = [u for u in pages[site/f"{key}.html"].links if "references.html#" in u]
        assert len(links) >= len(said), key
    linked = nbdev_sphinx.link_works("## References\nOne (1999), arXiv 2211.17192. Two et al. (2023), arXiv 0000.00000.", known)
    assert linked.count("{work}") == 1 and "{work}`arXiv 2211.17192 <leviathan2023>`" in linked


def test_numbers_in_notebooks_are_those_of_the_site(site, pages):
    "What tools/dress.py says in a link is what the box says; and no role is left for JupyterLab to show"
    book = dress.Book(ROOT, nbsync.texts())
    for label, (key, name) in book.boxes.items():
        box = (site/f"{key}.html").read_text().partition(f'id="{label}"')[2][:400]
        assert f'caption-number">{name} ' in box, (label, name)
    raw = re.compile(r"\{(prf:ref|numref|cite:\w|doc)\}`")
    assert not [k for k, cells in chapters().items() if raw.search(prose(cells))] and raw.search("{cite:p}`x`")
    linked = book.linked("1_exactness/05_draft", "{prf:ref}`thm-walk`, ({cite:p}`xia2024`) [Theorem 99.9](06_verify.ipynb#thm-walk) `{doc}` {prf:ref}`no-such`")
    assert linked == ("[Theorem 6.1](06_verify.ipynb#thm-walk), ([Xia et al., 2024](https://arxiv.org/abs/2401.07851)) "
                      "[Theorem 6.1](06_verify.ipynb#thm-walk) `{doc}` {prf:ref}`no-such`")
    assert book.linked("1_exactness/05_draft", linked) == linked
    assert (dress.number("3_drafting/16a_layerskip"), dress.number("1_exactness/04_rejection")) == ("16a", "4")
    with pytest.raises(ValueError, match="nobody1999"): book.linked("1_exactness/05_draft", "{cite:p}`nobody1999`")


def test_pages_say_what_they_are(site, pages):
    said = {}
    for key, cells in chapters().items():
        page, text, n = pages[site/f"{key}.html"], (site/f"{key}.html").read_text(), dress.number(key)
        assert re.search(rf"<title>\s*{n}\. ", text), f"{key}: the tab has no number"
        assert re.search(rf"<h1>{n}\. ", text), key
        assert page.metas["og:title"].startswith(f"{n}. ") and page.metas["description"] == page.metas["og:description"]
        said.setdefault(page.metas["description"], []).append(key)
    assert all(len(keys) == 1 for keys in said.values()), "each chapter is described by its own question"
    assert "How does a language model" in pages[site/"index.html"].metas["description"]


def wordless(page): return [a.get("src") for a in page.images if not a.get("alt", "").strip() or a["alt"].startswith(("../_images", "_images"))]


def test_pictures_have_words(pages):
    assert not {p.name: w for p, page in pages.items() if (w := wordless(page))}
    assert wordless(Page('<img src="a.png"><img src="b.png" alt=" "><img src="c.png" alt="a curve">')) == ["a.png", "b.png"]


# -- the front pages -----------------------------------------------------------------------------------

def test_every_chapter_can_be_opened_in_jupyterlab(site, pages):
    for key in chapters():
        [lab] = [u for u in pages[site/f"{key}.html"].links if u.startswith(nbdev_sphinx.LAB)]
        assert (ROOT/"nbs"/lab.removeprefix(f"{nbdev_sphinx.LAB}/")).exists(), lab
    with open(ROOT/"Makefile") as f: assert "jupyter lab" in f.read(), "make lab serves the reader's copy"


def test_how_to_read(site):
    "The table has every chapter and its running time, and both paths are the index's"
    text, index = (ROOT/"nbs/how_to_read.md").read_text(), nbsync.texts()["index"].read_text()
    table = (site/"how_to_read.html").read_text().partition("<table")[2].partition("</table>")[0]
    rows = [re.sub(r"<[^>]*>", " ", row).split() for row in table.split("<tr")[1:]]
    rows = {row[1]: " ".join(row[2:]) for row in rows if len(row) > 1 and re.fullmatch(r"[w\d]\d[a-z]?", row[1])}
    assert sorted(rows) == sorted(nbdev_sphinx.number_of(k) for k in chapters())
    times = json.loads(nbrun.TIMES.read_text())["seconds"]
    untimed = [k for k in chapters() if k not in times]
    assert not untimed, f"no time in docs/times.json: python tools/nbrun.py --write nbs/{untimed[0]}.ipynb"
    assert not [n for n, row in rows.items() if not re.search(r" \d+ s\b| [\d.]+ min\b", row)]
    for path in ("Theory", "Systems"):
        here, there = (re.search(rf"\*{path}\*: ([\d, to]+)", t)[1] for t in (text, index))
        assert here == there
        assert {*nbdev_sphinx.numbers(here)} & {int(n) for n in rows if n.isdigit()}, f"the {path} path has a chapter"
    assert [*nbdev_sphinx.numbers("05, 07 to 09, 40")] == [5, 7, 8, 9, 40]


def test_running_times_change_only_when_they_do(tmp_path):
    file = tmp_path/"times.json"
    def note(seconds, known="abc"):
        nbrun.note_times(seconds, file, [*known])
        return json.loads(file.read_text())["seconds"]
    assert note({"a": 3.2, "b": 40.4, "z": 1}) == {"a": 3, "b": 40}
    assert note({"a": 4.9, "b": 47.0}) == {"a": 3, "b": 40}, "noise is not news"
    assert note({"a": 9.1, "c": .1}) == {"a": 9, "b": 40, "c": 1}
    assert note({}, "ac") == {"a": 9, "c": 1}, "a chapter that is gone is forgotten"


def test_landing_page_shows_a_race(site):
    page = (site/"index.html").read_text()
    assert "drafted, accepted" in page and "identical to plain decoding" in page and 'data-touch="stepper-' in page
    assert all(door in page for door in ("Read and run it.", "Import it.", "Browse it.", "Start here:"))


def test_readme_draws_without_styles():
    "GitHub drops styles: the first colour of the legend turns bold, the table turns Markdown"
    green, grey = ('<span style="background:{}">{{}}</span>'.format(c).format for c in ("green", "grey"))
    text = readme.Drawing(f'<div>{green("a &lt; b")}{green(" c")}{grey(" d")}</div><p><small>{green("drafted")} '
                          f'{grey("own")}</small></p><table><tr><td></td><td>x</td></tr><tr><td>n</td><td>1|2</td></tr>'
                          '</table>').markdown()
    assert "<pre><b>a &lt; b c</b> d</pre>" in text and "Bold: drafted. Plain: own." in text
    assert "|  | x |\n|--|--|\n| n | 1\\|2 |" in text
    readme_md = (ROOT/"README.md").read_text()
    assert "<span" not in readme_md and "style=" not in readme_md and "| identical to plain decoding |" in readme_md


# -- in a browser --------------------------------------------------------------------------------------

@pytest.fixture(scope="session")
def tab(tmp_path_factory):
    if not browser.CHROMIUM: pytest.skip("Chromium is not installed")
    tab = browser.Browser(tmp_path_factory.mktemp("profile"))
    yield tab
    tab.close()


@pytest.fixture
def address(site):
    if not sitebuild.mathjax(): pytest.skip("npm: MathJax could not be fetched, so pages need a CDN")
    with browser.served(site) as address: yield address


READABLE = 4.5           # WCAG's ratio for text of normal size


@pytest.mark.parametrize("half", (0, 1))                 # one for each of two workers
def test_in_a_browser(site, pages, tab, address, half):
    "Each page at once: formulas and requests on a desktop, then its width on a phone, then its colours in the dark"
    drawn, wide, poor = 0, {}, {}
    for path in sorted(p for p in pages if "_modules" not in p.parts)[half::2]:
        seen = tab.visit(f"{address}/{path.relative_to(site)}")
        assert not seen["problems"] and not seen["failed"] and not seen["raw"], (path.name, seen)
        away = [u for u in seen["requests"] if not u.startswith((address, "data:"))]
        assert not away, (path.name, away)
        assert seen["formulas"] >= bool(seen["marked"]), (path.name, seen)
        drawn += seen["formulas"]
        if path.parent == site/"api" and path.stem not in ("verify", "models_llama"): continue        # all alike
        tab.screen(390, 844, dark=True)
        width = tab.ask(browser.WIDE)
        assert width["window"] == 390
        if width["page"] > 0 or width["out"]: wide[path.name] = width
        colours = tab.ask(browser.CONTRAST)
        assert colours["theme"] == "dark" and colours["paper"] < .1 and colours["texts"], (path.name, colours)
        poor |= {(path.name, *p): r for r, *p in colours["poorest"] if r < READABLE}
    assert drawn > 0
    assert not wide, f"wider than a phone: {wide}"
    assert not poor, f"hard to read in the dark: {poor}"


def test_code_has_room(site, tab, address):
    "A line of 100 columns fits at 1440 pixels; a longer one goes on below, on a phone, too"
    tab.visit(f"{address}/1_exactness/07_decode.html", width=1440)
    fits = """(n, wrap) => { const pre = document.querySelector('div.cell_input pre'); if (!wrap) pre.style.whiteSpace = 'pre';
      pre.textContent = 'x'.repeat(n); return pre.scrollWidth <= pre.clientWidth; }"""
    assert tab.ask(f"({fits})(1000, true)") and tab.ask(f"({fits})(100, false)") and not tab.ask(f"({fits})(130, false)")
    for width in (360, 768, 1440, 2560):
        tab.visit(f"{address}/1_exactness/09_shape.html", width=width, height=900)
        cut = "[...document.querySelectorAll('pre')].filter(e => e.clientWidth && e.scrollWidth > e.clientWidth + 1).length"
        assert tab.ask(cut) == 0, width
        tab.ask("document.head.insertAdjacentHTML('beforeend', '<style>pre { white-space: pre !important }</style>')")
        assert tab.ask(cut) > 0, f"{width}: or this would not see a line that is cut"


def search(tab, address, word):
    "The pages that the search page finds, after its last word"
    tab.visit(f"{address}/search.html?q={word}")
    return tab.ask("""(async () => {
      const done = () => /finished|did not match/.test(document.getElementById('search-results').textContent);
      for (let i = 0; i < 100 && !done(); i++) await new Promise(r => setTimeout(r, 100));
      return [...document.querySelectorAll('#search-results li a')].map(a => a.getAttribute('href'));
    })()""")


def test_search_finds(tab, address):
    found = search(tab, address, "residual")
    assert {"glossary.html", "1_exactness/04_rejection.html"} <= {u.split("#")[0].split("?")[0] for u in found}
    assert found[0] == "glossary.html#term-residual", "the definition first"
    assert any("api/rejection.html#specdec_nb.rejection.residual" in u for u in found[:4])
    assert "5_trees/28_kernels.html" in [u.split("#")[0] for u in search(tab, address, "kernel")[:3]], "titles before mentions"
    assert search(tab, address, "zyzzyva") == []


STILL = "document.querySelectorAll('[data-touch] [data-call]:not([hidden])').length"


def key(tab, name):
    for kind in ("keyDown", "keyUp"): tab.call("Input.dispatchKeyEvent", type=kind, key=name, code=name)


def test_a_generation_is_stepped_with_keys(tab, address):
    seen = tab.visit(f"{address}/9_measuring/45_widgets.html")
    assert not seen["problems"] and tab.ask(STILL) == 1, "one call at a time"
    at = "document.querySelector('[data-say=at]').textContent"
    tab.ask("document.querySelector('[data-touch^=stepper]').focus()")
    first = tab.ask(at)
    key(tab, "ArrowRight")
    second = tab.ask(at)
    assert (first[:4], second[:4]) == ("1 of", "2 of") and tab.ask(STILL) == 1
    tab.ask("document.querySelector('[data-go=\"-1\"]').click()")
    assert tab.ask(at) == first
    key(tab, "End")
    assert re.match(r"(\d+) of \1$", tab.ask(at))
    notes = tab.ask("[...document.querySelectorAll('[data-touch^=stepper] rect title')].map(e => e.textContent)")
    assert notes and any("p = " in n and "q = " in n for n in notes), "p and q where the pointer is"


def test_sliders_compute_what_python_does(tab, address):
    from specdec_nb.speedup import CostCurve, expected_tokens, speedup
    tab.visit(f"{address}/9_measuring/45_widgets.html")
    box = "document.querySelector('[data-touch^=sliders]')"
    move = f"""(values) => {{ for (const [k, v] of Object.entries(values)) {{ const e = {box}.querySelector(`[data-key=${{k}}]`);
      e.value = v; e.dispatchEvent(new Event('input')); }} return ['tau', 'speed', 'best'].map(k => +{box}.querySelector(`[data-say=${{k}}]`).textContent); }}"""
    def python(a, k, c, v):
        all = [speedup(a, n, c, v) for n in range(17)]
        return [round(float(expected_tokens(a, k)), 2), round(float(all[k]), 2), all.index(max(all))]
    for a, k, c, row in ((.8, 4, .05, 0), (.9, 7, .02, .1), (.1, 3, .3, 0), (1, 16, 0, .05)):
        assert tab.ask(f"({move})({json.dumps(dict(a=a, k=k, c=c, row=row))})") == pytest.approx(python(a, k, c, lambda n: 1 + row * n), abs=.0101)
    curve = CostCurve((1, 2, 4, 8), (.01, .011, .012, .03))
    load = f"""async (text) => {{ const files = new DataTransfer(); files.items.add(new File([text], 'curve.json'));
      const e = {box}.querySelector('input[type=file]'); e.files = files.files; e.dispatchEvent(new Event('change'));
      await new Promise(r => setTimeout(r, 200)); return {box}.querySelector('[data-say=file]').textContent; }}"""
    assert "no cost curve" in tab.ask(f"({load})('[1, 2]')")
    assert tab.ask(f"({load})({json.dumps(json.dumps(dict(rows=curve.rows, seconds=curve.seconds)))})") == ""
    assert tab.ask(f"({move})({json.dumps(dict(a=.8, k=12, c=.05))})") == pytest.approx(python(.8, 12, .05, curve.v), abs=.0101), "beyond its points, too"
    use = f"(() => {{ {box}.querySelector('[data-key=use]').click(); return {box}.querySelector('[data-key=row]').disabled; }})()"
    assert tab.ask(use) is False and tab.ask(f"({move})({json.dumps(dict(a=.9, k=7, c=.02, row=.1))})") == pytest.approx(python(.9, 7, .02, lambda n: 1 + .1 * n), abs=.0101), "a row has a price again"
    assert tab.ask(use) is True and tab.ask(f"({move})({json.dumps(dict(a=.8, k=12, c=.05))})") == pytest.approx(python(.8, 12, .05, curve.v), abs=.0101)
    grow = "document.querySelector('[data-touch^=growth]')"
    lit = f"[...{grow}.querySelectorAll('g[data-node]')].filter(e => e.style.visibility !== 'hidden').length"
    tab.ask(f"(() => {{ const e = {grow}.querySelector('input'); e.value = 3; e.dispatchEvent(new Event('input')); }})()")
    assert tab.ask(lit) == 3


def test_without_scripts_they_are_stills(tab, address):
    tab.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        tab.load(f"{address}/9_measuring/45_widgets.html")
        assert tab.ask(STILL) > 5, "every call stands there"
        assert tab.ask("[...document.querySelectorAll('[data-text]')].filter(e => e.checkVisibility()).length") == 1, "the text once"
        assert tab.ask("[...document.querySelectorAll('[data-controls]')].every(e => !e.checkVisibility())"), "and nothing that would do nothing"
        assert tab.ask("document.querySelectorAll('[data-touch^=sliders] polyline').length") == 2
    finally: tab.call("Emulation.setScriptExecutionDisabled", value=False)


def test_solutions_unfold(tab, address):
    tab.visit(f"{address}/1_exactness/04_rejection.html")
    shown = "document.querySelector('.exercise details pre').checkVisibility()"
    assert not tab.ask(shown)
    tab.ask("document.querySelector('.exercise details summary').click()")
    assert tab.ask(shown)


def test_questions_answer_and_count(tab, address):
    seen = tab.visit(f"{address}/1_exactness/08_speedup.html")
    assert not seen["problems"] and tab.ask("document.querySelectorAll('.quiz').length") == 3
    def score(): return tab.ask("document.querySelector('.quiz-score').textContent")
    def open_(box, kind): tab.ask(f"document.querySelectorAll('.quiz')[{box}].querySelector('.quiz-{kind} summary').click()"); tab.ask("new Promise(done => setTimeout(done, 200))")
    assert score() == ""
    open_(0, "yes")
    assert score() == "1 of 1 right at the first try, 2 to go"
    open_(1, "no"); open_(1, "yes"); open_(2, "yes")
    assert score() == "2 of 3 right at the first try", "the first answer counts"


def test_an_outcome_waits_for_a_prediction(site):
    page = (site/"1_exactness/01_lm.html").read_text()
    assert page.count("You have a prediction?") == 1 and "tag_predict" in page
    assert "You have a prediction?" not in (site/"1_exactness/00_bookmap.html").read_text()


def test_the_browser_sees_trouble(tmp_path, tab):
    (tmp_path/"bad.html").write_text("<article>$$x$$ <img src='http://nowhere.invalid/x.png'></article>"
                                     "<script>console.error('oh'); nonsense()</script>")
    with browser.served(tmp_path) as address: seen = tab.visit(f"{address}/bad.html")
    assert len(seen["problems"]) >= 3 and seen["raw"] == ["$$", "$$"]
    assert any("nowhere.invalid" in u for u in seen["requests"])


def test_the_browser_sees_what_is_wide_or_dim(tmp_path, tab):
    page = ("<html style='background:#111; color:#eee'><meta name=viewport content='width=device-width'><article>"
            "<p>plain</p><p style='color:#333'>dim</p>{}<div style='overflow:auto'><p style='width:900px'>x</p></div>"
            "<svg><rect width=90 height=30 fill='#eee'/><text x=5 y=20 fill='#eee'>hidden</text></svg></article></html>")
    (tmp_path/"wide.html").write_text(page.format("<p style='width:500px'>wide</p>"))
    (tmp_path/"good.html").write_text(page.format(""))
    phone = dict(width=390, height=844, dark=True)
    with browser.served(tmp_path) as address:
        tab.visit(f"{address}/good.html", **phone)
        assert not tab.ask(browser.WIDE)["out"] and tab.ask(browser.WIDE)["page"] <= 0
        tab.visit(f"{address}/wide.html", **phone)
        assert [e for e in tab.ask(browser.WIDE)["out"] if "wide" in e] and tab.ask(browser.WIDE)["page"] > 0
        poor = {text for ratio, text, _ in tab.ask(browser.CONTRAST)["poorest"] if ratio < READABLE}
    assert poor == {"dim", "hidden"}


CLIPPED = """(() => {                     // how far the ring around what has the focus reaches out of a box that cuts it
  const e = document.activeElement, style = getComputedStyle(e), r = e.getBoundingClientRect();
  const ring = style.outlineStyle === 'none' ? NaN : parseFloat(style.outlineWidth) + parseFloat(style.outlineOffset);
  let cut = ring - ring;
  for (let b = e.parentElement; b; b = b.parentElement) {
    if (getComputedStyle(b).overflowX === 'visible' && getComputedStyle(b).overflowY === 'visible') continue;
    const c = b.getBoundingClientRect();
    cut = Math.max(cut, c.left - r.left + ring, r.right + ring - c.right, c.top - r.top + ring, r.bottom + ring - c.bottom);
  }
  return Number.isNaN(cut) ? 'no ring' : cut;
})()"""


def tabbed(tab, presses):
    "What has the focus after each press of the Tab key, and how its ring is cut"
    for _ in range(presses):
        for kind in ("keyDown", "keyUp"): tab.call("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
        yield tab.ask("document.activeElement.tagName + '.' + document.activeElement.className"), tab.ask(CLIPPED)


def test_what_has_the_focus_is_seen(tab, address):
    "In every picture to touch and at every question, and no formula is a stop on the way"
    for path, first, n in (("1_exactness/08_speedup", "[data-touch]", 6), ("1_exactness/08_speedup", ".quiz summary", 9),
                           ("9_measuring/45_widgets", "[data-touch^=stepper]", 3), ("index", ".sidebar-toggle", 1)):
        tab.visit(f"{address}/{path}.html", width=1440)
        tab.ask(f"(() => {{ const e = document.querySelector({first!r}); e.focus(); e.blur(); const s = getSelection(); s.collapse(e, 0); }})()")
        seen = [*tabbed(tab, n)]
        assert all(isinstance(cut, (int, float)) and cut < 1 for _, cut in seen), (path, seen)
        assert not [tag for tag, _ in seen if tag.startswith("MJX")], (path, seen)
    tab.ask("document.head.insertAdjacentHTML('beforeend', '<style>:focus-visible { outline: none !important }</style>')")
    assert [cut for _, cut in tabbed(tab, 1)] == ["no ring"], "or this would not see what is missing"
