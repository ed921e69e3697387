"""Chapter 24a: each planted fault is found and named, in every kind of drafter, and nothing is found where nothing is."""
from copy import deepcopy
import json

import numpy as np
import pytest
import torch
from specdec_nb.models.llama import Llama
from specdec_nb.roles import as_target, make_drafter
from specdec_nb.drafters.model import ModelDrafter
from specdec_nb.learned.block import BlockDrafter, BlockLayer
from specdec_nb.learned.draft_model import DraftModel
from specdec_nb.learned.eagle import Eagle3, EagleDrafter
from specdec_nb.learned.eagle1 import Eagle1, Eagle1Drafter
from specdec_nb.learned.hydra import Hydra, HydraDrafter
from specdec_nb.learned.medusa import Medusa, MedusaDrafter
from specdec_nb.training.diagnose import FAULTS, Diagnosis, diagnose, trained_drafter
from specdec_nb.training.trial import STORY_WORDS, Trial, story

KINDS = {"medusa": (Medusa, MedusaDrafter, dict(heads=4)), "hydra": (Hydra, HydraDrafter, dict(heads=4)),
         "eagle3": (Eagle3, EagleDrafter, {}), "eagle": (Eagle1, Eagle1Drafter, {}), "block": (BlockLayer, BlockDrafter, {})}


class Told(MedusaDrafter):
    "Medusa with the `hear` of the other kinds, so that faults are planted in one way"
    def begin(self, ctx, state):
        one = super().begin(ctx, state)
        def hear(hidden, rows): one.h = hidden[one.layer][rows][-1:].float()
        one.hear, one.observe = hear, lambda step: one.hear(step.scores.hidden, step.verdict.rows)
        if state.prefilled.hidden: one.hear(state.prefilled.hidden, slice(None))
        return one


def stale(drafting, state, drafter): drafting.observe = lambda step: None


def unrewound(drafting, state, drafter):
    drafting.observe = lambda step: drafting.hear(step.scores.hidden, slice(-len(step.verdict.rows), None))


def late(drafting, state, drafter):
    hear, last = drafting.hear, {}
    def behind(hidden, rows):
        new = {i: torch.cat([last.get(i, h[rows][:1]), h[rows]]) for i, h in hidden.items()}
        last.update({i: h[-1:] for i, h in new.items()})
        hear({i: h[:-1] for i, h in new.items()}, slice(None))
    drafting.hear = behind
    if hasattr(drafting, "news"): drafting.news = []
    behind(state.prefilled.hidden, slice(None))


def planted(cls, fault):
    "A drafter of that class with a fault in each of its requests"
    class Ill(cls):
        def begin(self, ctx, state):
            one = super().begin(ctx, state)
            fault(one, state, self)
            return one
    return Ill


def kept(cls):
    class Ill(cls):
        def begin(self, ctx, state):
            if not hasattr(self, "kept"): self.kept = super().begin(ctx, state)
            return self.kept
    return Ill


def old_cache(cls):
    "The rows of the first request's text count as those of the next one's"
    class Ill(cls):
        def begin(self, ctx, state):
            one, first = super().begin(ctx, state), not hasattr(self, "kept")
            if first: self.kept = one.state.cache
            elif one.news:
                one.state.learn(ctx.tokens[1:], torch.cat(one.news))
                one.news, one.state.cache = [], deepcopy(self.kept)
                one.state.cache.length = min(self.kept.length, len(ctx.tokens) - 3)
            return one
    return Ill


def slipped(cls):
    class Ill(cls):
        def bind(self, target):
            super().bind(target)
            self.bridge.draft_vocab = np.roll(self.net.draft_vocab.numpy(), 1)
    return Ill


ILL = {"stale": lambda c: planted(c, stale), "unrewound": lambda c: planted(c, unrewound), "late": lambda c: planted(c, late),
       "again": lambda c: old_cache(c) if issubclass(c, EagleDrafter) else kept(c), "words": slipped}


