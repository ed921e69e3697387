"""The engine: whoever comes and goes, waits, is put off or guesses, each text is the text alone; memory stays within its limit."""
import gc, threading, time

import numpy as np
import pytest
import torch
import transformers as hf

from drafters import Wild
from engines import CURVE, HEAD, PROMPTS, SIZES, build
from specdec_nb import Draft, Drafter, Keyed, Law, Llama, Stop, TableLM, Trace
from specdec_nb.decode import decode
from specdec_nb.decoding.contrastive import Contrastive
from specdec_nb.decoding.hidden import ContrastiveSearch, VectorFSD
from specdec_nb.drafters.model import ModelDrafter
from specdec_nb.models.state import RowState
from specdec_nb.roles import as_target, introduce, make_drafter
from specdec_nb.serving.engine import Engine, Served, shared
from specdec_nb.speedup import CostCurve

LENGTH = 24


@pytest.fixture(scope="module", params=["own", "hf", "native"])
def served(request):
    "A model, and what it says to each prompt alone"
    model = build(request.param)
    return model, [Trace(decode(model, "none", p, limit=LENGTH, law=Law(.9), rng=Keyed(5, i))).tokens for i, p in enumerate(PROMPTS)]


def actual(engine):
    "Bytes that the caches of running and kept texts really take"
    def size(cache):
        if hasattr(cache, "capacity"): return cache.keys.nbytes + cache.values.nbytes
        return cache.rows.nbytes if hasattr(cache, "rows") else 0
    drafting = (r.drafting.state for r in engine.running if isinstance(getattr(r.drafting, "state", None), RowState))
    return sum(size(s.cache) for s in (*engine.memory.kept, *(r.state for r in engine.running), *drafting))


class Watched(Engine):
    "An engine whose memory is looked at in every round"
    most_held = most_real = 0
    def __iter__(self):
        chosen = list(super().__iter__())
        self.most_held, self.most_real = max(self.most_held, self.memory.held(self.running)), max(self.most_real, actual(self))
        return iter(chosen)


def crowd(engine, law=Law(.9), calls_off=lambda i: False, priority=lambda i: 0):
    texts = {}
    def told(r, step):
        if step: texts[r] += step.verdict.tokens
        if calls_off(r.rank[1] - 1) and len(texts[r]) > 9: r.call_off()
    for i, p in enumerate(PROMPTS): texts[engine.submit(p, law, Stop(LENGTH), Keyed(5, i), priority=priority(i), told=told)] = []
    engine.run()
    return texts


@pytest.mark.parametrize("drafter", ["none", "lookup", "auto", "recycling", "wild"])
def test_each_text_is_the_text_alone(served, drafter):
    model, alone = served
    for limit, most, chunk in ((1 << 30, 64, None), (None, 5, 32)):
        engine = Watched(model, Wild(3) if drafter == "wild" else drafter, most=most, chunk=chunk, curve=CURVE)
        if limit is None: engine.memory.limit = int(2.6 * engine.memory.size(550))
        texts = crowd(engine, calls_off=lambda i: i % 5 == 4, priority=lambda i: i % 3)
        for i, (r, text) in enumerate(texts.items()):
            assert (text == alone[i][:len(text)] and 9 < len(text) < LENGTH and r.why == "cancelled") if i % 5 == 4 else (text == alone[i] and r.why is None), (i, r.fault)
        assert engine.most_real <= engine.most_held <= engine.memory.limit and not engine.running and not engine.waiting
        if limit and drafter in ("none", "lookup", "auto"): assert engine.counts["shared"] >= 2 * 300, "the common beginning is read once"


def test_a_mistake_would_be_seen(served):
    "The control: a beginning that is taken over although it is not common changes a text"
    model, alone = served
    engine = Engine(model, "none", curve=CURVE)
    def careless(r, running):
        if not engine.memory.kept: return True
        r.state = engine.memory.kept[0].fork()
        r.state.tokens, r.state.cache.length = list(r.tokens), 50              # ten rows of another text
        return True
    engine.memory.share = careless
    texts = [[], []]
    for i, p in enumerate(([7] * 40 + PROMPTS[2], [7] * 40 + PROMPTS[4])):
        engine.submit(p, Law(.9), Stop(LENGTH), Keyed(5, i), told=lambda r, step, i=i: texts[i].extend(step.verdict.tokens))
        engine.run()
    wanted = [Trace(decode(model, "none", [7] * 40 + PROMPTS[2 + 2 * i], limit=LENGTH, law=Law(.9), rng=Keyed(5, i))).tokens for i in range(2)]
    assert texts[0] == wanted[0] and texts[1] != wanted[1]


