"""A chapter's number is its layer: it imports only lower ones. One name, one birthplace. A light face."""
import ast, importlib, re, subprocess, sys
from collections import defaultdict

import nbformat, nbsync, pytest, specdec_nb
from conftest import ROOT
from nbrun import directives

NAME = re.compile(r"(?:\w+/)?(w\d|\d\d[a-z]?)_(\w+)$")           # w: the workshop, which everybody may import


def layer(number):
    "A chapter's place in the order of imports: the workshop first"
    return (int(number[1:]) - 10, "") if number[0] == "w" else (int(number[:2]), number[2:])


def chapters():
    "`{module: (number, notebook)}`: every chapter that exports"
    found = {}
    for key, path in nbsync.notebooks().items():
        sources = [c.source for c in nbformat.read(path, 4).cells if c.cell_type == "code"]
        module = next((d["default_exp"] for s in sources if "default_exp" in (d := directives(s))), None)
        if module: found[f"specdec_nb.{module}"] = layer(NAME.match(key)[1]), path
    return found


def imported(source, module, face):
    "The modules of specdec_nb that `source`, in `module`, imports; a name of the face counts as its home"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import): names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(module.split(".")[:-node.level]) if node.level else ""
            base = ".".join(filter(None, [base, node.module]))
            names = [face.get(a.name, f"{base}.{a.name}") if base == "specdec_nb" else
                     f"{base}.{a.name}" if (ROOT/base.replace(".", "/")).is_dir() else base for a in node.names]
        else: continue
        yield from (n for n in names if n.startswith("specdec_nb."))


def upward(source, module, numbers, face={}):
    "Imports from `source` that do not go to a lower chapter"
    found = imported(source, module, face)
    return [m for m in found if m != module and numbers.get(m, (99, "")) >= numbers[module]]


def code(path):
    "The Python of a notebook, without IPython's magics"
    cells = [c.source for c in nbformat.read(path, 4).cells if c.cell_type == "code"]
    return "\n\n".join(re.sub(r"^(\s*)[%!].*$", r"\1pass", s, flags=re.M) for s in cells if s[:2] != "%%")


CHAPTERS = chapters()
NUMBERS = {module: number for module, (number, _) in CHAPTERS.items()}
SOURCES = {module: (ROOT/module.replace(".", "/")).with_suffix(".py") for module in CHAPTERS}
FACE = {name: f"specdec_nb.{home[0]}" for name, home in specdec_nb._HOME.items()}


def test_numbers_are_unique():
    keys = [k for k in nbsync.notebooks() if k != "index"]
    assert all(NAME.match(k) for k in keys), f"a chapter is called <part>/<two digits>_<module>: {keys}"
    numbers = [layer(NAME.match(k)[1]) for k in keys]
    assert len(set(numbers)) == len(numbers) and numbers == sorted(numbers), "numbers rise through the parts"
    unlike = [m for m, (_, p) in CHAPTERS.items() if m.split(".")[-1] != NAME.match(p.stem)[2]]
    assert not unlike, "a chapter and its module have one name"


@pytest.mark.parametrize("module", CHAPTERS)
def test_imports_go_down(module):
    number, path = CHAPTERS[module]
    assert not upward(SOURCES[module].read_text(), module, NUMBERS, FACE), f"{module} is chapter {number}"
    assert not upward(code(path), module, NUMBERS, FACE), f"a cell of chapter {number}"


def test_an_upward_import_is_seen():
    numbers = {"specdec_nb.workshop.files": layer("w1"), "specdec_nb.lm": layer("01"), "specdec_nb.draft": layer("05"), "specdec_nb.models.hf": layer("14")}
    face = {"generate": "specdec_nb.models.hf"}
    for source in ("from specdec_nb.draft import Draft", "import specdec_nb.draft",
                   "from .draft import Draft", "from specdec_nb import generate",
                   "def f():\n    from specdec_nb.models.hf import generate",
                   "from specdec_nb.nowhere import x"):
        assert upward(source, "specdec_nb.lm", numbers, face), source
    assert upward("from specdec_nb.lm import TableLM", "specdec_nb.workshop.files", numbers, face)
    assert not upward("from specdec_nb.workshop.files import whole", "specdec_nb.lm", numbers, face)
    for source in ("from ..draft import Draft", "from specdec_nb.lm import TableLM", "import numpy"):
        assert not upward(source, "specdec_nb.models.hf", numbers, face), source


