"""Chapter 24b: what is learnt while serving is the target's own, the text stays the target's, and learning has bounds."""
import copy
import time
from fractions import Fraction

import numpy as np
import pytest
import torch

from specdec_nb import Draft, Keyed, Law, Llama, ModelDrafter, Online, Stop, Trace, Verdict, exact_law, generate
from specdec_nb.decode import Request, decode, serve
from specdec_nb.learned import online
from specdec_nb.learned.draft_model import DraftModel
from specdec_nb.learned.eagle import Eagle3, EagleDrafter
from specdec_nb.learned.medusa import Medusa, MedusaDrafter
from specdec_nb.learned.network import Trained
from specdec_nb.models.maps import why_not_native
from specdec_nb.models.native import Native
from specdec_nb.roles import as_target, make_drafter
from specdec_nb.training.features import states_of
from specdec_nb.workshop import registry
from learners import KINDS
from learners import WORDS, build, changes_nothing, texts

KINDS = {**KINDS, "eagle3": (Eagle3, EagleDrafter, {}), "draft": (DraftModel, ModelDrafter, {}),
         "medusa": (Medusa, MedusaDrafter, dict(heads=3))}
GREEDY = dict(law=Law(temperature=0))
kinds = pytest.mark.parametrize("kind", KINDS)
some = pytest.mark.parametrize("kind", ["eagle3", "medusa", "draft"])


@pytest.fixture(scope="module")
def model(): return build()


def inner(kind, model, tree=6, **more):
    cls, drafter, options = KINDS[kind]
    torch.manual_seed(1)
    net = cls.of(model, WORDS, **options)
    net.record["ranks"] = [[.4, .2, .1], [.3, .3, .1], [.2, .1, .1]]
    return drafter(net, k=3, tree=tree, **more)


def learner(kind, model, tree=6, **options):
    "One that is in a hurry"
    return Online(inner(kind, model, tree), **(dict(every=1, lr=.05, window=8, size=2, memory=4, everywhere=False) | options))


def weights(net): return torch.cat([w.detach().flatten() for w in net.parameters()])


def run(target, drafter, prompt, limit=24, **settings): return Trace(decode(target, drafter, prompt, limit=limit, **(GREEDY | settings)))


# -- exactness

@kinds
def test_the_text_stays(kind, model):
    made = []
    def make():
        made.append(learner(kind, model, (6, 0)[len(made) % 2]))
        return made[-1:]
    changes_nothing(model, Llama.from_hf(model), make, requests=4)
    assert len(made) == 2
    for drafter in made:
        assert drafter.record["steps"] > 1 and drafter.record["corrections"] >= drafter.record["steps"]


@some
def test_batches(kind, model):
    "Rows of unequal length, each what it is alone, while others' mistakes are learnt from"
    target, drafter, prompts = as_target(model), learner(kind, model), texts(1, 2, 5, 9, 3)
    for settings in (GREEDY, dict(law=Law(temperature=.9))):
        def rng(i): return Keyed(4, i)
        plain = [run(target, "none", p, 16, rng=rng(i), **settings).tokens for i, p in enumerate(prompts)]
        requests = [Request(target, drafter, p, stop=Stop(16), rng=rng(i), **settings) for i, p in enumerate(prompts[:4])]
        written, before = {}, weights(drafter.network)
        for request, step in serve(requests):
            written.setdefault(request, []).append(step)
            if step.stopped and len(requests) == 4:              # one comes late, and begins with other weights
                requests.append(Request(target, drafter, prompts[4], stop=Stop(16), rng=rng(4), **settings))
        assert [Trace(written[r]).tokens for r in requests] == plain
        assert not torch.equal(before, weights(drafter.network))


class Rational(Law):
    "The law in fractions, so that an enumeration can ask for equality"
    def row(self, s, scores, i):
        p = [Fraction(float(x)) for x in super().row(s, scores, i)]
        return np.array(p) / sum(p)


def joint(model, make, limit=2, prompts=((0, 1), (1,))):
    def once(rng):
        drafter = make()
        return tuple(tuple(run(model, drafter, p, limit, rng=rng, law=Rational()).tokens) for p in prompts)
    return exact_law(once)


class Hasty(Online):
    "It says what it would draw from after the lesson, not what it has drawn from"
    def begin(self, ctx, state):
        drafting, propose = super().begin(ctx, state), None
        propose = drafting.propose
        def late(ctx, rng):
            draft = yield from propose(ctx, rng)
            return Draft(draft.tokens, draft.parents, [q[::-1] for q in draft.probs or ()] or None)
        drafting.propose = late
        return drafting


