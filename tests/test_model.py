"""A draft model, the target's own layers, other words: exact, never one behind, and the bugs that must be caught."""
from fractions import Fraction as F

import numpy as np
import pytest
import torch
import transformers as hf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from learners import near, words
from specdec_nb import Draft, Dice, Keyed, Law, Llama, TableLM, Trace, generate, exact_law as law
from specdec_nb.roles import as_target, make_drafter, read
from specdec_nb.decode import answered, decode
from specdec_nb.drafters.layerskip import LayerSkip, agreement, some_layers
from specdec_nb.drafters.model import Mapped, ModelDrafter, ModelDrafting, shipped
from specdec_nb.drafters.vocabulary import SharedTokens, StringBridge, TokenBridge, respell, spellings
from specdec_nb.sampling import Asks, FrequencyPenalty, NoRepeatNgram, Scores

SIZES = dict(hidden_size=32, intermediate_size=64, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128,
             initializer_range=.5, bos_token_id=None, eos_token_id=None, pad_token_id=None)
PROMPT = torch.tensor([[3, 14, 15, 9, 26, 5, 7, 33]])
SETTINGS = [dict(k=0), dict(k=1), dict(k=3), dict(k=2, least=.5), dict(k=2, tree=3, width=2), dict(k=3, tree=4, width=1), dict(k=2, tree=Draft([0, 1, 0, 1], [-1, -1, 0, 0]))]
PLAN = Draft([0, 1, 2, 0, 1, 0, 0], [-1, -1, -1, 0, 0, 1, 3])


def build(seed=0, vocab=48, layers=2, kind="Llama", **changes):
    torch.manual_seed(seed)
    config = getattr(hf, f"{kind}Config")(**{**SIZES, "vocab_size": vocab, "num_hidden_layers": layers, **changes})
    return hf.AutoModelForCausalLM.from_config(config).to(torch.float64).eval()


@pytest.fixture(scope="module")
def model(): return build()


@pytest.fixture(scope="module")
def own(model): return Llama.from_hf(model)


def texts(model, drafter, n, **settings):
    return law(lambda rng: tuple(Trace(decode(model, drafter, [0], limit=n, rng=rng, **settings)).tokens))


# -- exact, by enumeration

@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("rule", ["walk", "rejection"])
def test_exact(settings, rule):
    for seed in range(3):
        target, crude = TableLM.random(3, 2, seed), TableLM.random(3, 1, seed + 50)
        assert texts(target, ModelDrafter(crude, **settings), 3, rule=rule) == target.law([0], 3)


@pytest.mark.parametrize("wanted", [Law(top_k=2), Law(top_p=F(3, 4)), Law(min_p=F(1, 2)), Law(temperature=F(1, 2)), Law(temperature=0),
                                    Law(processors=(FrequencyPenalty(F(1, 3)),)), Law(processors=(NoRepeatNgram(2),), top_k=2)], ids=str)
def test_exact_under_every_law(wanted):
    target, crude = TableLM({(): [1, 2, 3], (0,): [3, 2, 1], (1,): [1, 4, 2], (2,): [3, 2, 1]}), TableLM.random(3, 1, 7)
    plain = texts(target, "none", 3, law=wanted)
    for settings in (dict(k=2), dict(k=2, tree=3, width=2)):
        for rule in ("walk", "rejection"): assert texts(target, ModelDrafter(crude, **settings), 3, law=wanted, rule=rule) == plain


class WrongQ(ModelDrafting):
    "Draws from a sharpened law and records the plain one"
    def draw(self, depth, rng):
        self.law = Law(temperature=F(1, 2))
        draft = yield from super().draw(depth, rng)
        plain = [self.state.target.lm.p(self.state.tokens + list(draft.tokens[:d])) for d in range(len(draft))]
        return Draft.chain(draft.tokens, plain)


