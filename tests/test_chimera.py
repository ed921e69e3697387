"""Chimera: its slots, trigrams and states are the paper's, and its drafts are draws."""
import pytest
import torch

from learners import WORDS, batch_of, build, distances, network, shaken, texts
from specdec_nb import Keyed, Law, Llama, Trace
from specdec_nb.decode import decode
from specdec_nb.learned.chimera import Chimera, ChimeraDrafter
from specdec_nb.learned.losses import feature_loss
from specdec_nb.learned.prophet import Prophet, ProphetDrafter
from specdec_nb.roles import as_target


@pytest.fixture(scope="module")
def model(): return build()

@pytest.fixture(scope="module")
def own(model): return Llama.from_hf(model)


@pytest.mark.parametrize("cls, drafter, m", [(Prophet, ProphetDrafter, 3), (Prophet, ProphetDrafter, 0), (Chimera, ChimeraDrafter, 2), (Chimera, ChimeraDrafter, 0)])
def test_what_states_offer_is_kept_and_right(model, cls, drafter, m):
    "In each round of a generation: what a request keeps is what a fresh reading gives; without a window only new states are asked"
    target, net, asked = as_target(model), shaken(cls.of(model, WORDS, reach=3, m=m).join(as_target(model))), []
    class Watching(drafter.reader):
        def recall(self, state):
            past = self.net.past
            self.net.past = lambda states, first=0: asked.append(states.shape[1]) or past(states, first)
            super().recall(state)
            self.net.past = past
            fresh = past(state.states[None])
            assert all(torch.allclose(a, b, atol=1e-5) for one, two in zip(state.past, fresh) for a, b in zip(one, two))
    ours = drafter(net, k=3, tree=6)
    ours.reader = Watching
    steps = list(decode(target, ours, [3, 1, 4, 1, 5], limit=24, law=Law(temperature=0)))
    assert len(asked) > 4 and asked[0] == (m or 4) and sum(asked[1:]) == (sum(len(s.verdict.rows) for s in steps[:len(asked) - 1]) if not m else m * (len(asked) - 1))


def test_chimeras_first_slot_is_the_papers_mask(model):
    "One pass over [H; tau] under the mask of four blocks gives every place's first slot; under the released code's triangles it does not"
    target, net, text = as_target(model), network("chimera", model), texts(7)[0]
    batch, block, n = batch_of(target, net, [text]), net.blocks[0], 6
    with torch.no_grad():
        h, made = net.unroll(batch)
        words = torch.stack([batch["tokens"].roll(i, 1)[0] if i < 1 else torch.cat([batch["tokens"][0, :1].repeat(i), batch["tokens"][0, :-i]]) for i in (1, 0, -1)], -1)
        tau = net.trigrams(words[None])[:, :, 0]
        x = torch.cat([h[0, :n], tau[0, :n]])
        states, alone = torch.ones(n, n).tril().bool(), torch.eye(n).bool()
        q, (k, v) = block.q(block.norm1(x)).unflatten(-1, (block.heads, -1)), block.offered(x)
        from specdec_nb.models.llama import rotation
        turn = rotation(torch.cat([torch.arange(n), 1 + torch.arange(n)]), net.inv_freq, 1., torch.float32)
        def pass_of(own):
            mask = torch.cat([torch.cat([states, torch.zeros(n, n).bool()], 1), torch.cat([states, own], 1)])
            got = torch.nn.functional.scaled_dot_product_attention(*(z.transpose(0, 1) for z in (turn(q), turn(k), v)), attn_mask=mask)
            y = x + block.out(got.transpose(0, 1).flatten(1))
            return (y + block.down(torch.nn.functional.silu(block.up(block.norm2(y)))))[n:]
        assert torch.allclose(pass_of(alone), made[0][0, :n], atol=1e-4) and not torch.allclose(pass_of(states), made[0][0, :n], atol=1e-2)


def test_chimeras_states_are_taught_too(model):
    "The feature loss is added, of each slot with the state that it stands for; the original computes one and leaves it out"
    target = as_target(model)
    nets = [shaken(Chimera.of(model, WORDS, reach=2, share=share).join(target)) for share in (0., .1)]
    batch = batch_of(target, nets[0], texts(9))
    with torch.no_grad():
        without, added = (float(net.loss(batch)[0]) for net in nets)
        h, made = nets[0].unroll(batch)
        by_hand = sum(.8 ** k * feature_loss(f[0, t], h[0, t + 1 + k]).item() / (8 - k) for k, f in enumerate(made) for t in range(8 - k))
    assert added - without == pytest.approx(.1 * by_hand, rel=1e-3) and by_hand > 0


@pytest.mark.parametrize("detach", [False, True])
def test_chimeras_slots_learn_through_each_other(model, detach):
    net = shaken(Chimera.of(model, WORDS, reach=2, detach=detach).join(as_target(model)))
    _, made = net.unroll(batch_of(as_target(model), net, texts(6)))
    made[0].retain_grad()
    made[1].square().sum().backward()
    assert (made[0].grad is not None and float(made[0].grad.abs().max()) > 0) != detach
    assert all(w.grad is None for w in model.parameters()) and not {w.data_ptr() for w in net.parameters()} & {w.data_ptr() for w in model.parameters()}


def test_chimeras_trigrams(model):
    "A word is told with the two before it, at the text's beginning with the first word twice; with grams=1 alone"
    for grams in (1, 2, 3):
        net = shaken(Chimera.of(model, WORDS, reach=1, grams=grams).join(as_target(model)))
        words = torch.tensor([[[3, 5, 7]]])
        def sees(i):
            other = words.clone()
            other[..., i] += 1
            return not torch.equal(net.trigrams(other), net.trigrams(words))
        assert [sees(i) for i in range(3)] == [i > 2 - grams for i in range(3)]
    begun = Chimera.of(model, WORDS).join(as_target(model))
    e = begun.embed[torch.tensor([3, 5, 7])].float().flatten()
    assert torch.allclose(begun.trigrams(words)[0, 0, 0], begun.encode(e), atol=1e-6), "A begins as zero, and its bias too"
    for n in (2, 3):                                                     # what stands before the text's second and third word
        assert max(distances(as_target(model), network("chimera", model), ChimeraDrafter(network("chimera", model), k=3, tree=0), texts(n)[0])) < 1e-4
    with pytest.raises(ValueError, match="1 <= grams <= 3, got grams=4"): Chimera.of(model, WORDS, grams=4)
    with pytest.raises(ValueError, match="need reach >= 1"): Chimera.of(model, WORDS, reach=0)


def test_a_chimera_draws_after_an_accepted_path(model):
    "The token behind a wholly accepted draft is a draw; the original's is the favourite, and of these some differ"
    from specdec_nb import Draft
    target, drafter, others = as_target(model), ChimeraDrafter(network("chimera", model, shake=False), k=1, tree=0), 0
    for i in range(7):
        rng, text = Keyed(7, i), [3, 1, 4]
        plain = Trace(decode(target, "none", text, limit=16, law=Law(temperature=1.2), rng=rng)).tokens
        tokens = list(text)
        for step in decode(target, drafter, text, limit=16, law=Law(temperature=1.2), rng=rng):
            tokens += step.verdict.tokens
            if len(step.verdict.path) < len(step.draft) or not len(step.draft) or step.verdict.token is None: continue
            [scores] = target.score([(target.open(tokens[:-1]), Draft())])
            others += scores.best(0) != step.verdict.token
        assert tokens[3:] == plain
    assert others > 1
