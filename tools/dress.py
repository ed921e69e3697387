"""What a notebook has and its text has not: a number in its title, links instead of Sphinx's roles, folds, a way on.

`tools/nbsync.py` puts these in when it makes a notebook, and `undressed` takes out what a text does not keep.
Dressing twice changes nothing, so text and notebook are compared dressed.
"""
import re
from pathlib import Path

import quiz
from nbformat.v4 import new_markdown_cell

# > **Theorem** (its name). <a id="thm-..."></a>: a blockquote here, a numbered box on the site
KINDS = "theorem lemma corollary proposition definition proof remark example algorithm"
BOX = re.compile(r"""^>\ \*\*(?P<kind>%s)\.?\*\*               # > **Theorem**
    (?:\ \((?P<title>(?:[^()\n]|\([^()\n]*\))*)\))?\.?[ ]*     # (its name).
    (?:<a\ id="(?P<label>[\w-]+)"></a>)?(?P<rest>[^\n]*)\n?    # <a id="thm-..."></a>
    (?P<body>(?:>[^\n]*(?:\n|\Z))*)""" % KINDS.replace(" ", "|"), re.M | re.I | re.X)
COUNTED = dict.fromkeys("theorem lemma corollary proposition definition".split(), "theorem") | {"algorithm": "algorithm"}
TITLE = re.compile(r"\A# (?:w?\d+[a-z]?\. )?(.*)")
DIRECTIVE = re.compile(r"^\s*#\s*\|\s*([\w-]+)\s*:?\s*(.*?)\s*$")
FURTHER = re.compile(r"^#\|\s{2,}(\S.*?)\s*$")                # as in YAML: what is set in goes on with the line before
LABELLED = re.compile(r"\{prf:ref\}`(?:([^`<]*?) ?<)?([\w-]+)>?`"
                      r"|\[(?:%s) w?\d+[a-z]?\.\d+\]\([\w./-]*#([\w-]+)\)" % KINDS.replace(" ", "|"), re.I)
CITED = re.compile(r"(\(?)\{cite:[pt]\}`([\w, ]+)`")
DOCUMENT = re.compile(r"\{doc\}`(?:([^`<]*?) ?<)?([\w./]+)>?`")
WAY = re.compile(r"\A(?:\[← .*|\[Contents\]\(\.\./index\.ipynb\).*)\Z")


def directives(source):
    "The `#|` lines at the top of a cell: `{name: value}`; a value may go on in lines that are set in"
    found, last = {}, None
    for line in source.splitlines():
        if not line.strip(): continue
        if last and (m := FURTHER.match(line)): found[last] += " " + m[1]
        elif m := DIRECTIVE.match(line): found[last := m[1]] = m[2]
        else: break
    return {name: value.strip("\"'") for name, value in found.items()}


def entries(bib):
    "What a .bib file says: `{key: {field: value}}`, `short` among the fields: the authors and the year"
    found = {}
    for entry in re.split(r"^@\w+\{", bib, flags=re.M)[1:]:
        fields = {name: re.sub(r"[{}]", "", value) for name, value in re.findall(r"(\w+)=\{((?:[^{}]|\{[^{}]*\}|\{\{[^{}]*\}\})*)\}", entry)}
        authors = [a.split(",")[0] for a in fields.get("author", "").split(" and ")]
        who = authors[0] + (" et al." if len(authors) > 2 else f" and {authors[1]}" if len(authors) == 2 else "")
        found[entry.split(",")[0]] = fields | {"short": f"{who}, {fields['year']}" if "year" in fields else who}
    return found


