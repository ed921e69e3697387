"""A learned drafter at auto's table: the same text on every target; asked where that pays, and only there."""
from copy import deepcopy

import numpy as np
import pytest

from specdec_nb import Engine, Keyed, Law, Llama, Stop, TableLM, Trace, Verdict, exact_law as law
from specdec_nb.roles import Drafter, as_target, make_drafter
from specdec_nb.decode import Request, decode, serve
from specdec_nb.draft import Draft
from specdec_nb.drafters.model import ModelDrafter
from specdec_nb.drafters.pool import PhrasePool
from specdec_nb.learned.eagle import Eagle3, EagleDrafter
from specdec_nb.learned.hydra import Hydra, HydraDrafter
from specdec_nb.learned.medusa import Medusa, MedusaDrafter
from specdec_nb.trees.dag import GraphDrafter
from specdec_nb.phrases.trained import Advised, Lengthened, Said
from specdec_nb.phrases.tuning import Auto
from specdec_nb.speedup import CostCurve
from drafters import Oracle, Wild
from learners import WORDS, build, changes_nothing, ends_where_it_should

CPU = CostCurve((1, 4, 8, 16, 32, 64), (.0167, .0197, .0241, .0300, .0446, .0757))
FLAT = CostCurve((1, 2), (1., 1.0001)) # rows that cost next to nothing
GREEDY = Law(temperature=0)


def advised(learned=None, price=.02, curve=FLAT, **options):
    return Advised(learned=learned, price=price, curve=curve, **options)


def law_of_three(lm, make, **how):
    "The exact law of three words after 0 1"
    return law(lambda rng: tuple(Trace(decode(lm, make(), [0, 1], limit=3, rng=rng, **how)).tokens))


# -- the same text

def test_without_a_learned_drafter_it_is_chapter_30s():
    model = TableLM.random(4, 2, 3)
    assert type(make_drafter("auto")) is Advised and make_drafter("auto").learned is None
    for i in range(6):
        one, other = (Trace(decode(model, d, [0, 1, 2, 0, 1], limit=30, rng=Keyed(2, i)))
                      for d in (Auto(curve=CPU), Advised(curve=CPU)))
        assert one.steps == other.steps and one.drafted


SOME = {"model": dict(), "chain": dict(k=1), "no phrases behind guesses": dict(lengthen=False),
        "phrases alone": dict(learned=None, lengthen=True)}

@pytest.mark.parametrize("rule", ["walk", "rejection"])
@pytest.mark.parametrize("name", SOME)
def test_exact_by_enumeration(name, rule):
    lm, small = TableLM.random(3, 2, 5), TableLM.random(3, 1, 6)
    options = {"learned": ModelDrafter(small, k=2), "nodes": 5, **SOME[name]}
    warm = advised(**options)
    for prompt in ([2, 0], [0, 0, 1]): list(decode(lm, warm, prompt, limit=12))
    for drafter in (advised(**options), warm):
        assert law_of_three(lm, lambda: deepcopy(drafter), rule=rule) == lm.law([0, 1], 3)
    assert options["learned"] is None or warm.asked, "it was asked"


@pytest.mark.parametrize("rule", ["walk", "rejection"])
def test_a_chain_that_was_drawn_is_exact_taken_as_chosen(rule):
    "A drafter that does not say how sure it is, and draws: its nodes are judged as points"
    class Drawn(Drafter):
        def propose(self, ctx, rng):
            q = TableLM.random(3, 1, 6).p(ctx.tokens[:])
            return Draft.chain([rng.at(0, "draft").categorical(q)], [q])
    lm = TableLM.random(3, 2, 5)
    assert law_of_three(lm, lambda: advised(Drawn()), rule=rule) == lm.law([0, 1], 3)