def test_the_joint_law_of_two_requests():
    "The second is drafted with what the first has taught; every outcome of every coin, in fractions"
    tiny, taught = build(vocab=2, layers=1, hidden_size=8, num_attention_heads=2, intermediate_size=8), []
    torch.manual_seed(0)
    net = Eagle3.of(tiny, [0, 1])
    def make(cls=Online):
        taught.append(cls(EagleDrafter(copy.deepcopy(net), k=1, tree=0), every=1, lr=.5, window=4))
        return taught[-1]
    # fractions are equal only if rows are, whatever a call scores: the native runtime's
    target = as_target(tiny if why_not_native() else Native.from_hf(tiny, 1))
    law, plain = joint(target, make), joint(target, lambda: "none")
    assert law == plain and len(law) == 16 and sum(law.values()) == 1
    steps = [drafter.record["steps"] for drafter in taught]
    assert {0} < {*steps}, "in some of these worlds something was learnt, in some nothing"
    assert joint(target, lambda: make(Hasty)) != plain


def test_in_company_of_others(model):
    "Around it another drafter, and a request that is resumed"
    target = as_target(model)
    drafter = make_drafter("tuned", drafter=learner("eagle3", model))
    for p in texts(2, 5): assert run(target, drafter, p).tokens == run(target, "none", p).tokens
    drafter, prompt = learner("draft", model), texts(4)[0]
    request = Request(target, drafter, prompt, stop=Stop(40), **GREEDY)
    steps = serve([request])
    for _ in range(3): next(steps)
    old, other = list(request.tokens), [*prompt, *texts(9)[0]]
    request.resume(other)
    for _ in steps: pass
    whole = request.tokens
    assert whole[len(other):] == run(target, "none", other, 40 - 9).tokens
    for lesson in drafter.lessons:
        n = len(lesson)
        assert any(text[i:i + n] == lesson.tokens for text in (old, whole) for i in range(len(text))), "no stretch of two texts"


# -- what is learnt

def collected(target, drafter, prompt, limit=40):
    drafter.every = 10**9
    drafter.lessons = []
    trace = run(target, drafter, prompt, limit)
    return [*prompt, *trace.tokens], trace, drafter.lessons


def are_true(target, net, text, lessons):
    "Each lesson is a stretch of the text; states and laws are those of the text read in one piece. Which places are due"
    layers = sorted({*net.layers, target.layers})
    states, due = states_of(target, text, layers), set()
    laws = (states[target.layers].double() @ target.unembed.double().T).softmax(-1)[:, net.draft_vocab]
    at = 0
    for lesson in lessons:
        n = len(lesson)
        places = [i for i in range(at, len(text)) if text[i:i + n] == lesson.tokens]           # a text of few words says some of them again
        at = next((i for i in places if all(torch.allclose(h.double(), states[j][i:i + n], rtol=.01, atol=.01) for j, h in lesson.hidden.items())), None)
        assert at is not None, "states of other words"
        for place, p in lesson.due.items(): assert torch.allclose(p.double(), laws[at + place], atol=1e-6), "another law"
        assert not due & {at + place for place in lesson.due}, "nothing twice"
        due |= {at + place for place in lesson.due}
    return due


@kinds
def test_lessons_are_true(kind, model, monkeypatch):
    target, prompt = as_target(model), texts(7)[0]
    for tree in (6, 0) if kind == "eagle3" else (6,):
        drafter = learner(kind, model, tree)
        text, trace, lessons = collected(target, drafter, prompt)
        due = are_true(target, drafter.network, text, lessons)
        wrong, at = set(), len(prompt) - 1
        for draft, verdict in trace.steps:                       # by the trace alone
            at += len(verdict.tokens)
            last = verdict.path[-1] if verdict.path else -1
            if verdict.token is not None and draft.children(last): wrong.add(at - 1)
        assert due == wrong and len(due) == sum(n - k for n, k in trace.judged) > 2
    if not drafter.asks.hidden: return
    hear = online._Listening.hear
    def all_rows(self, tokens, hidden, rows): hear(self, tokens, hidden, [len(next(iter(hidden.values()))) - 1] * len(rows))
    monkeypatch.setattr(online._Listening, "hear", lambda self, tokens, hidden, rows: (all_rows if len(hidden) and len(rows) else hear)(self, tokens, hidden, rows))
    with pytest.raises(AssertionError): are_true(target, drafter.network, *collected(target, learner(kind, model), prompt)[::2])


