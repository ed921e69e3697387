"""The tool that measures all ways to decode: every text with guesses was the plain one."""
import json

from conftest import ROOT
from decoders import MODELS, told
from drafters import Wild
from specdec_nb import Law


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
