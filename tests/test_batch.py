"""Batches: rows of unequal length, each as if it were alone, on Hugging Face models of many families and on our runtime."""
import numpy as np
import pytest
import torch
import transformers as hf

from drafters import Wild
from enumeration import CRUDE, MODEL
from specdec_nb import Draft, HFTarget, Keyed, Law, Llama, Trace, exact_law, generate, verify_rejection, verify_walk
from specdec_nb.lm import distribution
from specdec_nb.roles import as_target
from specdec_nb.stops import Stop
from specdec_nb.decode import Request, decode, serve
from specdec_nb.models.slots import Slot
from specdec_nb.serving.batch import Holes, OwnEnds, RightAligned, in_company, lockstep, share_of
from specdec_nb.speedup import CostCurve

SIZES = dict(vocab_size=48, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
             max_position_embeddings=64, initializer_range=.5, bos_token_id=None, eos_token_id=None, pad_token_id=None)
OLD = dict(vocab_size=48, n_positions=64, n_embd=32, n_layer=2, n_head=4, initializer_range=.5, bos_token_id=None, eos_token_id=None)
FAMILIES = {
    "llama": hf.LlamaConfig(**SIZES), "mistral, window 5": hf.MistralConfig(**SIZES, sliding_window=5), "qwen3": hf.Qwen3Config(**SIZES, head_dim=8),
    "gemma3": hf.Gemma3TextConfig(**{**SIZES, "head_dim": 8}, sliding_window=6, layer_types=["sliding_attention", "full_attention", "sliding_attention"]),
    "gpt2": hf.GPT2Config(**OLD), "gpt-neox": hf.GPTNeoXConfig(**{k: v for k, v in SIZES.items() if k != "num_key_value_heads"}),
    "olmo2": hf.Olmo2Config(**SIZES), "phi": hf.PhiConfig(**SIZES),
    "bloom": hf.BloomConfig(vocab_size=48, hidden_size=32, n_layer=2, n_head=4, bos_token_id=None, eos_token_id=None, initializer_range=.5)}
PROMPTS = [[3, 14, 15, 9, 26, 5], [7], [2, 7, 1, 8, 2, 8, 1, 8, 2, 8], [11, 3], [5, 5, 5, 5, 5, 5, 5], [1, 2, 3, 4] * 5]


def build(name, eager=False):
    torch.manual_seed(0)
    return hf.AutoModelForCausalLM.from_config(FAMILIES[name], attn_implementation="eager" if eager else None).double().eval()


def alone(model, law=Law(temperature=0), n=18, seed=None):
    return [Trace(decode(model, "none", p, limit=n, law=law, **({} if seed is None else dict(rng=Keyed(seed, i))))).tokens for i, p in enumerate(PROMPTS)]


def together(model, drafter, n=18, **options):
    out = generate(model, PROMPTS, drafter=drafter, max_new_tokens=n, return_dict_in_generate=True, **options)
    return [trace.tokens for trace in out.traces], out


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.filterwarnings("ignore")
def test_rows_are_as_if_alone(name):
    model = build(name)
    greedy, keyed = alone(model), alone(model, Law(temperature=.9), seed=4)
    for drafter in ("none", "lookup", "recycling", Wild(1), "auto"):
        assert together(model, drafter, do_sample=False)[0] == greedy, drafter
        assert together(model, drafter, do_sample=True, temperature=.9, seed=4, top_k=0)[0] == keyed, drafter
    if name == "llama":
        assert together(Llama.from_hf(model), Wild(2), do_sample=False)[0] == greedy
        assert together(build(name, eager=True), Wild(2), do_sample=False)[0] == greedy


class Counted(HFTarget):
    "Forwards of the model itself"
    calls = 0
    def _together(self, feeds):
        self.calls += 1
        return super()._together(feeds)
    def _alone(self, feed):
        self.calls += 1
        return super()._alone(feed)


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2", "gpt-neox"])
def test_one_forward_for_all(name):
    model = build(name)
    target = Counted(model)
    assert target.batches
    target.calls = 0
    requests = [Request(target, "lookup", p, Law(temperature=0), stop=Stop(18)) for p in PROMPTS]
    traces = {r: Trace() for r in requests}
    for r, step in serve(requests): traces[r].add(step)
    assert [t.tokens for t in traces.values()] == alone(model)
    assert target.calls <= max(t.calls for t in traces.values()) + 1


