"""The law of words that are said or copied: by enumeration over one vocabulary; words, docstrings, the numbers of a source."""
from fractions import Fraction as F

import numpy as np
import pytest

from specdec_nb import Draft, exact_law, verify_walk
from specdec_nb.decoding.copylaw import END, PAD, START, UNKNOWN, Vocabulary, copy_law, documented, split_words
from specdec_nb.sampling import softmax

pytestmark = pytest.mark.filterwarnings("ignore")
PROGRAM = '''
class Box:
    """A box for HTTPHeaders."""
    @property
    def size2D(self):
        """Return the size.

        Of the box."""
        def inner():
            "Inner secret."
            return 1  # a comment
        return inner()
    async def wait(self): "Wait for it."
    def bare(self): return "not a docstring"
'''


def test_docstrings_are_not_in_the_source():
    found = {" ".join(doc): code for code, doc in documented(PROGRAM)}
    assert {*found} == {"return the size .", "wait for it .", "inner secret ."}
    code = found["return the size ."]
    assert not {"secret", "comment", "box", "property"} & {*code} and code[:5] == ["def", "size", "2", "d", "("]
    assert "pass" in found["wait for it ."]
    with pytest.raises(SyntaxError): documented("def f(:")


@pytest.mark.parametrize("text, wanted", [("readLines", "read lines"), ("HTTPServer_v2", "http server v 2"), ("x_1=f(yZ)", "x 1 = f ( y z )"), ("", ""), ("naïve", "na ï ve")])
def test_words(text, wanted): assert " ".join(split_words(text)) == wanted


def test_a_vocabulary_and_the_numbers_of_a_source():
    v = Vocabulary.of([["b", "a", "b"], ["c"]], 6, slots=2)
    assert v.known[4:] == ("b", "a")
    ids, unknown = v.read(["x", "a", "y", "x", "z"])
    assert (ids, unknown) == ([6, 5, 7, 6, UNKNOWN], ["x", "y"]) and v.say(ids, unknown) == "x a y x <unknown>"
    assert v.say([START, 4, END, 5]) == "b" and v.ids(["y", "b", "q"], unknown) == [7, 4, UNKNOWN]
    sources, said = v.batch([(["x", "a"], ["x"]), (["b"], ["x", "b", "a"])], reads=2, writes=3)
    assert sources.tolist() == [[6, 5], [4, PAD]] and said.tolist() == [[6, END, -100], [UNKNOWN, 4, END]]


def joined(law, names):
    "A law of outcomes as a law of what they read as"
    return {w: sum((x for x, n in zip(law, names) if n == w), F(0)) for w in {*names}}


@pytest.mark.parametrize("seed", range(3))
def test_one_vocabulary_by_enumeration(seed):
    "Over one vocabulary the law of texts is the mixture's, whoever drafts; with places apart it is another at every temperature but 1"
    gen = np.random.default_rng(seed)
    def law(n): return [F(int(w), int(weights.sum())) for weights in [gen.integers(1, 6, n)] for w in weights]
    p, a, source, gate = law(4), law(4), [int(x) for x in gen.integers(0, 5, 4)], F(1, 2)
    source[0] = source[1]                                        # a word that stands in the source twice
    row, apart, names = copy_law(p, a, source, gate, 1), np.array([*((1 - gate)*np.array(p)), *(gate*np.array(a))]), [0, 1, 2, 3, *source]
    assert sum(row) == 1 and joined(apart, names) == {w: row[w] for w in {*names}}
    for t in (F(1), F(1, 2)):
        def sharp(row, t=t): return softmax(row, t)
        for draft in (Draft(), Draft.chain([source[0]]), Draft.merge([[w] for w in range(4)])[0]):
            one = exact_law(lambda rng: verify_walk(draft, [sharp(row)]*(len(draft) + 1), rng).tokens[0])
            assert one == {w: x for w, x in enumerate(sharp(row)) if x}
        two = joined(sharp(apart), names)
        assert ({w: x for w, x in two.items() if x} == one) is (t == 1)
