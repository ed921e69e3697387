"""Types: the face's stub is in step with the face; the checker is content with what pyproject.toml lists, and sees a mistake."""
import ast, subprocess, sys

import pytest
import specdec_nb
from conftest import ROOT

STUB = ROOT/"specdec_nb/__init__.pyi"


def offered(source):
    "`{name: (module, name there)}` of a stub's imports: `x as x`, or `x` and then `y = x`"
    body, found, inside = ast.parse(source).body, {}, {}
    for node in body:
        if isinstance(node, ast.ImportFrom):
            for a in node.names: (found if a.asname else inside)[a.asname or a.name] = node.module, a.name
        elif isinstance(node, ast.Assign): found[node.targets[0].id] = inside[node.value.id]
    return found


def test_the_stub_is_the_face():
    assert offered(STUB.read_text()) == specdec_nb._HOME, "specdec_nb/__init__.pyi lacks what _HOME has, or has more"
    tables = {node.target.id for node in ast.parse(STUB.read_text()).body if isinstance(node, ast.AnnAssign)}
    public = {name for name, x in vars(specdec_nb).items() if name.isupper() and isinstance(x, dict) and name[0] != "_"}
    assert tables == {"__version__", "__all__", *public}
    assert offered("from .lm import TableLM as Table") != specdec_nb._HOME


WRONG = {"no such name": ("import specdec_nb\nspecdec_nb.nonsense", "nonsense"),
         "a limit in words": ("from specdec_nb import Stop\nStop(limit='many')", "limit"),
         "no target": ("from specdec_nb import Target, Draft\nt: Target = Draft()", "Target"),
         "a drafter that hears nothing": ("from specdec_nb.roles import DrafterLike\nclass A:\n    def begin(self, ctx, state): ...\n    def propose(self, ctx, rng): ...\n"
                                          "a: DrafterLike = A()", "observe"),
         "scores without a best": ("from specdec_nb.roles import ScoresLike\nclass A:\n    seconds, elapsed = 0., 0.\n    hidden: dict = {}\na: ScoresLike = A()", "ScoresLike"),
         "a law without a state": ("from specdec_nb.roles import LawLike\nclass A:\n    def row(self, s, scores, i): ...\na: LawLike = A()", "LawLike"),
         "a rule of two arguments": ("from specdec_nb import Rule, Verdict\ndef f(draft, p) -> Verdict: ...\nr: Rule = f", "Rule")}


@pytest.mark.slow
def test_the_checker_is_content_and_can_complain(tmp_path):
    def mypy(*files): return subprocess.run([sys.executable, "-m", "mypy", "--cache-dir", tmp_path/"cache", *files], cwd=ROOT, text=True, capture_output=True)
    done = mypy()
    assert done.returncode == 0, done.stdout
    for what, (source, says) in WRONG.items():
        (tmp_path/"wrong.py").write_text(source)
        done = mypy(tmp_path/"wrong.py")
        assert done.returncode == 1 and says in done.stdout, (what, done.stdout)
