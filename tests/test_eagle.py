"""EAGLE-3: training computes what drafting computes, a cache that forgets its dreams, trees that stay trees; exact everywhere."""
import numpy as np
import pytest
import torch

from specdec_nb import Dice, Draft, Keyed, Law, Llama, Trace
from specdec_nb.roles import Context, Tokens, as_target, read
from specdec_nb.decode import answered, decode
from specdec_nb.draft import Budget
from specdec_nb.learned import eagle
from specdec_nb.drafters.model import shipped
from specdec_nb.learned.eagle import Eagle3, EagleDrafter
from specdec_nb.learned.medusa import Medusa, MedusaDrafter
from specdec_nb.learned.network import Trained
from specdec_nb.models.native import NativeCache
from specdec_nb.models.rows import Ranked
from specdec_nb.training.features import Batches, Features
from specdec_nb.training.fit import fit_drafter, held_out
from learners import (WORDS, batch_of, build, changes_nothing, context, ends_where_it_should, padding_is_not_text,
                        q_is_what_was_drawn_from, shaken, texts)


@pytest.fixture(scope="module")
def model(): return build()

@pytest.fixture(scope="module")
def own(model): return Llama.from_hf(model)

@pytest.fixture(scope="module")
def net(model): return shaken(Eagle3.of(model, WORDS).join(as_target(model)))

@pytest.fixture(scope="module")
def near(model): return Eagle3.of(model, WORDS).join(as_target(model))


def begun(target, drafter, text, **law):
    drafter.bind(target)
    ctx = context(text, **law)
    return drafter.begin(ctx, read(target.open(text, drafter.asks))), ctx


# -- training-time test is drafting

def distance(target, net, text, k=4):
    "For each level of a chain drafted after `text`: how far drafting's state is from training's row"
    drafting, ctx = begun(target, EagleDrafter(net, k=k, tree=0), text)
    whole = text + list(answered(drafting.propose(ctx, Dice(len(text)))).tokens)
    hidden = {i: h[None].float() for i, h in read(target.open(whole + [0], drafting.drafter.asks)).prefilled.hidden.items()}
    with torch.no_grad(): levels = list(net.unroll(torch.tensor([whole]), hidden, k))
    return [float((made - g[0, len(text) - 2]).abs().max() / g[0, len(text) - 2].abs().max()) for made, g in zip(drafting.state.made, levels)]


@pytest.mark.parametrize("runtime", ["hf", "own"])
def test_training_computes_what_a_chain_does(model, own, net, runtime):
    target = as_target(model if runtime == "hf" else own)
    for n in (2, 3, 8): assert max(distance(target, net, texts(n)[0])) < 1e-5


def test_and_that_would_be_seen(model, net, monkeypatch):
    look = eagle._look
    wrongs = [lambda q, keys, values: look(q, keys[-1:], values[-1:]), lambda q, keys, values: look(q, keys[:1], values[:1])]
    for wrong in wrongs:
        monkeypatch.setattr(eagle, "_look", wrong)
        far = distance(as_target(model), net, texts(8)[0])
        assert far[0] < 1e-5 and min(far[1:]) > 1e-3
    monkeypatch.setattr(eagle, "_look", look)
    monkeypatch.setattr(net, "inv_freq", net.inv_freq * 0)
    text = texts(8)[0]
    first = distance(as_target(model), net, text)
    assert max(first) < 1e-5, "both alike without positions"


