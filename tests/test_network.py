"""Trained networks of every kind: training computes what drafting does, padding is no text, exact everywhere, saved and read."""
import sys

import pytest
import torch

from learners import (KINDS, batch_of, build, changes_nothing, distances, ends_where_it_should, network, padding_is_not_text,
                      q_is_what_was_drawn_from, texts)
from specdec_nb import Keyed, Law, Llama, Stop, Trace, decode as driver
from specdec_nb.decode import Request, decode, serve
from specdec_nb.learned.eagle import EagleState
from specdec_nb.learned.hydra import PathState
from specdec_nb.learned.network import Trained
from specdec_nb.models.native import Rows
from specdec_nb.roles import as_target
from specdec_nb.workshop.registry import find


@pytest.fixture(scope="module")
def model(): return build()

@pytest.fixture(scope="module")
def own(model): return Llama.from_hf(model)


kinds = pytest.mark.parametrize("kind", KINDS)


@kinds
def test_training_computes_what_drafting_does(kind, model, monkeypatch):
    net, target = network(kind, model), as_target(model)
    for n in (2, 3, 9):
        far = distances(target, net, KINDS[kind][1](net, k=3, tree=0), texts(n)[0])
        assert len(far) == 3 and max(far) < 1e-4
    state = PathState if kind != "eagle" else EagleState
    learn, last = state.learn, (lambda words: [*words[:-1], (words[-1] + 1) % 16])
    monkeypatch.setattr(state, "learn", lambda self, words, states: learn(self, last(words), states))
    wrong = distances(target, net, KINDS[kind][1](net, k=3, tree=0), texts(9)[0])
    assert max(wrong) > 1e-3, "told another word than the pending one: that is seen"


@kinds
def test_padding(kind, model):
    target, net = as_target(model), network(kind, model).eval()
    if kind not in ("eagle", "chimera"): return padding_is_not_text(target, net)
    batch = batch_of(target, net, texts(12, 5, 9), pad=7)                # they have losses of their own
    with torch.no_grad(): whole = float(net.loss(batch)[0])
    for x in (batch["p"], *batch["hidden"].values()): x[~batch["real"]] = 5.
    batch["tokens"][~batch["real"]] = 3
    with torch.no_grad(): assert float(net.loss(batch)[0]) == whole


@kinds
def test_the_text_stays(kind, model, own):
    net = network(kind, model, shake=False)
    cls = KINDS[kind][1]
    changes_nothing(model, own, lambda: [cls(net, k=3, tree=6, width=3), cls(net, k=3, tree=0)], requests=6)


@kinds
def test_ends(kind, model): ends_where_it_should(as_target(model), KINDS[kind][1](network(kind, model), k=3))


@kinds
def test_q(kind, model): q_is_what_was_drawn_from(as_target(model), KINDS[kind][1](network(kind, model), k=3, tree=0))


@kinds
def test_batches(kind, model):
    "Rows of a batch, of unequal length, share calls, and each is what it is alone"
    target, drafter, prompts = as_target(model), KINDS[kind][1](network(kind, model), k=3), texts(1, 2, 5, 9)
    for settings in (dict(law=Law(temperature=0)), dict(law=Law(temperature=.9))):
        def rng(i): return Keyed(4, i)
        alone = [Trace(decode(target, drafter, p, limit=12, rng=rng(i), **settings)).tokens for i, p in enumerate(prompts)]
        plain = [Trace(decode(target, "none", p, limit=12, rng=rng(i), **settings)).tokens for i, p in enumerate(prompts)]
        requests = [Request(target, drafter, p, stop=Stop(12), rng=rng(i), **settings) for i, p in enumerate(prompts)]
        steps = {i: [] for i in range(4)}
        for request, step in serve(requests): steps[requests.index(request)].append(step)
        assert plain == alone == [Trace(steps[i]).tokens for i in range(4)]


@kinds
def test_who_asked_the_network(kind, model):
    "Whatever a trained network predicts while a text is written, the driver has asked for, in `answers`; a drafter that asks by itself is seen"
    asked, behind, target, cls = [], [], as_target(model), KINDS[kind][1]
    def watched(predict):
        def note(*states):
            frame, codes = sys._getframe(1), set()
            while frame: codes, frame = codes | {frame.f_code}, frame.f_back
            (asked if driver.answers.__code__ in codes else behind).append(len(states[0]))
            return predict(*states)
        return note
    def written(drafter):
        asked.clear()
        drafter.bind(target)
        if (layer := getattr(drafter.net, "layer", None)) is not None: layer.over = watched(layer.over)
        else: drafter.net.predict = watched(drafter.net.predict)
        requests = [Request(target, drafter, p, stop=Stop(12), law=Law(temperature=0)) for p in texts(1, 5, 9)]
        assert [step for _, step in serve(requests)] and asked
    for tree in (6, 0): written(cls(network(kind, model), k=3, tree=tree))
    assert not behind
    class Impatient(cls):
        def begin(self, ctx, state):
            net, d = self.net, self.net.head.shape[1]
            layer, x = getattr(net, "layer", None), torch.zeros(1, d)
            if layer is None: net.predict(x)
            else: layer.over([Rows(layer.new_cache(), 0, [0], [-1])], x, torch.zeros(1, layer.depth))
            return super().begin(ctx, state)
    written(Impatient(network(kind, model), k=3, tree=0))
    assert behind


@kinds
def test_saved_and_read(kind, model, tmp_path):
    net = network(kind, model)
    net.save_pretrained(tmp_path / "net")
    again = Trained.from_pretrained(tmp_path / "net").join(as_target(model))
    assert type(again) is find("networks", kind) is type(net) and again.settings == net.settings
    batch = batch_of(as_target(model), net, texts(9))
    with torch.no_grad():
        ours, theirs = (next(n.guessed(batch))[0] for n in (net, again))
    assert 0 < (ours - theirs).abs().mean() < .05 * ours.abs().mean(), "eight bits a weight"
    other = build(seed=5)
    with pytest.raises(ValueError, match="another model"): Trained.from_pretrained(tmp_path / "net").join(as_target(other))
