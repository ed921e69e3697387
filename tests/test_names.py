"""Drafters by name: what is written behind the name is an option, of its type, or refused in words."""
import re

import pytest
import specdec_nb
from specdec_nb.workshop import registry
from specdec_nb.workshop.registry import find
from specdec_nb.roles import Drafter, make_drafter, register
from specdec_nb.workshop.registry import options_of

@pytest.mark.parametrize("name, options", [("lookup", {}), ("lookup:k=3", dict(k=3)), ("lookup:k=3:longest=5", dict(k=3)), ("recycling:least=.2", dict(least=.2)),
                                           ("suffix:k=4:nodes=9", dict(k=4, nodes=9)),
                                           ("lookahead:text=false", dict(text=False)),
                                           ("layerskip:tree=6", dict(tree=6))])                                # it takes what ModelDrafter takes
def test_good_names(name, options):
    drafter = make_drafter(name)
    assert {o: getattr(drafter, o) for o in options} == options


@pytest.mark.parametrize("call, says", [
    (lambda: make_drafter("telepathy"), "unknown drafter 'telepathy'"), (lambda: make_drafter(""), "unknown drafter ''"),
    (lambda: make_drafter("lookup:depth=3"), "no option 'depth'"), (lambda: make_drafter("lookup", depth=3), "no option 'depth'"),
    (lambda: make_drafter("lookup:longest=0"), "shortest"),
    (lambda: make_drafter("tuned:drafter=telepathy"), "telepathy"),
    (lambda: make_drafter("layerskip:options=3"), "no option 'options'"), # **options is no option
    (lambda: make_drafter("tuned", drafter="tuned"), "tuned"),           # of itself, without an end
    (lambda: make_drafter("lookup", k="3"), "k must be a whole number.*'3'"),
    (lambda: make_drafter("lookup", k=2.5), "k must be a whole number.*2.5"),
    (lambda: make_drafter("lookup", k=True), "k must be a whole number.*True"),
    (lambda: make_drafter("lookup:k=abc"), "k must be a whole number.*'?abc"),
    (lambda: make_drafter("lookup:k=2.5"), "k must be a whole number.*2.5"),
    (lambda: make_drafter("lookup:k=nan"), "k must be a whole number.*nan"),
    (lambda: make_drafter("lookup:k="), "k must be a whole number"),
    (lambda: make_drafter("lookup:k"), "'k'.*name=value"),
    (lambda: make_drafter("lookup:"), "name=value"),
    (lambda: make_drafter("lookup:=3"), "name=value"),
    (lambda: make_drafter("lookup:k=3:k=4"), "'k' is given twice"),
    (lambda: make_drafter("recycling:least=abc"), "least must be a number.*abc"),
    (lambda: make_drafter("pool:pool=x"), "pool"),                       # an object is no text
    (lambda: make_drafter("recycling:table=x"), "table"),
    (lambda: make_drafter("lookahead:text=maybe"), "text must be true or false.*maybe"),
])
def test_bad_names_are_refused_in_words(call, says):
    with pytest.raises(ValueError) as e: call()
    assert re.search(says, str(e.value)), str(e.value)


@pytest.mark.parametrize("name", specdec_nb.DRAFTERS)
@pytest.mark.parametrize("option", ["k=abc", "k=2.5", "self=1", "args=1", "kwargs=1", "options=1"])
def test_no_name_is_a_traceback(name, option):
    "Whatever stands behind a name: a drafter, or a ValueError"
    try: make_drafter(f"{name}:{option}")
    except ValueError: pass


@pytest.mark.parametrize("name", specdec_nb.DRAFTERS)
def test_no_option_is_a_traceback(name):
    "Of every option, whatever its kind: text, a fraction, a negative number, what is no number, and nothing"
    for option in options_of(find("drafters", name)):
        for value in ("abc", "2.5", "-1", "nan", "inf", "", "true"):
            try: make_drafter(f"{name}:{option}={value}")
            except (ValueError, OSError): pass


def test_our_own_mistakes_keep_their_traceback():
    class Broken(Drafter):
        def __init__(self, k:int=3): None.missing
    register("broken")(Broken)
    try:
        with pytest.raises(AttributeError): make_drafter("broken")
        with pytest.raises(ValueError, match="no drafter 'broken' can be made with k=3"): make_drafter("broken:k=3")
    finally: registry._ENTERED["drafters"].pop("broken")