def test_training_computes_what_a_tree_does(model, net, monkeypatch):
    "Every expanded path of a dynamic tree against the chain it is"
    target, text = as_target(model), texts(7)[0]
    drafting, ctx = begun(target, EagleDrafter(net, k=3, tree=12, width=3), text)
    asked, forward = [], eagle.EagleTarget.forward
    monkeypatch.setattr(eagle.EagleTarget, "forward", lambda self, feeds: (asked.append(len(feeds[0].tokens)), forward(self, feeds))[1])
    draft = answered(drafting.propose(ctx, None))
    assert asked == [len(text) - 1, 3, 3] and len(drafting.state.made) == 1 + 3 + 3
    with torch.no_grad(): level = net.norm(drafting.state.made[1:4])
    hidden = lambda whole: {i: h[None].float() for i, h in read(target.open(whole + [0], drafting.drafter.asks)).prefilled.hidden.items()}
    tops = [i for i in range(len(draft)) if draft.parents[i] < 0]
    rows = []
    for i in tops:
        whole = text + [draft.tokens[i]]
        with torch.no_grad(): rows.append(net.norm(list(net.unroll(torch.tensor([whole]), hidden(whole), 2))[1][0, len(text) - 2]))
    for row in rows: assert float((level - row).abs().amax(1).min()) < 1e-4 * float(row.abs().max())
    assert tops and len(rows) == len(tops)


@pytest.mark.parametrize("begin", [0, 4])
def test_the_loss_by_hand(model, net, begin):
    "Level by level, each guess from a chain drafted after the text's own words; of what was given, none counts and all is read"
    target, text = as_target(model), texts(9)[0]
    batch, depth = batch_of(target, net, [text]), 3
    batch["real"][:, :begin] = False
    state = lambda n: begun(target, EagleDrafter(net, k=depth, tree=0), text[:n])[0]
    total = 0.
    for s in range(depth):
        each = []
        for n in range(max(2, begin + 1 - s), len(text) + 1 - s):
            drafting = state(n)
            with torch.no_grad():
                drafting.follow(text[:n])
                for j in range(s + 1): answered(drafting.ask(Draft.chain(text[n:n + j])))
                a = drafting.state.made[-1:]
                logits, p = net.norm(a)[0] @ net.head.T, batch["p"][0, n - 1 + s]
                each.append(float(torch.special.xlogy(p, p).sum() - (p * logits.log_softmax(-1)).sum()))
        total += .8 ** s * np.mean(each)
    with torch.no_grad(): assert float(net.loss(batch)[0]) == pytest.approx(total, rel=1e-4)


def test_padding_is_not_text(model, net): padding_is_not_text(as_target(model), net)


def test_a_favourite_without_a_word_still_teaches(model, net):
    batch = batch_of(as_target(model), net, texts(8))
    batch["p"] *= .05
    net.zero_grad()
    net.loss(batch)[0].backward()
    assert all(float(w.grad.abs().max()) > 0 for w in net.parameters())


# -- the cache

def rows_of(drafting): # of the text, the pending word's included
    state = drafting.state
    cache, n = state.cache, len(state.tokens)
    if not isinstance(cache, NativeCache): return cache.rows[:, :, :, :n]
    keys = cache.keys.swapaxes(-1, -2).reshape(*cache.keys.shape[:2], cache.capacity, -1)
    return torch.from_numpy(np.concatenate([keys[:, :, :n].reshape(-1), cache.values[..., :n, :].reshape(-1)]))


def watched(net, target, prompt, tree, limit=30, **options):
    "Decode, and after each draft compare the cache with a fresh reading of the text"
    worst, drafts = [], []
    class Watched(EagleDrafter):
        def begin(self, ctx, state):
            drafting = super().begin(ctx, state)
            propose = drafting.propose
            def check(ctx, rng):
                drafts.append((yield from propose(ctx, rng)))
                text = ctx.tokens[:]
                fresh = EagleDrafter.begin(self, Context(Tokens(text), ctx.budget, ctx.law, vocab_size=16), read(target.open(text, self.asks)))
                answered(fresh.propose(ctx, Keyed(0)))
                assert drafting.state.tokens == fresh.state.tokens == text[1:]
                if len(drafts[-1]): worst.append(float((rows_of(drafting) - rows_of(fresh)).abs().max()))
                return drafts[-1]
            drafting.propose = check
            return drafting
    trace = Trace(decode(target, Watched(net, tree=tree, **options), prompt, limit=limit, rng=Keyed(1)))
    return worst, drafts, trace


