"Chapter 42a: the suite passes what is exact, refuses what is not, and says of files what is wrong with them."
import numpy as np
import pytest

from drafters import Sampled
from specdec_nb import Draft, Drafter, TableLM, Verdict
from specdec_nb.bench.check import adapters, check
from specdec_nb.roles import as_target, opened
from specdec_nb.cli import main

GOOD = """
from specdec_nb import Draft, Drafter
class Echo(Drafter):
    def propose(self, ctx, rng): return Draft.chain(list(ctx.tokens)[:ctx.budget.depth])
"""
BAD = """
from specdec_nb import Verdict
def verify_first(draft, p, rng):
    return Verdict.of(draft, [], 0)
"""


def test_a_honest_drafter_and_each_way_to_cheat():
    crude = TableLM.random(3, 1, 5)
    assert check(lambda: Sampled(crude, (1,)), n=2).exact
    class Lying(Sampled):
        def propose(self, ctx, rng):
            draft = super().propose(ctx, rng)
            return Draft(draft.tokens, draft.parents, [q[::-1] for q in draft.probs])
    lied = check(lambda: Lying(crude, (1,)), "rejection", 2)
    assert not lied.exact and lied.findings[0].laws and "due" in repr(lied) and "came" in lied._repr_html_()
    assert check(lambda: Lying(crude, (1,)), "walk", 2).exact


def test_a_drafter_that_fails_is_told_how():
    class Breaks(Drafter):
        def propose(self, ctx, rng): return [1, 2]
    verdict = check(Breaks, n=2)
    assert not verdict.exact and all(f.said for f in verdict.findings)


class Scout(Drafter):
    "Draws from a model of its own, with a state there for each request"
    def __init__(self, k, careful=True): self.model, self.k, self.careful = as_target(TableLM.random(3, 1, 5)), k, careful
    def begin(self, ctx, state):
        mine = Scout(self.k, self.careful)
        mine.state = opened(self.model, ctx.tokens)
        return mine
    def propose(self, ctx, rng):
        self.state.follow(ctx.tokens)
        tokens, probs, s = [], [], ctx.law_state
        for i in range(min(self.k, ctx.budget.depth) if self.careful else self.k):
            rows = yield self.state, Draft.chain(tokens)
            probs.append(ctx.law.row(s, rows, i))
            tokens.append(rng.at(i, "draft").categorical(probs[-1]))
            s = ctx.law.step(s, tokens[-1], rows, i)
        return Draft.chain(tokens, probs)


def test_a_drafter_that_is_made_for_each_request_is_asked_everything():
    found = check(lambda: Scout(2), n=2).findings
    assert [f.right for f in found[:-1]] == [True] * 6, found
    [deep] = [f for f in check(lambda: Scout(2, careful=False), n=2).findings if "budget" in f.question]
    assert deep.right is None and "drafts 2 levels" in deep.said


def test_dice_of_its_own_are_noticed_and_too_many_outcomes_counted():
    class Own(Drafter):
        gen = np.random.default_rng(0)
        def propose(self, ctx, rng): return Draft.chain(self.gen.integers(0, 3, min(2, ctx.budget.depth)))
    assert "dice" in check(Own, "walk", 2).findings[0].question and "as far as" in repr(check(Own, "walk", 2))
    wide = check(lambda: Sampled(TableLM.random(3, 1, 5), (9,), True), "rejection", 2)
    assert any("outcomes" in f.said and f.right is None for f in wide.findings) and "as far as" in repr(wide)


def test_a_rule_that_keeps_a_path_too_long_is_refused():
    def verify_all(draft, p, rng):
        path = [0] if len(draft) else []
        return Verdict.of(draft, path, rng.at(len(path), "target").categorical(p[1 if path else 0]))
    assert not check(rule=verify_all, n=2).exact


@pytest.mark.parametrize("text, says", [("x = 1", "hands in nothing"), ("1/0", "ZeroDivisionError"), (BAD + BAD.replace("first", "second"), "2 rules")])
def test_files_that_hand_in_nothing(tmp_path, text, says):
    (tmp_path/"mine.py").write_text(text)
    with pytest.raises(ValueError, match=says): adapters(tmp_path/"mine.py")


def test_from_a_shell(tmp_path, capsys):
    (tmp_path/"good.py").write_text(GOOD)
    (tmp_path/"bad.py").write_text(BAD)
    assert main(["check", str(tmp_path/"good.py"), "--tokens", "2"]) == 0 and "good: exact" in capsys.readouterr().out
    assert main(["check", str(tmp_path/"bad.py"), "--tokens", "2"]) == 2
    told = capsys.readouterr()
    assert "✗" in told.out and "not exact" in told.err and "Traceback" not in told.err
    assert main(["check", str(tmp_path/"none.py")]) == 2 and main(["check", str(tmp_path/"bad.py"), "--rule", "walk"]) == 2
    assert main(["check", str(tmp_path/"good.py"), "--rule", "no"]) == 2