class Book:
    "What chapters must know of one another: titles, the names and numbers of theorems, the works"
    def __init__(self, root, texts): # texts: `{part/chapter: path}`
        self.titles, self.boxes = {}, {}
        for key, path in texts.items():
            text = re.sub(r"\A---\n.*?\n---\n+", "", path.read_text(encoding="utf-8"), flags=re.S)
            self.titles[key] = (TITLE.match(text) or [key] * 2)[1].strip()
            self._count(key, text)
        bib = Path(root)/"docs/refs.bib"
        self.works = entries(bib.read_text(encoding="utf-8")) if bib.exists() else {}
        self.order = sorted((k for k in self.titles if "/" in k), key=lambda k: (k.startswith("0_"), k))     # the workshop last

    def _count(self, key, text):
        seen = {}
        for m in BOX.finditer(text):
            kind = m["kind"].lower()
            if not (counter := COUNTED.get(kind)): continue
            seen[counter] = seen.get(counter, 0) + 1
            if m["label"]: self.boxes[m["label"]] = key, f"{kind.title()} {number(key)}.{seen[counter]}"

    def title(self, key): return f"{number(key)}. {self.titles[key]}"

    def way(self, key):
        "The line that leads from a chapter to its neighbours"
        i, here = self.order.index(key), key
        before, after = self.order[i-1:i], self.order[i+1:i+2]
        def to(k): return k.rsplit("/", 1)[1] + ".ipynb" if k.split("/")[0] == here.split("/")[0] else f"../{k}.ipynb"
        return " · ".join([*(f"[← {self.title(k)}]({to(k)})" for k in before), "[Contents](../index.ipynb)",
                           *(f"[{self.title(k)} →]({to(k)})" for k in after)])

    def linked(self, key, source):
        "Links where `source`, of chapter `key`, has roles that only Sphinx knows"
        def path(k): return f"{'' if k == 'index' else '../' * ('/' in key)}{k}.ipynb"
        def near(k): return "" if k == key else k.split("/")[1] + ".ipynb" if k.split("/")[0] == key.split("/")[0] else path(k)
        def labelled(m):
            if (label := m[2] or m[3]) not in self.boxes: return m[0]
            home, name = self.boxes[label]
            return f"[{m[1] or name}]({near(home)}#{label})"
        def cited(m):
            if bad := [k for k in re.split(r", *", m[2]) if k not in self.works]:
                raise ValueError(f"{key} cites {bad[0]}, which docs/refs.bib does not have")
            said = "; ".join(self._work(key, k) for k in re.split(r", *", m[2]))
            return f"({said}" if m[1] else f"({said})"
        def document(m):
            there = re.sub(r"^(?:\.\./|/)", "", m[2])
            there = there if "/" in there or "/" not in key else f"{key.split('/')[0]}/{there}"
            return f"[{m[1] or self.title(there)}]({near(there)})" if there in self.titles else m[0]
        parts = re.split(r"(```.*?```|`[^`\n]*`(?<!\}`))", source, flags=re.S) if "```" in source else [source]
        parts[::2] = [DOCUMENT.sub(document, CITED.sub(cited, LABELLED.sub(labelled, part))) for part in parts[::2]]
        return "".join(parts)

    def _work(self, key, work):
        fields = self.works[work]
        where = f"https://arxiv.org/abs/{fields['eprint']}" if "eprint" in fields else f"{'../' * ('/' in key)}references.md"
        return f"[{fields['short']}]({where})"

    def dress(self, key, nb):
        "Put on `nb`, the notebook of chapter `key`, what its text has not; returns it"
        undressed(nb)
        exercises = False
        for c in nb.cells:
            exercises |= c.cell_type == "markdown" and "## Exercises" in c.source
            if c.cell_type == "markdown": c.source = quiz.folded(self.linked(key, c.source))
            if c.cell_type == "code": fold(c, exercises)
        if key in self.order:
            first = nb.cells[0]
            first.source = TITLE.sub(lambda m: f"# {self.title(key)}", first.source)
            nb.cells.append(new_markdown_cell(self.way(key)))
        return nb


def number(key):
    "A chapter's number as it is said: 4 of 1_exactness/04_rejection, 16a of 3_drafting/16a_layerskip, w1 of 0_workshop/w1_files"
    return f"{m[1]}{int(m[2])}{m[3]}" if (m := re.search(r"(w?)(\d+)([a-z]?)_\w+$", key)) else "0"


def judges(source):
    "Is a cell below *Exercises* the judge of one? What it expects is not to be read before it is tried"
    return bool(re.search(r"^def check_\w+\(", source, re.M))


def fold(cell, exercises=False):
    "Let JupyterLab fold what the site folds or hides: solutions and their judges, drawing code, tests of the tests"
    d = directives(cell.source)
    folded = d.get("code-fold", "false") != "false" or "hide" in d or d.get("echo") == "false"
    if folded or exercises and judges(cell.source): cell.metadata["jupyter"] = {"source_hidden": True}
    else: cell.metadata.pop("jupyter", None)


def undressed(nb):
    "`nb` without the number in its title and the line at its end, answers as a list; links and folds do no harm in a text"
    for c in nb.cells:
        if c.cell_type == "markdown": c.source = quiz.listed(c.source)
    if nb.cells and nb.cells[-1].cell_type == "markdown" and WAY.match(nb.cells[-1].source): nb.cells.pop()
    if nb.cells and nb.cells[0].cell_type == "markdown":
        nb.cells[0].source = TITLE.sub(lambda m: f"# {m[1]}", nb.cells[0].source)
    return nb