def test_everywhere(model):
    target, prompt = as_target(model), texts(7)[0]
    drafter = learner("eagle3", model, everywhere=True)
    text, trace, lessons = collected(target, drafter, prompt)
    due = are_true(target, drafter.network, text, lessons)
    assert due == {*range(len(prompt) - 1, len(text) - 1)}
    drafter.every = 1
    run(target, drafter, prompt)
    assert drafter.record["steps"]


def test_a_cut_text_corrects_nothing():
    draft = Draft([5, 6, 7], [-1, 0, 1])
    whole = Verdict.of(draft, (0, 1), 9)
    assert online.corrected(draft, whole) == 2
    for n in (1, 2): assert online.corrected(draft, whole.cut(draft, n)) is None, "node 1 was guessed, and below it nothing was judged"
    assert online.corrected(Draft(), Verdict.of(Draft(), (), 3)) is None
    assert online.corrected(draft, Verdict.of(draft, (), 9)) == 0


def test_what_is_read_is_what_training_reads(model):
    "On lessons without gaps the loss is that of a corpus"
    from learners import batch_of
    target, prompt = as_target(model), texts(7)[0]
    drafter = learner("eagle3", model, everywhere=True, window=400)
    text, _, [lesson] = collected(target, drafter, prompt)
    net = drafter.network
    batch = batch_of(target, net, [text[:-1]])
    batch["real"][:, :len(prompt) - 1] = False
    with torch.no_grad(): ours, theirs = (float(net.loss(b)[0]) for b in (online.lessons_batch([lesson], net), batch))
    assert ours == pytest.approx(theirs, rel=.01)
    short, long = lesson.rest(5), lesson
    both = online.lessons_batch([short, long], net)
    assert both["real"].sum() == len(long.due) and not both["real"][0].any(), "padding and context are not due"


# -- how it is learnt

@some
def test_a_request_keeps_its_weights(kind, model):
    "The first request is drafted as by one who does not learn, though weights change below it; the next is not"
    target, prompt = as_target(model), texts(5)[0]
    learns, stays = learner(kind, model, lr=.2), inner(kind, model)
    def drafts(drafter): return [draft for draft, _ in run(target, drafter, prompt, 40).steps]
    first, frozen = drafts(learns), drafts(stays)
    assert first == frozen and learns.record["steps"] > 2
    assert drafts(learns) != frozen == drafts(stays)


def test_bounds(model):
    target, drafter = as_target(model), learner("eagle3", model, every=3, window=6, memory=3)
    steps, sizes, learn = [], [], drafter.learn
    def watched():
        steps.append(drafter.record["corrections"])
        sizes.append([len(lesson) for lesson in drafter.lessons])
        learn()
    drafter.learn = watched
    for p in texts(40, 3, 8): run(target, drafter, p, 40)
    assert max(map(len, sizes)) <= 3 and max(map(max, sizes)) <= 6 + 3, "lessons, and words: a window and what the last draft brought"
    assert all(b - a >= 3 for a, b in zip([0, *steps], steps)) and drafter.record["steps"] == len(steps) > 3


def test_time_is_the_drafters(model, monkeypatch):
    target, drafter = as_target(model), learner("medusa", model)
    learn = drafter.learn
    def slow():
        time.sleep(.02)
        learn()
    monkeypatch.setattr(drafter, "learn", slow)
    trace = run(target, drafter, texts(4)[0], 30)
    assert trace.seconds["observe"] >= .02 * drafter.record["steps"] > 0


@pytest.mark.parametrize("kind", ["eagle", "eagle3"])          # the first draws noise when it learns
def test_manners(kind, model):
    "Inside inference_mode, with the caller's random numbers and the switch for gradients left alone"
    ids = torch.tensor(texts(6))
    for mode in (torch.inference_mode, torch.no_grad, torch.enable_grad):
        drafter, state = learner(kind, model), torch.get_rng_state()
        with mode():
            ours = generate(model, ids, drafter=drafter, max_new_tokens=30, do_sample=False)
            plain = generate(model, ids, drafter="none", max_new_tokens=30, do_sample=False)
        assert drafter.record["steps"] and torch.equal(ours, plain) and torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number(bad, model, monkeypatch):
    drafter, target = learner("eagle3", model), as_target(model)
    before, loss = weights(drafter.network), drafter.network.loss
    monkeypatch.setattr(drafter.network, "loss", lambda *given: (loss(*given)[0] * bad, {}))
    text = run(target, drafter, [3, 4]).tokens
    assert text == run(target, "none", [3, 4]).tokens and torch.equal(before, weights(drafter.network)) and not drafter.record["steps"]
    monkeypatch.undo()
    run(target, drafter, [3, 4])
    assert drafter.record["steps"] and weights(drafter.network).isfinite().all()


