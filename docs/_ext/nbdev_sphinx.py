"""nbdev's habits, for Sphinx: directives, docments, links from back-ticked names; theorems in blockquotes,
exercises under their heading, works by their arXiv number.

Reads nbs/**/*.ipynb as they are, with their stored outputs; nothing is copied and nothing is executed.
A page of nbs/api, which git ignores, is written for every module of specdec_nb/_modidx.py, so no exported name can be missing.
"""
import importlib, inspect, json, re, sys
from html import escape
from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.transforms import SphinxTransform

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT/"tools"))
import quiz
from dress import BOX, WAY, directives, judges
from dress import number as chapter_number
from nbrun import TIMES
from nbsync import settings

LAB = "http://localhost:8888/lab/tree"      # where `make lab` serves the book, unless the port was taken
LIB = "specdec_nb"
PARTS = {"1_exactness": "I Exactness", "2_models": "II A real target",
         "3_drafting": "III Drafting without training", "4_learning": "IV Learning to draft",
         "5_trees": "V Trees, DAGs, the GPU", "6_phrases": "VI Phrases", "7_serving": "VII Serving",
         "8_decoding": "VIII Other ways to decode", "9_measuring": "IX Measuring",
         "0_workshop": "W Workshop"}         # first in the order of imports, last in the tables of contents
FRONT = ["how_to_read", "notation", "glossary", "fidelity", "newer", "outgrowing", "api", "references"]

def ini(name): return settings()[name]


# -- theorems: a blockquote in JupyterLab and on GitHub, a numbered box here ---------------------------

# [the theorem](04_rejection.ipynb#thm-rejection): a link in JupyterLab, a reference here
LINK = re.compile(r"\[([^]\n]+)\]\((?:[\w./-]+\.ipynb)?#((?:thm|lem|cor|prop|def|alg)-[\w-]+)\)")


def box(m):
    "The directive of sphinx-proof that a blockquote stands for"
    kind, title = m["kind"].lower(), m["title"] or ""
    body = "\n".join(s for s in (m["rest"].strip(), re.sub(r"^> ?", "", m["body"], flags=re.M)) if s).strip()
    if kind == "proof" and title: title, body = "", f"*({title})* {body}"
    name = [f":label: {m['label']}"] if m["label"] else []
    return "\n".join([f"::::{{prf:{kind}}} {title}".rstrip(), *name,
                      *([":nonumber:"] if kind in ("remark", "example") else []), "", body, "::::", ""])


# > **To remember.** a sentence or two: a blockquote elsewhere, a box here
REMEMBER = re.compile(r"^> \*\*To remember\.\*\* (.*\n?(?:>.*\n?)*)", re.M)


def remember(m): return "::::{admonition} To remember\n:class: remember\n" + re.sub(r"^> ?", "", m[1], flags=re.M).rstrip() + "\n::::\n"


# -- exercises: a bold number under "Exercises" in JupyterLab, a numbered box here ----------------------

PLACES = re.compile(r"^(?=\*\*\d+\.\*\* |## )", re.M)        # where an exercise, or a section, begins
EXERCISE = re.compile(r"\*\*(\d+)\.\*\* ")


class Exercises:
    "Walks through a chapter's cells, and puts each exercise with the code cells that follow it into a box"
    def __init__(self, number): self.number, self.here, self.open = number, False, False

    def close(self):
        "What ends the open box, if one is"
        was, self.open = self.open, False
        return "\n\n::::{exercise-end}\n::::\n\n" if was else ""

    def text(self, source):
        "A Markdown cell, with boxes opened and closed"
        out = ""
        for part in PLACES.split(source):
            if part.startswith("## "): out, self.here = out + self.close(), part.split("\n")[0] == "## Exercises"
            elif self.here and (m := EXERCISE.match(part)):
                out, part = out + self.close(), part[m.end():]
                out += f"::::{{exercise-start}}\n:label: ex-{self.number}-{m[1]}\n::::\n\n"
                self.open = True
            out += part
        return out


# -- works: an arXiv number, or a year under "References", leads to the list of references ---------------

