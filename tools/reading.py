"""The reader's copy of the book: reading/, which git does not see. `make lab` makes or renews it and opens it.

    python tools/reading.py [FOLDER]

In it an exercise is a check, a hole, a cell that judges the answer, and the solution, folded away as text: so
"Run All Cells" overwrites nothing. Renewing keeps what the reader wrote: of each cell the reader's version stays, unless
only the book changed it; where both did, the reader's stands below the book's. Nothing of the reader's is ever dropped.
"""
import os, re, shutil, sys
from copy import deepcopy
from pathlib import Path

import nbformat
from nbformat.sign import NotebookNotary
from nbformat.v4 import new_code_cell, new_markdown_cell

sys.path.insert(0, str(Path(__file__).resolve().parent))
from dress import directives, number
from nbsync import ROOT, notebooks

READING, NOTARY = ROOT/"reading", ROOT/".venv/share/jupyter"
PLACES = re.compile(r"^(?=\*\*\d+\.\*\* |## )", re.M)        # where an exercise, or a section, begins
MACHINES = re.compile(r"^#\s*\|(?!\s?(?:export|slow|gpu)\b).*\n", re.M)
ASK = re.compile(r"^# (check_\w+\(.*\))\s*\Z", re.M)       # a stub's last line
JUDGE = "from specdec_nb.bench.exercises import assess\nassess(lambda: {})"
SOLUTION = """<details><summary>Solution</summary>

```python
{}
```

</details>"""


class Handout:
    "Walks through a chapter's cells and turns them into the reader's"
    def __init__(self, number):
        self.number, self.figures, self.cells, self.solution = number, 0, [], None
        self.ask = None

    def add(self, c):
        if c.cell_type == "markdown": self.text(c)
        elif c.cell_type == "code": self.code(c, directives(c.source))

    def text(self, c):
        "Text; what follows a solution, up to the next exercise or section, is folded away with it"
        if self.solution is None: return self.cells.append(c)
        after, *rest = PLACES.split(c.source, maxsplit=1)
        self.solution.source = self.solution.source.replace("\n\n</details>", f"\n\n{after.strip()}\n\n</details>") if after.strip() \
            else self.solution.source
        if rest:
            c.source, self.solution = rest[0], None
            self.cells.append(c)

    def code(self, c, d):
        "Code; directives that speak to machines go, a solution becomes text below a cell that judges the reader's"
        if "default_exp" in d or ("hide" in d and self.solution): return
        source = MACHINES.sub("", c.source).strip()
        if "predict" in c.metadata.get("tags", ()): c.outputs = []                  # first a guess, then the run
        if d.get("code-summary") == "Solution":
            self.cells.append(new_code_cell(JUDGE.format(self.ask), id=f"{c.id}-ask"))
            c = self.solution = new_markdown_cell(SOLUTION.format(source), id=c.id)
        else: c.source = source
        if m := ASK.search(source) if d.get("eval") == "false" else None: # a stub: the cell below it asks the judge
            self.ask, c.source = m[1], source[:m.start()].rstrip()
        self.cells.append(c)
        if "fig-cap" in d:
            self.figures += 1
            caption = f"**Figure {self.number}.{self.figures}.** {d['fig-cap']}"
            self.cells.append(new_markdown_cell(caption, id=f"{c.id}-fig"))


def handed_out(key, nb):
    "A notebook of the book as the reader gets it: exercises to be answered, captions below pictures"
    walk = Handout(number(key))
    for c in nb.cells: walk.add(c)
    nb.cells = walk.cells
    return nb


def merged(mine, was, new):
    "The cells of `new`, with what the reader changed in `mine` since the book handed `was` out"
    own, old, out = {c.id: c for c in mine}, {c.id: c.source for c in was}, []
    for c in new:
        m = own.get(c.id)
        if m is None:
            if old.get(c.id) != c.source: out.append(c)          # else the reader threw it away
        elif m.source == c.source or old.get(c.id) == c.source: out.append(m)
        elif m.source == old.get(c.id): out.append(c)
        else: out += [c, second(m, own.keys() | old.keys())]
    there = {c.id for c in out}
    for before, m in zip([None, *mine], mine):                   # cells that the book does not know
        if m.id in there or m.source == old.get(m.id) or m.id in {c.id for c in new}: continue
        at = next((i + 1 for i, c in enumerate(out) if before is not None and c.id == before.id), 0 if before is None else len(out))
        out.insert(at, m)
    return out


def second(cell, taken):
    "The reader's version of a cell, under an id of its own"
    cell.id = next(i for n in range(99) if (i := f"{cell.id[:50]}-mine{n or ''}") not in taken)
    return cell


def renamed(key, handed, book):
    "Where a chapter was when it was handed out: its number may have changed since, its name has not"
    name = re.sub(r"^.*/[w\d]\d[a-z]?_", "", key)
    gone = [k for k in handed if k not in book and re.sub(r"^.*/[w\d]\d[a-z]?_", "", k) == name]
    return key if key in handed or not gone else gone[0]


def write(nb, path, notary):
    "Write a notebook whole or not at all, and trust it: its outputs are the book's or the reader's"
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    nbformat.write(nb, unfinished)
    os.replace(unfinished, path)
    notary.sign(nb)


def renew(root=ROOT, to=READING, notary=None):
    "Make or renew the reader's copy; the chapters in which the reader's own writing was found"
    notary = notary or NotebookNotary(data_dir=str(NOTARY))
    base, book, kept = to/".book", notebooks(root), []
    handed = {p.relative_to(base).with_suffix("").as_posix() for p in base.rglob("*.ipynb")}
    for key, path in book.items():
        new, old = handed_out(key, nbformat.read(path, 4)), renamed(key, handed, book)
        mine, was = to/f"{old}.ipynb", base/f"{old}.ipynb"
        before, clean = nbformat.read(was, 4).cells if was.exists() else [], deepcopy(new)
        if mine.exists():
            if before == new.cells and old == key: continue
            theirs = nbformat.read(mine, 4)
            if [c.source for c in theirs.cells] != [c.source for c in before]: kept.append(key)
            new.cells, new.metadata = merged(theirs.cells, before, new.cells), theirs.metadata
        write(new, to/f"{key}.ipynb", notary)
        write(clean, base/f"{key}.ipynb", notary)
        if old != key:
            for gone in (mine, was): gone.unlink(missing_ok=True)
    for page in (root/"nbs").glob("*.md"): shutil.copyfile(page, to/page.name)
    return kept


if __name__ == "__main__":
    to = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else READING
    NOTARY.mkdir(parents=True, exist_ok=True)
    kept = renew(to=to)
    print(f"{to}: your copy of the book" + (f"; your writing is kept in {', '.join(kept)}" if kept else ""))