def test_a_rule_that_believes_the_draft_is_caught():
    def credulous(draft, p, rng):
        path = draft.path(0) if len(draft) else ()
        row = path[-1] + 1 if path else 0
        return Verdict.of(draft, path, rng.at(0, "target").categorical(p[row]))
    lm, small = TableLM.random(3, 2, 5), TableLM.random(3, 1, 6)
    made = law_of_three(lm, lambda: advised(ModelDrafter(small, k=2), nodes=5), rule=credulous)
    assert made != lm.law([0, 1], 3)


@pytest.fixture(scope="module")
def model(): return build()

@pytest.fixture(scope="module")
def own(model): return Llama.from_hf(model)

@pytest.fixture(scope="module")
def learned(model, own):
    "Of each manner: levels, paths, heads that answer at once, models; untrained, near the target"
    def net(cls): return cls.of(model, WORDS).join(as_target(model))
    heads = net(Medusa)
    heads.record["ranks"] = [[.5, .3, .1], [.4, .2, .1], [.3, .1, .1], [.2, .1, .1]]
    made = {"eagle3": lambda: EagleDrafter(net(Eagle3)), "hydra": lambda: HydraDrafter(net(Hydra)),
            "medusa": lambda: MedusaDrafter(heads), "medusa, chain": lambda: MedusaDrafter(heads, tree=0),
            "model": lambda: ModelDrafter(own, k=3), "gsd": lambda: GraphDrafter(own), "wild": Wild}
    return made | {name: lambda name=name: make_drafter(name) for name in ("lookahead", "recycling")}

KINDS = ["eagle3", "hydra", "medusa", "medusa, chain", "model", "gsd", "wild", "lookahead", "recycling"]

@pytest.mark.parametrize("name", KINDS)
def test_changes_nothing(model, own, learned, name):
    "Greedy and keyed, our runtime and Hugging Face's, many requests through one warm drafter"
    made = []
    def make():
        made.append(advised(learned[name]()))
        return made[-1:]
    changes_nothing(model, own, make, requests=4)
    assert all(d.asked for d in made)


def test_ends_where_it_should(own, learned):
    ends_where_it_should(as_target(own), advised(learned["eagle3"]()))


@pytest.mark.parametrize("name", ["eagle3", "medusa", "model"])
@pytest.mark.parametrize("runtime", ["hf", "own"])
def test_rows_of_unequal_length_in_company(model, own, learned, name, runtime):
    target, drafter = as_target(model if runtime == "hf" else own), advised(learned[name]())
    prompts = [[3, 1, 4, 1, 5, 9], [2], [7, 1, 8]]
    def keyed(i): return dict(law=Law(temperature=.8), rng=Keyed(4, i))
    for run in (lambda i: dict(law=GREEDY), keyed):
        plain = [Trace(decode(target, "none", p, limit=9 + 4 * i, **run(i))).tokens
                 for i, p in enumerate(prompts)]
        requests = [Request(target, drafter, p, stop=Stop(9 + 4 * i), **run(i))
                    for i, p in enumerate(prompts)]
        texts = {r: [] for r in requests}
        for r, step in serve(requests): texts[r] += step.verdict.tokens
        assert [*texts.values()] == plain
    assert drafter.asked


def test_in_an_engine(own, learned):
    "Two at a time of four, where rows get dearer in company and somebody may be silenced"
    drafter, prompts = advised(learned["eagle3"](), curve=CPU), [[3, 1, 4, 1, 5], [2], [7, 1, 8], [9, 9]]
    plain = [Trace(decode(own, "none", p, limit=20, rng=Keyed(6, i))).tokens for i, p in enumerate(prompts)]
    engine, texts = Engine(own, drafter, most=2, curve=CPU), {}
    def told(r, step):
        if step: texts[r] += step.verdict.tokens
    for i, p in enumerate(prompts): texts[engine.submit(p, Law(), Stop(20), Keyed(6, i), told=told)] = []
    engine.run()
    assert [*texts.values()] == plain and drafter.asked