@pytest.mark.parametrize("tree", [0, 8])
@pytest.mark.parametrize("runtime", ["hf", "own"])
def test_the_cache_is_that_of_a_fresh_reading(model, own, near, runtime, tree):
    target = as_target(model if runtime == "hf" else own)
    lengths = set()
    for prompt in ([5], texts(6)[0], texts(7)[0]):
        worst, drafts, trace = watched(near, target, prompt, tree)
        assert max(worst) < 1e-4 and (len(drafts[0]) == 0) == (len(prompt) == 1)
        lengths |= {len(v.path) for _, v in trace.steps}
    assert len(lengths) > 1, "accepted some, rejected some"


def test_a_cache_that_remembers_its_dreams_is_seen(own, near, monkeypatch):
    def keeps(self, tokens, states, learn=eagle.EagleState.learn):
        dreams = [0, *range(1, len(self.scored) + 1)] if self.scored is not None else []
        learn(self, tokens, states)
        if len(dreams) > 1: self.cache.length = min(self.cache.length + len(dreams) - 1, len(self.tokens) - 1)
    monkeypatch.setattr(eagle.EagleState, "learn", keeps)
    worst, _, _ = watched(near, as_target(own), [5], 0)
    assert max(worst) > 1e-3


def test_not_asked_for_a_while(own, near):
    "Drafts wanted only now and then: what was committed in between is read later, all of it"
    target, text = as_target(own), texts(5)[0]
    class Lazy(EagleDrafter):
        def begin(self, ctx, state):
            drafting, turn = super().begin(ctx, state), iter(range(99))
            propose = drafting.propose
            drafting.propose = lambda ctx, rng: propose(ctx, rng) if next(turn) % 3 == 0 else Draft()
            self.last = drafting
            return drafting
    lazy = Lazy(near, k=2)
    trace = Trace(decode(target, lazy, text, limit=20, rng=Keyed(4)))
    assert trace.tokens == Trace(decode(target, "none", text, limit=20, rng=Keyed(4))).tokens
    whole = text + trace.tokens
    fresh, ctx = begun(target, EagleDrafter(near, k=2), whole)
    for drafting in (lazy.last, fresh):
        drafting.follow(whole)
        answered(drafting.ask(Draft()))
    assert lazy.last.state.tokens == fresh.state.tokens == whole[1:]
    assert torch.allclose(rows_of(lazy.last), rows_of(fresh), atol=1e-4)


# -- drafts

@pytest.mark.parametrize("k,tree,width", [(1, 3, 4), (3, 5, 2), (4, 12, 3), (2, 99, 99)])
def test_trees_keep_their_bounds(model, net, k, tree, width):
    drafting, ctx = begun(as_target(model), EagleDrafter(net, k=k, tree=tree, width=width), texts(6)[0])
    draft = answered(drafting.propose(ctx, None))
    assert 0 < len(draft) <= tree and max(draft.depth) <= k and set(draft.tokens) <= set(WORDS.tolist()) and draft.probs is None
    assert max(len(draft.children(i)) for i in range(-1, len(draft))) <= width
    ctx.budget = Budget(2, 1)
    small = answered(drafting.propose(ctx, None))
    assert len(small) <= 2 and max(small.depth) == 1 and small.tokens[0] == draft.tokens[0], "the second asking finds the cache as it was"


@pytest.mark.parametrize("factor", [0., 1e4])
def test_ties_stay_trees(model, net, factor):
    "All words alike, or all certain: a child is worth what its parent is, and never comes without it"
    drafter = EagleDrafter(net, k=3, tree=5, width=2)
    drafting, ctx = begun(as_target(model), drafter, texts(6)[0])
    layer = drafter.net.layer
    if layer is None: drafter.net.predict = lambda x, predict=drafter.net.predict: predict(x) * factor
    else:
        def over(*rows, over=layer.over):
            ranked, made = over(*rows)
            return ranked and Ranked(ranked.rows * np.float32(factor), ranked.best), made
        layer.over = over
    draft = answered(drafting.propose(ctx, None))
    assert len(draft) == (3 if factor else 5) and set(range(1, 1 + max(draft.depth))) == set(draft.depth)


