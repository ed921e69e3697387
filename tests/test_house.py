"""Text = notebooks = package = README; clean, small, without errors or traces of a machine."""
import ast, re, subprocess, sys, tomllib
from importlib.machinery import PathFinder
from pathlib import Path

import jupytext, nbformat, nbrun, nbsync, pytest, readme, reflow
from conftest import ROOT


def files():
    "What is, or could be, committed"
    names = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, text=True, check=True,
                           capture_output=True).stdout.splitlines()
    return [ROOT/n for n in names if (ROOT/n).is_file()]


def python(folder): return {p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*.py")}


# -- the checkout --------------------------------------------------------------------------------------

def test_text_is_notebooks():
    assert not nbsync.check(), "\n".join(nbsync.check())


def test_notebooks_are_clean(copy, tool):
    before = {k: p.read_text() for k, p in nbsync.notebooks(copy).items()}
    assert tool("nbdev_clean", cwd=copy).returncode == 0
    changed = [k for k, p in nbsync.notebooks(copy).items() if p.read_text() != before[k]]
    assert before and not changed, f"store outputs with tools/nbrun.py --write, or run nbdev_clean: {changed}"


def test_notebooks_are_package(copy, tool):
    package = python(ROOT/"specdec_nb")
    for p in (copy/"specdec_nb").rglob("*.py"):
        if p != copy/"specdec_nb/__init__.py": p.unlink()
    done = tool("nbdev_export", cwd=copy)
    assert done.returncode == 0, done.stderr
    fresh = python(copy/"specdec_nb")
    assert sorted(package) == sorted(fresh), "a module without a chapter, or a chapter that was not exported"
    assert not [f for f in package if package[f] != fresh[f]], "run nbdev_export"


def test_index_lists_every_chapter():
    index = nbsync.texts()["index"].read_text()
    assert not [k for k in nbsync.notebooks() if k != "index" and f"]({k}.ipynb)" not in index]


def test_readme_is_index():
    assert not readme.stale(), "run tools/readme.py"


def test_no_stored_errors():
    cells = [(k, c) for k, p in nbsync.notebooks().items() for c in nbformat.read(p, 4).cells]
    assert not [(k, c.id) for k, c in cells if "raises-exception" not in c.metadata.get("tags", [])
                and any(o.output_type == "error" for o in c.get("outputs", []))]


def test_ruff(tool):
    done = tool("ruff", "check", "--no-cache", ".", cwd=ROOT)
    assert done.returncode == 0, done.stdout


def test_small_files():
    big = {str(p.relative_to(ROOT)): p.stat().st_size for p in files() if "weights" not in p.parts}
    assert not {p: size for p, size in big.items() if size > 1_000_000}


def test_no_machine_paths():
    machine = re.compile(r"/(?:home|root|Users|tmp)/\w")
    bad = [str(p.relative_to(ROOT)) for p in files()
           if p.suffix in {".py", ".md", ".ipynb", ".toml", ".ini", ".txt", ".yml", ""}
           and machine.search(p.read_text(errors="ignore"))]
    assert not bad


def test_pins():
    pins = (ROOT/"constraints.txt").read_text()
    names = [re.sub(r"[-_.]+", "-", n).lower() for n in re.findall(r"^([\w.-]+)==[\w.]+$", pins, re.M)]
    lines = [line for line in pins.splitlines() if not line.startswith("#")]
    assert len(names) == len(lines), "every line is name==version, without a local version or an address"
    project = tomllib.loads((ROOT/"pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *sum(project["optional-dependencies"].values(), [])]
    missing = {n for w in wanted if (n := re.match(r"[\w-]+", w)[0].lower().replace("_", "-")) not in names}
    assert not missing, f"not pinned in constraints.txt: {missing}"


# -- the tools -----------------------------------------------------------------------------------------

TEXT = """\
---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: python3
  language: python
  name: python3
---

# Sample

```{code-cell}
print(1 + 1)
object()
```

```{code-cell}
:tags: [timing]

import time; time.time_ns()
```

```{code-cell}
#| eval: false
raise ValueError
```

```{code-cell}
print(2 * 3)
```
"""


@pytest.fixture
def sample(tmp_path):
    "A book of one chapter: its root, text and notebook"
    (tmp_path/"nbs/_src/1_part").mkdir(parents=True)
    for f in ("settings.ini", "jupytext.toml"): (tmp_path/f).write_text((ROOT/f).read_text())
    text, nb = tmp_path/"nbs/_src/1_part/01_sample.md", tmp_path/"nbs/1_part/01_sample.ipynb"
    text.write_text(TEXT)
    nbsync.to_notebook("1_part/01_sample", text, nb, tmp_path)
    return tmp_path, text, nb


def test_nbsync_sees_every_difference(sample):
    root, text, nb = sample
    assert nbsync.check(root=root) == []
    for old, new in [("1 + 1", "1 + 2"), ("[timing]", "[slow]"), ("# Sample", "# Simple"),
                     ("```{code-cell}\n#|", "```\n#|")]:
        text.write_text(TEXT.replace(old, new))
        assert "01_sample" in nbsync.check(root=root)[0], (old, new)
    nb.unlink()
    assert "no notebook" in nbsync.check(root=root)[0]


def test_nbsync_keeps_ids_and_drops_stale_outputs(sample):
    root, text, path = sample
    nb = nbformat.read(path, 4)
    for c in nb.cells:
        if c.cell_type == "code": c.outputs = [nbformat.v4.new_output("stream", text="kept\n")]
    nbsync.save(nb, path, root)
    edited = TEXT.replace("2 * 3", "2 * 4").replace("# Sample", "# Sample\n\nMore.\n\n+++\n\nAnd more.")
    text.write_text(edited)
    nbsync.to_notebook("1_part/01_sample", text, path, root)
    new = nbformat.read(path, 4)
    was, now = ([c for c in n.cells if c.cell_type == "code"] for n in (nb, new))
    assert [c.id for c in was] == [c.id for c in now]
    assert [len(c.outputs) for c in now] == [1, 1, 1, 0]
    assert len({c.id for c in new.cells}) == len(new.cells) == len(nb.cells) + 1


def test_nbsync_back_to_text(sample):
    root, text, path = sample
    nb = nbformat.read(path, 4)
    nb.cells[-2].source = "print(2 * 5)"             # the last leads to the neighbours
    nbsync.save(nb, path, root)
    nbsync.to_text(path, text, root)
    assert nbsync.check(root=root) == [] and text.read_text() == TEXT.replace("2 * 3", "2 * 5")


def test_nbrun_compares_outputs(sample):
    path = sample[2]
    fresh = nbrun.execute(path)
    nbrun.store(fresh, path)
    assert nbrun.run(path)[0] == "", "a fresh run equals itself, addresses and timing cells excepted"
    first, timing, unrun, last = (c for c in nbformat.read(path, 4).cells if c.cell_type == "code")
    assert first.outputs[0].text == "2\n" and timing.outputs and not unrun.outputs and last.outputs
    for doctor in (lambda c: c.outputs.pop(), lambda c: c.outputs[0].update(text="3\n"),
                   lambda c: c.outputs.clear()):
        stored = nbformat.read(path, 4)
        doctor(stored.cells[1])
        [problem] = nbrun.compare(stored, fresh)
        assert "code cell 1" in problem
    stored.cells[1].source += "\n1/0"
    nbsync.save(stored, path, sample[0])
    assert "ZeroDivisionError" in nbrun.run(path)[0]


def test_nbrun_drawings():
    def svg(x):
        drawing = f"<svg><path id='p{hash(x) % 10**10:010}' d='M {x} 2'/></svg>"
        return [nbformat.v4.new_output("display_data", {"image/svg+xml": drawing})]
    assert nbrun.difference(svg("10.0001"), svg("10.0002")) == ""
    assert nbrun.difference(svg("10.0001"), svg("11.0001")) != ""


def test_nbrun_sees_what_stands_far_to_the_right():
    "Drawings and tables are one long line"
    def page(end): return [nbformat.v4.new_output("display_data", {"text/html": f"<p>{'x' * 999}{end}</p>"})]
    assert nbrun.difference(page("one"), page("one")) == "" and "two" in nbrun.difference(page("one"), page("two"))


def test_nbrun_time_limit(sample):
    root, text, path = sample
    text.write_text(TEXT.replace("print(1 + 1)", "import time; time.sleep(30)"))
    nbsync.to_notebook("1_part/01_sample", text, path, root)
    assert "CellTimeoutError" in nbrun.run(path, cell_timeout=1)[0]


def test_forked_kernels_are_fresh(sample):
    "What one leaves behind the next does not find; a process of its own would have the same folder, path and environment"
    root, text, path = sample
    text.write_text(TEXT.replace("print(1 + 1)", """import os, sys, torch
print(hasattr(torch, "left"), os.getpid() == os.getsid(0), os.getcwd(), sys.path,
      sorted((k, v) for k, v in os.environ.items() if not k.startswith("JPY")))
torch.left = True"""))
    nbsync.to_notebook("1_part/01_sample", text, path, root)
    first, second, own = (nbrun.execute(path, alone=alone).cells[1].outputs[0].text for alone in (False, False, True))
    assert first.startswith("False True") and first == second == own
    client = nbrun.Client(nbformat.read(path, 4), kernel_name="python3")
    assert client.create_kernel_manager().provisioner, "the first two were forks"


def test_forked_kernels_load_models_as_a_reader_does(sample):
    "No function of the package is replaced in a fork, and no model is there before it is asked for"
    root, text, path = sample
    text.write_text(TEXT.replace("print(1 + 1)", """import gc, torch
from specdec_nb.models import hub, native, state
loaders = hub.load_hf, state.load_hf, native.load_hf, native.load, state.load_llama
print([(f.__module__, type(f).__name__, hasattr(f, "__wrapped__")) for f in loaders],
      sum(x.numel() for x in gc.get_objects() if issubclass(type(x), torch.Tensor)) > 1e6)"""))
    nbsync.to_notebook("1_part/01_sample", text, path, root)
    fork, own = (nbrun.execute(path, alone=alone).cells[1].outputs[0].text for alone in (False, True))
    assert fork == own and "True" not in fork and fork.rstrip().endswith("] False"), (fork, own)


def test_no_tool_has_the_name_of_a_package():
    "tools/ is on the path of whatever imports one: what stands there would be found in a package's place"
    elsewhere = [p for p in sys.path if Path(p).resolve() != ROOT/"tools"]
    def taken(name): return name in sys.stdlib_module_names or PathFinder.find_spec(name, elsewhere) is not None
    assert not [p.stem for p in (ROOT/"tools").glob("*.py") if taken(p.stem) or p.stem == "kernels"]       # transformers asks for `kernels`
    assert taken("json") and taken("jupyter_client") and not taken("nbsync")


def test_readme_writes_plain_markdown():
    text = TEXT.replace("# Sample", "See [one](1_part/01_sample.ipynb), {doc}`notation`.")
    nb = jupytext.reads(text, fmt="md:myst")
    nb.cells[1].outputs = [nbformat.v4.new_output("stream", text="2\n")]
    text, images = readme.readme(nb)
    assert "[one](nbs/1_part/01_sample.ipynb), notation." in text and "```text\n2\n```" in text
    assert not images


def test_reflow_changes_no_program():
    "On every text of the book: fewer long lines, none of them longer, the same programs; and it is done when it is done"
    for key, path in nbsync.texts().items():
        for cell in reflow.CELL.findall(path.read_text()):
            new = reflow.reflowed(cell)
            old, short = (sum(len(line) > reflow.WIDTH for line in s.split("\n")) for s in (cell, new))
            if new == cell: continue
            assert ast.dump(ast.parse(new)) == ast.dump(ast.parse(cell)) and short <= old, (key, cell)
            assert reflow.reflowed(new) == new, (key, new)


def test_reflow_breaks_where_a_reader_would():
    name, other = "a" * 28, "b" * 28
    assert reflow.broken(f"    if {name} is None: raise ValueError('{other}' + '{other}{other}')") == [f"    if {name} is None:", f"        raise ValueError('{other}' + '{other}{other}')"]
    assert reflow.broken(f"x = f({name}, g({other}, {name}), {other})") == [f"x = f({name}, g({other}, {name}),", f"      {other})"]
    assert reflow.broken(f"x = [{name} + {other} for {name}, {other} in zip(xs, ys)]") == [f"x = [{name} + {other}", f"     for {name}, {other} in zip(xs, ys)]"]
    for left in (f"def f({name}, # {other} {other}", f"    {name}:int = 3 # {other} {other} {other}", f"x, y = f({name}, {name}), {name} + {other}", f'    "{name} {name} {name} {name}"'):
        assert reflow.broken(left) == [left], left


def test_outputs_survive_new_line_breaks(sample):
    root, text, path = sample
    nb = nbformat.read(path, 4)
    for c in nb.cells:
        if c.cell_type == "code": c.outputs = [nbformat.v4.new_output("stream", text="kept\n")]
    nbsync.save(nb, path, root)
    text.write_text(TEXT.replace("print(2 * 3)", "print(2 *\n      3)").replace("print(1 + 1)", "print(1 + 2)").replace("#| eval: false\nraise", "#| eval: true\nraise"))
    nbsync.to_notebook("1_part/01_sample", text, path, root)
    assert [len(c.outputs) for c in nbformat.read(path, 4).cells if c.cell_type == "code"] == [0, 1, 0, 1]