def works():
    "`{arXiv number or (first author, year): key}` of docs/refs.bib; what would be ambiguous is left out"
    found = {}
    for entry in re.split(r"^@", (ROOT/"docs/refs.bib").read_text(), flags=re.M)[1:]:
        key = re.match(r"\w+\{(\w+),", entry)[1]
        if m := re.search(r"\b(\d{4}\.\d{4,5})\b", entry): found[m[1]] = key
        by = re.match(r"([a-z]+)(\d{4})", key).groups()
        found[by] = None if by in found else key
    return {name: key for name, key in found.items() if key}


ARXIV = re.compile(r"arXiv[: ](\d{4}\.\d{4,5})")
PAPER = re.compile(r"\[([^]\n]+)\]\(https://arxiv\.org/abs/(\d{4}\.\d{4,5})\)")         # what tools/dress.py makes of {cite:p}
BY = re.compile(r"\b([A-Z]\w+)([^().;]{,40}?(?: et al\.)? \(?)(\d{4})(?=[),])(?![^;]{,160}?\{work\})")


def link_works(source, known):
    "Link what a cell says of works that the book lists"
    def arxiv(m): return f"{{work}}`{m[0]} <{known[m[1]]}>`" if m[1] in known else m[0]
    def by(m):
        key = known.get((m[1].lower(), m[3]))
        return f"{m[1]}{m[2]}{{work}}`{m[3]} <{key}>`" if key else m[0]
    source = PAPER.sub(lambda m: f"{{work}}`{m[1]} <{known[m[2]]}>`" if m[2] in known else m[0], source)
    before, heading, after = ARXIV.sub(arxiv, source).partition("## References")
    return before + heading + BY.sub(by, after)


def work(name, rawtext, text, lineno, inliner, options=None, content=()):
    "The role of a link to a work: ``{work}`text <key>` ``"
    said, key = re.fullmatch(r"(.*) <(\w+)>", text, re.S).groups()
    return [nodes.inline(rawtext, said, work=key)], []


def resolve_works(app, doctree, docname):
    "Lead each such link to the work's place in the list, which is known only now"
    found = {c.key: c for c in app.env.get_domain("cite").citations}
    for node in list(doctree.findall(lambda n: isinstance(n, nodes.inline) and "work" in n)):
        cited = found[node["work"]]
        uri = f"{app.builder.get_relative_uri(docname, cited.bibliography_key.docname)}#{cited.citation_id}"
        title = re.sub(r"[{}]", "", cited.entry.fields["title"])
        node.replace_self(nodes.reference("", "", *node.children, internal=True, refuri=uri, reftitle=title))


# -- notebooks -----------------------------------------------------------------------------------------

def code_cell(cell, exercise=False):
    "Obey the directives of a code cell, which may stand in an `exercise`; None if it is not shown"
    source = "".join(cell["source"])
    ds, lines = directives(source), source.splitlines()
    while lines and (not lines[0].strip() or re.match(r"\s*#\s*\|", lines[0])): lines.pop(0)
    if {"hide", "default_exp"} & ds.keys() or ds.get("include") == "false" or not lines: return None
    if exercise and judges(source): ds = {"code-fold": "true", "code-summary": "The judge", **ds}
    md = cell.setdefault("metadata", {})
    tags = md.setdefault("tags", [])
    tags += [tag for tag, on in {"remove-input": ds.get("echo") == "false" or "hide_input" in ds,
                                 "remove-output": ds.get("output") == "false" or "hide_output" in ds,
                                 "hide-cell" if exercise else "hide-input": ds.get("code-fold", "false") != "false",
                                 "hide-output": "predict" in tags, "flag-slow": "slow" in ds, "flag-gpu": "gpu" in ds}.items() if on]
    myst = md.setdefault("mystnb", {})
    if "predict" in tags: myst["code_prompt_show"], myst["code_prompt_hide"] = "You have a prediction? See what came out", "Hide what came out"
    if "code-summary" in ds: myst["code_prompt_show"] = myst["code_prompt_hide"] = ds["code-summary"]
    if "fig-cap" in ds and not drawn(cell):
        myst["figure"] = {"caption": ds["fig-cap"], **({"name": ds["label"]} if "label" in ds else {})}
    if words := alt(cell, ds): myst["image"] = {"alt": words}
    cell["source"] = "\n".join(lines)
    return cell


