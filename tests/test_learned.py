"""Networks that see paths (Hydra and its kin): training computes what drafting does, padding is no text, exact everywhere, saved and read."""
import pytest
import torch

from specdec_nb import Dice, Keyed, Law, Llama, Stop, Trace
from specdec_nb.decode import Request, answered, decode, serve
from specdec_nb.learned.hydra import Hydra, HydraDrafter
from specdec_nb.learned.network import Trained
from specdec_nb.roles import as_target, read
from specdec_nb.workshop.registry import find
from test_medusa import (WORDS, batch_of, build, changes_nothing, context, ends_where_it_should, padding_is_not_text,
                         q_is_what_was_drawn_from, shaken, texts)

KINDS = {"hydra": (Hydra, HydraDrafter, dict(heads=4))}


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
    late = KINDS[kind][1](net, k=3, tree=0)
    from specdec_nb.learned import hydra
    learn = hydra.PathState.learn
    monkeypatch.setattr(hydra.PathState, "learn", lambda self, text, states: learn(self, [*text[:-1], (text[-1] + 1) % 16], states))
    assert max(distances(target, net, late, texts(9)[0])) > 1e-3, "told another word than the pending one: that is seen"


@kinds
def test_padding(kind, model): padding_is_not_text(as_target(model), network(kind, model))


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
def test_saved_and_read(kind, model, tmp_path):
    net = network(kind, model)
    net.save_pretrained(tmp_path / "net")
    again = Trained.from_pretrained(tmp_path / "net").join(as_target(model))
    assert type(again) is find("networks", kind) is type(net) and again.settings == net.settings
    batch = batch_of(as_target(model), net, texts(9))
    with torch.no_grad():
        for (ours, _), (theirs, _) in zip(net.guessed(batch), again.guessed(batch)):
            assert (ours - theirs).abs().max() < .1 * ours.abs().max()
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