class LooksAtTheToken(ModelDrafting):
    "Drops a token whose own probability was low"
    def draw(self, depth, rng):
        draft = yield from super().draw(depth, rng)
        kept = next((d for d in range(len(draft)) if draft.q(d)[draft.tokens[d]] < F(1, 3)), len(draft))
        return draft.take(range(kept))


@pytest.mark.parametrize("broken", [WrongQ, LooksAtTheToken])
def test_a_wrong_q_is_caught(broken):
    target, crude = TableLM({(): [3, 2, 1], (1,): [1, 2, 1], (2,): [1, 2, 3]}), TableLM({(): [1, 1, 1], (0,): [2, 1, 1], (1,): [1, 3, 1]})
    drafter = ModelDrafter(crude, k=2)
    assert texts(target, drafter, 2, rule="rejection") == target.law([0], 2)
    drafter.drafting = broken
    assert texts(target, drafter, 2, rule="rejection") != target.law([0], 2)
    assert texts(target, drafter, 2, rule="walk") == target.law([0], 2)               # walk asks for no q


# -- never one behind

def one_behind(self, text, follow=ModelDrafting.follow):
    "Takes for read what was accepted but never fed"
    room, known = follow(self, text), self.state.length
    if known: self.state.tokens = self.state.tokens[:known] + self.state.tokens[-1:]
    return room


def test_a_model_that_drafts_for_itself_is_never_rejected(own, monkeypatch):
    def calls(**settings):
        drafter = ModelDrafter(own, k=4)
        return Trace(decode(own, drafter, PROMPT[0].tolist(), limit=50, **settings))
    greedy, processors = dict(law=Law(temperature=0)), (FrequencyPenalty(F(1, 2)), NoRepeatNgram(3))
    for settings in (greedy, dict(rule="rejection", rng=Dice(1)), dict(law=Law(temperature=.7, top_p=.9), rule="rejection", rng=Keyed(1)),
                     dict(law=Law(processors=processors), rule="rejection", rng=Dice(2)), dict(law=Law(temperature=0, processors=processors))):
        assert calls(**settings).calls == 10, "k + 1 tokens a call, full acceptance after full acceptance"
    monkeypatch.setattr(ModelDrafting, "follow", one_behind)
    assert calls(**greedy).calls > 12


@pytest.mark.parametrize("runtime", ["hf", "own"])
def test_a_state_is_in_step_with_any_text(model, own, runtime):
    target, gen, text = as_target(model if runtime == "hf" else own), np.random.default_rng(0), [3, 14, 15]
    state = target.open(text)
    def score(draft): return target.score([(state, draft)])[0]
    for step in range(25):
        for _ in range(gen.integers(0, 3)):                                             # drafts scored for nothing, in whole or grown
            draft = Draft.merge(gen.integers(0, 6, (3, 3)).tolist())[0]
            score(draft.take(range(2)))
            score(draft)
        path = [draft.tokens[i] for i in draft.path(gen.integers(-1, len(draft)))] if step else []
        if step % 10 == 9: text = text[:gen.integers(1, len(text))] + [5]               # the text was changed
        text = text + path + gen.integers(0, 6, gen.integers(0, 3)).tolist()
        state.follow(text)
        if step % 4 == 3: read(state)
        draft = Draft.merge(gen.integers(0, 6, (2, 2)).tolist())[0]
        rows, fresh = score(draft), target.score([(target.open(text), draft)])[0]
        assert abs(rows.rows - fresh.rows).max() < 1e-10 and rows.best(1) == fresh.best(1)
        assert state.length == len(text) - 1 and not state.unread and state.position == len(text)


def test_what_is_fed(own):
    target, fed = as_target(own), []
    plain = target.forward
    target.forward = lambda feeds: fed.append(len(feeds[0].tokens)) or plain(feeds)
    Trace(decode(own, ModelDrafter(target, k=3), PROMPT[0].tolist(), limit=12, law=Law(temperature=0)))
    assert fed == [7, 8, 1, 1, 4, 2, 1, 1, 4, 2, 1, 1, 4], "after a full acceptance the last guess and the target's own token go together"


