"""The state of a text in a model: in step with it, whatever was scored for nothing, cut or changed."""
import numpy as np
import pytest

from draftmodels import build
from specdec_nb import Draft, Llama
from specdec_nb.models.state import LlamaTarget
from specdec_nb.roles import as_target, read
from specdec_nb.sampling import Asks


@pytest.fixture(scope="module")
def model(): return build()


@pytest.fixture(scope="module")
def own(model): return Llama.from_hf(model)


@pytest.mark.parametrize("runtime", ["hf", "own"])
def test_a_state_is_in_step_with_any_text(model, own, runtime):
    target, gen, text = as_target(model if runtime == "hf" else own), np.random.default_rng(0), [3, 14, 15]
    state = target.open(text)
    def score(draft): return target.score([(state, draft)])[0]
    for step in range(25):
        for _ in range(gen.integers(0, 3)):                                             # drafts scored for nothing, in whole or grown
            draft = Draft.merge(gen.integers(0, 6, (3, 3)).tolist())[0]
            score(draft.take(range(2)))
            score(draft)
        path = [draft.tokens[i] for i in draft.path(gen.integers(-1, len(draft)))] if step else []
        if step % 10 == 9: text = text[:gen.integers(1, len(text))] + [5]               # the text was changed
        text = text + path + gen.integers(0, 6, gen.integers(0, 3)).tolist()
        state.follow(text)
        if step % 4 == 3: read(state)
        draft = Draft.merge(gen.integers(0, 6, (2, 2)).tolist())[0]
        rows, fresh = score(draft), target.score([(target.open(text), draft)])[0]
        assert abs(rows.rows - fresh.rows).max() < 1e-10 and rows.best(1) == fresh.best(1)
        assert state.length == len(text) - 1 and not state.unread and state.position == len(text)


def test_paths_that_are_kept_go_their_own_ways(own):
    "Several paths of one draft, each a text of its own; the state that they came from stays where it was"
    target = LlamaTarget(own)
    state, draft = target.open([3, 14, 15]), Draft([5, 9, 2, 7], [-1, -1, 0, 2])
    target.score([(state, draft)])
    twins, after = state.retain([3, 1]), Draft([1, 4], [-1, -1])
    for twin, path in zip(twins, ([5, 2, 7], [9])):
        assert twin.tokens == [3, 14, 15, *path] and twin.length == len(twin.tokens) - 1
        mine, fresh = (target.score([(s, after)])[0].rows for s in (twin, target.open(twin.tokens)))
        assert abs(mine - fresh).max() < 1e-10
    assert state.tokens == [3, 14, 15] and state.scored is draft
    stale = target.open([3, 14, 15])
    target.score([(stale, draft)])
    stale.tokens = [*twins[1].tokens]                                                   # the control: the row of another word
    stale.cache.keep([1])
    stale.drop()
    assert abs(target.score([(stale, after)])[0].rows - target.score([(target.open(twins[1].tokens), after)])[0].rows).max() > 1e-3


def test_back_and_apart(own):
    target = LlamaTarget(own)
    state = target.open([3, 14, 15, 9, 26])
    rows = target.score([(state, Draft())])[0].rows
    twin = state.fork()
    state.rewind(2)
    state.follow([3, 14, 8])
    target.score([(state, Draft.chain([1]))])
    assert abs(target.score([(twin, Draft())])[0].rows - rows).max() < 1e-12, "what one does, the other does not see"
    assert state.length == 2 and state.position == 3
    for n in (0, 4):
        with pytest.raises(ValueError, match=f"cannot rewind 3 tokens to {n}"): state.rewind(n)
    with pytest.raises(ValueError, match=r"hidden states 0 to 2, not \[3\]"): target.open([3], Asks(hidden=(1, 3)))