def test_the_trial_can_fail():
    class Leaky(HFTarget):
        "Padding is seen"
        def _masks(self, places, fed, at): return {k: m | True for k, m in super()._masks(places, fed, at).items()}
    assert HFTarget(build("llama")).batches and not Leaky(build("llama")).batches


def test_shapes_padding_and_ends():
    model = build("llama")
    greedy = alone(model)
    eos = greedy[0][5]
    mask = torch.tensor([[0] * (20 - len(p)) + [1] * len(p) for p in PROMPTS])
    left = torch.tensor([[9] * (20 - len(p)) + p for p in PROMPTS])
    right = torch.tensor([p + [9] * (20 - len(p)) for p in PROMPTS])
    for ids, m in ((left, mask), (right, mask.flip(1))):
        out = generate(model, ids, attention_mask=m, drafter="lookup", max_new_tokens=18, do_sample=False, eos_token_id=eos, pad_token_id=0)
        assert torch.equal(out[:, :20], ids)
        for row, text in zip(out[:, 20:].tolist(), greedy):
            text = text[:text.index(eos) + 1] if eos in text else text
            assert row == text + [0] * (out.shape[1] - 20 - len(text))
    plain = model.generate(left, attention_mask=mask, max_new_tokens=18, do_sample=False, eos_token_id=eos, pad_token_id=0)
    assert torch.equal(generate(model, left, attention_mask=mask, max_new_tokens=18, do_sample=False, eos_token_id=eos, pad_token_id=0), plain)


def test_window_and_early_finishers():
    model, texts = build("llama"), [[1] * 60, [2, 3], [4] * 64]
    out = generate(model, texts, drafter=Wild(3), max_new_tokens=30, do_sample=False, return_dict_in_generate=True)
    assert [len(t.tokens) for t in out.traces] == [5, 30, 1] and [t.stopped for t in out.traces] == ["window", "limit", "window"]
    for text, trace in zip(texts, out.traces): assert trace.tokens == Trace(decode(model, "none", text, limit=30, law=Law(temperature=0))).tokens


def test_slots_are_given_back():
    target = as_target(build("llama"))
    requests = [Request(target, "none", p, Law(temperature=0), stop=Stop(3 + 4 * i)) for i, p in enumerate(PROMPTS)]
    sizes = []
    for _ in serve(requests): sizes.append(len(target.slots.held))
    assert max(sizes) == 6 and sizes[-1] <= 2 and all(isinstance(r.state.cache, Slot) or r is requests[-1] for r in requests)


def test_a_request_that_comes_later():
    target, law = as_target(build("mistral, window 5")), Law(temperature=0)
    requests, texts = [Request(target, "lookup", PROMPTS[0], law, stop=Stop(18))], {}
    for r, step in serve(requests):
        texts.setdefault(r, []).extend(step.verdict.tokens)
        if len(requests) < len(PROMPTS): requests.append(Request(target, "lookup", PROMPTS[len(requests)], law, stop=Stop(18)))
    assert [texts[r] for r in requests] == alone(target)


def test_several_answers_to_one_prompt():
    model = build("llama")
    out = generate(model, [PROMPTS[0]], num_return_sequences=3, do_sample=True, seed=2, top_k=0, max_new_tokens=9, drafter=Wild(1))
    assert out.shape[0] == 3 and len({tuple(row) for row in out.tolist()}) > 1
    for i, row in enumerate(out.tolist()):
        assert row[6:] == Trace(decode(model, "none", PROMPTS[0], limit=9, rng=Keyed(2, i))).tokens


def test_drafts_of_a_batch_share_forwards():
    from specdec_nb.drafters.model import ModelDrafter
    model, small = build("llama"), as_target(build("llama"))
    calls, score = [], small.score
    small.score = lambda pairs: calls.append(len(pairs)) or score(pairs)
    texts, out = together(model, ModelDrafter(small, k=3), do_sample=False)
    assert texts == alone(model) and max(calls) == len(PROMPTS) and np.mean(calls) > 2