def test_one_prompt_is_read_at_a_time_and_nobody_waits_for_all_of_it():
    engine = Engine(build("own"), "none", chunk=20, curve=CURVE)
    rounds = []
    first = engine.submit(PROMPTS[2], stop=Stop(60), told=lambda r, step: rounds.append((engine.reader, len(step.verdict.tokens))))
    second = engine.submit(PROMPTS[7], stop=Stop(3))
    engine.run()
    beside = [n for reader, n in rounds if reader is second]
    assert len(beside) >= len(PROMPTS[7]) // 20 - 3 and set(beside) == {1} and first.done


def test_texts_that_outgrow_the_memory_are_put_off(served):
    model, _ = served
    engine, texts = Watched(model, "lookup", curve=CURVE), [[], [], []]
    engine.memory.limit = 2 * engine.memory.size(370) + 1
    prompts = [np.random.default_rng(40 + i).integers(0, 48, 300).tolist() for i in range(3)]
    for i, p in enumerate(prompts): engine.submit(p, Law(.9), Stop(120), Keyed(5, i), told=lambda r, step, i=i: texts[i].extend(step.verdict.tokens))
    engine.run()
    assert engine.counts["put off"] >= 1 and engine.most_real <= engine.most_held <= engine.memory.limit
    assert texts == [Trace(decode(model, "none", p, limit=120, law=Law(.9), rng=Keyed(5, i))).tokens for i, p in enumerate(prompts)]


@pytest.mark.parametrize("told", [True, False], ids=["told", "control"])
def test_what_a_draft_model_keeps_is_in_the_limit(served, told):
    model, alone = served
    drafter = ModelDrafter(build("own"), k=3)
    engine = Watched(model, drafter, curve=CURVE)
    assert engine.memory.beside == drafter.target.row_bytes() > 0
    engine.memory.limit = 3 * engine.memory.size(300)
    if not told: engine.memory.beside = 0
    texts = crowd(engine)
    assert list(texts.values()) == alone and engine.counts["drafted"] > 20
    if told: assert engine.most_real <= engine.most_held <= engine.memory.limit
    elif type(model) is Llama: assert engine.most_real > engine.most_held                  # its caches can be weighed, all of them


@pytest.mark.parametrize("drafter,parts", [("lookup", 0), ("model", 1), ("ouroboros", 1), ("online:drafter=model", 1), ("eagle3", 1), ("auto:learned=eagle3", 1), ("medusa", 0),
                                           ("layerskip", 0), ("tuned:drafter=model", 1)])
def test_whose_drafter_keeps_rows_of_its_own(smollm2, drafter, parts):
    drafter = make_drafter(drafter)
    introduce(drafter, as_target(smollm2[0]))
    assert len(drafter.parts) == parts and all(part.row_bytes() > 100 for part in drafter.parts)


def test_rows_that_a_drafter_shares_are_counted_once():
    model = Contrastive(build("own"), build("own"))
    shares, apart = Engine(model, "amateur", curve=CURVE), Engine(model, ModelDrafter(build("own")), curve=CURVE)
    assert shares.memory.beside == 0 < apart.memory.beside and shares.memory.row == apart.memory.row


def test_who_waits_holds_no_cache(served):
    "Of forty that wait, and one that is put off: there are as many states as are served or kept"
    model, _ = served
    def there():
        gc.collect()
        return sum(issubclass(type(o), RowState) for o in gc.get_objects())
    engine, before, over, begun = Engine(model, "none", most=2, curve=CURVE), there(), [], []
    def told(r, step):
        begun.append(r)
        if len(begun) == 3: engine.submit([1], stop=Stop(2), priority=9, told=told)
        if len(begun) % 8 == 7: over.append(there() - before - len(engine.running) - len(engine.memory.kept))
    for i in range(40): engine.submit(PROMPTS[i % 8][-20:], stop=Stop(3), told=told)
    engine.run()
    assert len(begun) == 122 and engine.counts["put off"] == 1 and max(over) <= 0, over


@pytest.mark.parametrize("read", [0, 2])
def test_nobody_waits_for_one_who_has_left(served, read):
    "A request is called off while it waits, or while its prompt is read; the next begins alike"
    model, alone = served
    engine, rounds, text = Engine(model, "none", chunk=50, curve=CURVE), [0], []
    gone = engine.submit([*HEAD, 1], stop=Stop(4))
    forward = engine.target.score
    def counted(pairs):
        rounds[0] += 1
        if rounds[0] >= read: gone.call_off()
        return forward(pairs)
    engine.target.score = counted
    if not read: gone.call_off()
    engine.run()
    assert gone.why == "cancelled" and rounds[0] == read
    engine.submit(PROMPTS[1], Law(.9), Stop(LENGTH), Keyed(5, 1), told=lambda r, step: text.extend(step.verdict.tokens))
    worker = threading.Thread(target=engine.run, daemon=True)
    worker.start()
    worker.join(20)
    assert not worker.is_alive() and text == alone[1], "it waits for rows that nobody will read"
    assert engine.counts["shared"] == read * 50


