"""What `generate` is given: forms of a prompt, masks, padding, and caches that go on from turn to turn."""
import numpy as np
import pytest
import torch
import transformers as hf

from drafters import Wild
from families import FAMILIES, PROMPT, SIZES, build, greedy
from specdec_nb import Llama, generate
from specdec_nb.models.inputs import attended, padding_of, whole_number
from specdec_nb.roles import as_target
from specdec_nb.sampling import Asks


@pytest.fixture(scope="module")
def model(): return build("llama")


def test_padding_is_never_a_token(model):
    padded = torch.tensor([[0, 0, *PROMPT[0].tolist()]])
    mask = (torch.arange(10) >= 2).long()[None]
    for options in ({}, dict(repetition_penalty=1.4)):
        plain = model.generate(padded, attention_mask=mask, max_new_tokens=20, do_sample=False, **options)
        assert torch.equal(generate(model, padded, attention_mask=mask, drafter=Wild(1, PROMPT[0].tolist()), max_new_tokens=20, do_sample=False, **options), plain)
    assert torch.equal(plain[:, :10], padded)


@pytest.mark.parametrize("ids,says", [(torch.zeros(1, 0, dtype=torch.long), "empty"), (torch.tensor([[1, 48]]), "0 to 47"), (torch.tensor([[-1]]), "0 to 47"),
                                      (torch.tensor([1, 2]), "L")])
def test_bad_prompts(model, ids, says):
    with pytest.raises(ValueError, match=says): generate(model, ids, max_new_tokens=3)


@pytest.mark.parametrize("form", [PROMPT[0].tolist(), PROMPT.tolist(), PROMPT.numpy(), PROMPT.int(), dict(input_ids=PROMPT), hf.BatchEncoding(dict(input_ids=PROMPT, attention_mask=torch.ones_like(PROMPT))),
                                  hf.BatchEncoding(dict(input_ids=PROMPT[0].tolist(), attention_mask=[1] * 8))], ids=lambda f: type(f).__name__)
def test_forms_of_a_prompt(model, form):
    for call in (dict(input_ids=form), dict(inputs=form)):
        assert torch.equal(generate(model, **call, max_new_tokens=24, do_sample=False), greedy(model))


@pytest.mark.parametrize("form,says", [(PROMPT.float(), "whole numbers"), (PROMPT.bool(), "whole numbers"), ([1.5, 2.5], "whole numbers"), ("a text", "tokenizer"),
                                       ([[1, 2], []], "empty"), ([], "empty"), (dict(input_ids=PROMPT, attention_mask=PROMPT), "given twice")])
def test_forms_that_say_why(model, form, says):
    with pytest.raises(ValueError, match=says): generate(model, form, max_new_tokens=3, attention_mask=torch.ones_like(PROMPT))


@pytest.mark.filterwarnings("ignore")
def test_a_list_is_what_its_tensor_is(model):
    """The pad id in a list of ids means what it means in a tensor; a row of unequal length, what it means alone; a mask that is given counts"""
    rows = [[3, 14, 0, 9, 26], [5, 0, 7], [33, 2, 8, 1]]
    told = dict(max_new_tokens=12, do_sample=False, pad_token_id=0)
    def alone(row, **more): return model.generate(torch.tensor([row]), **told, **more)[0, len(row):].tolist()
    for batch in (rows, rows[:1], rows[1:2]):
        out = generate(model, batch, **told)
        assert [row[-12:].tolist() for row in out] == [alone(row) for row in batch]
    for ends in ([0, 47], torch.tensor([0, 47])):
        assert generate(model, rows, eos_token_id=ends, **told)[1, 5:].tolist()[:3] == alone(rows[1], eos_token_id=ends)[:3], "the end is no padding"
    masks, ones = [[1, 1, 1, 1, 1], [1, 1, 1], [0, 1, 1, 1]], [torch.ones(1, 3, dtype=torch.long), torch.tensor([[0, 1, 1, 1]])]
    for call in (dict(input_ids=rows, attention_mask=masks), dict(input_ids=dict(input_ids=rows, attention_mask=masks))):
        out = generate(model, **call, **told)
        assert [out[i, 5:].tolist() for i in (1, 2)] == [alone(rows[i], attention_mask=ones[i - 1]) for i in (1, 2)]
    with pytest.raises(ValueError, match="as long as the prompts"): generate(model, rows, attention_mask=torch.ones(3, 5), **told)


