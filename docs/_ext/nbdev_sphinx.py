"""nbdev's habits, for Sphinx: directives, docments, links from back-ticked names; theorems in blockquotes.

Reads nbs/**/*.ipynb as they are, with their stored outputs; nothing is copied and nothing is executed.
The API page lists every module of specdec_nb/_modidx.py, so no exported name can be missing from it.
"""
import importlib, json, re, sys
from pathlib import Path

from docutils import nodes
from sphinx import addnodes

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT/"tools"))
from nbrun import directives

LIB = "specdec_nb"
PARTS = {"1_exactness": "I Exactness", "2_target": "II A real target",
         "3_drafting": "III Drafting without training", "4_learning": "IV Learning to draft",
         "5_trees": "V Trees, DAGs, the GPU", "6_phrases": "VI Phrases", "7_serving": "VII Serving",
         "8_decoding": "VIII Other ways to decode", "9_measuring": "IX Measuring"}
FRONT = ["how_to_read", "notation", "glossary", "api", "references"]

# -- theorems: a blockquote in JupyterLab and on GitHub, a numbered box here ---------------------------

KINDS = "theorem lemma corollary proposition definition proof remark example algorithm"
BOX = re.compile(r"""^>\ \*\*(?P<kind>%s)\.?\*\*               # > **Theorem**
    (?:\ \((?P<title>(?:[^()\n]|\([^()\n]*\))*)\))?\.?[ ]*     # (its name).
    (?:<a\ id="(?P<label>[\w-]+)"></a>)?(?P<rest>[^\n]*)\n?    # <a id="thm-..."></a>
    (?P<body>(?:>[^\n]*(?:\n|\Z))*)""" % KINDS.replace(" ", "|"), re.M | re.I | re.X)

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


# -- notebooks -----------------------------------------------------------------------------------------

def code_cell(cell):
    "Obey the directives of a code cell; None if it is not shown"
    source = "".join(cell["source"])
    ds, lines = directives(source), source.splitlines()
    while lines and (not lines[0].strip() or re.match(r"\s*#\s*\|", lines[0])): lines.pop(0)
    if {"hide", "default_exp"} & ds.keys() or ds.get("include") == "false" or not lines: return None
    md = cell.setdefault("metadata", {})
    tags = md.setdefault("tags", [])
    tags += [tag for tag, on in {"remove-input": ds.get("echo") == "false" or "hide_input" in ds,
                                 "remove-output": ds.get("output") == "false" or "hide_output" in ds,
                                 "hide-input": "code-fold" in ds and ds["code-fold"] != "false",
                                 "flag-slow": "slow" in ds, "flag-gpu": "gpu" in ds}.items() if on]
    if "fig-cap" in ds:
        myst = md.setdefault("mystnb", {})
        myst["figure"] = {"caption": ds["fig-cap"], **({"name": ds["label"]} if "label" in ds else {})}
        if "fig-alt" in ds: myst["image"] = {"alt": ds["fig-alt"]}
    cell["source"] = "\n".join(lines)
    return cell


def chapter(nb):
    "A notebook as Sphinx should see it"
    module, cells = None, []
    for cell in nb["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = LINK.sub(r"{prf:ref}`\1 <\2>`", BOX.sub(box, "".join(cell["source"])))
        if cell["cell_type"] == "code":
            ds = directives("".join(cell["source"]))
            module = ds.get("default_exp", module)
            if code_cell(cell) is None: continue
            badge = f":::{{div}} exported\n{{py:mod}}`{LIB}.{module}`\n:::"
            if "export" in ds: cells.append(markdown(badge, cell["id"]))
        cells.append(cell)
    return {**nb, "cells": cells}


def markdown(source, near):
    "A Markdown cell beside the cell with id `near`"
    return dict(cell_type="markdown", metadata={}, id=f"{near}-md", source=source)


def entry(doc):
    "A chapter in the table of contents: its number and title"
    cells = json.loads((ROOT/f"nbs/{doc}.ipynb").read_text())["cells"]
    title = re.search(r"^# (.*)", "".join("".join(c["source"]) for c in cells[:1]), re.M)[1].replace("`", "")
    return f"{doc.split('/')[1][:2]}  {title} <{doc}>"


def contents(docs):
    "The tables of contents: one a part, then the reference pages"
    def toctree(caption, entries):
        entries = "\n".join(entries)
        return f"```{{toctree}}\n:hidden:\n:caption: {caption}\n:maxdepth: 1\n{entries}\n```\n"
    parts = {p: [entry(d) for d in sorted(docs) if d.startswith(f"{p}/")] for p in PARTS}
    trees = [toctree(PARTS[p], chapters) for p, chapters in parts.items() if chapters]
    first, last = toctree("Before you start", FRONT[:1]), toctree("Reference", FRONT[1:])
    return "\n".join([first, *trees, last])


def source_read(app, docname, content):
    "Sphinx's hook: change the source of a page before it is parsed"
    if docname == "api": content[0] += api_page()
    if not str(app.env.doc2path(docname)).endswith(".ipynb"): return
    nb = chapter(json.loads(content[0]))
    if docname == app.config.root_doc: nb["cells"].append(markdown(contents(app.env.found_docs), "toc"))
    content[0] = json.dumps(nb)


# -- the API page, and links to it ---------------------------------------------------------------------

def modules():
    "`{module: its exported names, in full}`, in the order of the book; _modidx leaves out constants"
    index = importlib.import_module(f"{LIB}._modidx").d["syms"]
    return {m: [*index[m], *constants(m, index[m])] for m in sorted(index, key=home)}


def constants(module, known):
    "Exported names of a module that are no functions or classes"
    full = (f"{module}.{name}" for name in importlib.import_module(module).__all__)
    return [name for name in full if name not in known]


def home(module):
    "The chapter of a module: `part/number_name`"
    [path] = (ROOT/"nbs").glob(f"*/[0-9][0-9]_{module.split('.')[-1]}.ipynb")
    return path.relative_to(ROOT/"nbs").with_suffix("").as_posix()


def api_page():
    "One section a module"
    section = "\n## {}\n\nChapter {{doc}}`{}`.\n\n```{{eval-rst}}\n.. automodule:: {}\n\n{}```\n"
    index, page = importlib.import_module(f"{LIB}._modidx").d["syms"], ""
    for m in modules():
        data = (f".. py:data:: {n.split('.')[-1]}\n   :module: {m}\n\n" for n in constants(m, index[m]))
        page += section.format(m.removeprefix(f"{LIB}."), home(m), m, "".join(data))
    return page


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
        inside = (nodes.reference, addnodes.pending_xref, nodes.title, addnodes.desc_signature)
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
    lines += ["", *(f":returns: {d}" if k == "return" else f":param {k}: {d}" for k, d in said.items()), ""]


def setup(app):
    app.connect("builder-inited", lambda app: setattr(app, "nbdev_names", names()))
    app.connect("env-get-outdated", lambda app, *_: ["api", app.config.root_doc])     # made from all others
    app.connect("source-read", source_read)
    app.connect("doctree-read", doclinks)
    app.connect("autodoc-process-docstring", docstring)
    app.add_css_file("book.css")
    return {"parallel_read_safe": True, "parallel_write_safe": True, "version": "1"}
