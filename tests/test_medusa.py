"""Medusa: what its heads begin as, what they learn from, which rows they read; exact everywhere; and files that are not what they should be."""
import json
import shutil

import numpy as np
import pytest
import torch

from specdec_nb import Dice, Draft, Keyed, Law, Llama, Trace
from specdec_nb.roles import Context, Tokens, as_target, read
from specdec_nb.decode import answered, decode
from specdec_nb.draft import Budget
from specdec_nb.learned.medusa import Medusa, MedusaDrafter, rank_accuracies
from specdec_nb.learned.losses import forward_kl
from specdec_nb.learned.network import Trained
from specdec_nb.training.features import Batches, Features
from specdec_nb.training.fit import fit_drafter, held_out
from learners import (WORDS, batch_of, build, changes_nothing, context, ends_where_it_should, padding_is_not_text,
                      q_is_what_was_drawn_from, shaken, texts)



@pytest.fixture(scope="module")
def model(): return build()

@pytest.fixture(scope="module")
def own(model): return Llama.from_hf(model)

@pytest.fixture(scope="module")
def net(model):
    net = shaken(Medusa.of(model, WORDS, heads=3).join(as_target(model)))
    net.record["ranks"] = [[.4, .2, .1], [.3, .3, .1], [.2, .1, .1]]
    return net


# -- the heads

def test_heads_begin_as_the_targets_own(model):
    net, h = Medusa.of(model, WORDS), torch.randn(5, 32)
    assert net.states(h).shape == (5, 4, 32) and all(torch.equal(s, h) for s in net.states(h).unbind(1))
    torch.nn.init.uniform_(net.mix[2].bias)                        # a bias that is not zero: no longer the target's own
    assert [torch.equal(s, h) for s in net.states(h).unbind(1)] == [True, True, False, True]
    assert len({w.data_ptr() for w in net.parameters()}) == 8, "no two heads share a weight"


def test_head_k_learns_the_token_k_plus_2_places_on(model, net):
    "Every guess by hand, place by place"
    target, ours = as_target(model), texts(9, 6)
    batch, total = batch_of(target, net, ours), 0.
    for k in range(3):
        each = []
        for r, text in enumerate(ours):
            for t in range(len(text) - 1 - k):                     # the law after text[:t + 2 + k], foretold from place t
                h = batch["hidden"][4][r, t]
                logits = (h + torch.nn.functional.silu(net.mix[k](h))) @ net.head.T
                [scores] = target.score([(target.open(text[:t + 2 + k]), Draft())])
                p = torch.from_numpy(np.asarray(Law().row(None, scores, 0)))[WORDS].float()
                each.append(forward_kl(logits, p).item())
        total += .8 ** k * np.mean(each)
    assert net.loss(batch)[0].item() == pytest.approx(total, rel=1e-4)


def test_padding_is_not_text(model, net): padding_is_not_text(as_target(model), net)


def test_a_favourite_without_a_word_still_teaches(model, net):
    batch = batch_of(as_target(model), net, texts(8))
    batch["p"] *= .05                                              # nearly all mass lies outside the words
    net.zero_grad()
    net.loss(batch)[0].backward()
    assert all(float(mix.weight.grad.abs().max()) > 1e-5 for mix in net.mix)
    assert rank_accuracies(net, [batch], ranks=3) == [[0.] * 3] * 3, "and counts as a miss"


def test_rank_accuracies_by_hand(model, net):
    batch, target = batch_of(as_target(model), net, ours := texts(10, 7)), as_target(model)
    found, hits, n = rank_accuracies(net, [batch], ranks=99), np.zeros((3, len(WORDS))), np.zeros(3)
    for r, text in enumerate(ours):
        for k in range(3):
            for t in range(len(text) - 1 - k):
                p, n[k] = batch["p"][r, t + 1 + k], n[k] + 1
                order = (net.states(batch["hidden"][4][r, t])[k] @ net.head.T).argsort(descending=True).tolist()
                if p.max() > 1 - p.sum(): hits[k, order.index(int(p.argmax()))] += 1
    assert np.allclose(found, hits / n[:, None]) and 0 < hits.sum() and target.vocab_size > len(WORDS)
    assert rank_accuracies(net, [batch_of(target, net, texts(1))]) == [[0.] * 8] * 3, "a text too short for any guess"


# -- drafting