def test_chains_only(own, learned):
    target = as_target(TableLM.random(4, 1, 2))
    target.branches = False
    drafter = advised(ModelDrafter(TableLM.random(4, 1, 2), k=3))
    plain, ours = (Trace(decode(target, d, [0, 1], limit=40, law=GREEDY)) for d in ("none", drafter))
    assert ours.tokens == plain.tokens and all(d.is_chain for d, _ in ours.steps)
    assert drafter.asked and sum(ours.drafted)


# -- asked where it pays

def peaked(n=80, seed=0):
    "After each word another one, seven times in ten, and else any"
    after = np.random.default_rng(seed).permutation(n)
    rows = {(x,): [int(7 * n / 3) * (y == after[x]) + 1 for y in range(n)] for x in range(n)}
    return TableLM({(): [1] * n, **rows})

PEAKED = peaked()
def replay(drafter, n=160): return Trace(decode(PEAKED, drafter, [0], limit=n, rng=Keyed(3)))


def test_who_is_right_is_asked_and_who_is_not_is_not():
    right, wrong = (advised(ModelDrafter(lm, k=3, width=2), .1, CPU) for lm in (PEAKED, peaked(seed=1)))
    traces = [replay(d) for d in (right, wrong)]
    assert traces[0].tokens == traces[1].tokens == replay("none").tokens
    assert right.asked > .6 * traces[0].calls
    assert wrong.asked < .25 * traces[1].calls, "its hits fall, and so does what asking may bring"


@pytest.mark.parametrize("price, least, most", [(0., .9, 1), (.1, .3, 1), (3., 0, 0)])
def test_the_price_is_minded(price, least, most):
    "The same draft model, right seven times in ten: always asked for nothing, never for three calls"
    drafter = advised(ModelDrafter(PEAKED, k=3, width=2), price, CPU)
    trace = replay(drafter)
    assert least <= drafter.asked / trace.calls <= most
    assert trace.tokens == replay("none").tokens


def test_a_price_too_high_is_not_minded_by_who_does_not_look():
    "The control: with a price of nothing told and three calls charged, the same drafter loses"
    def speed(told, charged):
        drafter = advised(ModelDrafter(PEAKED, k=3, width=2), told, CPU)
        trace = replay(drafter)
        calls = sum(CPU.relative(1 + len(d)) for d, _ in trace.steps)
        return len(trace.tokens) / (calls + charged * drafter.forwards)
    plain = len(replay("none").tokens) / replay("none").calls
    assert speed(3., 3.) > .97 * plain > 2 * speed(0., 3.)


def test_levels_are_asked_for_while_they_pay():
    forwards = {}
    for price in (.001, .25):
        drafter = advised(ModelDrafter(PEAKED, k=6, width=2), price, CPU)
        replay(drafter)
        forwards[price] = drafter.forwards / drafter.asked
    assert forwards[.001] > 5 > 2.5 > forwards[.25] >= 1, forwards


def test_the_clock_sets_the_price():
    drafter = advised(price=None)
    assert drafter.price == .1, "a guess, until there is something to go by"
    drafter.clock["call"].extend([.02, .02, .01, .9, .9])
    drafter.clock["forward"].extend([40., .004, .001, .03])
    assert drafter.price == .1, "five of each, before that is believed: the first may compile"
    drafter.clock["forward"].append(.004)
    assert drafter.price == pytest.approx(.2), "medians: an accident counts no more than the rest"
    timed = Advised(learned=ModelDrafter(PEAKED, k=2, width=2), curve=CPU)
    replay(timed, n=40)
    assert min(map(len, timed.clock.values())) >= 5 and min(timed.clock["forward"]) > 0


def test_hits_by_depth():
    "Right at the first and the second level, wrong at the third"
    truth = [0, *replay("none").tokens]
    class Two(Oracle):
        def propose(self, ctx, rng):
            ahead = self.truth[len(ctx.tokens):len(ctx.tokens) + 3]
            return Draft.chain(ahead if len(ahead) < 3 else [*ahead[:2], (ahead[2] + 1) % 80])
    drafter = advised(Two(truth), 0.)
    replay(drafter)
    (first, n), (second, _), (third, m) = (drafter.hits(d) for d in (1, 2, 3))
    assert first > .9 and second > .9 and third < .2 and min(n, m) > 25


