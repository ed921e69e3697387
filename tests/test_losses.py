"""The losses are their definitions, least where drafter and target agree; and what is told of a guess."""
import numpy as np
import pytest
import torch

from specdec_nb.learned.losses import LOSSES, feature_loss, forward_kl, judge

GEN = np.random.default_rng(2)


def by_hand(name, q, p):
    m = (p + q) / 2
    def kl(a, b): return sum(x * np.log(x / y) for x, y in zip(a, b) if x)
    return {"forward_kl": kl(p, q), "reverse_kl": kl(q, p), "jensen_shannon": (kl(p, m) + kl(q, m)) / 2, "variation": abs(p - q).sum() / 2}[name]


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_its_definition_and_least_where_both_agree(name):
    apart = 0
    for _ in range(20):
        p, q = GEN.dirichlet(np.ones(6), 2)
        logits = torch.tensor(np.log(q) + GEN.normal(), requires_grad=True)                    # a constant is no difference
        assert LOSSES[name](logits, torch.tensor(p)).item() == pytest.approx(by_hand(name, q, p), abs=1e-9)
        apart += abs(by_hand(name, q, p) - by_hand(name, p, q)) > 1e-3
        same = torch.tensor(np.log(p), requires_grad=True)
        value = LOSSES[name](same, torch.tensor(p))
        value.backward()
        assert abs(value.item()) < 1e-9 < by_hand(name, q, p)
        assert name == "variation" or float(same.grad.abs().max()) < 1e-9, "nothing to learn there"
    assert (apart > 10) == (name in ("forward_kl", "reverse_kl")), "the control: the two directions are told apart"


def test_rows_of_many_places_are_each_their_own():
    p, logits = torch.tensor(GEN.dirichlet(np.ones(5), (2, 3))), torch.tensor(GEN.normal(size=(2, 3, 5)))
    for loss in LOSSES.values():
        whole = loss(logits, p)
        assert whole.shape == (2, 3) and torch.allclose(whole[1, 2], loss(logits[1, 2], p[1, 2]))


def test_states_and_figures():
    ours, theirs = torch.tensor([[0., 3.], [1., 1.]]), torch.tensor([[.5, 0.], [1., 1.]])
    assert feature_loss(ours, theirs).tolist() == [pytest.approx((.125 + 2.5) / 2), 0]
    p = torch.tensor([[.7, .3], [.2, .8], [.6, .4], [.9, .1]])
    logits = torch.tensor([[.5, .5], [.1, .9], [.3, .7], [.9, .1]]).log() + 3
    said = judge(logits, p)
    assert said["top1"] == pytest.approx(3 / 4) and said["overlap"] == pytest.approx((.8 + .9 + .7 + 1) / 4)
    learnt = torch.cat([logits] * 4).requires_grad_()
    assert judge(learnt, torch.cat([p] * 4)) == dict(top1=1., overlap=pytest.approx(.8)), "of what is learnt from, every eighth"


@pytest.mark.parametrize("shape", [(50,), (7, 50), (3, 11, 50), (0, 50), (33, 50)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_gradient_that_is_written_down_is_the_definition_s(shape, dtype):
    "Row by row, each weighted otherwise; p sums to less than one and is zero in places"
    gen = torch.Generator().manual_seed(0)
    p = (3 * torch.randn(shape, generator=gen)).softmax(-1) * .9 * (torch.rand(shape, generator=gen) > .2)
    z, weights = torch.randn(shape, generator=gen).to(dtype), torch.rand(shape[:-1], generator=gen)
    p = p.to(torch.promote_types(dtype, torch.float32))
    def both(loss):
        logits = z.clone().requires_grad_()
        made = loss(logits, p)
        (made * weights).sum().backward()
        return made.detach(), logits.grad
    def by_definition(logits, p): return (torch.special.xlogy(p, p) - p * logits.to(p.dtype).log_softmax(-1)).sum(-1)
    (ours, slope), (due, theirs) = both(forward_kl), both(by_definition)
    near = dict(atol=1e-2 if dtype == torch.bfloat16 else 1e-5, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5)
    assert ours.shape == due.shape and torch.allclose(ours, due, atol=1e-5) and slope.dtype == dtype and torch.allclose(slope, theirs, **near)
    if p.numel(): assert not torch.allclose(both(lambda logits, p: forward_kl(logits, p * .9))[1], theirs, **near), "another gradient is seen"
    with torch.no_grad(): assert torch.equal(forward_kl(z, p), ours)
