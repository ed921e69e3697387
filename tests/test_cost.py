"""The cost curve that is kept: a bad cache is measured again."""
import json

import pytest

from saved import JUNK
from specdec_nb.cost import cached_cost
from specdec_nb.speedup import CostCurve


class Clock:
    "A target whose calls take what we say"
    def __new__(cls):
        from specdec_nb.roles import TableTarget
        from specdec_nb.lm import TableLM
        from specdec_nb.sampling import Scores
        class Metronome(TableTarget):
            measured = 0
            def score(self, pairs):
                Metronome.measured += 1
                [(_, draft)] = pairs
                return [Scores(super().score(pairs)[0].rows, seconds=.01 + .001 * len(draft))]
        return Metronome(TableLM.random(3, 1, 0))


def damage(path, how):
    good = json.loads(path.read_text())
    if how == "folder":
        path.unlink()
        path.mkdir()
    elif how == "no times": path.write_text(json.dumps({**good, "provenance": {}}))
    elif how == "infinite": path.write_text(json.dumps({**good, "seconds": [float("inf")] * 3}))
    elif how == "times of text": path.write_text(json.dumps({**good, "provenance": {"times": [["a"]] * 3}}))
    elif how == "times missing": path.write_text(json.dumps({**good, "provenance": {"times": [[1.]]}}))
    elif how == "times empty": path.write_text(json.dumps({**good, "provenance": {"times": [[]] * 3}}))
    elif how == "other rows": path.write_text(json.dumps({**good, "rows": [1, 2, 3]}))
    elif how == "text rows": path.write_text(json.dumps({**good, "rows": "123"}))
    elif how == "negative": path.write_text(json.dumps({**good, "seconds": [-1, 1, 2]}))
    else: path.write_bytes(JUNK[how])


@pytest.mark.parametrize("how", ["folder", "no times", "infinite", "times of text", "times missing", "times empty", "other rows", "text rows",
                                 "negative", *JUNK])
def test_a_bad_cache_is_measured_again(tmp_path, how):
    target, sizes = Clock(), dict(context=8, rows=(1, 2, 4), repeats=2)
    first = cached_cost(target, "clock", tmp_path, **sizes)
    [path] = tmp_path.iterdir()
    n = type(target).measured
    assert cached_cost(target, "clock", tmp_path, **sizes) == first and type(target).measured == n, "kept"
    damage(path, how)
    if how == "folder":
        with pytest.warns(UserWarning, match="could not be kept"): again = cached_cost(target, "clock", tmp_path, **sizes)
    else: again = cached_cost(target, "clock", tmp_path, **sizes)
    assert again.seconds == first.seconds and type(target).measured > n
    assert how == "folder" or len(CostCurve.load(path).provenance["times"]) == 3, "and kept in its place"