@pytest.mark.parametrize("wrong,says", [(dict(output_scores=True, return_dict_in_generate=True), "output_scores"), (dict(past_key_values=hf.DynamicCache()), "past_key_values")])
def test_what_a_batch_cannot(wrong, says):
    with pytest.raises(ValueError, match=says): generate(build("llama"), PROMPTS, max_new_tokens=3, do_sample=False, **wrong)


# -- layouts, and rows that wait for each other

def test_rows_that_wait_keep_their_law_and_those_that_draw_anew_do_not():
    "One round of two rows, both drawn; by enumeration, what the first row says first is the model's, unless who is held back draws again"
    q, laws = CRUDE.p([0]), [MODEL.p([0]), MODEL.p([1]), MODEL.p([2])]
    def said(rng, redraw):
        drafts = [Draft.chain([rng.categorical(q)], [q]) for _ in range(2)]
        verdicts = lockstep(drafts, [[laws[0], MODEL.p([d.tokens[0]])] for d in drafts], verify_rejection, rng, redraw)
        assert len({len(v.tokens) for v in verdicts}) == 1, "equally long"
        return verdicts[0].tokens[0]
    first = {x: w for x, w in enumerate(laws[0]) if w}
    assert exact_law(lambda rng: said(rng, False)) == first != exact_law(lambda rng: said(rng, True))


@pytest.mark.parametrize("rule,p,q,right", [(verify_walk, [3, 2, 1], [1, 1, 1], True), (verify_rejection, [3, 2, 1], [1, 1, 1], False),
                                            (verify_rejection, [2, 1, 0], [2, 1, 3], True), (verify_walk, [2, 1, 0], [2, 1, 3], False)])
def test_drawing_anew_is_right_only_where_a_rejection_owes_the_law_itself(rule, p, q, right):
    p, q = distribution(p), distribution(q)
    def said(rng):
        drafts = [Draft.chain([rng.categorical(q)], [q]) for _ in range(2)]
        return lockstep(drafts, [[p, p]] * 2, rule, rng, redraw=True)[0].tokens[0]
    law = exact_law(said)
    assert all(law.get(x, 0) == w for x, w in enumerate(p)) == right


@pytest.mark.parametrize("kind", [Holes, RightAligned, OwnEnds])
def test_every_layout_holds_the_texts(kind):
    gen, lengths = np.random.default_rng(4), np.zeros(3, int)
    layout, moved = kind(3), 0
    for _ in range(20):
        kept = gen.integers(1, 5, 3)
        before = [list(row) for row in layout.cells]
        layout.add(kept.tolist(), 4)
        lengths += kept
        for row, n in zip(layout.cells, lengths): assert [c for c in row if c >= 0] == list(range(n))
        moved += sum(row[:len(old)] != old for row, old in zip(layout.cells, before))
    assert layout.holes == pytest.approx(1 - lengths.sum() / (3 * layout.width)) and ("0 entries moved" in repr(layout)) == (layout.moved == 0)
    assert layout.width == {Holes: 80, RightAligned: max(lengths), OwnEnds: max(lengths)}[kind]
    assert (layout.moved > 0) == (moved > 0) == (kind is RightAligned), "the control: one of them pays in copies"


def test_what_company_costs():
    curve = CostCurve((1, 4, 64), (1., 1., 16.))
    assert [in_company(curve, 4)(n) for n in (1, 4)] == [1, curve(16)]
    alone, third = share_of(curve, 0, 1), share_of(curve, 8, 3)
    assert all(alone(n) == pytest.approx(curve(n)) for n in (1, 5, 40)) and third(1) == pytest.approx(curve(9) / 3)
    assert curve(13) - curve(9) == pytest.approx(third(5) - third(1)) and third(5) - third(1) > alone(5) - alone(1), "a guess is dear where rows already cost"
    with pytest.raises(ValueError, match="a request or more"): in_company(curve, 0)
