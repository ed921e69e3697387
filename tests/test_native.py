"""The native runtime against the original, and against itself: the same bits, however many rows are scored, in whatever shape and company."""
import copy, os, subprocess, sys, threading, warnings

import numpy as np
import pytest
import torch

from conftest import ROOT
from drafters import Oracle, Wild
from specdec_nb import Draft, Keyed, Law, Llama, Trace, generate
from specdec_nb.roles import as_target, read
from specdec_nb.decode import decode
from specdec_nb.models import linear, maps, native
from specdec_nb.models.linear import apply_form
from specdec_nb.models.machine import PANEL, entry, kernel, refusal
from specdec_nb.models.hub import chat, default_gguf
from specdec_nb.models.native import Native
from specdec_nb.models.packed import FromGGUF, FromHF, Packed, exact_hf
from specdec_nb.models.team import floats_at, form
from specdec_nb.sampling import Asks
from specdec_nb.serving.engine import Engine
from specdec_nb.speedup import CostCurve
from specdec_nb.stops import Stop
from families import CLAIMED, claimed as build

TOKENS = [x * 7 % 48 for x in range(64)]
TREE = Draft.merge([[4, 5, 6, 7], [4, 5, 8], [9, 5], [9, 6, 4], [1], [2, 2, 2, 2, 2]])[0]


def target_of(name, threads=1, dtype=torch.float32): return as_target(Native.from_hf(build(name, dtype).float(), threads))


def rows_after(target, text):
    "The row of the last token of `text`, read one token at a time"
    state = target.open(text[:1])
    for token in text[1:]:
        target.score([(state, Draft())])
        state.cache.keep([0])
        state.drop()
        state.tokens.append(token)
    return target.score([(state, Draft())])[0].rows[0]


# -- the original's numbers ------------------------------------------------------------------------------

@pytest.mark.parametrize("name", CLAIMED)
def test_logits_equal_the_original(name):
    model, target = build(name), target_of(name)
    for length in (1, 2, 5, 6, 40, 64):                  # one token, the windows and one more, the context
        tokens = torch.tensor(TOKENS[:length])
        with torch.no_grad(): ref = model(tokens[None]).logits[0]
        rows = target.score([(target.open(TOKENS[:1]), Draft.chain(TOKENS[1:length]))])[0].rows
        assert (rows - ref).abs().max() < 1e-4 and torch.equal(rows.argmax(-1), ref.argmax(-1)), length


@pytest.mark.parametrize("dtype,kind", [(torch.float16, linear.F16), (torch.bfloat16, linear.BF16), (torch.float32, linear.F32)])
@pytest.mark.parametrize("name", ["biases", "head dim", "qwen3, mixed"])
def test_weights_stay_in_the_shortest_format_that_holds_them(name, dtype, kind):
    model = build(name, torch.float32)
    for w in model.parameters():
        w.data = w.data.to(dtype).float()
        if dtype == torch.bfloat16 and w.dim() == 2: w.data[0, 0] = 2. ** -60          # too small for float16
    target = as_target(Native.from_hf(model))
    assert {form for form, *_ in target.model.packed.index.values()} == {kind, -1}
    with torch.no_grad(): ref = model(torch.tensor([TOKENS])).logits[0]
    rows = target.score([(target.open(TOKENS[:1]), Draft.chain(TOKENS[1:]))])[0].rows
    assert (rows - ref).abs().max() < 1e-4
    assert torch.equal(target.embed, model.get_input_embeddings().weight) and torch.equal(target.unembed, model.lm_head.weight)


def gguf_of(model, path, kinds):
    "A small Llama as a GGUF file, its matrices stored in `kinds` in turn"
    import gguf
    c, w = model.config, gguf.GGUFWriter(path, "llama")
    w.add_context_length(64), w.add_embedding_length(c.hidden_size), w.add_block_count(c.num_hidden_layers)
    names = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output", "input_layernorm": "attn_norm",
             "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
             "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
    for i, (name, a) in enumerate(model.state_dict().items()):
        a, (*before, what) = a.float().numpy(), name.split(".")
        said = ".".join(before[3:] if "layers" in before else before)
        heads = {"self_attn.q_proj": c.num_attention_heads, "self_attn.k_proj": c.num_key_value_heads}.get(said)
        if heads: a = a.reshape(heads, 2, -1, a.shape[1]).swapaxes(1, 2).reshape(a.shape)
        kind = getattr(gguf.GGMLQuantizationType, kinds[i % len(kinds)] if a.ndim == 2 else "F32")
        stored = six_bits(a) if kind.name == "Q6_K" else gguf.quantize(a, kind)
        w.add_tensor(f"blk.{before[2]}.{names[said]}.{what}" if "layers" in before else f"{names[said]}.{what}", stored, raw_dtype=kind)
    w.write_header_to_file(), w.write_kv_data_to_file(), w.write_tensors_to_file(), w.close()
    return path