def alt(cell, ds):
    "What a picture says to who cannot see it: its words, its caption, or how it prints"
    images = [o["data"] for o in cell["outputs"] if any(kind.startswith("image/") for kind in o.get("data", ()))]
    printed = "".join(images[0].get("text/plain", "")) if images else ""
    return (ds.get("fig-alt") or ds.get("fig-cap") or printed).replace("`", "") if images else ""


def drawn(cell):
    "Does this cell draw in HTML? Then its caption comes after it, see `Captions`"
    kinds = {kind for o in cell["outputs"] for kind in o.get("data", ())}
    return "text/html" in kinds and not any(k.startswith("image/") for k in kinds)


class Captions(SphinxTransform):
    "A drawing in HTML, and the caption after it, become a figure: Sphinx numbers these, MyST-NB makes only images so"
    default_priority = 205                                               # figures get their ids at 210

    def apply(self):
        for box in list(self.document.findall(lambda n: "figcaption" in n.get("classes", ())
                                              if isinstance(n, nodes.Element) else False)):
            cell = box.parent[box.parent.index(box) - 1]
            output = next(n for n in cell.findall(nodes.container) if n.get("nb_element") == "cell_code_output")
            figure = nodes.figure("", *output.children, nodes.caption("", "", *box[0].children),
                                  ids=box["ids"], names=box["names"])
            for i in box["ids"]: self.document.ids[i] = figure
            output.children = []
            output += figure
            box.parent.remove(box)


def chapter(nb, doc):
    "A notebook as Sphinx should see it"
    module, cells, known = None, [], works()
    walk = Exercises(doc.split("/")[-1].split("_")[0])
    for cell in nb["cells"]:
        if WAY.match("".join(cell["source"])): continue          # the site has its own
        if cell["cell_type"] == "markdown":
            source = REMEMBER.sub(remember, quiz.dropdowns(BOX.sub(box, "".join(cell["source"]))))
            source = LINK.sub(r"{prf:ref}`\1 <\2>`", source)
            cell["source"] = walk.text(link_works(source, known))
        if cell["cell_type"] == "code":
            ds = directives("".join(cell["source"]))
            module = ds.get("default_exp", module)
            if code_cell(cell, walk.open) is None: continue
            badge = f":::{{div}} exported\n{{py:mod}}`{LIB}.{module}`\n:::"
            if "export" in ds: cells.append(markdown(badge, cell["id"]))
            if "fig-cap" in ds and drawn(cell):
                name = f":name: {ds['label']}\n" if "label" in ds else ""
                cells.append(cell)
                cell = markdown(f":::{{container}} figcaption\n{name}\n{ds['fig-cap']}\n:::", cell["id"])
        cells.append(cell)
    cells.append(markdown(walk.close(), "end"))
    if "/" in doc: cells[0]["source"] = TITLE.sub(lambda m: f"{m[0]}\n\n{line(doc, module)}\n\n", cells[0]["source"])
    return {**nb, "cells": cells}


TITLE = re.compile(r"\A# .*(?:\n\n(?:>.*\n?)+)?")


def seconds(doc):
    "How long a chapter runs, in words; nothing before that was measured"
    s = json.loads(TIMES.read_text())["seconds"].get(doc)
    return s and (f"{s} s" if s < 90 else f"{s/60:.1f} min")


def line(doc, module):
    "What stands below a chapter's title"
    lab = f"[Open in JupyterLab]({LAB}/{doc}.ipynb) (after `make lab`)"
    facts = [lab, f"runs in {s}" if (s := seconds(doc)) else "", f"makes {{py:mod}}`{LIB}.{module}`" if module else ""]
    return ":::{div} chapter-line\n" + " · ".join(filter(None, facts)) + "\n:::"


def markdown(source, near):
    "A Markdown cell beside the cell with id `near`"
    return dict(cell_type="markdown", metadata={}, id=f"{near}-md", source=source)


def opening(doc):
    "A chapter's title and its question"
    cells = json.loads((ROOT/f"nbs/{doc}.ipynb").read_text())["cells"]
    text = "".join("".join(c["source"]) for c in cells[:1])
    return re.search(r"^# (?:[w\d]\d[a-z]?\. )?(.*)", text, re.M)[1], " ".join(re.findall(r"^> ?(.*)", text, re.M))