def test_off_unless_asked(model):
    "A drafter that was not told to learn stays as it is"
    target, drafter = as_target(model), inner("eagle3", model)
    before = weights(drafter.network)
    for p in texts(3, 5): run(target, drafter, p)
    assert torch.equal(before, weights(drafter.network)) and not drafter.learns and Online.learns


# -- does it help?

def test_it_helps(monkeypatch):
    "First guesses on texts of another kind, kept apart: better for what was learnt, worse if what is learnt is wrong"
    from specdec_nb.training.trial import STORY_WORDS, Trial, story
    def about(some):
        strange = {i for i, word in enumerate(STORY_WORDS) if 6 <= i < 16 and word not in some.split()}
        def tells(rng, length=48):
            text = story(rng, length)
            return tells(rng, length) if strange & {*text} else text
        return tells
    near, far = Trial(60, tells=about("ann bob cid cat dog")), Trial(50, seed=1, tells=about("dora eve finn bird tree"))
    net, right = near.fit(Eagle3, steps=60), online._Listening.law
    def figure(net): return sum(far.figures(net)["top1"])
    def served(law):
        drafter, rng = Online(EagleDrafter(copy.deepcopy(net), tree=6), every=3, window=32, lr=1e-3), np.random.default_rng(7)
        monkeypatch.setattr(online._Listening, "law", law)
        for _ in range(20): run(far.target, drafter, far.tells(rng, 9))
        assert drafter.record["steps"] > 5
        return figure(drafter.network)
    before, after = figure(net), served(right)
    wrong = served(lambda self, scores, row: right(self, scores, row).roll(1))
    assert after > before + .05 and wrong < before - .2, (before, after, wrong)


# -- files and names

@some
def test_saved_and_read(kind, model, tmp_path):
    drafter, target = learner(kind, model, lr=.2), as_target(model)
    old = weights(drafter.network)
    for p in texts(3, 5, 4): run(target, drafter, p)
    drafter.save_pretrained(tmp_path / "net")
    assert {f.name for f in (tmp_path / "net").iterdir()} == {"config.json", "model.safetensors"}
    again = Online(tmp_path / "net", every=1, window=8)
    new, read = weights(drafter.network), weights(again.network)
    assert (new - read).norm() < .2 * (new - old).norm(), "eight bits a weight"
    assert again.record == drafter.record and type(again.inner) is type(drafter.inner)
    prompt = texts(6)[0]
    text = run(target, "none", prompt).tokens
    for reader in (again, KINDS[kind][1](Trained.from_pretrained(tmp_path / "net"), k=3)): assert run(target, reader, prompt).tokens == text
    assert again.record["steps"] > drafter.record["steps"], "it goes on where it was"


def test_by_name(tmp_path, model):
    drafter = make_drafter("online:drafter=medusa:every=7:lr=0.01")
    assert type(drafter.inner) is MedusaDrafter and drafter.every == 7 and drafter.lr == .01
    assert registry.find("drafters", "online") is Online
    assert type(make_drafter("online:drafter=model", k=3).network) is DraftModel
    assert make_drafter("online", k=2).inner.k == 2


def test_refused(model, tmp_path):
    for drafter in ("lookup", "mtp", "none", ModelDrafter(model)):
        with pytest.raises(ValueError, match="no network that could learn"): Online(drafter)
    with pytest.raises(ValueError, match="no network"): Online(learner("eagle3", model))
    for bad in (dict(every=0), dict(lr=0), dict(lr=float("nan")), dict(window=1), dict(size=0), dict(memory=0)):
        with pytest.raises(ValueError, match="need every"): learner("eagle3", model, **bad)
    with pytest.raises(ValueError, match="unknown drafter"): Online(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="no trained drafter"): Online(tmp_path)
    with pytest.raises(ValueError, match="trained for another model"):
        drafter = learner("eagle3", model)
        run(as_target(model), drafter, [1, 2])
        run(as_target(build(seed=9)), drafter, [1, 2])