def test_priority_comes_first_and_may_take_a_place():
    engine, ended = Engine(build("own"), "none", most=1, curve=CURVE), []
    def told(r, step):
        if step.stopped: ended.append(r.rank[1])
        if len(engine.waiting) == 1 and engine.counts["requests"] == 2: engine.submit(PROMPTS[2], stop=Stop(5), priority=1, told=told)
    for p in PROMPTS[:2]: engine.submit(p, stop=Stop(9), told=told)
    engine.run()
    assert ended == [3, 1, 2] and engine.counts["put off"] == 1


def test_what_cannot_be_served_is_refused_when_it_comes():
    engine = Engine(build("own"), "none", memory=1 << 20, curve=CURVE)
    with pytest.raises(ValueError, match="MiB of cache, the engine has 1.0: ask for fewer tokens"): engine.submit([1] * 700, stop=Stop(40))
    with pytest.raises(ValueError, match="vocabulary|token ids"): engine.submit([48], stop=Stop(4))
    assert not engine.waiting


class Faulty(Drafter):
    def __init__(self, where): self.where = where
    def begin(self, ctx, state): return 1 / 0 if self.where == "begin" else self
    def propose(self, ctx, rng):
        if self.where == "observe": return Draft.chain([3, 5])
        raise KeyError("no guess")
    def observe(self, step): raise IndexError(step)


@pytest.mark.parametrize("where", ["begin", "propose", "observe"])
def test_a_drafters_fault_costs_speed_only(served, where):
    model, alone = served
    texts = crowd(Engine(model, Faulty(where), curve=CURVE))
    assert list(texts.values()) == alone and all(isinstance(r.fault, (KeyError, ZeroDivisionError, IndexError)) for r in texts)


def test_a_faulty_law_ends_its_request_and_no_other(served):
    model, alone = served
    engine, texts = Engine(model, "lookup", curve=CURVE), {}
    def told(r, step): texts.setdefault(r.rank[1], []).extend(step.verdict.tokens if step else [])
    def masked(prefix, row): return row if len(prefix) < 18 else row * np.nan
    engine.submit(PROMPTS[0], Law(.9), Stop(LENGTH), Keyed(5, 0), told=told)
    bad = engine.submit(PROMPTS[0], Law(.9, processors=(masked,)), Stop(LENGTH), Keyed(5, 0), told=told)
    engine.run()
    assert texts[1] == alone[0] and texts[2] == alone[0][:len(texts[2])] and len(texts[2]) < 25 and bad.why == "error" and isinstance(bad.fault, ValueError)


def test_a_failed_forward_ends_those_in_it_and_the_engine_goes_on(served):
    model, alone = served
    engine = Engine(model, "none", curve=CURVE)
    forward, left = engine.target.score, [3]
    def failing(pairs):
        left[0] -= 1
        if not left[0]: raise RuntimeError("out of memory")
        return forward(pairs)
    engine.target.score = failing
    r = engine.submit(PROMPTS[1], Law(.9), Stop(LENGTH), Keyed(5, 1))
    engine.run()
    assert r.why == "error" and not engine.running
    assert list(crowd(engine).values()) == alone


def test_whoever_does_not_listen_is_called_off():
    engine = Engine(build("own"), "none", curve=CURVE)
    def deaf(r, step): raise ConnectionError
    r = engine.submit(PROMPTS[0], stop=Stop(30), told=deaf)
    engine.run()
    assert r.why == "cancelled" and len(r.tokens) - r.prompt == 1


def test_requests_from_several_threads_while_it_works(served):
    model, alone = served
    engine, texts, over = Engine(model, "lookup", curve=CURVE, most=4), {i: [] for i in range(len(PROMPTS))}, threading.Semaphore(0)
    worker = threading.Thread(target=engine.work)
    worker.start()
    def ask(i):
        def told(r, step):
            texts[i] += step.verdict.tokens if step else []
            if step is None or step.stopped: over.release()
        time.sleep(.01 * (i % 4))
        engine.submit(PROMPTS[i], Law(.9), Stop(LENGTH), Keyed(5, i), told=told)
    callers = [threading.Thread(target=ask, args=(i,)) for i in texts]
    for t in callers: t.start()
    for _ in texts: assert over.acquire(timeout=60)
    engine.close()
    worker.join(10)
    assert not worker.is_alive() and list(texts.values()) == alone
    with pytest.raises(RuntimeError, match="closed"): engine.submit([1], stop=Stop(2))


