"""Jacobi drafts are exact under rejection, and under walk with the target's noise; relaxed acceptance is not, and says so."""
from fractions import Fraction

import numpy as np
import pytest
from specdec_nb import Draft, Keyed, Law, TableLM, Trace, generate, law, verify_rejection
from specdec_nb.decode import decode
from specdec_nb.decoding.imagetokens import Jacobi, _moved, lantern, verify_lantern
from specdec_nb.roles import make_drafter
from families import PROMPT, build


def law_of(lm, drafter, n=4, rule="rejection", **more):
    return law(lambda rng: tuple(Trace(decode(lm, drafter, [0], n, rng=rng, rule=rule, **more)).tokens))


@pytest.mark.parametrize("seed", range(4))
def test_exact_by_enumeration(seed):
    lm = TableLM.random(3, 2, seed)
    for drafter in (Jacobi(k=1), Jacobi(k=2, back=2), Jacobi(k=3)): assert law_of(lm, drafter) == lm.law([0], 4)
    warm = dict(law=Law(temperature=Fraction(1, 2)), n=3)
    assert law_of(lm, Jacobi(k=2), **warm) == law_of(lm, "none", **warm)
    assert law_of(lm, Jacobi(k=2), 3, "block") == lm.law([0], 3)


def test_laws_of_another_place_are_no_laws():
    "The negative control: a guess is said to be drawn from the law of the place before"
    lm = TableLM.random(3, 2, 5)
    class Late(Jacobi):
        def begin(self, ctx, state):
            inner = super().begin(ctx, state)
            honest = inner.propose
            def propose(ctx, rng):
                draft = honest(ctx, rng)
                even = np.array([Fraction(1, 3)] * 3)
                return Draft.chain(draft.tokens, [even if i < len(inner.laws) else None for i in range(len(draft))])
            inner.propose = propose
            return inner
    assert law_of(lm, Late(k=2)) != lm.law([0], 4)


def test_shared_noise_gives_plain_s_text_and_more_of_it_a_call():
    lm, calls = TableLM.random(6, 2, 1), {}
    for shared in (False, True):
        traces = [Trace(decode(lm, Jacobi(k=6, shared=shared), [0], 60, rng=Keyed(s))) for s in range(12)]
        assert [t.tokens for t in traces] == [Trace(decode(lm, "none", [0], 60, rng=Keyed(s))).tokens for s in range(12)]
        calls[shared] = sum(t.calls for t in traces)
    assert calls[True] < calls[False] < 720


def test_by_name_on_a_real_architecture():
    model = build("llama")
    options = dict(max_new_tokens=20, do_sample=True, seed=5)
    plain = generate(model, PROMPT, drafter="none", **options)
    for drafter in ("jacobi", "jacobi:shared=true", "jacobi:k=3:back=4"): assert (generate(model, PROMPT, drafter=drafter, **options) == plain).all()
    assert make_drafter("jacobi:back=8").back == 8
    with pytest.raises(ValueError, match="back=0"): make_drafter("jacobi:back=0")


def test_lantern_is_lossy_and_says_so():
    lm = TableLM.random(3, 2, 5)
    true = lm.law([0], 3)
    assert verify_lantern.lossy and not lantern(0).lossy and not lantern(3, 0).lossy
    for rule in (lantern(0), lantern(3, 0)): assert law_of(lm, Jacobi(k=2), 3, rule) == true
    assert law_of(lm, Jacobi(k=2), 3, lantern(2, Fraction(1, 2))) != true
    assert Trace(decode(lm, Jacobi(k=2), [0], 3, rule="lantern")).lossy


def test_mass_moves_from_the_nearest_up_to_the_bound():
    p = [Fraction(1, 8), Fraction(1, 4), Fraction(1, 8), Fraction(1, 2)]
    for x, near, delta, wanted in ((1, 1, Fraction(1, 8), [0, 3, 1, 4]), (1, 2, Fraction(1, 4), [0, 4, 0, 4]), (1, 3, Fraction(1, 2), [0, 4, 0, 4]), (1, 3, 1, [0, 8, 0, 0]),
                                   (3, 3, Fraction(1, 16), [1, 2, 1, 4])):
        assert _moved(p, x, near, delta).tolist() == [Fraction(w, 8) for w in wanted]
    assert callable(verify_rejection)
