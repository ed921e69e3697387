"""The tool that measures all ways to decode: every text with guesses was the plain one."""
import json

from conftest import ROOT
from decoders import MODELS, told
from drafters import Wild
from specdec_nb import Law
from specdec_nb.decoding.beams import beam_search
from specdec_nb.roles import as_target


def test_what_was_measured_of_all_ways():
    "Every text with guesses was the plain one; and the tool counts what it says"
    import ways as tool
    report = json.loads((ROOT/"results/ways.json").read_text())
    assert all(r["identical"] == r["n"] == len(tool.TASKS) for r in report["rows"]) and all(r["asked"] == len(tool.QUESTIONS) for r in report["records"])
    named = {r["way"] for r in report["rows"]}
    assert named == {r["way"] for r in report["records"]} and all({"none", *tool.DRAFTERS} <= {r["drafter"] for r in report["rows"] if r["way"] == way} for way in named)
    for part in ("greedy", "temperature", "top-k", "top-p", "min-p", "typical", "ε", "η", "Mirostat", "repetition", "FSD", "vector FSD", "DoLa", "contrastive search", "contrastive decoding", "beams", "diverse beams", "best of", "self-evaluation"):
        assert any(way.startswith(part) for way in named), part
    assert tool.right("It's 7.", "7|seven") and tool.right("Seven!", "7|seven") and not tool.right("17", "7|seven")
    counted = tool.Counting(MODELS["own"])
    told(counted, Law(temperature=0), Wild(0), n=4)
    assert counted.calls <= 4 < counted.rows


def test_rows_are_those_that_a_model_is_fed():
    "A tree that grows on the last one is fed its new nodes; whoever counts whole trees counts several times as many"
    import ways as tool
    report = json.loads((ROOT/"results/ways.json").read_text())
    assert report["provenance"]["columns"] == tool.COLUMNS and all(r["calls"] <= r["rows"] <= r["nodes"] for r in report["rows"])
    fed, target = [], as_target(MODELS["own"])
    class Fed:
        def __getattr__(self, name): return getattr(target, name)
        def score(self, pairs):
            feeds = [target._feed(s, d) for s, d in pairs if d is not None]
            fed.append(sum(len(f.tokens) - f.unread for f in feeds))
            return target.score(pairs)
    for drafter in ("none", Wild(0)):
        counted = tool.Counting(Fed())
        beam_search(counted, (5, 9, 7, 9, 5), 12, drafter=drafter, width=3)
        assert counted.rows == sum(fed) and counted.nodes > 2 * sum(fed)
        fed.clear()
