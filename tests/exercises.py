"""The book's exercises, and chapters that run only what somebody asks for.

An exercise is a text under `## Exercises` that begins with its number, and after it three cells: the judge (it defines `check_…`),
the stub (`#| eval: false`) and the solution (folded), which is judged in the cell that defines it.
"""
import ast, linecache, os, re, symtable, sys, types
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbrun import directives
from nbsync import notebooks

NUMBER = re.compile(r"^\*\*(\d+)\.\*\* ", re.M)


@dataclass(frozen=True)
class Exercise:
    "Where the parts of an exercise stand: the indices of its cells"
    path: Path
    number: int
    check: int | None
    stub: int | None
    solution: int | None
    judge: str | None                                           # the name of its `check_…`

    def __str__(self): return f"{self.path.stem[:2]}.{self.number}-{(self.judge or 'nobody').removeprefix('check_')}"


def exercises(path):
    "The exercises of a notebook, in order"
    found, here, number, parts = [], False, None, {}
    def close():
        if number: found.append(Exercise(path, number, *(parts.get(k) for k in ("check", "stub", "solution", "judge"))))
    for i, cell in enumerate(nbformat.read(path, 4).cells):
        if cell.cell_type == "markdown":
            for part in re.split(r"^(?=\*\*\d+\.\*\* |## )", cell.source, flags=re.M):
                m = NUMBER.match(part)
                if part.startswith("## ") or here and m:
                    close()
                    number, parts = None, {}
                if part.startswith("## "): here = part.startswith("## Exercises")
                elif here and m: number = int(m[1])
        elif number:
            ds, judge = directives(cell.source), re.search(r"^def (check_\w+)", cell.source, re.M)
            if ds.get("eval") == "false": parts.setdefault("stub", i)
            elif ds.get("code-summary") == "Solution": parts.setdefault("solution", i)
            elif judge: parts |= {"check": i, "judge": judge[1]} if "check" not in parts else {}
    close()
    return found


def everything(): return [e for path in notebooks().values() for e in exercises(path)]


# -- what a statement reads and binds ------------------------------------------------------------------

def read(statement):
    "The global names that a statement uses, its functions' bodies included"
    def names(table, top):
        for s in table.get_symbols():
            if s.is_referenced() and (top or s.is_global()): yield s.get_name()
        for child in table.get_children(): yield from names(child, False)
    return {*names(symtable.symtable(ast.unparse(statement), "cell", "exec"), True)}


def now(node):
    "The nodes of a statement that run when it runs: not the bodies of functions"
    yield node
    if not isinstance(node, (ast.FunctionDef, ast.Lambda)):
        for child in ast.iter_child_nodes(node): yield from now(child)


def bound(statement):
    "The global names that a statement binds, or changes by an assignment into them"
    top = symtable.symtable(ast.unparse(statement), "cell", "exec")
    found = {s.get_name() for s in top.get_symbols() if s.is_assigned() or s.is_imported() or s.is_namespace()}
    for node in now(statement):
        if isinstance(node, (ast.Attribute, ast.Subscript)) and isinstance(node.ctx, ast.Store):
            while isinstance(node, (ast.Attribute, ast.Subscript)): node = node.value
            if isinstance(node, ast.Name): found.add(node.id)
    return found


class Chapter:
    "The names of a notebook's cells up to an exercise's solution: a cell runs when one of its names is asked for, after those that it reads from"
    def __init__(self, exercise):
        self._path, self._done, self._end = exercise.path, set(), exercise.solution
        self._cells = {}
        for i, cell in enumerate(nbformat.read(exercise.path, 4).cells[:exercise.solution + 1]):
            if cell.cell_type != "code" or directives(cell.source).keys() & {"gpu", "slow"}: continue
            if directives(cell.source).get("eval") != "false": self._cells[i] = cell.source
        self._trees = {i: ast.parse(source).body for i, source in self._cells.items()}
        self._binds = {i: {n for s in body for n in bound(s)} for i, body in self._trees.items()}
        self._module = types.ModuleType(f"chapter_{exercise.path.stem}")
        self._module.display = lambda *_: None
        sys.modules[self._module.__name__] = self._module             # dataclasses look themselves up there

    def _before(self, name, end):
        "The cell that makes a name what it is at cell `end`: the last before it that binds it; for what a function calls later, the next"
        before, after = ([i for i in self._cells if name in self._binds[i] and (i < end) == b] for b in (True, False))
        return before[-1] if before else after[0] if after else None

    def _needed(self, i, seen):
        "Cell `i` and all that it needs"
        if i is None or i in seen: return seen
        seen.add(i)
        known = set()
        for statement in self._trees[i]:
            late = isinstance(statement, (ast.FunctionDef, ast.ClassDef)) and self._binds[i] or set()
            for name in read(statement) - known - late: self._needed(self._before(name, i), seen)
            known |= bound(statement)
        return seen

    def _run(self, i):
        for j in sorted(self._needed(i, set()) - self._done):
            self._done.add(j)
            file = f"<{self._path.stem}, cell {j}>"
            linecache.cache[file] = len(self._cells[j]), None, self._cells[j].splitlines(True), file
            here = os.getcwd()
            os.chdir(self._path.parent)
            try: exec(compile(self._cells[j], file, "exec"), self._module.__dict__)
            finally: os.chdir(here)

    def __getattr__(self, name):
        if name.startswith("__"): raise AttributeError(name)
        i = self._before(name, self._end + 1)
        if i is None or i > self._end: raise AttributeError(f"no cell of {self._path.stem} up to cell {self._end} binds {name!r}")
        if i not in self._done: self._run(i)
        return getattr(self._module, name)
