"""Training runs: killed, stopped, prolonged, averaged, and ended by what is no number."""
import threading

import pytest
import torch

from learners import WORDS, build
from specdec_nb.learned.fingerprint import Lender
from specdec_nb.learned.losses import forward_kl
from specdec_nb.learned.medusa import Medusa
from specdec_nb.training.corpus import Corpus
from specdec_nb.training.features import Batches, Features
from specdec_nb.training.fit import fit_drafter


@pytest.fixture(scope="module")
def model(): return build(seed=4, dtype=torch.float32)


class Killed(Exception): ...


def test_killed_and_resumed(model, data, tmp_path):
    "The same weights, for a real kind of drafter, and whatever the checkpoint"
    corpus = Corpus(data, apart=8)
    features = Features(model, corpus.train, [4], tmp_path / "f")
    def fit(name, kill=None, **more):
        torch.manual_seed(0)
        net = Medusa.of(model, WORDS, heads=2).join(Lender(model))
        def tick(record):
            if record["step"] == kill: raise Killed
        fit_drafter(net, Batches(features, net, 2), Batches(features, net, 2), tmp_path / name, 50, save_every=7, tick=tick, **more)
        return net.state_dict()
    whole = fit("whole")
    with pytest.raises(Killed): fit("cut", kill=20)
    cut = fit("cut", resume=True)
    assert all(torch.equal(whole[k], cut[k]) for k in whole)
    assert any(not torch.equal(whole[k], w) for k, w in fit("other", lr=1e-4).items())
    for changed in (dict(lr=1e-4), dict(objective=lambda z, p: forward_kl(z, p))):
        with pytest.raises(ValueError, match="was begun with .* resume with the same settings"): fit("cut", resume=True, **changed)
    with pytest.raises(ValueError, match="--resume to go on"): fit("cut")
    saved = tmp_path / "cut" / "training.pt"
    saved.write_bytes(saved.read_bytes()[:1000])
    with pytest.raises(ValueError, match="training.pt is damaged"): fit("cut", resume=True)


def test_stopped_and_prolonged(model, data, tmp_path):
    "Asked to stop, a run saves the step under way; and a finished one goes on to more steps: the weights of a run that was meant to be as long"
    corpus = Corpus(data, apart=8)
    features = Features(model, corpus.train, [4], tmp_path / "f")
    def fit(name, steps, stop_at=None, **more):
        torch.manual_seed(0)
        net, stop, seen = Medusa.of(model, WORDS, heads=2).join(Lender(model)), threading.Event(), []
        def objective(z, p):
            seen.append(0)
            if len(seen) == 2 * (stop_at or 0): stop.set()                  # two heads
            return forward_kl(z, p)
        objective.__name__ = "forward_kl"
        fit_drafter(net, Batches(features, net, 2), Batches(features, net, 2), tmp_path / name, steps, objective=objective, stop=stop, **more)
        return net.state_dict()
    whole = fit("whole", 50)
    with pytest.raises(KeyboardInterrupt): fit("cut", 23, stop_at=13)
    saved = torch.load(tmp_path / "cut" / "training.pt", weights_only=True)
    assert saved["step"] == 13 and saved["log"] == []
    shorter = fit("cut", 23, resume=True)
    assert any(not torch.equal(whole[k], shorter[k]) for k in whole)
    longer = fit("cut", 50, resume=True)
    assert all(torch.equal(whole[k], longer[k]) for k in whole)


def test_the_mean_of_the_latest_weights(model, data, tmp_path):
    "What is left is calmer than the last weights: nearer to those of the steps before"
    corpus = Corpus(data, apart=8)
    net = Medusa.of(model, WORDS, heads=1).join(Lender(model))
    batches, seen = Batches(Features(model, corpus.train, [4], tmp_path / "f"), net, 2), []
    fit_drafter(net, batches, batches, tmp_path / "run", 40, tick=lambda r: None, objective=lambda z, p: seen.append(net.mix[0].weight.detach().clone()) or forward_kl(z, p))
    before = torch.stack([w for w in seen[1:40]])                            # a batch sees the weights of the step before; held_out sees the mean
    mean, expected = net.mix[0].weight.detach(), before[0]
    last = torch.load(tmp_path / "run" / "training.pt", weights_only=True)["module"]["mix.0.weight"]
    for t, w in enumerate([*before[1:], last], 2): expected = expected.lerp(w, min(1, 8 / (t + 7)))
    assert torch.allclose(mean, expected, atol=1e-6) and not torch.allclose(mean, last, atol=1e-5)


@pytest.mark.parametrize("poison", ["loss", "gradient"])
def test_not_finite(model, data, tmp_path, poison):
    "A loss or a gradient that is no number ends the run before it reaches the weights, and the last checkpoint stays"
    corpus, step = Corpus(data, apart=8), [0]
    features = Features(model, corpus.train, [4], tmp_path / "f")
    net = Medusa.of(model, WORDS, heads=2).join(Lender(model))
    def objective(z, p):
        step[0] += 1
        if step[0] < 11: return forward_kl(z, p)                 # two heads: the sixth step
        return forward_kl(z, p) * float("nan") if poison == "loss" else (z - z.detach()).abs().sqrt().sum(-1)
    with pytest.raises(ValueError, match="at step 6.*last checkpoint in .* is of step 5"):
        fit_drafter(net, Batches(features, net, 2), Batches(features, net, 2), tmp_path / "run", 20, save_every=5, objective=objective)
    assert torch.load(tmp_path / "run" / "training.pt", weights_only=True)["step"] == 5
    assert all(w.isfinite().all() for w in net.parameters())