# -- the same text

def drafters(model, own):
    yield ModelDrafter(near(model), k=4)
    for draft in (Llama.from_hf(near(model)), build(9, layers=1)): yield ModelDrafter(draft, k=3, tree=6, least=.05)
    yield ModelDrafter(Llama.from_hf(near(model)), k=3, tree=PLAN)


@pytest.mark.parametrize("runtime", ["hf", "own"])
@pytest.mark.filterwarnings("ignore")
def test_same_text(model, own, runtime):
    target = model if runtime == "hf" else own
    for options in ({}, dict(repetition_penalty=1.3), dict(eos_token_id=[2, 7, 30])):
        plain = model.generate(PROMPT, max_new_tokens=24, do_sample=False, **options)
        for drafter in drafters(model, own):
            for _ in range(2): assert torch.equal(generate(target, PROMPT, drafter=drafter, max_new_tokens=24, do_sample=False, **options), plain)
    for options in (dict(temperature=.8), dict(top_p=.8, repetition_penalty=1.2)):
        outs = [generate(target, PROMPT, drafter=d, max_new_tokens=24, do_sample=True, seed=3, return_dict_in_generate=True, **options) for d in ("none", *drafters(model, own))]
        assert all(torch.equal(o.sequences, outs[0].sequences) for o in outs) and min(o.trace.calls for o in outs) < 16
    end = torch.arange(115)[None] % 48                                                 # up to the window's last position
    long = generate(target, end, drafter="none", max_new_tokens=500, do_sample=False)
    for drafter in drafters(model, own): assert torch.equal(generate(target, end, drafter=drafter, max_new_tokens=500, do_sample=False), long)
    assert long.shape[1] == 129


def test_a_hundred_requests_through_one_drafter(own, model):
    drafter = ModelDrafter(Llama.from_hf(near(model)), k=3)
    for i in range(100):
        prompt, settings = [i % 48, 3 * i % 48], dict(limit=4, rng=Keyed(i), law=Law(temperature=i % 3 / 2))
        assert Trace(decode(own, drafter, prompt, **settings)).tokens == Trace(decode(own, "none", prompt, **settings)).tokens


def test_a_smaller_window(model, own):
    short = near(build(max_position_embeddings=20))
    plain = model.generate(PROMPT, max_new_tokens=24, do_sample=False)
    for k in (1, 5):
        out = generate(own, PROMPT, drafter=ModelDrafter(short, k=k), max_new_tokens=24, do_sample=False, return_dict_in_generate=True)
        assert torch.equal(out.sequences, plain) and not len(out.trace.steps[-1][0]) and len(out.trace.steps[0][0]) == k
    long = torch.arange(30)[None] % 48
    assert torch.equal(generate(own, long, drafter=ModelDrafter(short), max_new_tokens=5, do_sample=False), model.generate(long, max_new_tokens=5, do_sample=False))


@pytest.mark.filterwarnings("ignore")
def test_a_draft_model_that_cannot_branch(own):
    bloom = hf.AutoModelForCausalLM.from_config(hf.BloomConfig(vocab_size=48, hidden_size=32, n_layer=1, n_head=4)).to(torch.float64).eval()
    trace = Trace(decode(own, ModelDrafter(bloom, k=3, tree=6), [1, 2], limit=9, law=Law(temperature=0)))
    assert trace.tokens == Trace(decode(own, "none", [1, 2], limit=9, law=Law(temperature=0))).tokens and trace.steps[0][0].is_chain


