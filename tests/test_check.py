"Chapter 42a: the suite passes what is exact, refuses what is not, and says of files what is wrong with them."
from fractions import Fraction

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
    careless = check(lambda: Scout(2, careful=False), n=1)
    [deep] = [f for f in careless.findings if "budget" in f.question]
    assert deep.right is False and "drafts 2 levels" in deep.said and careless.exact, "advice, no proof"


class Habit(Drafter):
    "Draws by the habits of the text; behind one word there are none yet"
    def __init__(self, honest): self.honest = honest
    def propose(self, ctx, rng):
        if ctx.budget.depth < 1: return Draft()
        text, n = list(ctx.tokens), [1] * ctx.vocab_size
        for a, b in zip(text, text[1:]): n[b] += 2 * (a == text[-1])
        law = [Fraction(x, sum(n)) for x in n]
        x = rng.at(0, "draft").categorical(law)
        n[x] = -1
        tokens, parents, probs = [x, n.index(max(n))], [-1, -1], [law if self.honest else [Fraction(1, 3)] * 3, None]
        if ctx.budget.depth > 1: tokens, parents, probs = [*tokens, 0], [*parents, 0], [*probs, None]
        return Draft(tokens, parents, probs)


def test_a_law_that_is_wrong_only_behind_a_longer_text_is_refused():
    assert check(lambda: Habit(True)).exact
    lied = check(lambda: Habit(False))
    assert lied.exact is False and "behind 0 0 another law" in lied.findings[0].said
    assert check(lambda: Habit(False), "walk", 2).exact
    class Old(Habit): # the same, but only where the last three words were these
        def propose(self, ctx, rng):
            self.honest = list(ctx.tokens)[-3:] != [0, 1, 1]
            return super().propose(ctx, rng)
    assert check(lambda: Old(True), "rejection", 2).exact is False


class Counts(Drafter):
    "Draws what its requests said before"
    def __init__(self): self.seen = []
    def propose(self, ctx, rng):
        if ctx.budget.depth < 1: return Draft()
        n = [1 + self.seen.count(t) for t in range(ctx.vocab_size)]
        law = [Fraction(x, sum(n)) for x in n]
        return Draft([rng.at(0, "draft").categorical(law)], [-1], [law])
    def observe(self, step): self.seen += step.verdict.tokens


def test_requests_that_meet_show_in_the_drafts_and_not_in_the_texts():
    class Each(Counts):
        def begin(self, ctx, state): return Each()
    class Learns(Counts): learns = True
    def found(drafter):
        verdict = check(drafter, n=2)
        [asked] = [f for f in verdict.findings if "together" in f.question]
        return verdict.exact, asked.right, asked.said
    assert found(Each)[:2] == (True, True) and "it learns" in found(Learns)[2]
    exact, right, said = found(Counts)
    assert exact and right is False and "request 2 of three, served in turn" in said
    class Shuffled(Counts): # in turn each is well, together they meet
        def begin(self, ctx, state): self.seen = []
    exact, right, said = found(Shuffled)
    assert exact and right is False and "served together" in said


def test_what_cannot_be_enumerated_is_not_known():
    class Own(Drafter):
        gen = np.random.default_rng(0)
        def propose(self, ctx, rng): return Draft.chain(self.gen.integers(0, 3, min(2, ctx.budget.depth)))
    class Lies(Drafter): # with dice of its own, so that nobody can tell
        def propose(self, ctx, rng):
            q = [Fraction(2, 3), Fraction(1, 6), Fraction(1, 6)]
            return Draft([np.random.randint(3)], [-1], [q]) if ctx.budget.depth else Draft()
    class Shared(Counts): # a memory that outlives the object
        all = []
        def __init__(self): self.seen = self.all
    for drafter in (Own, Lies, Shared):
        verdict = check(drafter, n=2)
        assert verdict.exact is None and "same dice" in verdict.findings[0].question and "not known" in repr(verdict)
    def verify_dice(draft, p, rng): return Verdict.of(draft, [], int(np.random.randint(3)))
    assert check(rule=verify_dice, n=1).exact is False, "a text is wrong, whoever else is not asked"
    wide = check(lambda: Sampled(TableLM.random(3, 1, 5), (9,), True), "rejection", 2)
    assert wide.exact is None and any("outcomes" in f.said for f in wide.findings)
    class Wrong(Sampled): # too many outcomes, and a text that is wrong
        def propose(self, ctx, rng): raise ValueError("never mind")
    assert check(lambda: Wrong(TableLM.random(3, 1, 5), (9,), True), "rejection", 2).exact is False


def test_floats_are_read_for_what_they_are():
    class Floats(Drafter):
        def __init__(self, dtype, tilt=0.): self.dtype, self.tilt = dtype, tilt
        def propose(self, ctx, rng):
            if ctx.budget.depth < 1: return Draft()
            q = np.array([.1, .2, .7], self.dtype)
            drawn = np.array([.1 + self.tilt, .2, .7 - self.tilt], self.dtype)
            return Draft([rng.at(0, "draft").categorical(drawn)], [-1], [q])
    for dtype, within, much in ((np.float64, "1e-12", 1e-8), (np.float32, "1e-05", 1e-2)):
        verdict = check(lambda: Floats(dtype), n=2)
        assert verdict.exact and within in verdict.findings[0].said and "fractions" not in verdict.findings[0].said
        assert check(lambda: Floats(dtype, much), "rejection", 2).exact is False
    def verify_floats(draft, p, rng):
        path = []
        while True:
            token = rng.at(len(path), "target").categorical(np.asarray(p[path[-1] + 1 if path else 0], float))
            below = draft.child(path[-1] if path else -1, token)
            if below is None: return Verdict.of(draft, path, token)
            path.append(below)
    assert check(rule=verify_floats, n=1).exact
    class Half(Floats):
        def propose(self, ctx, rng): return Draft([rng.at(0, "draft").categorical(np.array([.1, .2, .2]))], [-1])
    assert check(lambda: Half(np.float64), n=1).exact is False, "that is no law"


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
    (tmp_path/"dice.py").write_text(GOOD.replace("list(ctx.tokens)", "np.random.randint(0, 3, 2)").replace("class", "import numpy as np\nclass"))
    assert main(["check", str(tmp_path/"dice.py")]) == 3
    told = capsys.readouterr()
    assert "dice: not known" in told.out and "is not known" in told.err and "not exact" not in told.err


def test_what_is_no_verdict_is_told_from_one(tmp_path, capsys):
    "A mistyped file, rule, option or number: one line, and a 1; elsewhere bad input stays a 2"
    (tmp_path/"good.py").write_text(GOOD)
    (tmp_path/"bad.py").write_text(BAD)
    (tmp_path/"empty.py").write_text("x = 1")
    for argv in (["none.py"], ["empty.py"], ["bad.py", "--rule", "walk"], ["good.py", "--rule", "no"], ["good.py", "--tokens", "none"], ["good.py", "--tockens", "2"]):
        assert main(["check", str(tmp_path/argv[0]), *argv[1:]]) == 1, argv
        told = capsys.readouterr()
        assert not told.out and told.err.count("\n") == 1 and "exact" not in told.err and "not known" not in told.err
    assert main(["race", "--file", str(tmp_path/"none.py")]) == main(["race", "--tokens"]) == 2