def number_of(doc): return doc.split("/")[1].split("_")[0]


def numbers(said):
    "The chapters that `05, 07 to 09` means"
    for a, b in re.findall(r"(\d\d)(?: to (\d\d))?", said): yield from range(int(a), int(b or a) + 1)


def table(docs, text):
    "The table of chapters: running times, and who is on the paths that `text` describes (`* *Theory*: 01, …`)"
    paths = {m[1]: {*numbers(m[2])} for m in re.finditer(r"^\* \*(\w+)\*: ([\d, to]+)", text, re.M)}
    rows = ["| | chapter | runs in | " + " | ".join(p.lower() for p in paths) + " |", "|--|--|--:|" + ":-:|"*len(paths)]
    for part, name in PARTS.items():
        chapters = sorted(d for d in docs if d.startswith(f"{part}/"))
        if chapters: rows.append("| **{}** | **{}** | |".format(*name.split(" ", 1)) + " |"*len(paths))
        for d in chapters:
            n = number_of(d)
            on = ["●" if n.isdigit() and int(n) in p else "" for p in paths.values()]
            rows.append(" | ".join([f"| {n}", f"[{opening(d)[0]}](/{d}.ipynb)", seconds(d) or "", *on]) + " |")
    return "\n".join(rows)


def contents(docs):
    "The tables of contents: one a part, then the reference pages"
    def toctree(caption, entries):
        entries = "\n".join(entries)
        return f"```{{toctree}}\n:hidden:\n:caption: {caption}\n:maxdepth: 1\n{entries}\n```\n"
    exams = {p: [f"exam_{p[0]}"] if f"exam_{p[0]}" in docs else [] for p in PARTS}
    parts = {p: sorted(d for d in docs if d.startswith(f"{p}/")) + exams[p] for p in PARTS}
    trees = [toctree(PARTS[p], chapters) for p, chapters in parts.items() if chapters]
    first, last = toctree("Before you start", FRONT[:1]), toctree("Reference", FRONT[1:])
    return "\n".join([first, *trees, last])


def source_read(app, docname, content):
    "Sphinx's hook: change the source of a page before it is parsed"
    if docname == "api": content[0] += api_face() + api_contents()
    content[0] = content[0].replace("<!-- chapters -->", table(app.env.found_docs, content[0]))
    if not str(app.env.doc2path(docname)).endswith(".ipynb"): return
    nb = chapter(json.loads(content[0]), docname)
    if docname == app.config.root_doc: nb["cells"].append(markdown(contents(app.env.found_docs), "toc"))
    content[0] = json.dumps(nb)


# -- previews: what a page is about --------------------------------------------------------------------

def about(app, docname, doctree):
    "A page in a sentence: a chapter's question, or how it begins"
    if "/" in docname and (ROOT/f"nbs/{docname}.ipynb").exists(): said = opening(docname)[1]
    else: said = next((p.astext() for p in doctree.findall(nodes.paragraph)), "") if doctree else ""
    said = " ".join(re.sub(r"[*`$]", "", said).split())
    return said if len(said) < 200 else said[:197].rsplit(" ", 1)[0] + " …"


def preview(app, pagename, templatename, context, doctree):
    "Description and preview tags, for search engines and for who is sent a link"
    said = escape(about(app, pagename, doctree) or ini("description"), True)
    title = escape(re.sub(r"<[^>]*>", "", context.get("title") or app.config.html_title), True)
    home = ini("doc_host") + ini("doc_baseurl")
    tags = {"og:type": "article", "og:title": title, "og:description": said, "og:site_name": ini("title"),
            "og:url": f"{home}/{pagename}.html", "og:image": f"{home}/_static/preview.png"}
    context["metatags"] = context.get("metatags", "") + f'<meta name="description" content="{said}">' + "".join(
        f'<meta property="{name}" content="{value}">' for name, value in tags.items())


# -- the API pages, and links to them ------------------------------------------------------------------

def modules():
    "`{module: its exported names, in full}`, in the order of the book; _modidx leaves out constants"
    index = importlib.import_module(f"{LIB}._modidx").d["syms"]
    return {m: list(dict.fromkeys([*index[m], *(f"{m}.{n}" for n in importlib.import_module(m).__all__)]))
            for m in sorted(index, key=lambda m: (home(m)[0] == "0", home(m)))}