def test_it_changes_nothing(model, own, near):
    changes_nothing(model, own, lambda: (EagleDrafter(near), EagleDrafter(near, k=3, tree=0)), requests=8)


def test_the_hundredth_request(own, near):
    drafter = EagleDrafter(near, k=2, tree=4)
    for i in range(100):
        prompt, run = [i % 16, 5], dict(limit=5, rng=Keyed(1, i))
        assert Trace(decode(own, drafter, prompt, **run)).tokens == Trace(decode(own, "none", prompt, **run)).tokens


def test_ends(own, near): ends_where_it_should(as_target(own), EagleDrafter(near))
def test_q(model, near): q_is_what_was_drawn_from(as_target(model), EagleDrafter(near, k=3, tree=0))


@pytest.mark.parametrize("kind,changes", [("Qwen2", {}), ("Qwen3", dict(head_dim=16)), ("GPT2", dict(n_inner=None)), ("Llama", dict(num_hidden_layers=1))])
def test_other_families(kind, changes):
    "A Llama-like one lends its last layer, another one only its states"
    model = build(kind=kind, **{"layers": 2, **({"layers": changes.pop("num_hidden_layers")} if "num_hidden_layers" in changes else {})}, **changes)
    net = Eagle3.of(model, WORDS)
    assert all(0 <= i <= model.config.num_hidden_layers for i in net.layers)
    for network, make in ((net, EagleDrafter), (Medusa.of(model, WORDS), lambda n: MedusaDrafter(n, tree=0))):
        drafter, run = make(network), dict(limit=10, law=Law(temperature=0))
        trace = Trace(decode(model, drafter, [3, 1], **run))
        assert trace.tokens == Trace(decode(model, "none", [3, 1], **run)).tokens and sum(len(d) for d, _ in trace.steps)


# -- files and training

def test_saved_and_loaded(own, near, tmp_path):
    near.record["held"] = {"top1": [.5]}
    near.save_pretrained(tmp_path)
    twin = Trained.from_pretrained(tmp_path)
    assert type(twin) is Eagle3 and twin.record == near.record and twin.settings == near.settings and twin.layers == near.layers
    run = dict(limit=20, law=Law(temperature=0))
    assert Trace(decode(own, EagleDrafter(tmp_path), [3, 1], **run)).tokens == Trace(decode(own, "none", [3, 1], **run)).tokens
    with pytest.raises(ValueError, match="another model"): list(decode(build(seed=8), EagleDrafter(tmp_path), [1], limit=2))
    with pytest.raises(ValueError, match="a eagle3 drafter was expected, this one is of kind medusa|medusa"):
        EagleDrafter(Medusa.of(build(), WORDS))


def test_names_of_shipped_weights(near):
    "Checkpoints are loaded by these"
    assert sorted(near.state_dict()) == sorted(["draft_vocab", "down.weight", "fuse.weight", "gate_up.weight", "norm.weight", "norm2.weight",
                                                "norm_e.weight", "norm_g.weight", "out.weight", "qkv.weight"])
    settings = {k: v for k, v in near.settings.items() if k != "depth"}       # as the first ones were written
    old = Eagle3(settings, near.draft_vocab)
    old.load_state_dict(near.state_dict())
    old.join(as_target(build()))
    batch = batch_of(as_target(build()), near, texts(8))
    with torch.no_grad(): assert float(old.loss(batch)[0]) == float(near.loss(batch)[0]) and len(old.loss(batch)[1]["top1"]) == 3


