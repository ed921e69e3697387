"""Blocks drafted in one pass: what each block sees of the states and of other blocks, and the word before that corrects a place."""
import pytest
import torch

from learners import WORDS, build, network, shaken
from specdec_nb.learned.block import BlockDrafter, BlockLayer
from specdec_nb.roles import as_target


@pytest.fixture(scope="module")
def model(): return build()


def of(model, **options): return shaken(BlockLayer.of(model, WORDS, **options).join(as_target(model)))


@pytest.mark.parametrize("m", [1, 3])
def test_a_block_sees_the_latest_states_and_no_others(model, m):
    "Not what comes later, nor what happened m states ago; whoever may look a state farther back would see that"
    states, anchors, at = torch.randn(1, 7, 96, generator=torch.Generator().manual_seed(1)), torch.tensor([[5, 3]]), torch.tensor([4, 6])
    for size in (m, m + 1):
        net = of(model, reach=3, m=size)
        def seen(block):
            plain = net.places(states, anchors, at)[:, block]
            for u in range(7):
                other = states.clone()
                other[0, u] += 1
                yield not torch.equal(net.places(other, anchors, at)[:, block], plain)
        for block, last in enumerate(at.tolist()): assert [u for u, yes in enumerate(seen(block)) if yes] == list(range(last - size + 1, last + 1))


def test_blocks_are_as_if_alone(model):
    net, states = network("block", model), torch.randn(2, 9, 96, generator=torch.Generator().manual_seed(2))
    anchors, at = torch.tensor([[5, 3, 8], [1, 3, 2]]), torch.tensor([2, 5, 8])
    with torch.no_grad():
        together = net.places(states, anchors, at)
        for t in range(3):
            alone = net.places(states[:, :at[t] + 1], anchors[:, [t]], at[[t]])
            assert torch.allclose(together[:, t], alone[:, 0], atol=1e-5)
            other = net.places(states, (anchors + torch.nn.functional.one_hot(torch.tensor(t), 3)) % 16, at)
            assert [not torch.allclose(other[:, s], together[:, s], atol=1e-5) for s in range(3)] == [s == t for s in range(3)], "the control: its own word is seen"


def test_a_place_is_told_the_word_before_it_or_not(model):
    place, words = torch.randn(4, 32, generator=torch.Generator().manual_seed(3)), torch.tensor([1, 2, 3, 5])
    for markov in (True, False):
        net = of(model, reach=2, m=4, markov=markov)
        assert torch.equal(net.corrected(place, words), net.corrected(place, (words + 1) % 16)) != markov
    begun = BlockLayer.of(model, WORDS, reach=2, m=4).join(as_target(model))
    assert torch.equal(begun.corrected(place, words), place), "it begins as if nobody told it"
    for wrong in (dict(reach=0), dict(m=0)):
        with pytest.raises(ValueError, match="reach >= 1 and m >= 1"): BlockLayer.of(model, WORDS, **wrong)
    assert BlockDrafter(net, k=2).kind == "block" == net.kind