@pytest.fixture(scope="module")
def trial():
    made = Trial(60)
    made.hf, made.target, made.nets = made.target, as_target(Llama.from_hf(made.model)), {}
    return made


def network(trial, kind):
    if kind not in trial.nets: trial.nets[kind] = trial.fit(KINDS[kind][0], 30, **KINDS[kind][2])
    return trial.nets[kind]


def names(trial, drafter, **given):
    found = diagnose(given.pop("target", trial.target), drafter, trial.prompts[:3], limit=24, **given)
    assert found.healthy == (not found.faults) and json.loads(json.dumps(found.as_dict()))["who"] == found.who
    assert all(f.name in repr(found) and f.cure in repr(found) for f in found.faults)
    return [f.name for f in found.faults]


@pytest.mark.parametrize("kind", KINDS)
def test_a_healthy_drafter_is_called_healthy(trial, kind):
    assert names(trial, KINDS[kind][1](network(trial, kind))) == []                 # trees are looked at by their chains


def test_whatever_the_runtime_and_the_precision(trial):
    net = network(trial, "medusa")
    assert names(trial, MedusaDrafter(net), target=trial.hf) == []
    half = as_target(Llama.from_hf(deepcopy(trial.model).bfloat16()))
    assert "half" in half.promise and names(trial, MedusaDrafter(net), target=half) == []


@pytest.mark.parametrize("kind, fault", [*(("medusa", fault) for fault in ILL), ("hydra", "unrewound"),
                                         *(("eagle3", fault) for fault in ILL if fault != "words")])
def test_a_fault_of_serving_is_named(trial, kind, fault):
    cls = Told if kind == "medusa" else KINDS[kind][1]
    assert names(trial, ILL[fault](cls)(network(trial, kind), tree=0)) == [fault]


def shifted(cls, by):
    class Ill(cls):
        def guessed(self, batch):
            if self.training: batch = {**batch, "hidden": {i: h.roll(by, 1) for i, h in batch["hidden"].items()}}
            return super().guessed(batch)
    return Ill


@pytest.mark.parametrize("kind, by, fault", [("medusa", 1, "trained late"), ("medusa", -1, "trained early")])
def test_states_that_slipped_in_training(trial, kind, by, fault):
    cls, drafter, options = KINDS[kind]
    assert names(trial, drafter(trial.fit(shifted(cls, by), 60, **options), tree=0)) == [fault]


@pytest.mark.parametrize("kind, steps, options", [("medusa", 0, {}), ("medusa", 5, {}), ("medusa", 10, {}), ("medusa", 0, dict(heads=1)), ("hydra", 0, {}),
                                                  ("hydra", 5, {}), ("eagle3", 0, {})])
def test_what_was_hardly_trained_is_weak_and_not_trained_early(trial, kind, steps, options):
    cls, drafter, usual = KINDS[kind]
    net = trial.fit(cls, steps, **{**usual, **options})
    found = diagnose(trial.target, drafter(net, tree=0), trial.prompts[:3], limit=24)
    assert [f.name for f in found.faults] == ["weak"]
    right = found.figures["right"]                                                  # the first guess alone cannot tell: it looks early, where a head is the target's
    assert kind == "eagle3" or right["early"] - right["given"] > .3


def test_words_weakness_and_relatives(trial):
    trial.draft_vocab = range(0, len(STORY_WORDS), 2)
    try: assert names(trial, MedusaDrafter(trial.fit(Medusa, 60, heads=4))) == ["few words"]
    finally: trial.draft_vocab = range(len(STORY_WORDS))
    dull = trial.fit(Medusa, 0, heads=4)
    for mix in dull.mix: mix.bias.data = 100 * dull.head[STORY_WORDS.index("with")]
    assert names(trial, MedusaDrafter(dull)) == ["weak"]                             # it says one word, and is served as it is
    torch.manual_seed(0)
    tuned = Trial.__new__(Trial)
    tuned.model = type(trial.model)(trial.model.config).eval()
    tuned.model.load_state_dict({k: w + .03 * w.std() * torch.randn_like(w) if "down_proj" in k else w for k, w in trial.model.state_dict().items()})
    assert names(trial, MedusaDrafter(network(trial, "medusa")), target=as_target(tuned.model)) == ["relative"]


