"""Rules that change the law say so, and are exact where there is only one word."""
import pytest

from drafters import Sampled
from enumeration import texts
from specdec_nb import Law, TableLM, Trace
from specdec_nb.decode import decode
from specdec_nb.trees.blocks import verify_block, verify_traversal
from specdec_nb.trees.lossy import lenient, verify_lenient, verify_typical
from specdec_nb.trees.multidraft import verify_kseq
from specdec_nb.verify import make_rule

LOSSLESS = ["kseq", "block", "traversal"]


def test_rules_are_found_by_name_and_lossy_ones_say_so():
    home = dict(kseq=verify_kseq, block=verify_block, traversal=verify_traversal, typical=verify_typical, lenient=verify_lenient)
    assert all(make_rule(name, None) is rule for name, rule in home.items())
    assert [getattr(make_rule(name, None), "lossy", False) for name in (*LOSSLESS, "typical", "lenient")] == [False] * 3 + [True] * 2
    model = TableLM.random(3, 1, 1)
    for name in ("typical", "lenient"): assert Trace(decode(model, "lookup", [0, 1, 0], limit=9, rule=name)).lossy
    with pytest.raises(ValueError, match="block.*traversal"): make_rule("hope", None)
    for l in (0, 1.5):
        with pytest.raises(ValueError, match="lenience"): lenient(l)


def test_the_lossy_rules_are_exact_on_points():
    model, crude = TableLM.random(3, 2, 2), TableLM.random(3, 1, 50)
    plain = texts(model, "none", 3, law=Law(temperature=0))
    for rule in ("typical", "lenient"): assert texts(model, Sampled(crude, (1, 1)), 3, law=Law(temperature=0), rule=rule) == plain