def test_a_table_is_served_too():
    lm = TableLM.random(6, 2, 1)
    engine, texts = Engine(lm, Wild(1)), {}
    for i in range(5): engine.submit([i], stop=Stop(12), rng=Keyed(3, i), told=lambda r, step: texts.setdefault(r.rank[1], []).extend(step.verdict.tokens))
    engine.run()
    assert [texts[i + 1] for i in range(5)] == [Trace(decode(lm, "none", [i], limit=12, rng=Keyed(3, i))).tokens for i in range(5)]


def test_common_beginnings():
    gen = np.random.default_rng(0)
    for _ in range(200):
        a, b = (gen.integers(0, 2, gen.integers(0, 12)).tolist() for _ in range(2))
        assert shared(a, b) == next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


def test_silence_in_the_engine():
    "Random guesses lose on a machine where rows cost: nearly all rounds are plain, the text is the same"
    model, sent = build("own"), []
    engine = Engine(model, Wild(5), curve=CostCurve((1, 2), (1., 2.)))
    r = engine.submit(PROMPTS[0], stop=Stop(400), rng=Keyed(1, 0), told=lambda r, step: sent.append(len(step.draft)))
    engine.run()
    assert isinstance(r, Served) and r.tokens[r.prompt:] == Trace(decode(model, "none", PROMPTS[0], limit=400, rng=Keyed(1, 0))).tokens
    assert sum(n > 0 for n in sent) < 60 and sum(n > 0 for n in sent[200:]) < 16


@pytest.mark.parametrize("drafter", ["lookup", "recycling", "auto"])
def test_a_law_reads_the_prompt_once(drafter):
    "One that goes by hidden states of the prompt does not mind drafters that fall silent, and begin again"
    model, begins = build("own"), [[5, 9, 7, 9, 5], [3], [8, 8, 1]]
    engine, texts = Engine(model, drafter, curve=CURVE), [[], [], []]
    def told(i):
        def hear(r, step):
            texts[i].extend(step.verdict.tokens if step else [])
            r.silence(len(texts[i]) % 6 < 3)
        return hear
    for i, p in enumerate(begins): engine.submit(p, VectorFSD(layer=2), Stop(30), Keyed(5, i), told=told(i))
    engine.run()
    assert texts == [Trace(decode(model, "none", p, limit=30, law=VectorFSD(layer=2), rng=Keyed(5, i))).tokens for i, p in enumerate(begins)]


def test_a_law_reads_the_prompt_also_where_nobody_may_guess():
    "Whose first round falls into a silence of all drafters has read his prompt all the same; a law that had not would have nothing to go by"
    model, begins = build("own"), [[5, 9, 7, 9, 5], [3, 1], [8, 8, 1]]
    plain = [Trace(decode(model, "none", p, limit=12, law=VectorFSD(layer=2), rng=Keyed(5, i))).tokens for i, p in enumerate(begins)]
    def served(read=False):
        engine, texts = Engine(model, "recycling", curve=CURVE), [[], [], []]
        def told(i):
            def hear(r, step):
                texts[i].extend(step.verdict.tokens if step else [])
                engine.ration.purse = (1 if len(texts[i]) > 5 else -1) * 1e3 * engine.ration.unit
            return hear
        engine.ration.purse = -1e3 * engine.ration.unit
        requests = [engine.submit(p, VectorFSD(layer=2), Stop(12), Keyed(5, i), told=told(i)) for i, p in enumerate(begins)]
        for r in requests: r.read = read
        engine.run()
        return texts, {r.why for r in requests}
    assert served() == (plain, {None}) and "error" in served(read=True)[1]


@pytest.mark.parametrize("kind", ["own", "hf"])
@pytest.mark.parametrize("composed", [lambda m: Contrastive(m, Llama.from_hf(hf.AutoModelForCausalLM.from_config(hf.LlamaConfig(**SIZES)).double().eval()), beta=.7),
                                      lambda m: ContrastiveSearch(m, k=4)], ids=["contrastive", "search"])
def test_targets_of_two_parts_are_served(kind, composed):
    torch.manual_seed(7)
    target, greedy, begins = composed(build(kind)), Law(temperature=0), [HEAD[:40] + [5, 9], HEAD[:40] + [3], [8, 8, 1], HEAD[:40] + [7]]
    for drafter in ("none", "lookup", "auto"):
        engine, texts = Engine(target, drafter, curve=CURVE), [[] for _ in begins]
        for i, p in enumerate(begins): engine.submit(p, greedy, Stop(16), told=lambda r, step, i=i: texts[i].extend(step.verdict.tokens if step else []))
        engine.run()
        assert texts == [Trace(decode(target, "none", p, limit=16, law=greedy)).tokens for p in begins]