def constants(module):
    "`{name: object}` of what a module exports and autodoc passes over: constants, and compiled functions without a call of their own"
    of, index = importlib.import_module(module), importlib.import_module(f"{LIB}._modidx").d["syms"][module]
    def passed(n, x):
        if type(x).__name__ == "_Intrinsic": return True
        return f"{module}.{n}" not in index and not (inspect.isfunction(x) and x.__module__ == module)
    return {n: x for n in of.__all__ if passed(n, x := getattr(of, n))}


def shadows(module):
    "Names that the face takes from a module which does not export them, since another chapter has the same name"
    of = importlib.import_module(module)
    return [n for m, n in importlib.import_module(LIB)._HOME.values() if f"{LIB}.{m}" == module and n not in of.__all__]


def described(name, x, module):
    "An entry for what autodoc passes over; compiled functions have a docstring of their own"
    kind = "function" if callable(x) and getattr(x, "__module__", None) == module else "data"
    said = f"   {x.__doc__}\n\n" if kind == "function" and x.__doc__ else ""
    return f".. py:{kind}:: {name}\n   :module: {module}\n\n{said}"


def home(module):
    "The chapter of a module: `part/number_name`"
    source = ROOT/(module.replace(".", "/") + ".py")
    return re.search(r"File to edit: .*nbs/(.+)\.ipynb", source.read_text())[1]


def place(module): return "api/" + module.removeprefix(f"{LIB}.").replace(".", "_")


def api_pages(app):
    "Write a page a module into nbs/api, which git ignores: Sphinx reads files"
    wanted = {}
    for m in modules():
        data = "".join(described(n, x, m) for n, x in constants(m).items()) + "".join(f".. autofunction:: {m}.{n}\n\n" for n in shadows(m))
        wanted[f"{place(m)}.md"] = (f"# {m}\n\nChapter {{doc}}`/{home(m)}`.\n\n"
                                    f"```{{eval-rst}}\n.. automodule:: {m}\n\n{data}```\n")
    for old in (ROOT/"nbs/api").glob("*.md"):
        if f"api/{old.name}" not in wanted: old.unlink()
    for name, text in wanted.items():
        path = ROOT/"nbs"/name
        path.parent.mkdir(exist_ok=True)
        if not path.exists() or path.read_text() != text: path.write_text(text)


FACE = {"Generate": "generate race load load_default HFTarget Llama", "Draft": "Draft Drafter ModelDrafter LayerSkip Datastore Reference PhrasePool",
        "Judge": "Law Verdict verify_walk verify_rejection verify_block verify_traversal verify_kseq Stop",
        "Look": "Step Trace", "Prove": "TableLM exact_law Dice Keyed"}


def api_face():
    "The names of `import specdec_nb`, grouped by what one does with them"
    homes = importlib.import_module(LIB)._HOME
    groups = {title: said.split() for title, said in FACE.items()}
    groups["More"] = [n for n in homes if not any(n in names for names in groups.values())]
    def line(name):
        module, there = homes[name]
        obj = getattr(importlib.import_module(f"{LIB}.{module}"), there)
        said = " ".join((obj.__doc__ or "").strip().split("\n\n")[0].split()).replace("|", "\\|")
        return f"| {{py:obj}}`{name} <{LIB}.{module}.{there}>` | {said} |"
    tables = [f"\n## {title}\n\n| | |\n|--|--|\n" + "\n".join(line(n) for n in names if n in homes) + "\n"
              for title, names in groups.items() if {*names} & homes.keys()]
    return "\n".join(tables)


def api_contents():
    "All modules, in the order of the book"
    rows = "\n".join(f"| {{doc}}`{m.removeprefix(LIB + '.')} </{place(m)}>` | {{doc}}`/{home(m)}` |" for m in modules())
    pages = "\n".join(f"{m.removeprefix(LIB + '.')} </{place(m)}>" for m in modules())
    return f"\n## Every module\n\n| module | chapter |\n|--|--|\n{rows}\n\n```{{toctree}}\n:hidden:\n{pages}\n```\n"