def test_rows_of_other_words_answer_whatever_rows_do(own):
    "Against a matrix written out: what the draft model says of the shared words, its hidden states and its seconds"
    target = as_target(own)
    [inner] = target.score([(target.open([3, 14, 15], Asks(hidden=(1,))), Draft([5, 9], [-1, -1]))])
    mine, theirs = np.array([0, 5, 9, 40]), np.array([2, 3, 0, 50])
    mapped, full = Mapped(inner, mine, theirs, 60), np.full((3, 60), -np.inf)
    full[:, theirs] = inner.array[:, mine]
    plain = Scores(full)
    assert mapped.hidden is inner.hidden and mapped.hidden[1].shape[0] == 3 and mapped.seconds == inner.seconds > 0
    for scores, expected in ((mapped, plain), (mapped.some([2, 0]), plain.some([2, 0]))):
        assert np.array_equal(scores.rows, expected.rows) and np.array_equal(scores.top(3), expected.top(3)) and scores.best(0) == expected.best(0)
        assert [x for x, _ in scores.likely(1, 3)] == [x for x, _ in expected.likely(1, 3)]
    assert type(mapped.some([1])) is Mapped


def test_vocabularies_padded_differently():
    for rows, draft_rows in ((128, 126), (126, 128)):
        target, draft = build(vocab=rows), near(build(vocab=draft_rows))
        with torch.no_grad(): target.lm_head.weight[-2:] *= 2                            # the target often says what the draft model lacks
        prompt = PROMPT[0].tolist()
        for settings in (dict(law=Law(temperature=0)), dict(rng=Keyed(1)), dict(rng=Keyed(2), law=Law(top_p=.9))):
            plain = Trace(decode(target, "none", prompt, limit=20, **settings)).tokens
            for options in (dict(k=3), dict(k=2, tree=4)):
                assert Trace(decode(target, ModelDrafter(draft, **options), prompt, limit=20, **settings)).tokens == plain
        if rows > draft_rows: assert {126, 127} & {*plain}
    small, large = TableLM({(): [1, 2] + [0] * 47 + [5]}), TableLM({(): [2, 1] + [0] * 47 + [3, 2]})
    for one, other in ((small, large), (large, small)): assert texts(one, ModelDrafter(other, k=1), 2, rule="rejection") == one.law([0], 2)


def test_stops_by_the_law_alone(own, model):
    "With `least` the drafted length depends on the prefix, and what is drafted is still drawn from q"
    draft, lengths = Llama.from_hf(near(model, .5)), set()
    for seed in range(20):
        trace = Trace(decode(own, ModelDrafter(draft, k=4, least=.3), [seed, 5], limit=12, rng=Keyed(seed)))
        lengths |= {len(d) for d, _ in trace.steps}
    assert {0, 4} <= lengths


# -- bad input

@pytest.mark.parametrize("call,says", [
    (lambda: ModelDrafter(TableLM.random(3), k=-1), "k=-1"), (lambda: ModelDrafter(TableLM.random(3), tree=-2), "tree=-2"),
    (lambda: ModelDrafter(TableLM.random(3), least=2), "least=2"), (lambda: ModelDrafter(TableLM.random(3), tree=4, width=0), "width=0"),
    (lambda: list(decode(TableLM.random(5), ModelDrafter(TableLM.random(3)), [0], limit=3)), "3 tokens, the target of 5.*TokenBridge"),
    (lambda: LayerSkip(skip=1.5), "1.5"), (lambda: list(decode(TableLM.random(3), LayerSkip(), [0], limit=2)), "TableTarget"),
    (lambda: list(decode(Llama.from_hf(build()), LayerSkip([1, 0]), [0], limit=2)), "ascending"), (lambda: list(decode(Llama.from_hf(build()), LayerSkip(3), [0], limit=2)), "0 to 1"),
    (lambda: generate(build(), PROMPT, drafter="layerskip", max_new_tokens=3), "HFTarget.*own")])
def test_clear_errors(call, says):
    with pytest.raises(ValueError, match=says): call()


def test_no_model_is_named():
    with pytest.raises(TypeError, match="float"): ModelDrafter(1.5)
    if shipped() is None:
        with pytest.raises(ValueError, match="ModelDrafter"): make_drafter("model")