def test_heads_of_its_own(model, own):
    "Widened, an older layer is the same function, in training and in drafting"
    net = Eagle3.of(model, WORDS)
    assert net.widened() is net and net.settings["kv_heads"] == 4
    old = shaken(Eagle3({**net.settings, "kv_heads": 2}, net.draft_vocab)).join(as_target(model))
    wide, batch = old.widened().join(as_target(model)), batch_of(as_target(model), old, texts(9, 5))
    assert wide.qkv.weight.shape[0] > old.qkv.weight.shape[0]
    with torch.no_grad(): assert float(old.loss(batch)[0]) == pytest.approx(float(wide.loss(batch)[0]), rel=1e-5)
    run = dict(limit=16, law=Law(temperature=0))
    traces = [Trace(decode(own, EagleDrafter(n), [3, 1], **run)) for n in (old, wide)]
    assert [d for d, _ in traces[0].steps] == [d for d, _ in traces[1].steps]


def test_bad_arguments(near):
    for options in (dict(k=-1), dict(tree=-1), dict(width=0)):
        with pytest.raises(ValueError, match="need"): EagleDrafter(near, **options)


def test_training_teaches(tmp_path):
    model = build(seed=4, dtype=torch.float32)
    docs = [model.generate(torch.tensor([[i % 16, i // 16]]), max_new_tokens=22, do_sample=False)[0].numpy() for i in range(40)]
    net = shaken(Eagle3.of(model, WORDS).join(as_target(model)), .1)
    batches = Batches(Features(model, docs, net.layers, tmp_path / "f"), net)
    before = held_out(net, batches)
    log = fit_drafter(net, batches, batches, tmp_path / "run", steps=60, lr=5e-3, half=False)
    after = held_out(net, batches)
    assert log[-1]["loss"] < log[0]["loss"] and all(b + .1 < a for b, a in zip(before["top1"], after["top1"]))
    greedy = dict(law=Law(temperature=0), limit=20)
    trace = Trace(decode(model, EagleDrafter(net), docs[0][:2].tolist(), **greedy))
    assert trace.tokens == Trace(decode(model, "none", docs[0][:2].tolist(), **greedy)).tokens and trace.calls < 15


@pytest.mark.parametrize("name", ["medusa", "eagle3"])
def test_the_shipped_one_on_the_real_model(name, smollm2):
    "In float32, greedy and keyed, a chain and a tree: plain decoding's text; and it earns its keep"
    if shipped(name) is None: pytest.skip(f"no trained {name} drafter comes with this checkout")
    from specdec_nb.roles import make_drafter
    from specdec_nb.models.hub import chat
    model, tokenizer = smollm2
    ids = chat(tokenizer, "Name three rivers and say where they flow.")[0].tolist()
    for run in (dict(law=Law(temperature=0)), dict(law=Law(temperature=.7), rng=Keyed(5))):
        plain = Trace(decode(model, "none", ids, limit=20, **run))
        for options in (dict(tree=0), dict(tree=16)):
            trace = Trace(decode(model, make_drafter(name, k=4, **options), ids, limit=20, **run))
            assert trace.tokens == plain.tokens and trace.calls < plain.calls


def test_a_words_own_way_into_the_stream(model, net, near, tmp_path):
    "The option `direct`: no function changes as it begins, drafting computes what training does, and old checkpoints have none"
    target = as_target(model)
    direct = Eagle3.of(model, WORDS, direct=True).join(target)
    assert direct.settings["direct"] and not direct.enter.weight.any() and not hasattr(near, "enter") and "direct" not in near.settings
    direct.load_state_dict({**near.state_dict(), "enter.weight": direct.enter.weight})
    batch = batch_of(target, near, texts(9))
    with torch.no_grad():
        for (a, _), (b, _) in zip(near.guessed(batch), direct.guessed(batch)): assert torch.equal(a, b)
    direct = shaken(direct)
    for n in (2, 8): assert max(distance(target, direct, texts(n)[0])) < 1e-5
    direct.save_pretrained(tmp_path / "direct")
    assert Trained.from_pretrained(tmp_path / "direct").enter.weight.any()
    plain = {k: w for k, w in direct.state_dict().items() if k != "enter.weight"}
    without = Eagle3({**direct.settings, "direct": False}, WORDS).join(target)
    without.load_state_dict(plain)
    with torch.no_grad(): assert any(not torch.equal(a, b) for (a, _), (b, _) in zip(without.guessed(batch), direct.guessed(batch)))
