"""EAGLE-1: told the word or not, and its fixed tree."""
import pytest
import torch

from learners import WORDS, batch_of, build, network, shaken, texts
from specdec_nb import Law
from specdec_nb.decode import decode
from specdec_nb.learned.eagle1 import Eagle1, Eagle1Drafter
from specdec_nb.roles import as_target


@pytest.fixture(scope="module")
def model(): return build()


def test_eagle1_is_told_or_not(model):
    "Not told, the word makes no difference to a row; told, it does; the loss has both parts; figures are of three levels"
    target, text = as_target(model), texts(8)[0]
    for told in (True, False):
        net = shaken(Eagle1.of(model, WORDS, told=told).join(target))
        batch = batch_of(target, net, [text])
        other = {**batch, "tokens": (batch["tokens"] + 1) % 16}
        rows = [next(net.guessed(b))[0] for b in (batch, other)]
        assert torch.equal(*rows) != told
        losses = [float(shaken(Eagle1.of(model, WORDS, told=told, regress=r, share=s).join(target)).eval().loss(batch)[0]) for r, s in ((1, 0), (0, .1), (1, .1))]
        assert losses[2] == pytest.approx(losses[0] + losses[1], rel=1e-5) and min(losses) > 0
        assert len(net.loss(batch)[1]["top1"]) == 3
    with pytest.raises(ValueError, match="mixes words into its residual stream already"): Eagle1.of(model, WORDS, direct=True)


def test_a_fixed_tree_is_filled_in(model):
    "EAGLE-1's: a draft of ranks, the same shape for every text"
    from specdec_nb import Draft
    net, shape = network("eagle", model), Draft([0, 1, 0, 1, 0], [-1, -1, 0, 0, 2])
    steps = list(decode(as_target(model), Eagle1Drafter(net, k=4, tree=shape), [1, 2, 3], limit=40, law=Law(temperature=0)))
    assert {s.draft.parents for s in steps[:3]} == {steps[0].draft.parents} and sorted(steps[0].draft.depth) == sorted(shape.depth)
