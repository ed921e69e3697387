"""Drafts: what is no tree, and how trees and their masks are drawn."""
import numpy as np
import pytest

from pictures import HOSTILE, read
from specdec_nb import Draft
from specdec_nb.draft import show_mask


@pytest.mark.parametrize("call,says", [
    (lambda: Draft([1, 1], [-1, -1]), "token 1"),
    (lambda: Draft([1], [0]), "parent"),
])
def test_clear_errors(call, says):
    with pytest.raises(ValueError, match=says): call()


@pytest.mark.parametrize("draft", [Draft(), Draft.chain([1, 2, 0]), Draft.merge([[0, 0], [0, 1], [1, 1]])[0],
                                   Draft.chain(range(900)), Draft(range(200), [-1] * 200)])
def test_every_draft_shows(draft):
    assert len(draft._repr_html_()) < 10_000 and read(draft._repr_html_())
    read(draft.show(lambda t: HOSTILE).html)
    path = draft.path(len(draft) - 1)
    whole = draft.show(path=path, token=7)
    assert whole.html.count("#3a7d44") == len(path) and whole.html.count("#a65a12") == 1
    assert f"{len(draft) - 60} guesses more" in repr(draft.show()) or len(draft) <= 60


def test_masks():
    draft = Draft.merge([[0, 1], [0, 2], [1]])[0]
    labels = ["…", "a", "b", "c", "d"]
    picture = show_mask(draft.mask(), labels)
    assert repr(picture) == "…; … a; … a b; … a c; … d" and read(picture.html) and len(picture.html) < 10_000
    assert picture.html.count("background") == 5 and picture.html.count("<td") == 25
    assert show_mask(np.ones((2, 5), bool), labels).html.count("background") == 2, "itself: the last columns"
