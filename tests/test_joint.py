"""Joint training: the loss is its formula, λ = 0 leaves the target alone, the text is the new target's, a killed run goes on, what cannot learn is refused."""
import warnings

import numpy as np
import re
import pytest
import torch
import torch.nn.functional as F
import transformers as hf

from specdec_nb import NETWORKS, Keyed, Law, Llama, Trace
from specdec_nb.decode import decode
from specdec_nb.learned.eagle1 import Eagle1
from specdec_nb.learned.hydra import Hydra, HydraDrafter
from specdec_nb.learned.losses import forward_kl
from specdec_nb.learned.medusa import Medusa, MedusaDrafter
from specdec_nb.learned.fingerprint import Lender
from specdec_nb.learned.prophet import Prophet, ProphetDrafter
from specdec_nb.roles import as_target
from specdec_nb.training.features import Batches, Features
from specdec_nb.training.joint import Joint, train_jointly
from specdec_nb.workshop.registry import find
from learners import WORDS, build, shaken

GEN = np.random.default_rng(5)
DOCUMENTS = [GEN.integers(0, 16, n) for n in (14, 9, 12, 14, 7, 10, 13, 8)]
TELLS = {"medusa": (Medusa, MedusaDrafter, dict(heads=3)), "hydra": (Hydra, HydraDrafter, dict(heads=3)),
         "prophet": (Prophet, ProphetDrafter, dict(reach=3, m=2))}


def target(): return build(dtype=torch.float32)


def network(model, kind="medusa", seed=1):
    torch.manual_seed(seed)
    cls, _, options = TELLS[kind]
    return cls.of(model, WORDS, **options).join(Lender(model))


def fitted(out, model=None, kind="medusa", **options):
    "A target and its drafter after a short joint run"
    model = target() if model is None else model
    net = network(model, kind)
    settings = dict(steps=8, warmup=4, weight=.5, lr=2e-2, size=4, quiet=True, half=False)
    train_jointly(model, net, DOCUMENTS, out, **{**settings, **options})
    return model, net.eval()


def same(a, b): return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


@pytest.fixture(scope="module")
def batch(tmp_path_factory):
    "A function of a network: a batch of unequal documents, of which the beginnings do not count"
    def make(net, begins=(3, 2, 4, 1, 1, 5, 2, 3), path=tmp_path_factory.mktemp("states") / "s"):
        return Batches(Features(target(), DOCUMENTS, [4], path), net, size=8, begins=list(begins))[0]
    return make


def oracle(model, net, batch, weight, teacher):
    "The formula, document by document and place by place"
    own, heads, W, before = [], [[] for _ in net.mix], model.lm_head.weight, target().lm_head.weight
    for ids, real, h0 in zip(batch["tokens"], batch["real"], batch["hidden"][4]):
        out, places = model(ids[None], output_hidden_states=True), real.nonzero()[:, 0].tolist()
        h, q = out.hidden_states[-1][0], out.logits[0].log_softmax(-1)
        p, now = (h0 @ before.T).softmax(-1), q.exp().detach()[:, net.draft_vocab]
        own += [(p[t] * (p[t].log() - q[t])).sum() if teacher else -q[t, ids[t + 1]] for t in places if teacher or t + 1 in places]
        for k, mix in enumerate(net.mix):
            guess = ((h + F.silu(mix(h))) @ W[net.draft_vocab].T).log_softmax(-1)
            heads[k] += [(now[t] * (now[t].log() - guess[t - 1 - k])).sum() for t in places if t > k]
    return torch.stack(own).mean() + weight * sum(.8 ** k * torch.stack(L).mean() for k, L in enumerate(heads))


@pytest.mark.parametrize("teacher", [True, False])
@pytest.mark.parametrize("weight", [.2, 3.])
def test_the_loss_is_the_formula(batch, weight, teacher):
    model = target()
    net = shaken(network(model))
    shaken(model.model.layers[0].mlp, .05)                           # no longer what it was
    ours, wanted = Joint(model, net, weight, teacher).loss(batch(net))[0], oracle(model, net, batch(net), weight, teacher)
    assert torch.allclose(ours, wanted, rtol=1e-4)
    weights = [model.model.layers[0].mlp.up_proj.weight, model.lm_head.weight, model.model.embed_tokens.weight, net.mix[1].bias]
    got, due = (torch.autograd.grad(loss, weights) for loss in (ours, wanted))
    assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-5) and b.abs().max() > 1e-4 for a, b in zip(got, due))
    for wrong in (oracle(model, net, batch(net), 2 * weight, teacher), oracle(model, net, batch(net), weight, not teacher)):
        assert not torch.allclose(ours, wrong, rtol=1e-2), "the test can fail"


