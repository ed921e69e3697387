"""Judges of a model that is served: whether it sees ahead, and whether company moves it."""
import pytest

from learners import build
from specdec_nb.models.llama import Llama
from specdec_nb.models.state import LlamaTarget
from specdec_nb.serving.judge import moved_by_company, seen_ahead

TEXT = [3, 14, 15, 9, 2, 6, 5, 3, 5]


@pytest.fixture(scope="module")
def model(): return build()


def test_who_sees_ahead_is_seen(model):
    class Peeking:
        def __call__(self, tokens):
            out = model(tokens)
            out.logits = out.logits + .01 * model(tokens.flip(1)).logits.flip(1)
            return out
    assert seen_ahead(model, TEXT, 1) == 0 < seen_ahead(Peeking(), TEXT, 1) < 1
    assert seen_ahead(Peeking(), TEXT, TEXT[-1]) == 0, "the same word is no difference"


def test_who_is_moved_by_company_is_seen(model):
    class Crowded(LlamaTarget):
        def forward(self, feeds):
            return [(None if rows is None else rows + .01 * (len(feed.tokens) - feed.unread), hidden) for feed, (rows, hidden) in zip(feeds, super().forward(feeds))]
    own = Llama.from_hf(model)
    assert moved_by_company(own, TEXT) < 1e-12 < .009 < moved_by_company(Crowded(own), TEXT)
    assert moved_by_company(Crowded(own), TEXT, 1) == 0, "alone is alone"
