"Names: the book's, this process's, and those that installed packages bring, of drafters, rules and targets"
import ast, importlib, re, subprocess, sys

import pytest
import specdec_nb
from conftest import ROOT
from specdec_nb.decode import decode
from specdec_nb.lm import TableLM
from specdec_nb.roles import Drafter, NoDrafter, as_target, make_drafter, register
from specdec_nb.workshop.registry import options_of
from specdec_nb.verify import Trace, make_rule
from specdec_nb.workshop import registry
from specdec_nb.workshop.registry import enter, find, names, resolve

GROUPS = {group.lower(): getattr(specdec_nb, group) for group in ("DRAFTERS", "RULES", "NETWORKS", "TARGETS", "ATTENTION", "PICTURES")}

MODULE = '''
from specdec_nb import Draft, Drafter, verify_walk
from specdec_nb.roles import TableTarget

class Mine(Drafter):
    "Guesses the last token again."
    def __init__(self, k: int = 3): self.k = k
    def propose(self, ctx, rng): return Draft.chain([ctx.tokens[-1]] * self.k)

class Plain:
    def begin(self, ctx, state): pass
    def propose(self, ctx, rng): return Draft.chain([ctx.tokens[-1]])
    def observe(self, step): pass

def rule(draft, p, rng): return verify_walk(draft, p, rng)

class Counter:
    "A model of a kind that nobody has heard of"
    vocab_size = 3

class CounterTarget(TableTarget):
    def __init__(self, model):
        from specdec_nb import TableLM
        super().__init__(TableLM({(): [1, 0, 0], (0,): [0, 1, 0], (1,): [0, 0, 1], (2,): [1, 0, 0]}))
        self.model = model
'''
POINTS = '''[specdec_nb.drafters]
mine = beside_ours:Mine
plain = beside_ours:Plain
broken = beside_ours:Nobody
lookup = beside_ours:Mine
[specdec_nb.rules]
mine = beside_ours:rule
[specdec_nb.targets]
beside_ours.Counter = beside_ours:CounterTarget
'''
PROJECT = '''[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "beside-ours"
version = "1.0"
[project.entry-points."specdec_nb.drafters"]
mine = "beside_ours:Mine"
[project.entry-points."specdec_nb.rules"]
mine = "beside_ours:rule"
[tool.setuptools]
py-modules = ["beside_ours"]
'''
PROGRAM = '''
from specdec_nb import TableLM, Trace, generate
from specdec_nb.decode import decode
model = TableLM({(): [1, 0], (0,): [1, 0], (1,): [0, 1]})
trace = Trace(decode(model, "mine:k=4", [0], 10, rule="mine"))
assert trace.tokens == [0] * 10 and trace.calls == 2, trace
'''


