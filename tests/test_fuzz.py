"""The fuzzer: a fixed part of its cases on each run of the tests; and faults planted in rules, caches and drivers, which it must find."""
import json

import pytest

import fuzz
from specdec_nb import Verdict, verify
from specdec_nb.workshop import registry
from specdec_nb.models.slots import RowCache
from specdec_nb.models.kvcache import KVCache

pytestmark = pytest.mark.filterwarnings("ignore")


def test_some_cases(capsys):
    "A minute of the 10 000 cases that `python tools/fuzz.py` goes through by and by; the same ones each time"
    assert fuzz.main(["--seconds", "60", "--seed", "1"]) == 0
    assert int(capsys.readouterr().out.splitlines()[-1].split()[0]) > 3


def test_a_case_is_its_seed():
    assert fuzz.draw(7) == fuzz.draw(7) != fuzz.draw(8)
    assert json.loads(json.dumps(fuzz.draw(7))) == fuzz.draw(7)
    drawn = [fuzz.draw(i) for i in range(600)]
    for name, kinds in dict(family=len(fuzz.KINDS), drafter=len(set(fuzz.NAMES)), form=5, rule=5, process=4, own=2, twice=2, stream=2, told=2, copies=3).items():
        assert len({case[name] for case in drawn}) == kinds, name


BASE = dict(family="llama", own=True, prompts=[[3, 14, 15, 9, 26, 5], [7, 33]], form="left", drafter="wild:true", noise=1, k=None, rule=None,
            seed=None, warp={}, options={"suppress_tokens": [1]}, eos=None, new=20, criterion=None, process=None, twice=False,
            holes=[], strings=None, copies=1, stream=False, told=False, onward=None)


def generous(draft, p, rng):
    "Takes the first guess unseen"
    verdict = verify.verify_walk(draft, p, rng)
    return Verdict.of(draft, (0,), rng.at(1, "target").categorical(p[1])) if len(draft) and not verdict.path else verdict


def first_rows(cache):
    keep = cache.keep
    def wrong(self, rows): keep(self, list(range(len(rows))))
    return wrong


@pytest.mark.parametrize("fault", ["rule", "our cache", "their cache", "a row's neighbour"])
def test_planted_faults_are_found(fault, monkeypatch, capsys):
    "And made small: the failure is a command that fails again"
    case = BASE
    assert fuzz.check(case) is None
    if fault == "rule":
        monkeypatch.setitem(registry._ENTERED, "rules", {"walk": generous})
        case = case | dict(rule="walk")
    if fault == "our cache": monkeypatch.setattr(KVCache, "keep", first_rows(KVCache))
    if fault == "their cache":
        monkeypatch.setattr(RowCache, "keep", first_rows(RowCache))
        case = case | dict(own=False)
    if fault == "a row's neighbour":
        from specdec_nb.models import state
        parted = state.parted
        monkeypatch.setattr(state, "parted", lambda feeds, logits, hidden: parted(feeds, logits, hidden)[::-1] if len({len(f.tokens) for f in feeds}) == 1 else parted(feeds, logits, hidden))
        case = case | dict(drafter="none")
    assert "not" in fuzz.check(case)
    fuzz.report(case, fuzz.check(case))
    small = json.loads(capsys.readouterr().out.rpartition("--case '")[2].strip().rstrip("'"))
    assert fuzz.check(small) and len(json.dumps(small)) < len(json.dumps(case)) and small["new"] <= case["new"]
    assert small["options"] == {} and (fault == "a row's neighbour" or len(small["prompts"]) == 1)
    monkeypatch.undo()
    assert fuzz.check(small) is None


@pytest.mark.parametrize("what,fault", [
    ("streamed", lambda out, streamer: streamer.put(out.sequences[0, -1:])), ("scores that favour", lambda out, streamer: setattr(out, "scores", out.scores[::-1])),
    ("logits", lambda out, streamer: out.logits[0].neg_()), ("second turn", lambda out, streamer: out.past_key_values.rows.neg_())])
def test_faults_in_what_comes_back_are_found(what, fault, monkeypatch):
    case = BASE | dict(prompts=BASE["prompts"][:1], stream=True, told=True, onward=6, form="list", new=9)
    assert fuzz.check(case) is None
    real = fuzz.generate
    def planted(*args, drafter=None, streamer=None, **call):
        out = real(*args, drafter=drafter, streamer=streamer, **call)
        if streamer: fault(out, streamer)
        return out
    monkeypatch.setattr(fuzz, "generate", planted)
    assert what in fuzz.check(case)


def test_a_rule_with_another_law_is_found(monkeypatch):
    "By the surprise of its words, over twenty cases of which none fails by itself; walk's do not surprise"
    case = BASE | dict(prompts=BASE["prompts"][:1], form="list", options={}, told=True, rule="rejection")
    for wrong in (False, True):
        if wrong: monkeypatch.setitem(registry._ENTERED, "rules", {"rejection": generous})
        fuzz.SURPRISE.clear()
        assert not any(fuzz.check(case | dict(seed=seed)) for seed in range(20))
        assert fuzz.surprised() == ["rejection"] * wrong


def test_the_command(monkeypatch, capsys):
    monkeypatch.setattr(fuzz, "check", lambda case: "wrong" if case["new"] > 3 else None)
    assert fuzz.main(["--cases", "2", "--seed", "3"]) == 2 and "case 3000000: wrong" in (out := capsys.readouterr().out)
    assert '"new": 4' in out and "2 cases, 2 failed" in out
    assert fuzz.main(["--replay", "3000000"]) == 1


def test_a_stop_string_that_begins_in_the_prompt():
    "In a padded batch, too: the padding behind a shorter prompt stands between it and what is written"
    case = {"family": "gemma2, window 4", "own": False, "prompts": [[13, 28], [38]], "form": "right", "holes": [], "drafter": "medusa", "noise": 10, "k": None, "rule": None, "seed": None, "warp": {}, "options": {}, "eos": None, "new": 2, "criterion": None, "process": None, "strings": ["jg", "vk", "sl"], "copies": 1, "stream": False, "told": False, "onward": None, "twice": False}
    assert fuzz.check(case) is None and fuzz.check(case | dict(drafter="none")) is None