def test_texts_and_frames(trial):
    good, own = MedusaDrafter(network(trial, "medusa")), trial.train.documents[:12]
    begins, rng = [6] * len(own), np.random.default_rng(0)
    assert names(trial, good, documents=own, begins=begins) == []
    others = [[18 + (x - 17) % 4 if x >= 18 else x for x in story(np.random.default_rng(i))] for i in range(12)]
    for texts in (others, rng.integers(0, len(STORY_WORDS), (8, 40))): assert names(trial, good, documents=texts, begins=begins[:len(texts)]) == ["not its text"]
    assert names(trial, good, documents=[[0, 1, *d] for d in own], begins=[8] * len(own)) == ["other frame"]
    assert names(trial, good, begin=[0, 1]) == ["other frame"]
    assert diagnose(trial.target, good, [[0, 1, *p] for p in trial.prompts[:3]], limit=12, begin=[0, 1]).healthy


def test_a_draft_model_has_no_states_and_is_diagnosed_all_the_same(trial):
    net = trial.fit(DraftModel, 20, from_layers=(0, -1))
    assert names(trial, ModelDrafter(net)) == []
    from specdec_nb.drafters.model import TreeDrafting
    class Deaf(TreeDrafting):
        def follow(self, text): return super().follow(text if self.state is None else self.state.tokens)
    ill = ModelDrafter(net)
    ill.drafting = Deaf
    assert names(trial, ill) == ["stale"]


def about(some):
    "Stories in which only these people and things occur"
    strange = {i for i, word in enumerate(STORY_WORDS) if 6 <= i < 16 and word not in some.split()}
    def tells(rng, length=48):
        text = story(rng, length)
        return tells(rng, length) if strange & {*text} else text
    return tells


def test_other_questions_are_named_and_like_ones_are_not():
    kinds, rng = {"near": about("ann bob cid cat dog"), "far": about("dora eve finn bird tree")}, np.random.default_rng(1)
    near = Trial(tells=kinds["near"])
    drafter = MedusaDrafter(near.fit(Medusa, heads=4), tree=0)
    given = dict(limit=20, documents=near.held.documents, begins=[6] * len(near.held.documents))
    found = {kind: diagnose(near.target, drafter, [tells(rng, 9) for _ in range(20)], **given) for kind, tells in kinds.items()}
    assert [[x.name for x in d.faults] for d in found.values()] == [[], ["other questions"]]
    assert "learned" not in diagnose(near.target, drafter, near.prompts[:2], limit=8).figures          # without documents nobody can tell
    framed = diagnose(near.target, drafter, [kinds["far"](rng, 9) for _ in range(20)], **given | dict(begin=[0, 1]))
    assert [x.name for x in framed.faults] == ["other frame"]                                          # what stands higher up comes first


def test_what_cannot_be_diagnosed_is_said(trial):
    with pytest.raises(ValueError, match="lookup has no trained network.*symptoms"): diagnose(trial.target, make_drafter("lookup"), [[1, 2, 3]])
    with pytest.raises(ValueError, match="no guess was made"): diagnose(trial.target, MedusaDrafter(network(trial, "medusa")), [[1, 2, 3]], limit=1)
    with pytest.raises(ValueError, match="'telepathy' is no folder.*eagle3"): trained_drafter("telepathy")
    with pytest.raises(ValueError, match="'telepathy' is no folder.*eagle3"): diagnose(trial.target, "telepathy", [[1, 2, 3]])
    with pytest.raises(ValueError, match="trained for another model"): diagnose(trial.target, "medusa", [[1, 2, 3]])
    with pytest.raises(ValueError, match="'stories' is no folder"): trained_drafter("stories")      # shipped, and no drafter
    assert Diagnosis("x", {}, []).healthy and all(len(about) == 3 and all(about) for about in FAULTS.values())