@pytest.fixture
def beside(tmp_path, monkeypatch):
    "A package installed beside ours: its folder"
    about = tmp_path/"beside_ours-1.0.dist-info"
    about.mkdir()
    (about/"METADATA").write_text("Metadata-Version: 2.1\nName: beside-ours\nVersion: 1.0\n")
    (about/"entry_points.txt").write_text(POINTS)
    (tmp_path/"beside_ours.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("beside_ours", None)


@pytest.fixture
def entered(monkeypatch): monkeypatch.setattr(registry, "_ENTERED", {g: dict(t) for g, t in registry._ENTERED.items()})


@pytest.mark.parametrize("group, name", [(g, n) for g, table in GROUPS.items() for n in table])
def test_the_face_says_where_things_are(group, name):
    "Each place exists; a drafter there has the name, and nobody had to register it for that"
    thing = resolve(GROUPS[group][name])
    assert find(group, name) is thing and callable(thing)
    if group == "drafters": assert thing.name == name and issubclass(thing, Drafter)
    if group == "networks": assert thing.kind == name and thing.title
    if group == "targets" and "." in name: resolve(":".join(name.rsplit(".", 1)))      # the model's class exists under its full name


def test_every_registered_class_is_on_the_face():
    for place in {*specdec_nb.DRAFTERS.values()}: resolve(place)
    strangers = {n: c for n, c in registry._ENTERED.get("drafters", {}).items() if c.__module__.startswith("specdec_nb.")}
    assert not strangers


def test_a_package_brings_a_drafter_a_rule_and_a_target_by_name(beside):
    assert {"mine", "plain"} <= set(names("drafters")) and "mine" in names("rules")
    model = TableLM({(): [1, 0], (0,): [1, 0], (1,): [0, 1]})
    trace = Trace(decode(model, "mine:k=4", [0], 10, rule="mine"))
    assert trace.tokens == [0] * 10 and trace.calls == 2
    assert Trace(decode(model, "plain", [0], 10)).calls == 5
    with pytest.raises(ValueError, match="'mine' has no option 'tree'; it has k"): make_drafter("mine:tree=3")
    import beside_ours
    counter = beside_ours.Counter()
    assert Trace(decode(counter, "mine", [0], 4)).tokens == [1, 2, 0, 1] and as_target(counter) is not None


def test_generate_and_the_command_line_know_it(beside, smollm2, capsys):
    from specdec_nb.cli import run_drafters
    model, tokenizer = smollm2
    ids = tokenizer("one two one two one", return_tensors="pt").input_ids
    plain = specdec_nb.generate(model, ids, drafter="none", max_new_tokens=8)
    assert specdec_nb.generate(model, ids, drafter="mine", rule="mine", max_new_tokens=8).tolist() == plain.tolist()
    run_drafters(None)
    listed = capsys.readouterr().out
    assert re.search(r"^mine +Guesses the last token again.\n +needs .*\n +options k=3", listed, re.M) and "\nplain" in listed
    assert re.search(r"^broken +.*beside-ours", listed, re.M), "one that cannot be imported keeps no other from the list"


def test_what_a_package_cannot_do(beside):
    assert make_drafter("lookup").__class__.__module__ == "specdec_nb.drafters.lookup", "the face's names are the book's"
    with pytest.raises(ValueError, match="beside-ours has the drafter 'broken' at beside_ours:Nobody.*AttributeError"): make_drafter("broken")
    with pytest.raises(ValueError, match="unknown drafter 'yours'; known: .*lookup.*mine"): make_drafter("yours")
    with pytest.raises(ValueError, match="unknown rule 'yours'; known: block.*mine.*walk"): make_rule("yours", None)


def test_without_the_package_there_is_no_such_name():
    for call in (lambda: make_drafter("mine"), lambda: make_rule("mine", None)):
        with pytest.raises(ValueError, match="unknown"): call()


def test_registered_here_goes_before_the_book(entered):
    @register("own")
    class Own(NoDrafter): pass
    assert isinstance(make_drafter("own"), Own) and "own" in names("drafters")
    @register("recycling")
    class Better(NoDrafter): pass
    importlib.reload(importlib.import_module("specdec_nb.drafters.lookahead"))
    import specdec_nb.drafters.recycling as book
    enter("drafters", "recycling", book.Recycling)                       # as its chapter does when it is imported
    assert isinstance(make_drafter("recycling"), Better)


def test_targets_go_by_full_names():
    class TableLM: pass                                                  # of that name, and something else
    with pytest.raises(TypeError, match="TableLM is no target"): as_target(TableLM())
    class Llama: pass
    with pytest.raises(TypeError, match="Llama is no target"): as_target(Llama())
    class Child(specdec_nb.TableLM): pass
    child = Child({(): [1, 0]})
    held = as_target(child)
    assert as_target(child) is held and held.model is child


def test_what_is_left_out_has_defaults():
    class Least:
        def begin(self, ctx, state): pass
        def propose(self, ctx, rng): return specdec_nb.Draft()
        def observe(self, step): pass
    drafter = make_drafter(Least())
    assert (drafter.asks, drafter.vocab_size, drafter.learns, drafter.name) == (Drafter.asks, None, False, "Least")
    drafter.bind(None)
    class More(Least):
        learns, vocab_size = True, 7
        def bind(self, target): self.vocab_size = 9
    more = make_drafter(More())
    assert more.learns and more.vocab_size == 7
    more.bind(None)
    assert more.vocab_size == 9, "what the object says now, not what it said first"
    assert make_drafter(more) is more and options_of(NoDrafter).keys() == {"k"}
    for method in ("begin", "propose", "observe"):
        lacking = type("Lacking", (), {m: lambda *_: None for m in ("begin", "propose", "observe") if m != method})
        with pytest.raises(TypeError, match=f"lacks {method}"): make_drafter(lacking())


def importers(root):
    "Files in which a module is imported by name"
    def by_name(node): return isinstance(node, ast.ImportFrom) and any(a.name == "import_module" for a in node.names) \
        or isinstance(node, ast.Attribute) and node.attr == "import_module" or isinstance(node, ast.Name) and node.id == "__import__"
    return {p.relative_to(root).as_posix() for p in root.rglob("*.py") if any(map(by_name, ast.walk(ast.parse(p.read_text()))))}


def test_only_the_registry_imports_by_name(tmp_path):
    assert importers(ROOT/"specdec_nb") == {"workshop/registry.py"}
    for i, line in enumerate(("from importlib import import_module", "import importlib\nimportlib.import_module('os')", "__import__('os')")):
        (tmp_path/f"m{i}.py").write_text(line)
    assert len(importers(tmp_path)) == 3


@pytest.mark.slow
def test_pip_installs_a_drafter(tmp_path):
    "The same with a real installation, into an environment that sees this one's packages"
    package, env = tmp_path/"package", tmp_path/"env"
    package.mkdir()
    (package/"pyproject.toml").write_text(PROJECT)
    (package/"beside_ours.py").write_text(MODULE)
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target", env, package], check=True)
    def run(*path): return subprocess.run([sys.executable, "-c", "import sys; sys.path[1:1] = " + repr(list(map(str, path))) + PROGRAM],
                                          cwd=ROOT, capture_output=True, text=True)
    assert "unknown drafter 'mine'" in run().stderr
    done = run(env)
    assert done.returncode == 0, done.stderr