@pytest.mark.parametrize("runtime", ["hf", "own"])
def test_it_reads_the_row_before_the_pending_token(model, own, net, runtime):
    target, drafter, seen = as_target(model if runtime == "hf" else own), MedusaDrafter(net, k=3, tree=6), 0
    drafter.bind(target)
    class Watched(MedusaDrafter):
        def begin(self, ctx, state):
            drafting = super().begin(ctx, state)
            propose = drafting.propose
            def check(ctx, rng):
                nonlocal seen
                if len(ctx.tokens) > 1:
                    fresh = read(target.open(ctx.tokens[:], self.asks)).prefilled.hidden[4][-1:]
                    assert torch.allclose(drafting.h.double(), fresh.double(), atol=1e-5)
                    seen += 1
                else: assert drafting.h is None
                return propose(ctx, rng)
            drafting.propose = check
            return drafting
    for prompt in ([3, 1, 4], [9]):
        trace = Trace(decode(target, Watched(net, k=3, tree=6), prompt, limit=40, rng=Keyed(1)))
        assert {len(v.path) for _, v in trace.steps} > {0}, "after acceptance and after rejection"
    assert seen > 40


def test_the_tree_is_the_best_of_the_ranks(model, net):
    target, drafter = as_target(model), MedusaDrafter(net, k=3, tree=12)
    drafter.bind(target)
    text = [3, 1, 4, 1]
    draft = answered(drafter.begin(ctx := context(text), state := read(target.open(text, drafter.asks))).propose(ctx, None))
    order = (net.states(state.prefilled.hidden[4][-1:].float())[0] @ net.head.T).argsort(descending=True)
    assert draft.depth == drafter.shape(3, 12).depth and len(draft) == 12 and set(draft.depth) == {1, 2, 3}
    for i, rank in enumerate(drafter.shape(3, 12).tokens):
        assert draft.tokens[i] == WORDS[order[draft.depth[i] - 1, rank]]
    small = Context(Tokens(text), Budget(4, 2), Law(), vocab_size=16)
    assert len(d := answered(drafter.begin(small, state).propose(small, None))) == 4 and max(d.depth) == 2
    chains = Context(Tokens(text), Budget(9, 9, type("T", (), dict(branches=False))), Law(temperature=0), vocab_size=16)
    assert answered(drafter.begin(chains, state).propose(chains, Dice())).is_chain
    net.record["ranks"] = [[.5, .5], [1., 0.]] + net.record["ranks"][2:]            # a sure child is worth what its parent is
    assert MedusaDrafter(net).shape(2, 4).parents == (-1, -1, 0, 1)
    net.record["ranks"] = [[.4, .2, .1], [.3, .3, .1], [.2, .1, .1]]


def test_it_changes_nothing(model, own, net):
    changes_nothing(model, own, lambda: (MedusaDrafter(net, tree=8), MedusaDrafter(net, k=2, tree=0)))


def test_the_hundredth_request(own, net):
    drafter = MedusaDrafter(net, tree=6)
    for i in range(100):
        prompt, run = [i % 16, 5], dict(limit=6, rng=Keyed(1, i))
        assert Trace(decode(own, drafter, prompt, **run)).tokens == Trace(decode(own, "none", prompt, **run)).tokens


def test_ends(own, net): ends_where_it_should(as_target(own), MedusaDrafter(net, tree=8))
def test_q(model, net): q_is_what_was_drawn_from(as_target(model), MedusaDrafter(net, k=3, tree=0))