def six_bits(a):
    "Blocks of Q6_K with random numbers and small scales: what they mean is the reader's business"
    gen = np.random.default_rng(a.size)
    raw = gen.integers(0, 256, (len(a), a.shape[1] // 256, 210), dtype=np.uint8)
    raw[..., 208:] = np.float16(1e-4 * gen.uniform(.5, 1, (*raw.shape[:2], 1))).view(np.uint8)
    return raw.reshape(len(a), -1)


@pytest.mark.parametrize("group", [32, 96])
def test_a_matrix_that_came_from_bytes_goes_back_into_bytes(group):
    "As a drafter's head does, and its own matrices as they are saved; anything else stays in what holds it"
    gen = np.random.default_rng(0)
    q, d = gen.integers(-127, 128, (70, 96)), gen.uniform(0, .02, (70, 96 // group)).astype(np.float16).astype(np.float32).repeat(group, 1)
    q[:, ::group], d[4], q[5] = -127, 0, 0
    w = torch.from_numpy(q.astype(np.float32) * d)
    x, mapped, halves = torch.randn(3, 96), maps.NativeMap(w), maps.NativeMap(w + 2. ** -12 * torch.randn(70, 96).half().float())
    assert (mapped(x) - (x.double() @ w.double().T)).abs().max() < 1e-5 and torch.equal(mapped(x)[1], mapped(x[1]))
    for other in (w.half().float() + 1e-3, w[:, :80], torch.full((3, 32), float("inf")), torch.full((3, 32), float("nan")), torch.empty(0, 32)):
        kind, rows = maps.smallest(other.numpy())
        assert kind is None and rows.shape == other.shape
    assert maps.smallest(w.numpy())[0] == "Q8_0" and len(mapped.blob) < len(halves.blob)


@kernel
def strange(acc, x, xs, i, stride, K, w, o, c, far): return linear.q8(acc, x, xs, i, stride, K, w, o, c, far)


def apply_strangers(x, stride, xs, n, K, w, first, last, y, ys):
    apply_form(form(40), 32, 34 * PANEL, x, stride, xs, n, K, w, first, last, y, ys)


@pytest.fixture
def stranger():
    "Eight bits under a number of their own, as a module of somebody else's would bring them"
    def new(**more):
        linear.new_kind(40, "a stranger's bytes", apply_strangers, strange, **more)
        linear.BLOCKS["STRANGE"] = 40, linear._q8_0
    yield new
    for table in (linear._APPLY, linear._SAID, linear._TIMES, linear._BLOCK, linear._COMPILED): table.pop(40, None)
    linear.BLOCKS.pop("STRANGE", None)


def test_maps_of_a_kind_that_came_later_are_packed_and_served_an_embedding_is_not(stranger):
    import gguf
    import transformers as hf
    stranger(block=(32, 34 * PANEL))
    config = hf.LlamaConfig(vocab_size=70, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2,
                            num_key_value_heads=1, tie_word_embeddings=False)
    torch.manual_seed(0)
    plain = FromHF(hf.AutoModelForCausalLM.from_config(config).eval())
    def told(name, at):
        def source(part, layer=None, what="weight"):
            if (found := plain(part, layer, what)) is None or part not in at: return found
            return name, gguf.quantize(found[1].astype(np.float32), gguf.GGMLQuantizationType.Q8_0)
        source.permuted = False
        return source
    def rows(name, at):
        target = as_target(Native(config, Packed.of(told(name, at), config), 1))
        return target.score([(target.open(TOKENS[:1]), Draft.chain(TOKENS[1:]))])[0].rows
    assert torch.equal(rows("STRANGE", "q k v o gate up down head".split()), rows("Q8_0", "q k v o gate up down head".split()))
    with pytest.raises(ValueError, match="cannot be read back"): rows("STRANGE", ["embed"])
    packed = Packed.of(told("STRANGE", ["o"]), config)
    with pytest.raises(ValueError, match="cannot be read back"): packed.matrix("0.o", 64)


def test_a_kind_s_number_is_its_own(stranger):
    stranger()
    with pytest.raises(ValueError, match="tell new_kind what a block"): Packed.laid([("m", "STRANGE", np.zeros((PANEL, 68), np.uint8))])
    stranger(block=(32, 34 * PANEL))                         # the same name again: a cell that is run twice
    for kind in (linear.Q4, linear.READY, 40):
        with pytest.raises(ValueError, match=f"kind {kind} is taken"): linear.new_kind(kind, "mine", apply_strangers)
    assert linear._SAID[linear.Q4] == "four bits"


def test_what_kernels_read_is_what_is_left_as_it_is(): assert {*FromGGUF.READ} == {*linear.BLOCKS}


@pytest.mark.parametrize("kinds", [["Q4_1"], ["Q4_0", "Q8_0", "Q6_K", "F16", "Q5_0"], ["BF16", "F32", "Q4_1"]])
def test_blocks_of_a_gguf_file_mean_what_gguf_says(tmp_path, kinds):
    import transformers as hf
    torch.manual_seed(0)
    config = hf.LlamaConfig(vocab_size=70, hidden_size=256, intermediate_size=512, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                            max_position_embeddings=64, initializer_range=.1, tie_word_embeddings=False, bos_token_id=None, eos_token_id=None)
    model = hf.AutoModelForCausalLM.from_config(config).eval()
    source = FromGGUF(gguf_of(model, tmp_path / "small.gguf", kinds))
    exact, target = exact_hf(source, config), as_target(Native(config, Packed.of(source, config), 1))
    with torch.no_grad(): ref, other = (m(torch.tensor([TOKENS])).logits[0] for m in (exact, model))
    rows = target.score([(target.open(TOKENS[:1]), Draft.chain(TOKENS[1:]))])[0].rows
    assert (rows - ref).abs().max() < 1e-5 * ref.abs().max() < (ref - other).abs().max(), "equal to the blocks, not to what they were made of"
    assert torch.equal(target.embed, exact.get_input_embeddings().weight)


# -- the same bits ---------------------------------------------------------------------------------------

def differences(target, seed=0, rounds=6):
    "How many rows depend on how they were scored: in chunks, in a tree, in company"
    gen, count = np.random.default_rng(seed), 0
    text = gen.integers(0, 48, 40).tolist()
    plain = [rows_after(target, text[:n]) for n in (13, 31, 40)]
    whole = target.score([(target.open(text[:1]), Draft.chain(text[1:]))])[0].rows
    count += sum(not torch.equal(whole[n - 1], p) for n, p in zip((13, 31, 40), plain))
    for _ in range(rounds):
        target.chunk = int(gen.integers(1, 33))
        cut, paths = int(gen.integers(2, 39)), gen.integers(0, 4, (int(gen.integers(1, 9)), 5)).tolist()
        tree = Draft.merge([text[cut:cut + 4], *paths])[0]
        company = [(read(target.open(gen.integers(0, 48, int(n)).tolist())), TREE) for n in gen.integers(1, 30, int(gen.integers(0, 3)))]
        scores = target.score([*company, (read(target.open(text[:cut])), tree)])[-1].rows
        count += not torch.equal(scores[0], whole[cut - 1])
        i = int(gen.integers(len(tree)))
        path = [tree.tokens[j] for j in tree.path(i)]
        count += not torch.equal(scores[i + 1], rows_after(target, text[:cut] + path))
    return count


def test_words_are_ranked_by_the_forward_and_columns_behind_the_words_are_none():
    import transformers as hf
    torch.manual_seed(0)
    config = hf.LlamaConfig(vocab_size=10, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2, initializer_range=.5)
    target = as_target(Native.from_hf(hf.AutoModelForCausalLM.from_config(config), 2))
    scores = target.score([(target.open([1, 2]), TREE.take(range(3)))])[0]
    rows = scores.array
    assert (np.sort(rows, 1)[:, -8] < 0).any(), "a zero of the padding would be among the best eight"
    assert (scores.top(8) == np.argsort(-rows, 1, kind="stable")[:, :8]).all() and (scores.top(9) == np.argsort(-rows, 1)[:, :9]).all()
    assert [scores.best(i) for i in range(len(rows))] == rows.argmax(1).tolist() and scores.rows.shape == rows.shape == (4, 10)


@pytest.mark.parametrize("asks", [Asks(), Asks(hidden=(0,)), Asks(hidden=(3,)), Asks(topk=2)])
def test_what_is_only_read_is_remembered_whatever_else_is_asked(asks):
    target = target_of("llama")
    target.chunk = 7
    state = read(target.open(TOKENS[:30], asks))
    assert torch.equal(target.score([(state, Draft())])[0].rows[0], rows_after(target, TOKENS[:30]))
    for i in asks.hidden:
        whole = target.open(TOKENS[:1], asks)
        hidden = target.score([(whole, Draft.chain(TOKENS[1:29]))])[0].hidden[i]
        assert torch.equal(state.prefilled.hidden[i], hidden)


@pytest.mark.parametrize("name", ["llama", "mistral, window 5", "qwen3, mixed", "one kv head"])
def test_a_row_s_bits_do_not_depend_on_how_it_is_scored(name):
    alone, two = target_of(name), target_of(name, threads=2)
    assert differences(alone) == 0 and differences(two) == 0
    a, b = (t.score([(t.open(TOKENS[:20]), TREE)])[0].rows for t in (alone, two))
    assert torch.equal(a, b)


def test_a_tile_whose_sums_depend_on_the_rows_is_noticed():
    @kernel
    def backwards(x, w, i, K, p, c):
        s = np.float32(0)
        for k in range(K - 1, -1, -1): s += x[i + k] * w[(p * K + k) * PANEL + c]
        return s

    def uneven(x, stride, xs, n, K, w, first, last, y, ys):
        if n == 1: apply_form(form(0), 1, 4 * PANEL, x, stride, xs, n, K, w, first, last, y, ys)
        else:
            for p in range(first, last):
                for r in range(n):
                    for c in range(PANEL):
                        floats_at(y)[r * ys + p * PANEL + c] = backwards(floats_at(x), floats_at(w), r * stride, K, p, c)
    target = target_of("llama")
    assert set(target.model.weights.maps[:, 0]) == {linear.address_of(linear.F32)} and differences(target, rounds=2) == 0
    broken = entry(uneven, linear.SIGNATURE)
    target.model.weights.maps[:, 0] = broken.address
    with torch.no_grad(): ref = build("llama")(torch.tensor([TOKENS])).logits[0]
    rows = target.score([(target.open(TOKENS[:1]), Draft.chain(TOKENS[1:]))])[0].rows
    assert (rows - ref).abs().max() < 1e-4 and differences(target, rounds=2) > 3, "right to rounding, and yet not the same bits"


@pytest.mark.parametrize("name", ["llama", "mistral, window 5", "qwen2, mixed"])
def test_speculation_keeps_text_and_logits(name):
    model, target = build(name), target_of(name)
    prompt = TOKENS[:9]
    class Kept(type(target)):
        def score(self, pairs):
            scores = super().score(pairs)
            if pairs[0][1] is not None: self.seen.append(([*pairs[0][0].tokens], pairs[0][1], scores[0].rows.clone()))
            return scores
    def run(drafter, law):
        kept = Kept(target.model)
        kept.seen = []
        text = Trace(decode(kept, drafter, prompt, limit=30, law=law, rng=Keyed(3))).tokens
        full, rows = prompt + text, {}
        for tokens, draft, scored in kept.seen:
            for i in range(-1, len(draft)):
                path = [*tokens, *(draft.tokens[j] for j in draft.path(i))] if i >= 0 else tokens
                if full[:len(path)] == path: rows[len(path)] = scored[i + 1]
        return text, rows
    for law in (Law(temperature=0), Law(temperature=1)):
        plain, rows = run("none", law)
        for drafter in ("lookup", Wild(0, prompt + plain), Oracle(prompt + plain)):
            text, mine = run(drafter, law)
            assert text == plain and all(torch.equal(rows[n], mine[n]) for n in rows if n in mine), drafter
    original = model.generate(torch.tensor([prompt]), max_new_tokens=30, do_sample=False)[0, 9:].tolist()
    assert run("none", Law(temperature=0))[0] == original


class Heard:
    "A target that writes down the row behind each beginning of a text that was scored"
    def __init__(self, target): self.target, self.score_, self.rows, target.score = target, target.score, {}, self
    def __call__(self, pairs):
        before = [[*state.tokens] for state, _ in pairs]
        made = self.score_(pairs)
        for (_, draft), text, scores in zip(pairs, before, made):
            for i in range(-1, len(draft)) if draft is not None else ():
                path = [draft.tokens[j] for j in draft.path(i)] if i >= 0 else []
                self.rows[*text, *path] = scores.rows[i + 1].clone()
        return made
    def leave(self):
        del self.target.score
        return self.rows


def in_company(case):
    """Prompts, laws, drafters, rules, chunks and company drawn from `case`; each text and each row of logits that was kept must be, bit
    for bit, that of plain decoding alone. Returns how many rows were compared"""
    gen = np.random.default_rng([11, case])
    def one(*options): return options[gen.integers(len(options))]
    target = target_of(one("llama", "mistral, window 5", "qwen2, mixed", "qwen3, mixed", "one kv head"), one(1, 1, 2), one(torch.float32, torch.bfloat16))
    asked = []
    for request in range(one(1, 1, 2, 3, 5)):
        prompt = gen.integers(0, 48, one(1, 2, 9, 30, 62)).tolist()
        law = one(Law(temperature=0), Law(temperature=.7), Law(temperature=1, top_k=5), Law(temperature=1.3, top_p=.8))
        asked.append((prompt, law, Keyed(case, request), Stop(int(gen.integers(1, 25)), frozenset(one((), (7,))))))
    plain = [(Trace(decode(target, "none", p, law=law, rng=rng, stop=stop)).tokens) for p, law, rng, stop in asked]
    heard = Heard(target)
    for p, law, rng, stop in asked: list(decode(target, "none", p, law=law, rng=rng, stop=stop))
    alone = heard.leave()
    drafter = one("none", "lookup", "suffix", "recycling", "pool", "auto", "lookahead", Wild(case, asked[0][0] + plain[0]), Oracle(asked[0][0] + plain[0]))
    engine = Engine(target, drafter, chunk=one(None, 1, 7, 64), most=one(1, 2, 64), curve=CostCurve((1, 2), (1., 1 + one(0., .1, .5))))
    texts, heard = {}, Heard(engine.target)
    for i, (p, law, rng, stop) in enumerate(asked):
        engine.submit(p, law, stop, rng, rule=one(None, "walk"), told=lambda r, step, i=i: texts.setdefault(i, []).extend(step.verdict.tokens))
    engine.run()
    mine, compared = heard.leave(), 0
    assert [texts[i] for i in range(len(asked))] == plain, f"case {case}: another text"
    for (p, *_), text in zip(asked, plain):
        for n in range(len(p), len(p) + len(text)):
            row = (*p, *text)[:n]
            if row in alone and row in mine:
                compared += 1
                assert torch.equal(alone[row], mine[row]), f"case {case}: other bits behind {n} tokens"
    return compared


def test_texts_and_logits_in_random_company():
    assert sum(map(in_company, range(30))) > 300


@pytest.mark.slow
def test_texts_and_logits_of_five_hundred_in_random_company():
    assert sum(map(in_company, range(1000, 1500))) > 5000


def test_random_company_notices_one_bit(monkeypatch):
    "A last bit that depends on how many rows are scored"
    def nudged(self, parts, hidden=(), forward=Native.forward):
        ranked, states = forward(self, parts, hidden)
        if ranked is not None and sum(len(p.tokens) for p in parts) > 2: ranked.rows[:] = np.nextafter(ranked.rows, np.float32(np.inf))
        return ranked, states
    monkeypatch.setattr(Native, "forward", nudged)
    with pytest.raises(AssertionError, match="other bits"):
        for case in range(30): in_company(case)


def test_hidden_states_and_the_best_are_those_of_the_book_s_runtime():
    llama, target = as_target(Llama.from_hf(build("qwen3, mixed"))), target_of("qwen3, mixed")
    asks = Asks(hidden=(0, 1, 3), topk=3)
    states = [read(t.open(TOKENS[:30], asks)) for t in (llama, target)]
    for i in asks.hidden: assert (states[0].prefilled.hidden[i] - states[1].prefilled.hidden[i]).abs().max() < 1e-4, i
    assert (states[0].prefilled.tops == states[1].prefilled.tops).all()
    target.chunk = 4
    other = read(target.open(TOKENS[:30], asks))
    assert all(torch.equal(other.prefilled.hidden[i], states[1].prefilled.hidden[i]) for i in asks.hidden)
    [a], [b] = (t.score([(s, TREE)]) for t, s in zip((llama, target), states))
    for i in asks.hidden: assert (a.hidden[i] - b.hidden[i]).abs().max() < 1e-4
    assert (a.top(3) == b.top(3)).all()


# -- state -----------------------------------------------------------------------------------------------

def test_a_draft_that_grows_feeds_only_what_is_new():
    target, fed = target_of("mistral, window 5"), []
    forward = target.model.forward
    target.model.forward = lambda parts, hidden=(): fed.append(sum(len(p.tokens) for p in parts)) or forward(parts, hidden)
    state, whole = read(target.open(TOKENS[:20])), target.open(TOKENS[:20])
    fed.clear()
    for n in (0, 3, 3, len(TREE)):
        [grown] = target.score([(state, Draft(TREE.tokens[:n], TREE.parents[:n]))])
    assert sum(fed) == len(TREE) + 1 and torch.equal(grown.rows, target.score([(whole, TREE)])[0].rows)


def test_a_cache_that_grows_forgets_nothing_and_a_fork_is_independent():
    target = target_of("llama")
    small = target.open(TOKENS[:2])
    small.cache = native.NativeCache(*small.cache.shape, small.cache.panel, capacity=1)
    roomy = target.open(TOKENS[:2])
    small.drop(), small.rewind(1), roomy.rewind(1)
    for state in (small, roomy):
        state.cache.length, state.tokens = 0, TOKENS[:1]
        target.score([(state, Draft.chain(TOKENS[1:60] * 3))])
        state.cache.keep(list(range(100)))
        state.drop()
        state.tokens = (TOKENS[:60] + TOKENS[1:60] * 2)[:101]
    twin = small.fork()
    a, b = (target.score([(s, TREE)])[0].rows for s in (small, roomy))
    assert small.cache.capacity >= 110 and torch.equal(a, b)
    twin.cache.values[:] = 0
    assert torch.equal(target.score([(small, TREE)])[0].rows, a) and not torch.equal(target.score([(twin, TREE)])[0].rows, a)


def test_a_broken_model_says_so_and_leaves_nothing_behind():
    model = build("llama")
    good, broken = Native.from_hf(model), copy.deepcopy(model)
    broken.model.norm.weight.data[3] = float("nan")
    target = as_target(Native.from_hf(broken))
    with pytest.raises(ValueError, match="NaN"): target.score([(target.open(TOKENS[:3]), Draft())])[0].best(0)
    assert as_target(good).score([(as_target(good).open(TOKENS[:3]), Draft())])[0].best(0) >= 0


@pytest.mark.parametrize("tie", [False, True])
def test_a_head_of_its_own_is_read_whatever_the_configuration_says(tie):
    "Fine-tuned and saved, a head may differ from the embedding it began as; transformers reads it, and so do we"
    model = build("llama tied")
    model.lm_head.weight = torch.nn.Parameter(torch.randn(48, 32, generator=torch.Generator().manual_seed(3)) * .5)
    model.config.tie_word_embeddings = tie
    ids = torch.tensor([TOKENS[:9]])
    plain = model.generate(ids, max_new_tokens=16, do_sample=False)
    for own in (Llama.from_hf(model), Native.from_hf(model)):
        assert torch.equal(generate(own, ids, drafter="lookup", max_new_tokens=16, do_sample=False), plain)
    tied = Native.from_hf(build("llama tied"))
    assert "head" not in tied.packed.index, "and a tied one is kept once"


def test_two_threads_may_generate_at_once():
    model, ids = Native.from_hf(build("llama"), 2), torch.tensor([TOKENS[:9]])
    plain, found = generate(model, ids, drafter="none", max_new_tokens=40, do_sample=False), []
    def work(drafter):
        for _ in range(3): found.append(generate(model, ids, drafter=drafter, max_new_tokens=40, do_sample=False))
    threads = [threading.Thread(target=work, args=(d,)) for d in ("none", "lookup", "none")]
    for t in threads: t.start()
    for t in threads: t.join()
    assert len(found) == 9 and all(torch.equal(f, plain) for f in found)


class Meanwhile:
    "A factor: when somebody multiplies by it, another thread has its turn"
    __array_ufunc__ = None
    def __init__(self, factor, turns): self.factor, self.turns = factor, turns
    def __rmul__(self, x):
        if self.turns: self.turns.pop()()
        return x * self.factor


def test_tables_that_two_threads_grow_at_once_are_right():
    angles = target_of("llama").model.angles
    wanted = [t[:3000 * angles.half].copy() for t in copy.copy(angles).upto(3000)]
    angles.freq = Meanwhile(angles.freq, [lambda: angles.upto(2000)])
    for tables in (angles.upto(3000), angles.upto(2)):
        assert len(tables[0]) >= 3000 * angles.half and all(np.array_equal(t[:3000 * angles.half], w) for t, w in zip(tables, wanted))


def test_a_call_has_its_own_tables_whoever_calls_meanwhile():
    "Another thread puts back shorter tables, or asks for the same hidden states, in the middle of it"
    model = target_of("llama").model
    short, half = model.weights, model.angles.half
    class Shown(dict):
        def get(self, key):
            model.weights = short
            return super().get(key)
        def __setitem__(self, key, at):
            assert sorted(at)[-len(key):] == [*range(len(key))], "it may be read as soon as it is there"
            super().__setitem__(key, at)
    model.shown = Shown()
    w, batch, longest, _ = model._batch([native.Rows(model.new_cache(), 1500, [1], [-1])], (0, 2))
    assert longest == 1501 and len(w.cos) >= 1501 * half > len(short.cos) and batch is not None


def test_what_a_row_costs_is_asked_again_of_other_kernels(monkeypatch):
    from specdec_nb.models import machine
    one, two = target_of("llama").model, target_of("llama", 2).model
    said = one.stored
    assert said == target_of("qwen2").model.stored != two.stored
    monkeypatch.setattr(machine, "version", lambda: "others")
    assert one.stored != said


def aside(program, **env):
    "What a program prints that has a process, and its end, to itself"
    head = "import sys, os, signal; sys.path[:0] = ['tests', 'tools']; import test_native as t, torch\nfrom specdec_nb.models import machine, maps\n"
    out = subprocess.run([sys.executable, "-c", head + program], cwd=ROOT, text=True, capture_output=True, timeout=240, env={**os.environ, "PYTHONPATH": str(ROOT), **env})
    assert out.returncode == 0, out.stderr
    return out.stdout.split(), out.stderr


@pytest.mark.parametrize("bad", [48, 63, 2**40, -1])
def test_a_token_that_is_none_is_refused_and_not_looked_up(bad):
    target = target_of("llama")
    for prompt, draft in (([1, bad], []), ([1, 2], [3, bad])):
        with pytest.raises(ValueError, match=f"tokens 0 to 47, not {bad}"): target.score([(target.open(prompt), Draft.chain(draft))])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing is forked here")
@pytest.mark.parametrize("threads", [2, 3])
def test_a_forked_process_has_threads_of_its_own(threads):
    program = f"""target = t.target_of('llama', {threads})
rows = target.score([(target.open(t.TOKENS[:20]), t.TREE)])[0].rows
if not (pid := os.fork()):
    signal.alarm(60)
    os._exit(not torch.equal(target.score([(target.open(t.TOKENS[:20]), t.TREE)])[0].rows, rows))
print(os.waitpid(pid, 0)[1], torch.equal(target.score([(target.open(t.TOKENS[:20]), t.TREE)])[0].rows, rows))"""
    assert aside(program)[0] == ["0", "True"]


def test_whoever_is_interrupted_leaves_nobody_waiting():
    "Before its own part begins, or in another thread's; the process must end, too"
    program = """target = t.target_of('llama', 3)
score = lambda: target.score([(target.open(t.TOKENS[:20]), t.TREE)])[0].rows
rows, real = score(), target.model.kernels.forward
def interrupted(me, *args, who=0):
    if me == who: raise KeyboardInterrupt
    return real(me, *args)
from types import SimpleNamespace
for who in (0, 2):
    target.model.kernels = SimpleNamespace(**{**vars(target.model.kernels), 'forward': lambda me, *a: interrupted(me, *a, who=who)})
    try: score()
    except KeyboardInterrupt: print('interrupted')
target.model.kernels.forward = real
print(torch.equal(score(), rows), target.model.team.take())"""
    assert aside(program)[0] == ["interrupted", "interrupted", "True", "3"]


def test_kept_code_that_was_cut_short_is_made_again_and_where_none_can_be_kept_it_is_said_once(tmp_path):
    program = "print(*(machine.once('something', lambda: len(t.rows_after(t.target_of('one kv head'), [1, 2]))) for _ in range(2)))"
    said, told = aside(program, XDG_CACHE_HOME=str(tmp_path))
    kept = [*tmp_path.rglob("*.nb[ci]")]
    assert said == ["48", "48"] and told.count("Compiling something") == 1 and kept
    for file in kept: file.write_bytes(file.read_bytes()[:10])
    assert aside(program, XDG_CACHE_HOME=str(tmp_path))[0] == ["48", "48"] and min(f.stat().st_size for f in tmp_path.rglob("*.nb[ci]")) > 10
    file = tmp_path / "a file"
    file.touch()
    assert aside("print(*(machine.once('nothing', int) for _ in range(2)))", XDG_CACHE_HOME=str(file))[1].count("Compiling nothing") == 1


@pytest.mark.parametrize("fault", ["raise ImportError('Numba needs NumPy 2.0 or less')", "__version__ = '0.50.0'", None])
def test_a_numba_that_cannot_be_used_is_as_none(tmp_path, fault):
    if fault is not None:
        (tmp_path / "numba").mkdir()
        (tmp_path / "numba" / "__init__.py").write_text(fault)
    env = {"NUMBA_DISABLE_JIT": "1"} if fault is None else {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    out = subprocess.run([sys.executable, "-c", "from specdec_nb.models.maps import why_not_native, swift; import torch; print(why_not_native()); swift(torch.eye(3))"],
                         cwd=ROOT, text=True, capture_output=True, timeout=240, env={**os.environ, "PYTHONPATH": str(ROOT), **env})
    assert out.returncode == 0 and out.stdout.startswith("numba cannot be used ("), out.stdout + out.stderr


# -- where it cannot be ------------------------------------------------------------------------------------

def test_where_it_cannot_be_today_s_runtime_serves_and_says_so_once(monkeypatch, tmp_path):
    model = build("llama")
    model.save_pretrained(tmp_path)
    monkeypatch.setattr(native, "load_hf", lambda name: (model, None))
    ids = torch.tensor([TOKENS[:9]])
    text = generate(native.load_native(tmp_path)[0], ids, max_new_tokens=20, do_sample=False)
    find = maps.find_spec
    monkeypatch.setattr(maps, "find_spec", lambda name: None if name == "numba" else find(name))
    with pytest.warns(UserWarning, match="numba is not installed"): other, _ = native.load_native(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        native.load_native(tmp_path)
    assert type(other) is Llama and torch.equal(generate(other, ids, max_new_tokens=20, do_sample=False), text)


def test_processors_without_the_instructions_are_refused():
    assert refusal("x86_64-unknown-linux-gnu", {"fma", "avx2", "f16c"}) is None and refusal("arm64-apple-macos", set()) is None
    assert "lacks fma" in refusal("x86_64-unknown-linux-gnu", {"avx2", "f16c"}) and "riscv64" in refusal("riscv64-unknown-linux", {"fma"})


def test_options_it_cannot_honour_are_refused():
    with pytest.raises(ValueError, match="float32"): native.load(None, torch.bfloat16, "native")
    with pytest.raises(ValueError, match="runtime must be"): native.load(None, runtime="quick")


# -- the real one ------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def real():
    if default_gguf() is None: pytest.skip("the default model is not installed")
    return native.load_default(runtime="native", threads=1)


def test_smollm2_speaks_from_its_own_file(real):
    model, tokenizer = real
    ids = chat(tokenizer, "Name three colours, then repeat the three colours in reverse order.")
    plain = generate(model, ids, drafter="none", max_new_tokens=40, do_sample=False)
    for drafter in ("lookup", Wild(0, plain[0].tolist()), Oracle(plain[0].tolist())):
        assert torch.equal(generate(model, ids, drafter=drafter, max_new_tokens=40, do_sample=False), plain), drafter
    assert "red" in tokenizer.decode(plain[0, ids.shape[1]:]).lower()


@pytest.mark.slow
def test_smollm2_equals_transformers_at_two_thousand_positions(real):
    model, tokenizer = real
    hf, target = exact_hf(FromGGUF(default_gguf()), model.config), as_target(model)
    gen, same, worst = np.random.default_rng(0), 0, 0.
    for _ in range(8):
        tokens = gen.integers(0, 49152, 251).tolist()
        with torch.no_grad(): ref = hf(torch.tensor([tokens])).logits[0]
        rows = target.score([(target.open(tokens[:1]), Draft.chain(tokens[1:]))])[0].rows
        same, worst = same + int((rows.argmax(-1) == ref.argmax(-1)).sum()), max(worst, float((rows - ref).abs().max() / ref.abs().max()))
    assert same == 8 * 251 and worst < 1e-4


@pytest.mark.slow
def test_processors_with_avx2_only_get_the_same_bits_from_lower_tiles():
    program = """import sys; sys.path[:0] = ['tests', 'tools']
import test_native, torch
from specdec_nb.models import machine
target = test_native.target_of('qwen3, mixed')
rows = target.score([(target.open(test_native.TOKENS[:20]), test_native.TREE)])[0].rows
print(machine.LANES, test_native.differences(target), rows.double().sum().item())"""
    def run(**env):
        out = subprocess.run([sys.executable, "-c", program], cwd=ROOT, text=True, capture_output=True, env={**os.environ, **env, "PYTHONPATH": str(ROOT)})
        assert out.returncode == 0, out.stderr
        return out.stdout.split()
    lanes, wrong, total = run(NUMBA_CPU_NAME="haswell", NUMBA_CPU_FEATURES="+avx2,+avx,+fma,+f16c,+bmi,+bmi2,+lzcnt,+popcnt,+sse4.2,+sse4.1,+ssse3")
    assert (lanes, wrong) == ("16", "0") and total == run()[2]