# -- the target's own layers

@pytest.fixture(scope="module")
def deep(): return build(3, layers=8, initializer_range=.25)


def test_layers_cost_no_memory(deep):
    model = Llama.from_hf(deep)
    view = some_layers(model, [0, 3, 7])
    assert [b.norm1.data_ptr() for b in view.blocks] == [model.blocks[i].norm1.data_ptr() for i in (0, 3, 7)]
    assert view.embed is model.embed and len(model.blocks) == 8


@pytest.mark.parametrize("layers", [8, 5, [0, 1, 3, 4, 6, 7], None])
@pytest.mark.filterwarnings("ignore")
def test_layerskip_same_text(deep, layers):
    model, prompt = Llama.from_hf(deep), PROMPT[0].tolist()
    plain = deep.generate(PROMPT, max_new_tokens=24, do_sample=False)
    for options in ({}, dict(tree=5, least=.05)):
        drafter = LayerSkip(layers, k=3, tries=6, window=9, **options)
        for _ in range(2): assert torch.equal(generate(model, PROMPT, drafter=drafter, max_new_tokens=24, do_sample=False), plain)
        runs = [Trace(decode(model, d, prompt, limit=24, rng=Keyed(2))) for d in ("none", drafter)]
        assert runs[0].tokens == runs[1].tokens
        if layers == 8: assert runs[1].calls < 24 and len(Trace(decode(model, LayerSkip(8, k=4), prompt, limit=50, law=Law(temperature=0))).steps) == 10
    assert (drafter.left == 0) == (layers is None)


def test_a_draft_leaves_the_targets_rows_alone(deep):
    target = as_target(Llama.from_hf(deep))
    state = read(target.open([*range(40)] * 3))
    drafter, length = LayerSkip([0, 2, 7], k=5), state.cache.length
    drafter.bind(target)
    from specdec_nb.draft import Budget
    from specdec_nb.roles import Context, Tokens
    state.cache.rows = state.cache.rows[..., :length + 2, :].clone()                    # so that the buffer has to grow in mid-draft
    before = state.cache.rows[..., :length, :].clone()
    ctx = Context(Tokens(state.tokens), Budget(99, 5), Law(temperature=0), vocab_size=48)
    drafting = drafter.begin(ctx, state)
    first = answered(drafting.propose(ctx, Keyed(0)))
    assert torch.equal(state.cache.rows[..., :length, :], before) and state.cache.length == length and len(first) == 5
    assert answered(agreement(state, [0, 2, 7])) <= 1 and torch.equal(state.cache.rows[..., :length, :], before)
    assert answered(drafting.propose(ctx, Keyed(0))).tokens == first.tokens


@pytest.mark.parametrize("window", [None, 6])
def test_agreement_is_that_of_one_step_drafts(window):
    "Of twenty places, two in three say what a draft of one token says there; the count is due, to the last place"
    from specdec_nb.draft import Budget
    from specdec_nb.roles import Context, Tokens
    model = Llama.from_hf(build(4, kind="Mistral", sliding_window=window, layers=6))
    target, text, layers, right = as_target(model), [x * 7 % 48 for x in range(1, 12)], [0, 1, 4, 5], 0
    drafter = LayerSkip(layers, k=1)
    drafter.bind(target)
    for end in range(11, 31):
        ctx = Context(Tokens(text), Budget(9, 1), Law(temperature=0), vocab_size=48)
        [said] = answered(drafter.begin(ctx, read(target.open(text))).propose(ctx, Keyed(0))).tokens
        text.append(said if end % 3 else (said + 1) % 48)
        right += end % 3 > 0
    def agrees(layers, text=text): return answered(agreement(read(target.open(text)), layers, n=20))
    assert agrees(layers) == right / 20 == .65
    assert agrees([0, 2, 3, 5]) != .65, "other layers say other things"
    assert agrees(layers, [5]) == 0