def test_every_loss_is_a_mean_over_the_words_that_count(batch):
    "Padding and the question weigh nothing; the original's sum over all places is another λ in every batch"
    model = target()
    net = shaken(network(model))
    shaken(model.model.layers[0].mlp, .05)
    joint, one = Joint(model, net), batch(net)
    def padded(x): return {k: padded(v) for k, v in x.items()} if isinstance(x, dict) else F.pad(x, (0,) * (2 * x.dim() - 3) + (9,))
    def others(batch):
        log_p = model(batch["tokens"]).logits.log_softmax(-1)
        apart = forward_kl(log_p, (batch["hidden"][4] @ joint.before.T).softmax(-1))
        return float(apart[batch["real"]].sum() / batch["real"].numel())
    with torch.no_grad():
        (short, a), (long, b) = joint.loss(one), joint.loss(padded(one))
        assert torch.allclose(short, long, rtol=1e-4) and a["own"] == pytest.approx(b["own"], rel=1e-4)
        assert others(one) > 1.3 * others(padded(one)), "the original's behaviour fails"
        noise = {**one, "tokens": torch.where(one["real"].cumsum(1).eq(0) | one["real"], one["tokens"], 7)}
        assert torch.allclose(joint.loss(noise)[0], short, rtol=1e-4), "what stands in the padding is not read"


@pytest.mark.parametrize("teacher, kind", [(True, "medusa"), (False, "hydra"), (False, "prophet")])
def test_detached_the_heads_ask_nothing(batch, teacher, kind):
    model = target()
    net = shaken(network(model, kind))
    def pulled(weight, detach):
        for w in model.parameters(): w.grad = None
        Joint(model, net, weight, teacher, detach).loss(batch(net))[0].backward()
        return [w.grad.clone() for w in model.parameters()]
    def equal(a, b): return all(map(torch.equal, a, b))
    assert equal(pulled(.1, True), pulled(5., True)) and not equal(pulled(.1, False), pulled(5., False))
    assert all(w.grad is not None and w.grad.abs().max() > 0 for k, w in net.named_parameters() if k != "unsaid")


@pytest.mark.parametrize("kind", TELLS)
def test_without_weight_the_target_stays(tmp_path, kind):
    model, net = fitted(tmp_path / "0", weight=0, kind=kind)
    assert same(model, target()) and not same(net, network(model, kind))
    assert not same(fitted(tmp_path / "1", weight=1e-3, kind=kind)[0], target()), "the test can fail"


@pytest.mark.parametrize("kind", ["medusa", "prophet"])
def test_the_text_is_the_new_targets(tmp_path, kind):
    "Greedy and keyed, chains and trees, Hugging Face's forward and ours; and it is not the old one's"
    model, net = fitted(tmp_path, kind=kind, steps=20)
    net.record["ranks"] = [[.5, .2, .1]] * 3
    prompts, drafted = [[3, 1, 4, 1], [5, 9]], 0
    for law, rng in ((Law(temperature=0), None), (Law(temperature=1.), Keyed(4))):
        def says(where, drafter): return [Trace(decode(where, drafter, p, limit=16, law=law, rng=rng)) for p in prompts]
        for where in (as_target(model), as_target(Llama.from_hf(model))):
            plain = [t.tokens for t in says(where, "none")]
            for tree in (0, 6):
                runs = says(where, TELLS[kind][1](net, k=3, tree=tree))
                assert [t.tokens for t in runs] == plain
                drafted += sum(sum(t.drafted) for t in runs)
        assert plain != [t.tokens for t in says(as_target(target()), "none")], "the old target says something else"
    assert drafted > 20