@pytest.mark.parametrize("form", [PROMPT.numpy().astype(np.uint16), PROMPT.to(torch.uint32), [PROMPT[0]], [PROMPT[0].numpy()], [[t for t in PROMPT[0]]], (PROMPT[0].tolist(),)], ids=str)
def test_more_forms_of_a_prompt(model, form):
    assert torch.equal(generate(model, form, drafter="lookup", max_new_tokens=9, do_sample=False), greedy(model, 9))


@pytest.mark.parametrize("given,says", [([[1, 2], [3.5]], "whole numbers"), ([[1.0, 2], [3]], "whole numbers"), ([[True, False], [True]], "whole numbers"), ([torch.tensor([1., 2]), torch.tensor([3.])], "whole numbers"),
                                        ([["a"], [1, 2]], "tokenizer|whole numbers"), (PROMPT.to("meta"), "meta tensor"), (PROMPT.to_sparse(), "sparse tensor"),
                                        (torch.nested.nested_tensor([torch.tensor([1, 2]), torch.tensor([3])]), "nested tensor"), (torch.zeros(2, 0, dtype=torch.long), "empty")], ids=str)
def test_rows_of_what_are_no_ids(model, given, says):
    with pytest.raises(ValueError, match=says): generate(model, given, max_new_tokens=3, do_sample=False)


@pytest.mark.parametrize("given,says", [([dict(role="user", content="hi")], "chat\\(tokenizer"), ({}, "needs input_ids"), ({3, 4}, "whole numbers"), ("", "empty")])
def test_what_is_no_prompt_says_what_to_do(model, given, says):
    with pytest.raises(ValueError, match=says): generate(model, given, tokenizer=lambda texts: dict(input_ids=[[] for _ in texts]), max_new_tokens=3)


def test_no_prompt_is_the_first_token(model):
    own = Llama.from_hf(model)
    for bos in (3, 9):
        plain = model.generate(max_new_tokens=9, do_sample=False, bos_token_id=bos)
        for m in (model, own): assert torch.equal(generate(m, max_new_tokens=9, do_sample=False, bos_token_id=bos), plain)
    with pytest.raises(ValueError, match="bos_token_id"): generate(own, max_new_tokens=3)