def test_the_search_finds_layers_that_matter(deep):
    "Layers 2 and 5 do nothing; a search that skips two of eight should find at least one of them, and say the same twice"
    with torch.no_grad():
        for i in (2, 5):
            deep.model.layers[i].self_attn.o_proj.weight.zero_()
            deep.model.layers[i].mlp.down_proj.weight.zero_()
    model, found = Llama.from_hf(deep), []
    for _ in range(2):
        drafter = LayerSkip(skip=.25, k=2, tries=40, window=24, seed=1)
        trace = Trace(decode(model, drafter, PROMPT[0].tolist(), limit=100, law=Law(temperature=0)))
        found.append(drafter.layers)
    assert found[0] == found[1] and len({2, 5} - {*found[0]}) >= 1
    assert Trace(decode(model, drafter, PROMPT[0].tolist(), limit=60, law=Law(temperature=0))).tokens_per_call > trace.tokens_per_call * .9
    both = Trace(decode(model, LayerSkip([0, 1, 3, 4, 6, 7], k=4), PROMPT[0].tolist(), limit=50, law=Law(temperature=0)))
    assert both.calls == 10, "without the idle layers the draft is the target"


# -- other words

CORPUS = ["the cat sat on the mat", "the dog sat on the log", "a cat and a dog and the log", "naïve café — ünïcödé 你好", "def add(a, b):\n    return a + b"] * 3


def byte_level(size=330, bos=None):
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer, tok.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = [bos] if bos else []
    tok.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=special, show_progress=False))
    return hf.PreTrainedTokenizerFast(tokenizer_object=tok, **({"bos_token": bos} if bos else {}))


def spaced(size=300, bos="<s>"):
    "Spaces as ▁, single bytes for what is unknown, and a BOS before every text"
    tok = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tok.normalizer = __import__("tokenizers").normalizers.Replace(" ", "▁")
    tok.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    special = ["<unk>", bos, *(f"<0x{b:02X}>" for b in range(256))]
    tok.train_from_iterator(CORPUS[:3], trainers.BpeTrainer(vocab_size=size, special_tokens=special, show_progress=False))
    tok.post_processor = __import__("tokenizers").processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, 1)])
    return hf.PreTrainedTokenizerFast(tokenizer_object=tok, bos_token=bos, unk_token="<unk>")


def test_spellings():
    a, b = spellings(byte_level()), spellings(spaced())
    assert b" " in a and b" " in b and "é".encode()[:1] in a and b"\n" in b
    marked = next(t for t in spaced().get_vocab() if t.startswith("▁") and len(t) > 1)
    assert a[b"the"] == byte_level().convert_tokens_to_ids("the") and b[marked.replace("▁", " ").encode()] == spaced().convert_tokens_to_ids(marked)
    assert b[b"a"] == spaced().convert_tokens_to_ids("a"), "a letter, not the byte of the same value"
    shared = SharedTokens(spaced(), byte_level(), 300, 330)
    assert shared.read(byte_level()("the cat").input_ids)[0] == 1 and shared.read(byte_level()("the cat").input_ids).count(1) == 1, "one BOS"
    half = [byte_level().convert_tokens_to_ids("ä")]                                  # the first of the three bytes of 你
    assert shared.read(byte_level()("the").input_ids + half) == shared.read(byte_level()("the").input_ids), "half a character waits"


@pytest.mark.parametrize("rule", ["walk", "rejection"])
def test_bridges_are_exact(rule):
    mine, theirs = words("sun", "fog", "rain", "hail"), words("snow", "rain", "sun")
    for seed in range(3):
        target, crude = TableLM.random(3, 1, seed), TableLM.random(4, 1, seed + 20, largest=4)
        crude.rows = {s: (row + F(1, 4)) / 2 for s, row in crude.rows.items()}            # some mass on the words they share
        for bridge in (TokenBridge, StringBridge):
            for k in (1, 2): assert texts(target, bridge(crude, mine, theirs, k=k), 3, rule=rule) == target.law([0], 3)


