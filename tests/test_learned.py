"""Networks that see paths (Hydra and its kin): training computes what drafting does, padding is no text, exact everywhere, saved and read."""
import sys

import pytest
import torch

from specdec_nb import Dice, Keyed, Law, Llama, Stop, Trace
from specdec_nb import decode as driver
from specdec_nb.decode import Request, answered, decode, serve
from specdec_nb.learned.block import BlockLayer, BlockDrafter
from specdec_nb.learned.eagle1 import Eagle1, Eagle1Drafter
from specdec_nb.learned.eagle import EagleState
from specdec_nb.learned.hydra import Hydra, HydraDrafter, PathState
from specdec_nb.learned.network import Trained
from specdec_nb.roles import as_target, read
from specdec_nb.workshop.registry import find
from test_medusa import (WORDS, batch_of, build, changes_nothing, context, ends_where_it_should, padding_is_not_text,
                         q_is_what_was_drawn_from, shaken, texts)

KINDS = {"hydra": (Hydra, HydraDrafter, dict(heads=4)), "eagle": (Eagle1, Eagle1Drafter, {}), "block": (BlockLayer, BlockDrafter, dict(reach=3, m=5))}


@pytest.fixture(scope="module")
def model(): return build()

@pytest.fixture(scope="module")
def own(model): return Llama.from_hf(model)


def network(kind, model, shake=True):
    cls, _, options = KINDS[kind]
    net = cls.of(model, WORDS, **options).join(as_target(model))
    return shaken(net) if shake else net


kinds = pytest.mark.parametrize("kind", KINDS)


def distances(target, net, drafter, text, k=3):
    "For each depth of a chain drafted after `text`: how far drafting's row is from training's"
    drafter.bind(target)
    drafting = drafter.begin(context(text), read(target.open(text, drafter.asks)))
    asked = []
    def ask(draft, ask=drafting.ask):
        rows = yield from ask(draft)
        asked.append(rows.scores.rows[len(draft)])
        return rows
    drafting.ask = ask
    draft = answered(drafting.propose(context(text), Dice(len(text))))
    batch = batch_of(target, net, [text + list(draft.tokens)])
    with torch.no_grad(): trained = [logits for logits, _ in net.guessed(batch)][:k]
    return [float((a - b[len(text) - 2]).abs().max() / b[len(text) - 2].abs().max()) for a, b in zip(asked, trained)]


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
    if kind != "eagle": return padding_is_not_text(target, net)
    batch = batch_of(target, net, texts(12, 5, 9), pad=7)                # EAGLE-1 has a loss of its own
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
        def note(states):
            frame, codes = sys._getframe(1), set()
            while frame: codes, frame = codes | {frame.f_code}, frame.f_back
            (asked if driver.answers.__code__ in codes else behind).append(len(states))
            return predict(states)
        return note
    def written(drafter):
        asked.clear()
        drafter.bind(target)
        drafter.net.predict = watched(drafter.net.predict)
        requests = [Request(target, drafter, p, stop=Stop(12), law=Law(temperature=0)) for p in texts(1, 5, 9)]
        assert [step for _, step in serve(requests)] and asked
    for tree in (6, 0): written(cls(network(kind, model), k=3, tree=tree))
    assert not behind
    class Impatient(cls):
        def begin(self, ctx, state):
            self.net.predict(torch.zeros(1, self.net.head.shape[1]))
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


def test_hydra_is_told_by_the_text_and_not_by_its_beginning(model):
    "The last rows of a text have no words to be told: with torch.roll they would be told its first"
    net, text = network("hydra", model), texts(8)[0]
    batches = [batch_of(as_target(model), net, [t]) for t in (text, [(text[0] + 1) % 16, *text[1:]])]
    batches[1]["hidden"] = batches[0]["hidden"]
    for (a, _), (b, _) in zip(*(net.guessed(b) for b in batches)): assert torch.equal(a, b)
    h, rolled = batches[0]["hidden"][4], torch.stack([batches[0]["tokens"].roll(-1 - i, 1) for i in range(2)], -1)
    moved = torch.stack([batches[1]["tokens"].roll(-1 - i, 1) for i in range(2)], -1)
    assert not torch.equal(net.after(h[:, :, None], rolled), net.after(h[:, :, None], moved)), "a row that is told the beginning would show"


def test_hydra_has_medusas_size():
    model = build(dtype=torch.float32)
    def weights(net): return sum(w.numel() for name, w in net.named_parameters() if w.dim() == 2)
    medusa, hydra, full = (find("networks", n).of(model, WORDS, heads=4, **o) for n, o in (("medusa", {}), ("hydra", {}), ("hydra", dict(rank=0))))
    assert weights(hydra) <= weights(medusa) < weights(full)
    with pytest.raises(ValueError, match="at least one head"): Hydra.of(model, WORDS, heads=0)
    with pytest.raises(ValueError, match="width >= 1"): HydraDrafter(hydra, width=0)


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
