"""Prompt lookup: what is proposed, and how several continuations share their weight."""
import pytest

from drafters import proposal
from specdec_nb.drafters.lookup import PromptLookup, blend


def test_blend_is_a_sub_distribution():
    expand = blend([(3, [[1, 2], [1, 3], [4]]), (1, [[1, 2], [7]])])
    law_ = dict(expand(()))
    assert law_[1] == pytest.approx(2 / 3 * 4 / 5 + 1 / 5 * 2 / 3 / 2) and sum(law_.values()) < 1
    assert sum(dict(expand((1,))).values()) < 1 and not expand((9,))


def test_lookup_takes_the_latest_and_may_be_short():
    assert proposal(PromptLookup(k=3), [1, 2, 8, 1, 2, 9, 0, 1, 2]).tokens == (9, 0, 1)
    assert proposal(PromptLookup(k=4), [1, 2, 1, 2]).tokens == (1, 2, 1, 2), "the copy goes on reading itself"
    assert proposal(PromptLookup(), [0, 1, 2, 3]).tokens == (), "no filler where nothing is known"