def test_a_token_bridge_without_its_cut_is_caught():
    "Recording the draft model's law without restricting it to the shared words"
    mine, theirs = words("sun", "fog", "rain"), words("snow", "rain", "sun")
    target, crude = TableLM({(): [1, 2, 3]}), TableLM({(): [1, 3, 1]})
    class Uncut(ModelDrafting):
        def draw(self, depth, rng):
            draft = yield from super().draw(depth, rng)
            return Draft.chain(draft.tokens, [np.array([F(3, 5), F(1, 5), F(1, 5)], dtype=object)] * len(draft))
    drafter = TokenBridge(crude, mine, theirs, k=1)
    drafter.drafting = Uncut
    assert texts(target, drafter, 2, rule="rejection") != target.law([0], 2)


@pytest.mark.parametrize("bridge", [TokenBridge, StringBridge])
@pytest.mark.parametrize("swap", [False, True])
def test_bridges_same_text(bridge, swap):
    one, other = byte_level(), spaced()
    mine, theirs = (one, other) if swap else (other, one)
    target, draft = Llama.from_hf(build(1, vocab=len(theirs))), build(2, vocab=len(mine) + 3)
    drafter = bridge(draft, mine, theirs, k=3)
    for i, text in enumerate(("the cat sat", "a café")):
        prompt = theirs(text).input_ids
        for settings in (dict(law=Law(temperature=0)), dict(rng=Keyed(i)), dict(rng=Keyed(i), law=Law(top_p=.9))):
            plain, fast = (Trace(decode(target, d, prompt, limit=12, **settings)) for d in ("none", drafter))
            assert plain.tokens == fast.tokens
    assert any(len(d) for d, _ in fast.steps)


def test_a_string_bridge_accepts_what_it_should():
    "Two tables over two tokenizers that write the same sentence for ever: every guess is right, whatever its tokens"
    mine, theirs, sentence = spaced(), byte_level(), " the cat sat on the mat and the dog sat on the log"
    def parrot(tokenizer, size):
        ids, n = tokenizer(sentence, add_special_tokens=False).input_ids, size
        assert tokenizer.decode(ids) == sentence
        class Parrot(TableLM):
            def p(self, prefix):
                written = tokenizer.decode([t for t in prefix if t != tokenizer.bos_token_id])
                rest = sentence[len(written) % len(sentence):] + sentence
                row = np.zeros(n, dtype=object)
                row[tokenizer(rest, add_special_tokens=False).input_ids[0]] = F(1)
                return row
        return Parrot({(): [1] * n}), ids
    (draft, _), (target, ids) = parrot(mine, 300), parrot(theirs, 330)
    trace = Trace(decode(target, StringBridge(draft, mine, theirs, k=6), ids[:3], limit=40))
    assert trace.tokens_per_call > 3 and (ids * 4)[3:43] == trace.tokens
    assert min(a for d, a in zip(range(3), trace.acceptance)) > .8


def test_respell():
    tok = byte_level()
    for text, more in (("the cat", " sat on the mat"), ("the", " dog"), ("naïve ca", "fé"), ("你", "好"), ("", "the cat")):
        ids = tok(text).input_ids
        assert tok.decode(ids + respell(tok, ids, more)) == text + more
    for tok in (spaced(), byte_level()):
        cut = tok("the ca", add_special_tokens=False).input_ids                      # inside a word: encoded together it would be another token
        assert tok.decode(cut + respell(tok, cut, "t sat")) == "the cat sat"


def test_tokenizers_that_share_nothing():
    with pytest.raises(ValueError, match="share not one"): SharedTokens(words("a", "b"), words("c", "d"), 2, 2)


def test_strings_come_in_chains():
    with pytest.raises(TypeError, match="tree"): StringBridge(near(build()), None, None, tree=4)