def test_what_asking_brought_by_hand():
    drafter = advised(Oracle([]), .5, CPU)
    drafter.bind(as_target(TableLM.random(4, 1, 2)))
    ctx = type("C", (), dict(whole=[0, 1]))
    thinking, pace = drafter.begin(ctx, None), drafter.pace
    thinking.without, thinking.beside = (2, Draft.chain([3, 1])), 1.
    drafter.worth[2] = [0., 0]
    thinking.weigh([3, 2, 2, 1], sent=7) # of four tokens the cheap draft had the first: with its own, two
    dearer = CPU.relative(8) - CPU.relative(3) + 1
    assert drafter.worth[2] == [pytest.approx(2 - pace.price * dearer), 1]


# -- one trie

def test_phrases_lengthen_a_guess_and_branch_beside_it():
    "The pool knows what follows 1 2, and what else followed 0 1; the learned drafter says 2"
    class Says(Drafter):
        def propose(self, ctx, rng): return Draft.chain([2])
    def first(**options):
        drafter = advised(Says(), 0., sources=["ranks"], **options)
        for phrase in ((1, 2, 5, 6, 7), (0, 1, 8)): drafter.phrases.add(phrase, "verified")
        lm = TableLM.random(12, 1, 1)
        return Trace(decode(lm, drafter, [3, 0, 1], limit=9, law=GREEDY)).steps[0][0]
    def path(draft, i): return [draft.tokens[j] for j in draft.path(i)]
    paths = [path(draft, i) for draft in [first()] for i in range(len(draft))]
    assert [2, 5] in paths and [8] in paths
    control = first(lengthen=False)
    assert [path(control, i) for i in range(len(control))] == [[2]]


def test_what_it_said_stays_while_the_text_runs_through_it():
    said = Said({})
    said.hear(2, Draft([5, 6, 7, 8], [-1, -1, 0, 2]), [.6, .3, .9, .5])
    def heard(*since):
        state = said.root([1, 1, *since])
        return [token for token, _ in said.guesses(state, None, ())] if state else []
    assert [heard(), heard(5), heard(5, 7)] == [[5, 6], [7], [8]]
    assert not any(heard(*since) for since in ([5, 7, 8], [6], [9], [5, 7, 8, 1]))
    assert sorted(said.rates) == [(1, 3), (1, 6), (2, 9), (3, 5)], "a record for each depth and sureness"


def test_phrases_are_found_behind_any_path():
    pool, text = PhrasePool(key=2), [4, 5, 6, 7]
    pool.add_text(text, "history")
    source = Lengthened([[.5, 5]] * 17, pool, [1])
    state = source.root([1])
    for token, next_ in ((4, None), (5, 6), (6, 7)):
        state = source.move(state, None, None, token)
        known = [] if next_ is None else [next_]
        assert [t for t, _ in source.guesses(state, None, None)] == known
    assert not list(source.guesses(source.move(state, None, None, 9), None, None))


@pytest.mark.parametrize("call, error, says", [
    (lambda: Advised(learned="telepathy"), ValueError, "telepathy"),
    (lambda: Advised(learned="auto"), ValueError, "not auto itself"),
    (lambda: Advised(price=-1.), ValueError, "price"), (lambda: Advised(k=-1), ValueError, "k >= 0"),
    (lambda: make_drafter("auto:learned=3"), ValueError, "learned=3"),
    (lambda: Advised(learned=object()), TypeError, "cannot draft"),
])
def test_bad_input(call, error, says):
    with pytest.raises(error, match=says): call()


def test_by_name():
    drafter = make_drafter("auto:learned=lookup:lengthen=false:nodes=9")
    assert drafter.learned.name == "lookup" and not drafter.lengthen and drafter.nodes == 9
    asks = [make_drafter(name).asks for name in ("auto:learned=eagle3", "eagle3", "auto")]
    assert asks[0] == asks[1] != asks[2]