def public(name): return not any(p.startswith("_") for p in name.split("."))


def names():
    "What a back-ticked name may mean: `{as written: full name}`"
    found = {}
    for module, symbols in modules().items():
        found[module] = found[module.removeprefix(f"{LIB}.")+".py"] = module
        for full in filter(public, symbols):
            short = full.removeprefix(f"{LIB}."), full.removeprefix(f"{module}.")
            found |= dict.fromkeys((full, *short), full)
    for name, (module, there) in importlib.import_module(LIB)._HOME.items():
        found[f"{LIB}.{name}"] = found.setdefault(name, f"{LIB}.{module}.{there}")
    return found


def doclinks(app, doctree):
    "Link every back-ticked exported name to its API entry"
    for lit in list(doctree.findall(nodes.literal)):
        full = app.nbdev_names.get(re.sub(r"\(.*\)$", "", lit.astext()))
        inside = (nodes.reference, addnodes.pending_xref, nodes.title, nodes.rubric, addnodes.desc_signature)
        node = lit
        while (node := node.parent) is not None and not isinstance(node, inside): pass
        if full is None or node is not None: continue
        ref = addnodes.pending_xref("", refdomain="py", reftype="obj", reftarget=full, refexplicit=True,
                                    refwarn=True, refdoc=app.env.docname)
        ref["py:module"] = ref["py:class"] = None
        lit.replace_self(ref)
        ref += lit


# -- docstrings: Markdown's habits in reStructuredText -------------------------------------------------

EMPHASIS = re.compile(r"(?<!\S)\*\w[^*\n]*\w\*(?!\w)")


def rst(text):
    "Back-ticks are code, dollars are math, stars around words emphasise, and nothing else is markup"
    def part(s):
        if s[:1] == "`": return f"\\ ``{s[1:-1]}``\\ "
        if s[:1] == "$": return f"\\ :math:`{s[1:-1]}`\\ "
        return s if EMPHASIS.fullmatch(s) else re.sub(r"([*|_\\])", r"\\\1", s)
    return "".join(map(part, re.split(rf"(`[^`]+`|(?<!\\)\$[^$\n]+\$|{EMPHASIS.pattern})", text)))


def docstring(app, what, name, obj, options, lines):
    "Sphinx's hook: one docstring, and its docments as a list of parameters"
    from fastcore.docments import docments
    lines[:] = [rst(line) for line in lines]
    if what not in ("function", "method", "class"): return
    try: found = docments(obj, full=True)
    except Exception: return                     # no source, or nothing to say
    said = {k: rst(" ".join(v["docment"].split())) for k, v in found.items()
            if v.get("docment") and k != "self"}
    if what != "class" or "__init__" in vars(obj): said = {k: said.get(k, "") for k in found if k not in ("self", "return")} | {
        k: v for k, v in said.items() if k == "return"}              # those without words are named, too
    lines += ["", *(f":returns: {d}" if k == "return" else f":param {k}: {d}" for k, d in said.items()), ""]


def number(app, env):
    "Number by chapter: figure 8.2 is the second of chapter 8, and exercise 8.2 the one that its text calls 2"
    for doc, kinds in env.toc_fignumbers.items():
        if not re.search(r"/[w\d]\d[a-z]?_", doc): continue
        for kind, ids in kinds.items(): kinds[kind] = {i: (chapter_number(doc), n) for n, i in enumerate(ids, 1)}
    return []


def setup(app):
    app.connect("builder-inited", lambda app: setattr(app, "nbdev_names", names()))
    app.connect("builder-inited", api_pages)
    app.connect("html-page-context", preview)
    app.connect("env-get-outdated", lambda app, *_: ["api", "how_to_read", app.config.root_doc])    # made from all
    app.connect("env-get-updated", number, priority=900)                 # after Sphinx has numbered
    app.connect("doctree-resolved", resolve_works)
    app.add_role("work", work)
    app.add_transform(Captions)
    app.connect("source-read", source_read)
    app.connect("doctree-read", doclinks)
    app.connect("autodoc-process-docstring", docstring)
    app.add_css_file("book.css")
    app.add_js_file("book.js")
    return {"parallel_read_safe": True, "parallel_write_safe": True, "version": "1"}