def test_training_teaches(model, tmp_path):
    "On a target's own greedy texts, of which little is random: the loss falls, and heads foretell what they could not"
    model = build(seed=4, dtype=torch.float32)
    docs = [model.generate(torch.tensor([[i % 16, i // 16]]), max_new_tokens=22, do_sample=False)[0].numpy() for i in range(40)]
    features = Features(model, docs, [4], tmp_path / "f")
    net = Medusa.of(model, WORDS, heads=2).join(as_target(model))
    batches = Batches(features, net)
    before = held_out(net, batches)
    log = fit_drafter(net, batches, batches, tmp_path / "run", steps=60, lr=5e-3, half=False)
    after = held_out(net, batches)
    assert log[-1]["loss"] < log[0]["loss"] and all(b + .03 < a for b, a in zip(before["top1"], after["top1"]))
    net.calibrate(batches)
    assert json.loads(json.dumps(net.record)) == net.record and net.record["ranks"][0][0] > .2
    greedy = dict(law=Law(temperature=0), limit=20)
    trace = Trace(decode(model, MedusaDrafter(net), docs[0][:2].tolist(), **greedy))
    assert trace.tokens == Trace(decode(model, "none", docs[0][:2].tolist(), **greedy)).tokens and trace.calls < 20


# -- files

def test_saved_and_loaded(own, net, tmp_path):
    net.save_pretrained(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    twin = Trained.from_pretrained(tmp_path)
    assert type(twin) is Medusa and twin.target == net.target and twin.record == net.record and twin.settings == net.settings
    assert twin.draft_vocab.tolist() == WORDS.tolist()
    for name, w in net.state_dict().items():
        error = (twin.state_dict()[name] - w).abs()
        assert not error.any() if w.dim() < 2 else bool((error <= w.abs().amax(1, keepdim=True) / 127).all())
    run = dict(limit=24, law=Law(temperature=0))
    first, second = (Trace(decode(own, MedusaDrafter(n), [3, 1], **run)) for n in (tmp_path, tmp_path))
    assert first.tokens == second.tokens == Trace(decode(own, "none", [3, 1], **run)).tokens and first.steps == second.steps


def test_for_one_target_only(net, model):
    for other in (build(seed=9), build(vocab=20)):
        with pytest.raises(ValueError, match="another model.*specdec train medusa"): list(decode(other, MedusaDrafter(net), [1], limit=2))
    half = build(dtype=torch.bfloat16)                             # the same weights, rounded: the same model
    assert len(Trace(decode(half, MedusaDrafter(net), [1, 2], limit=8)).tokens) == 8
    list(decode(model, MedusaDrafter(net), [1], limit=2))


@pytest.mark.parametrize("harm,message", [
    (lambda p: (p / "config.json").unlink(), "config.json is missing"),
    (lambda p: (p / "model.safetensors").unlink(), "model.safetensors is missing"),
    (lambda p: shutil.rmtree(p), "config.json is missing"),
    (lambda p: (p / "model.safetensors").write_bytes((p / "model.safetensors").read_bytes()[:-100]), "damaged"),
    (lambda p: (p / "model.safetensors").write_bytes(b""), "damaged"),
    (lambda p: (p / "config.json").write_text((p / "config.json").read_text()[:40]), "damaged"),
    (lambda p: (p / "config.json").write_text("{}"), "damaged"),
    (lambda p: (p / "config.json").write_text((p / "config.json").read_text().replace('"heads": 3', '"heads": 2')), "damaged"),
    (lambda p: (p / "config.json").write_text((p / "config.json").read_text().replace('"medusa"', '"hydra"')), "damaged"),
], ids=["no config", "no weights", "no folder", "cut weights", "empty weights", "cut config", "empty config", "other size", "other kind"])
def test_damaged_folders(net, tmp_path, harm, message):
    net.save_pretrained(tmp_path / "m")
    assert Trained.from_pretrained(tmp_path / "m")
    harm(tmp_path / "m")
    with pytest.raises(ValueError, match=message) as told: MedusaDrafter(tmp_path / "m")
    assert str(tmp_path / "m") in str(told.value)


def test_bad_arguments(model, net):
    for options in (dict(k=-1), dict(tree=-1)):
        with pytest.raises(ValueError, match="k >= 0 and tree >= 0"): MedusaDrafter(net, **options)
    with pytest.raises(ValueError, match="at least one head"): Medusa.of(model, WORDS, heads=0)
    fresh = Medusa.of(model, WORDS)
    with pytest.raises(ValueError, match="calibrate"): MedusaDrafter(fresh)
    assert len(Trace(decode(model, MedusaDrafter(fresh, tree=0), [1, 2], limit=8)).tokens) == 8


@pytest.mark.parametrize("law", [dict(temperature=0), dict(temperature=1), dict(temperature=.7, top_k=2)])
def test_the_tree_minds_the_law(model, net, law):
    "A word that may not be said is not guessed, whatever stood before it; where nothing may be said, nothing is"
    banned = [1, 2, 5, 8, 9, 11, 15]
    class Masked:
        "Forbids some words, and more behind a 3"
        def __call__(self, prefix, row):
            row = row.copy()
            row[banned + ([0, 13] if len(prefix) and prefix[-1] == 3 else [])] = -np.inf
            return row
    for masked, words in ((Masked(), {0, 3, 13}), (lambda prefix, row: np.full_like(row, -np.inf), set())):
        for text in texts(5, 9):
            drafter = MedusaDrafter(net, tree=12)
            drafting, ctx = begun_medusa(as_target(model), drafter, text, processors=(masked,), **law)
            draft = answered(drafting.propose(ctx, Dice(1)))
            assert set(draft.tokens) <= words and (len(draft) > 2) == bool(words)
            for i, parent in enumerate(draft.parents): assert parent < 0 or draft.tokens[parent] != 3 or draft.tokens[i] == 3


def begun_medusa(target, drafter, text, **law):
    drafter.bind(target)
    ctx = context(text, **law)
    ctx.law_state = ctx.law.start(text)
    return drafter.begin(ctx, read(target.open(text, drafter.asks))), ctx


def test_fewer_words_than_the_tree_has_ranks(model):
    "A static tree of six ranks for a drafter that knows two words"
    few = shaken(Medusa.of(model, WORDS[:2]).join(as_target(model)))
    few.record["ranks"] = [[.3, .2, .1, .1, .1, .1]] * 4
    plain, trace = (Trace(decode(as_target(model), d, [4, 2], limit=16, law=Law(temperature=0))) for d in ("none", MedusaDrafter(few, tree=16)))
    assert trace.tokens == plain.tokens and max(len(draft) for draft, _ in trace.steps) > 2