def test_who_drafts_does_not_train():
    "Networks and their drafters import nothing of the training, not even when they are loaded from disk and used"
    learned = [m for m in CHAPTERS if m.startswith("specdec_nb.learned.")]
    def training(source, module): return [m for m in imported(source, module, FACE) if m.startswith("specdec_nb.training")]
    assert len(learned) > 4 and not [m for m in learned if training(SOURCES[m].read_text(), m)]
    assert training("from ..training.fit import held_out", learned[0]) and training("import specdec_nb.training.corpus", learned[0])
    program = ("import sys; from specdec_nb.workshop.registry import find, names; from specdec_nb.roles import make_drafter; from specdec_nb.drafters.model import shipped\n"
               "for n in names('networks'): find('networks', n)\n"
               "for n in names('drafters'):\n    if shipped(n) is not None: make_drafter(n)\n"
               "assert 'specdec_nb.learned.eagle' in sys.modules\n"
               "print([m for m in sys.modules if m.startswith('specdec_nb.training')])")
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stdout + done.stderr


def test_a_letter_is_a_layer_of_its_own():
    numbers = {"specdec_nb.a": "14", "specdec_nb.b": "14a", "specdec_nb.c": "14b", "specdec_nb.d": "15"}
    names = [*numbers]
    for i, above in enumerate(names):
        for j, below in enumerate(names):
            assert bool(upward(f"import {below}", above, numbers)) == (j > i), (above, below)


def circles(graph):
    "Strongly connected parts of more than one module (Tarjan), of `{module: modules that it imports}`"
    index, low, stack, found = {}, {}, [], []
    def visit(m):
        index[m] = low[m] = len(index)
        stack.append(m)
        for n in graph.get(m, ()):
            if n not in index: visit(n)
            if n in stack: low[m] = min(low[m], low[n])
        if low[m] == index[m]:
            part = [stack.pop()]
            while part[-1] != m: part.append(stack.pop())
            if len(part) > 1: found.append(sorted(part))
    for m in graph:
        if m not in index: visit(m)
    return found


def test_no_circle_and_one_importer_by_name():
    "The modules as they are, imports inside functions too; names are resolved in the registry alone"
    graph = {m: {n for n in imported(p.read_text(), m, FACE) if n in SOURCES} for m, p in SOURCES.items()}
    assert not circles(graph)
    assert circles({"a": ["b"], "b": ["c"], "c": ["b"]}) == [["b", "c"]]
    by_name = [m for m, p in SOURCES.items() if re.search(r"\bimport_module\(|\b__import__\(", p.read_text())]
    assert by_name == ["specdec_nb.workshop.registry"]


def test_rooms_are_small():
    "No module over 300 lines"
    long = {m for m, p in SOURCES.items() if len(p.read_text().splitlines()) > 300}
    assert not long, long


def test_one_birthplace():
    homes = defaultdict(list)
    for module in CHAPTERS:
        for name in importlib.import_module(module).__all__: homes[name].append(module)
    assert not {n: m for n, m in homes.items() if len(m) > 1}


def test_no_star_imports():
    assert not [m for m, p in SOURCES.items() if re.search(r"^from .* import \*", p.read_text(), re.M)]


@pytest.mark.parametrize("name", specdec_nb.__all__)
def test_face(name):
    "What the face offers is what its home defines, also once that home has been imported"
    home, there = specdec_nb._HOME[name]
    module = importlib.import_module(f"specdec_nb.{home}")
    offered = getattr(specdec_nb, name)
    assert offered is getattr(module, there), f"specdec_nb.{name} is {offered!r}"


