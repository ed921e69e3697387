"""Batches in lockstep, and bets on what the other machine will say."""
import pytest

from specdec_nb.serving.batch import lockstep_tokens
from specdec_nb.serving.overlap import two_machines


def test_lockstep_and_bets():
    assert lockstep_tokens(.5, 2, 3) == 1 + .5 ** 3 + .5 ** 6
    with pytest.raises(ValueError): lockstep_tokens(.5, 2, 0)
    assert two_machines(.8, 4, .1, 5) > two_machines(.8, 4, .1, 1) > two_machines(.8, 4, .1)
    assert two_machines(.8, 4, .1, 5, right=0.) == two_machines(.8, 4, .1)