def test_the_drafter_belongs_to_the_new_target(tmp_path):
    model, net = fitted(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(net.join(Lender(model)).head, model.lm_head.weight[net.draft_vocab])
    for _ in range(2):
        with pytest.raises((ValueError, UserWarning), match="trained for (another model|a relative)"), warnings.catch_warnings():
            warnings.simplefilter("error")
            net.join(Lender(target()))


def test_the_target_is_slower_and_heads_biases_are_heads(tmp_path):
    "Adam's first step is the learning rate itself, a tenth of it in the first step of the warm-up"
    def moved(pace, detach=False):
        model = target()
        net = shaken(network(model))
        old = {k: w.clone() for k, w in Joint(model, net).named_parameters()}
        train_jointly(model, net, DOCUMENTS, tmp_path / f"{pace}{detach}", 1, 0, .5, True, detach, pace, lr=1e-2, size=4, quiet=True, half=False)
        far = {k: float((w - old[k]).detach().abs().median()) for k, w in Joint(model, net).named_parameters()}
        return [[v for k, v in far.items() if k.startswith(part) and k.endswith(end)] for part, end in (("net.mix", "weight"), ("net.mix", "bias"), ("model.", "weight"))]
    weights, biases, theirs = moved(4.)
    assert np.allclose(weights + biases, 1e-3, rtol=.15) and np.allclose(theirs, 2.5e-4, rtol=.35)
    assert np.allclose(moved(1.)[2], 1e-3, rtol=.35)


class Killed(Exception): ...


def test_a_killed_run_goes_on(tmp_path, monkeypatch):
    whole, whole_net = fitted(tmp_path / "whole", steps=6, save_every=2)
    loss = Joint.loss
    def dying(self, batch, *a):
        dying.left -= 1
        if dying.left < 0: raise Killed
        return loss(self, batch, *a)
    dying.left = 5
    monkeypatch.setattr(Joint, "loss", dying)
    with pytest.raises(Killed): fitted(tmp_path / "cut", steps=6, save_every=2)
    monkeypatch.setattr(Joint, "loss", loss)
    with pytest.raises(ValueError, match="holds a training run"): fitted(tmp_path / "cut", steps=6)
    with pytest.raises(ValueError, match=r"begun with weight = 0.5, now it is 0.1"): fitted(tmp_path / "cut", steps=6, resume=True, weight=.1)
    with pytest.raises(ValueError, match="begun with another target"): fitted(tmp_path / "cut", model=whole, steps=6, resume=True)
    model, net = fitted(tmp_path / "cut", steps=6, save_every=2, resume=True)
    assert same(model, whole) and same(net, whole_net)
    again, _ = fitted(tmp_path / "cut", steps=6, resume=True)
    assert same(again, whole), "a run that is done is given back"
    assert not same(fitted(tmp_path / "other", steps=6, seed=3)[0], whole), "the test can fail"


def test_progress_and_an_end_by_hand(tmp_path, capsys):
    fitted(tmp_path / "told", quiet=False)
    said = capsys.readouterr().err
    assert all(re.search(what, said) for what in (f"reading: {sum(map(len, DOCUMENTS))}/", r"drafter: 4/4 .*tokens/s.* loss \d", r"both: 8/8 .*tokens/s.* loss \d"))
    fitted(tmp_path / "quiet")
    assert not capsys.readouterr().err
    class Stop:
        def is_set(self): return True
    model = target()
    net = network(model)
    with pytest.raises(KeyboardInterrupt): train_jointly(model, net, DOCUMENTS, tmp_path / "stopped", 5, 0, quiet=True, half=False, stop=Stop())
    assert torch.equal(net.head, model.lm_head.weight[net.draft_vocab]) and not net.head.requires_grad, "the drafter can be used as it is"


def test_what_cannot_learn_is_refused(tmp_path):
    def asked(model, net=None, **options): train_jointly(model, net or network(target()), DOCUMENTS, tmp_path, quiet=True, **{**dict(steps=1, warmup=1), **options})
    small = dict(d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, vocab_size=16)
    frozen = target()
    frozen.requires_grad_(False)
    for model, why in ((Llama.from_hf(target()), "Llama has no gradients"), (as_target(target()), "has no gradients"), (frozen, "frozen"), (target().bfloat16(), "float32"),
                       (hf.T5ForConditionalGeneration(hf.T5Config(**small)), "T5ForConditionalGeneration has an encoder")):
        with pytest.raises(ValueError, match=why): asked(model, None if model is not frozen else network(frozen))
    for wrong in (dict(weight=-1.), dict(pace=0.)):
        with pytest.raises(ValueError, match="need weight > 0 and pace > 0, got .*" + "=".join(f"{k}={v}" for k, v in wrong.items())): asked(target(), **wrong)
    model = target()
    with pytest.raises(ValueError, match="kind eagle also learns to resemble .* detach=True"): asked(model, Eagle1.of(model, WORDS))
    asked(model, Eagle1.of(model, WORDS), detach=True)


@pytest.mark.parametrize("kind", sorted(NETWORKS))
def test_any_network_can_be_trained_with_its_target(tmp_path, kind):
    "Target and drafter move; those that imitate states only detached"
    model, detach = target(), kind in ("eagle", "chimera")
    torch.manual_seed(1)
    net = find("networks", kind).of(model, WORDS)
    before = [w.detach().clone() for w in net.parameters()]
    train_jointly(model, net, DOCUMENTS, tmp_path, 1, 0, detach=detach, lr=1e-2, quiet=True, half=False)
    assert not same(model, target()) and not all(map(torch.equal, before, net.parameters()))
