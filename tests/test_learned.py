"""Networks that see paths (Hydra and its kin): training computes what drafting does, padding is no text, exact everywhere, saved and read."""
import sys

import pytest
import torch

from specdec_nb import Dice, Keyed, Law, Llama, Stop, Trace
from specdec_nb import decode as driver
from specdec_nb.decode import Request, answered, decode, serve
from specdec_nb.learned.chimera import Chimera, ChimeraDrafter
from specdec_nb.learned.eagle1 import Eagle1, Eagle1Drafter
from specdec_nb.learned.eagle import EagleState
from specdec_nb.learned.hydra import Hydra, HydraDrafter, PathState
from specdec_nb.learned.losses import feature_loss
from specdec_nb.learned.network import Trained
from specdec_nb.learned.prophet import PastReader, Prophet, ProphetDrafter
from specdec_nb.roles import as_target, read
from specdec_nb.workshop.registry import find
from learners import (KINDS, WORDS, batch_of, build, changes_nothing, context, ends_where_it_should, padding_is_not_text,
                         q_is_what_was_drawn_from, shaken, texts)


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


# -- the prophet: what its first code got wrong, with a test that the wrong would fail

def heard(drafter, target, prompt, limit=24, **settings):
    "Of each draft: the text it stands behind, and the states that it was made from"
    seen, rows = [], PastReader.rows
    class Listening(PastReader):
        def rows(self, group):
            seen.extend((state.pending, path, state.states.clone()) for state, path in group)
            return rows(self, group)
    drafter.reader = Listening
    drafter.bind(target)
    tokens = list(prompt)
    for step in decode(target, drafter, prompt, limit=limit, **settings):
        if seen: yield list(tokens), seen[0]
        tokens += step.verdict.tokens
        seen.clear()


@pytest.mark.parametrize("m", [1, 3, 0])
def test_a_prophet_starts_from_the_newest_states(model, m):
    "Each draft starts from the states of the text as it is then; the original's stay the prompt's"
    target, net = as_target(model), shaken(Prophet.of(model, WORDS, reach=3, m=m).join(as_target(model)))
    rounds = list(heard(ProphetDrafter(net, k=3, tree=6), target, [3, 1, 4], law=Law(temperature=0)))
    assert len(rounds) > 4
    stale = 0
    for text, (pending, path, states) in rounds:
        fresh = read(target.open(text, ProphetDrafter(net).asks)).prefilled.hidden[4].float()
        assert pending == text[-1] == path[0] and torch.allclose(states, fresh[-m:] if m else fresh, atol=1e-5)
        first = read(target.open(rounds[0][0], ProphetDrafter(net).asks)).prefilled.hidden[4].float()
        stale += not torch.allclose(states[-1], first[-1], atol=1e-3)
    assert stale >= len(rounds) - 1, "the prompt's state would have been another"


def test_a_prophets_feed_forward_part_is_applied(model):
    net = network("prophet", model)
    batch = batch_of(as_target(model), net, texts(9))
    rows = [r for r, _ in net.guessed(batch)]
    for block in net.blocks:
        before = block.down.weight.detach().clone()
        with torch.no_grad(): block.down.weight.zero_()
        assert all((a - b).abs().max() > .01 for a, (b, _) in zip(rows, net.guessed(batch))), "every row, in every layer"
        with torch.no_grad(): block.down.weight.copy_(before)
    net.zero_grad()
    net.loss(batch)[0].backward()
    assert all(w.grad is not None and float(w.grad.abs().max()) > 0 for name, w in net.named_parameters() if name != "unsaid"), "and learns"


def test_a_prophet_is_told_the_words_from_its_state_on(model, monkeypatch):
    "Words a place early, as in the original, are not what training computed"
    net, target, text = network("prophet", model), as_target(model), texts(9)[0]
    def worst(): return max(distances(target, net, ProphetDrafter(net, k=3, tree=0), text))
    assert worst() < 1e-4
    rows = PastReader.rows
    monkeypatch.setattr(PastReader, "rows", lambda self, group: rows(self, [(state, [text[-2], *path]) for state, path in group]))
    assert worst() > 1e-2


@pytest.mark.parametrize("m", [1, 3, 0])
def test_rows_of_other_lengths_are_no_company(model, m):
    "Requests that know one, two and seven states, asked together, get what each gets alone; padded and not masked, they would not"
    net = shaken(Prophet.of(model, WORDS, reach=3, m=m).join(as_target(model)))
    def states(lengths):
        for i, n in enumerate(lengths):
            state = PathState(None, m)
            state.learn([5, 6 + i], torch.randn(n, 32, generator=torch.Generator().manual_seed(i)))
            yield state
    from specdec_nb import Draft
    draft, lengths = Draft([1, 2, 3], [-1, 0, 0]), (1, 2, 7)
    together = PastReader(net.packed()).score([(s, draft) for s in states(lengths)])
    alone = [PastReader(net.packed()).score([(s, draft)])[0] for s in states(lengths)]
    assert all(torch.allclose(a.rows, b.rows, atol=1e-4) for a, b in zip(together, alone))
    [one] = list(states((1,)))
    padded, _ = one, one.learn([5, 6], torch.zeros(0, 32))
    padded.states = torch.cat([torch.zeros(2, 32), one.states])
    spoilt = PastReader(net.packed()).score([(padded, draft)])[0].rows
    assert torch.allclose(spoilt, alone[0].rows, atol=1e-4) == (m == 1), "a row that sees only its own state sees no padding"


@pytest.mark.parametrize("m, told", [(1, False), (0, True), (0, False)])
def test_the_ends_of_the_family(model, own, m, told):
    "One state and no words, all states, with words and without: exact, and training computes what drafting does"
    net = shaken(Prophet.of(model, WORDS, reach=3, m=m, told=told).join(as_target(model)))
    assert max(distances(as_target(model), net, ProphetDrafter(net, k=3, tree=0), texts(9)[0])) < 1e-4
    batch = batch_of(as_target(model), net, texts(9))
    moved = {**batch, "tokens": (batch["tokens"] + 1) % 16}
    assert [not torch.equal(a, b) for (a, _), (b, _) in zip(net.guessed(batch), net.guessed(moved))] == [told] * 3
    changes_nothing(model, own, lambda: [ProphetDrafter(net, k=3, tree=6)], requests=2)


def test_a_windows_states(model):
    "What happened m states ago is seen, and nothing before; with m = 1 only the state itself"
    for m in (1, 2, 3, 0):
        net = shaken(Prophet.of(model, WORDS, reach=2, m=m, depth=2).join(as_target(model)))
        states, told = torch.randn(1, 6, 32), torch.tensor([[3, 5]])
        def sees(u):
            other = states.clone()
            other[0, u] += 1
            return not torch.equal(net.after(other, told), net.after(states, told))
        assert [sees(u) for u in range(6)] == [u > 5 - m or not m for u in range(6)]
    for wrong in (dict(reach=0), dict(m=-1), dict(depth=0)):
        with pytest.raises(ValueError, match="need .*, got .*" + "=".join(f"{k}={v}" for k, v in wrong.items())): Prophet.of(model, WORDS, **wrong)


# -- what is kept from draft to draft, and Chimera

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