def test_former_names_still_work_and_say_so():
    "Each time: an old name is never kept"
    face = importlib.import_module("specdec_nb")
    for old, new in face._FORMER.items():
        with pytest.warns(DeprecationWarning, match=new): assert getattr(face, old) is getattr(face, new)
        assert old not in face.__all__ and old not in vars(face)


def test_face_refuses_unknown_names():
    with pytest.raises(AttributeError, match="nonsense"): specdec_nb.nonsense


def test_import_is_instant():
    program = ("import time, sys; t = time.perf_counter(); import specdec_nb; t = time.perf_counter() - t\n"
               "print(t, sum(m in sys.modules for m in ('torch', 'transformers', 'numpy')))")
    def once(): return subprocess.check_output([sys.executable, "-c", program], cwd=ROOT, text=True).split()
    runs = [once() for _ in range(5)]
    assert min(float(t) for t, _ in runs) <= .3 and {heavy for _, heavy in runs} == {"0"}


EXCEPTION = re.compile(r"^\| `(test_\w+)\.py` \| (.+) \| (\S.+) \|$", re.M)


def elsewhere(table):
    "`{module: the test file where it stands}`: the modules without a file of their name, in a table that gives a reason for each row"
    found = {}
    for file, modules, _ in EXCEPTION.findall(table):
        for part, rest in re.findall(r"\s*(?:(\w+): )?([^;]+)", modules):
            found |= {f"{part}.{m}" if part else m: file for m in re.findall(r"[\w.]+", rest)}
    return found


def homeless(modules, files, table):
    "Modules that no file of their name imports and no row names, or a file and a row; and files that are no module's and that nobody names"
    named, own = elsewhere(table), {m for m in modules if f"specdec_nb.{m}" in files.get(f"test_{m.split('.')[-1]}", ())}
    stray = files.keys() - {f"test_{m.split('.')[-1]}" for m in own} - {*re.findall(r"`(test_\w+)\.py`", table)}
    return sorted({*modules} - own - named.keys() | own & named.keys() | named.keys() - {*modules} | stray | {*named.values()} - files.keys())


def test_every_module_has_its_tests():
    "In a file of its name, or in a row of CONTRIBUTING's table; every other file is named there; helpers are imported from helpers"
    text, paths = (ROOT/"CONTRIBUTING.md").read_text(), [*(ROOT/"tests").glob("test_*.py")]
    files = {p.stem: {*imported(p.read_text(), f"tests.{p.stem}", FACE)} for p in paths}
    assert not homeless([m.removeprefix("specdec_nb.") for m in SOURCES], files, text)
    assert not {*re.findall(r"`(test_\w+)\.py`", text)} - files.keys(), "a file that is not there"
    borrowed = {p.name: {*re.findall(r"^\s*(?:from|import) (test_\w+)", p.read_text(), re.M)} - {p.stem} for p in (ROOT/"tests").glob("*.py")}
    assert not {file: names for file, names in borrowed.items() if names}


def test_a_module_without_tests_is_seen():
    files = {"test_lm": {"specdec_nb.lm"}, "test_hf": {"specdec_nb.models.hf", "specdec_nb.models.slots"}, "test_house": set()}
    table = "| `test_hf.py` | models: slots | one thing |\n- `test_house.py` looks at the whole"
    assert not homeless(["lm", "models.hf", "models.slots"], files, table)
    for modules, rows, says in ((["lm", "models.hf", "models.slots", "chance"], table, ["chance"]), (["lm", "models.hf"], table, ["models.slots"]),
                                (["lm", "models.hf", "models.slots"], table.replace("one thing", ""), ["models.slots"]),
                                (["lm", "models.hf", "models.slots"], table.replace("slots", "slots, hf"), ["models.hf"]),
                                (["lm", "models.hf", "models.slots"], table[:-30], ["test_house"])):
        assert homeless(modules, files, rows) == says, (modules, rows)
    assert homeless(["lm"], {**files, "test_lm": set()}, table)[:2] == ["lm", "models.slots"], "a file that bears the name and looks at something else"