@pytest.mark.parametrize("name", ["llama", "mistral, window 5", "bloom, alibi", "mpt, alibi", "gpt2", "gpt-neo, local layers", "llama4, chunks of 6"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.filterwarnings("ignore")
def test_masks_give_plains_text_or_are_refused(name, dtype):
    model = build(name, dtype)
    ids = torch.tensor([[0, 0, 5, 7, 0, 9, 11, 23, 8, 40, 3, 30]])
    masks = {"left": [0, 1], "inside": [4, 5], "both": [0, 4], "trailing": [11], "all but one": [*range(11)]}
    for what, zeros in masks.items():
        mask = torch.ones_like(ids)
        mask[0, zeros] = 0
        for call in (dict(attention_mask=mask),) + (dict(pad_token_id=0),) * (what == "both"):
            plain = model.generate(ids, max_new_tokens=20, do_sample=False, **call)
            try: ours = generate(model, ids, drafter=Wild(1, plain[0].tolist()), max_new_tokens=20, do_sample=False, **call)
            except ValueError as e: assert "mask" in str(e)
            else: assert torch.equal(ours, plain), what
    if name in ("llama", "gpt2"):
        mask[0] = 1
        mask[0, [0, 1, 4]] = 0
        assert torch.equal(generate(model, ids, attention_mask=mask, max_new_tokens=20, do_sample=False), model.generate(ids, attention_mask=mask, max_new_tokens=20, do_sample=False))


@pytest.mark.parametrize("given,says", [
    (dict(attention_mask=torch.full((1, 8), 2)), "zeros and ones"), (dict(attention_mask=torch.where(torch.arange(8)[None] < 2, -1e9, 0.)), "zeros and ones"),
    *[(dict(attention_mask=torch.ones(shape)), "must be .1, 8.") for shape in ((1, 6), (1, 12), (8,), (2, 8), (1, 8, 8))],
    (dict(position_ids=torch.arange(8)), "must be .rows, 8."), (dict(position_ids=torch.arange(7)[None]), "must be .rows, 8."), (dict(position_ids="yes"), "position_ids"),
    (dict(attention_mask="yes"), "attention_mask")])
def test_what_is_no_mask_is_refused(model, given, says):
    "Twos move positions in plain decoding; a mask of another shape is another prompt's"
    with pytest.raises(ValueError, match=says): generate(model, PROMPT, max_new_tokens=3, do_sample=False, **given)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("first", ["ours", "plain"])
@pytest.mark.filterwarnings("ignore")
def test_turns(name, first):
    "A cache goes on from turn to turn, in windows and chunks too, whoever filled it and whoever reads it next"
    model, told = build(name), dict(max_new_tokens=12, do_sample=False, return_dict_in_generate=True)
    def more(ids): return torch.cat([ids, torch.tensor([[7, 9, 11]])], 1)
    for drafter in ("lookup", Wild(1)):
        out = generate(model, PROMPT, drafter=drafter, **told) if first == "ours" else model.generate(PROMPT, **told)
        past, turn = out.past_key_values, more(out.sequences)
        if past is None: return                                  # configured without one, and so is plain's
        second = generate(model, turn, drafter=drafter, past_key_values=past, **told)
        assert torch.equal(second.sequences, model.generate(turn, max_new_tokens=12, do_sample=False))
        assert past.get_seq_length() == second.sequences.shape[1] - 1, "the caller's cache grows along"
        third = more(second.sequences)[:, :38]
        if third.shape[1] > past.get_seq_length():
            assert torch.equal(model.generate(third, past_key_values=past, max_new_tokens=2, do_sample=False), model.generate(third, max_new_tokens=2, do_sample=False))


def test_turns_read_only_what_is_new(model):
    told = dict(max_new_tokens=12, do_sample=False, return_dict_in_generate=True)
    for m in (model, Llama.from_hf(model)):
        out = generate(m, PROMPT, **told)
        turn = torch.cat([out.sequences, torch.tensor([[7, 9, 11]])], 1)
        fed, target = [], type(as_target(m))
        forward = target.forward
        target.forward = lambda self, feeds: fed.append(len(feeds[0].tokens)) or forward(self, feeds)
        try: second = generate(m, turn, drafter="none", past_key_values=out.past_key_values, **told)
        finally: target.forward = forward
        assert sum(fed[:2]) == 4 and torch.equal(second.sequences, model.generate(turn, max_new_tokens=12, do_sample=False))
    with pytest.raises(ValueError, match="holds 34.*prompt 8"): generate(model, PROMPT, past_key_values=model.generate(turn, **told).past_key_values, **told)
    with pytest.raises(ValueError, match="StaticCache"): generate(model, PROMPT, past_key_values=hf.StaticCache(config=model.config, max_cache_len=64), **told)


def test_a_cache_is_asked_whose_it_is(model):
    told = dict(max_new_tokens=3, do_sample=False, return_dict_in_generate=True)
    two = model.generate(PROMPT.repeat(2, 1), attention_mask=torch.ones(2, 8, dtype=torch.long), **told)
    fewer = hf.LlamaForCausalLM(hf.LlamaConfig(**{**SIZES, "num_hidden_layers": 2})).double().eval()
    short = fewer.generate(PROMPT, **told)
    own, other = Llama.from_hf(model), generate(Llama.from_hf(fewer), PROMPT, **told)
    for m, out in ((model, two), (model, short), (own, other)):
        turn = torch.cat([out.sequences[:1], PROMPT], 1)
        with pytest.raises(ValueError, match="another model, or of several"): generate(m, turn, past_key_values=out.past_key_values, **told)
    past, turn = model.generate(PROMPT, **told).past_key_values, torch.cat([PROMPT] * 2, 1)
    with pytest.raises(ValueError, match="masked tokens"): generate(model, turn, attention_mask=torch.tensor([[0] + [1] * 15]), past_key_values=past, **told)
    with pytest.raises(ValueError, match="give one"): generate(model, turn, cache=past, past_key_values=past, **told)


@pytest.mark.parametrize("form", ["llama", "mistral, window 5", "qwen3, mixed windows"])
def test_a_stock_cache_of_another_precision(form):
    "Joined as plain joins it; what plain cannot join is refused by what was given and what is made"
    model, told = build(form, torch.float32), dict(max_new_tokens=12, do_sample=False)
    def filled(dtype, m=model):
        with torch.no_grad(): cache = m(PROMPT[:, :6], past_key_values=hf.DynamicCache(config=m.config)).past_key_values
        for layer in cache.layers: layer.keys, layer.values, layer.dtype = layer.keys.to(dtype), layer.values.to(dtype), dtype
        return cache
    for dtype in (torch.float16, torch.bfloat16):
        past = filled(dtype)
        found, wanted = (f(PROMPT, past_key_values=c, **told) for f, c in ((lambda *a, **kw: generate(model, *a, **kw), past), (model.generate, filled(dtype))))
        assert torch.equal(found, wanted) and past.get_seq_length() == 19
        onward = torch.cat([found, PROMPT], 1)
        copied = hf.DynamicCache(config=model.config)
        for i, layer in enumerate(past.layers): copied.update(layer.keys.clone(), layer.values.clone(), i)
        assert torch.equal(generate(model, onward, past_key_values=past, **told), model.generate(onward, past_key_values=copied, **told))
    with pytest.raises(ValueError, match="float64.*float32.*another model"): generate(model, PROMPT, past_key_values=filled(torch.float64), **told)


@pytest.mark.parametrize("changes", [dict(num_key_value_heads=4), dict(head_dim=16), dict(num_key_value_heads=1), dict(num_hidden_layers=5)])
def test_a_stock_cache_of_another_form_is_named(model, changes):
    other = hf.LlamaForCausalLM(hf.LlamaConfig(**{**SIZES, **changes})).double().eval()
    told = dict(max_new_tokens=3, do_sample=False)
    for made in ("stock", "ours"):
        if made == "ours": past = generate(other, PROMPT, return_dict_in_generate=True, **told).past_key_values
        else: past = other.generate(PROMPT, return_dict_in_generate=True, **told).past_key_values
        with pytest.raises(ValueError, match="another model.*3 layers|heads of .* heads of 8 numbers.*another model"): generate(model, torch.cat([PROMPT] * 3, 1), past_key_values=past, **told)


@pytest.mark.parametrize("cache", [lambda m: hf.StaticCache(config=m.config, max_cache_len=64), lambda m: hf.EncoderDecoderCache(hf.DynamicCache(), hf.DynamicCache()), lambda m: "dynamic",
                                   lambda m: tuple((torch.zeros(1, 2, 3, 8),) * 2 for _ in range(3)), lambda m: 3])
def test_what_is_no_cache_of_rows_is_named(model, cache):
    given = cache(model)
    with pytest.raises(ValueError, match=f"DynamicCache, got {type(given).__name__}: give"): generate(model, PROMPT, past_key_values=given, max_new_tokens=3, do_sample=False)


def test_turns_with_a_drafter_that_wants_the_whole_prompt(model):
    class Curious(Wild):
        asks = Asks(hidden=(1,))
        def begin(self, ctx, state):
            assert state.prefilled.hidden[1].shape[0] == len(ctx.tokens) - 1
    told = dict(max_new_tokens=12, do_sample=False, return_dict_in_generate=True)
    out = generate(model, PROMPT, drafter=Curious(), **told)
    turn = torch.cat([out.sequences, torch.tensor([[7, 9, 11]])], 1)
    assert torch.equal(generate(model, turn, drafter=Curious(), past_key_values=out.past_key_values, **told).sequences, model.generate(turn, max_new_tokens=12, do_sample=False))


def test_a_cache_made_in_inference_mode_goes_on_outside(model):
    with torch.inference_mode(): out = generate(model, PROMPT, drafter="lookup", max_new_tokens=12, do_sample=False, return_dict_in_generate=True)
    onward = dict(past_key_values=out.past_key_values, max_new_tokens=12, do_sample=False)
    assert torch.equal(generate(model, out.sequences, **onward), greedy(model))
    with torch.inference_mode(): out = generate(model, PROMPT, drafter="lookup", max_new_tokens=12, do_sample=False, return_dict_in_generate=True)
    assert torch.equal(model.generate(out.sequences, **{**onward, "past_key_values": out.past_key_values}), greedy(model))


def test_a_text_is_a_prompt_and_its_last_token_heals(original):
    model, tokenizer = original
    own, text = Llama.from_hf(model), "See the documentation at http"
    ids = tokenizer(text, return_tensors="pt").input_ids
    options = dict(max_new_tokens=8, do_sample=False, tokenizer=tokenizer)
    plain = model.generate(ids, **options)
    assert torch.equal(generate(own, text, **options), plain) and torch.equal(generate(model, [text], **options), plain)
    ids = tokenizer("The capital of Franc", return_tensors="pt").input_ids
    healed = model.generate(ids, token_healing=True, pad_token_id=2, **options)
    for m in (model, own): assert torch.equal(generate(m, ids, token_healing=True, pad_token_id=2, **options), healed)


def test_which_tokens_are_text(model):
    "Padding on the left is none; it is refused where a model counts rows, and where positions say otherwise"
    ids, mask = torch.tensor([0, 0, 3, 14, 15]), torch.tensor([0, 0, 1, 1, 1])
    target = as_target(model)
    assert attended(target, ids).all() and attended(target, ids, mask).tolist() == [False, False, True, True, True]
    assert attended(target, ids, mask, torch.tensor([[0, 0, 0, 1, 2]])).sum() == 3
    with pytest.raises(ValueError, match="position_ids other than"): attended(target, ids, mask, torch.tensor([[0, 1, 2, 3, 4]]))
    with pytest.raises(ValueError, match="ends in 0"): attended(target, ids, torch.tensor([1, 1, 1, 1, 0]))
    rows = as_target(build("llama4, chunks of 6"))
    assert attended(rows, ids, mask).sum() == 3, "as long as all rows are in one chunk"
    with pytest.raises(ValueError, match=r"on the left are not nothing \(it counts rows: "): attended(rows, ids, mask, limit=20)


def test_whole_numbers_and_padding():
    assert whole_number("n", None) is None and whole_number("n", np.int64(3), 3) == 3 and whole_number("n", torch.tensor(2)) == 2
    for wrong, least in ((2.5, None), (True, None), ("3", None), (2, 3)):
        with pytest.raises(ValueError, match="n must be a whole number"): whole_number("n", wrong, least)
    assert padding_of({}) is None and padding_of(dict(pad_token_id=0)) == 0 == padding_of(dict(pad_token_id=0, eos_token_id=[2, 3]))
    for ends in (0, [2, 0], torch.tensor([0])): assert padding_of(dict(pad_token_id=0, eos_token_id=ends)) is None, "an end is a word of the text"
