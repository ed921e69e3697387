"""Vision-language models: pictures in the prompt, text after it; equal to `model.generate`, in batches, whoever drafts."""
import pytest
import torch

from drafters import Wild
from specdec_nb import generate
from specdec_nb.decoding.multimodal import SeeingTarget
from specdec_nb.roles import as_target
from families import EYES, TEXT, VISION, hf, seeing

pytestmark = pytest.mark.filterwarnings("ignore")
VISION |= {
    "PaliGemma": lambda: dict(text_config=hf.GemmaConfig(**{**TEXT, "head_dim": 8, "tie_word_embeddings": False}), vision_config={**EYES, "projection_dim": 32, "num_image_tokens": 4},
                              projection_dim=32, image_token_index=47, image_token_id=47, tie_word_embeddings=False),
    "Idefics3": lambda: dict(text_config=hf.LlamaConfig(**TEXT), vision_config=EYES, image_token_id=47, scale_factor=2),
    "SmolVLM": lambda: dict(text_config=hf.LlamaConfig(**TEXT), vision_config=EYES, image_token_id=47, scale_factor=2)}
FAMILIES = ["Llava", "Gemma3", "PaliGemma", "Mistral3", "InternVL", "Qwen2VL", "Qwen2_5_VL", "Idefics3", "SmolVLM"]


def model_of(name):
    changes = {"Mistral3": dict(spatial_merge_size=1), "InternVL": dict(downsample_ratio=1.0)}.get(name, {})
    if not changes: return seeing(name)
    before = VISION[name]
    VISION[name] = lambda: {**before(), **changes}
    try: return seeing(name)
    finally: VISION[name] = before


def call(name, batch=True):
    "One or two prompts with a picture each, of unequal length"
    g = torch.Generator().manual_seed(0)
    n = 1 if name in ("Idefics3", "SmolVLM") else 4
    ids = torch.full((2, n + 9), 1)
    ids[0, 3:] = torch.tensor([3, 45, *[47] * n, 44, 5, 9, 8])
    ids[1] = torch.tensor([3, 45, *[47] * n, 44, 5, 9, 11, 12, 13, 8])
    made = dict(input_ids=ids, attention_mask=(ids != 1).long())
    pixels = torch.randn(2, 3, 8, 8, generator=g).double()
    if name.startswith("Qwen"):
        made |= dict(pixel_values=torch.randn(32, 96, generator=g).double(), image_grid_thw=torch.tensor([[1, 4, 4]] * 2), mm_token_type_ids=(ids == 47).long())
    else: made["pixel_values"] = pixels[:, None] if n == 1 else pixels
    if name == "Mistral3": made["image_sizes"] = torch.tensor([[8, 8]] * 2)
    if name in ("Gemma3", "PaliGemma"): made["token_type_ids"] = (ids == 47).long() * (name == "Gemma3")
    if batch: return made
    half = {k: x[:len(x) // 2] for k, x in made.items()}
    return {k: x[:, 3:] if k in ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids") else x for k, x in half.items()}


def same(model, inputs, drafters=("lookup", "auto"), **more):
    options = dict(max_new_tokens=12, repetition_penalty=1.3) | more
    plain = model.generate(**inputs, **options, do_sample=False)
    truth = plain[0].tolist()
    for drafter in (*drafters, Wild(1, truth)):
        assert torch.equal(generate(model, **inputs, drafter=drafter, **options, do_sample=False), plain), drafter
    assert torch.equal(*(generate(model, **inputs, drafter=d, **options, do_sample=True, seed=3) for d in ("none", Wild(2, truth))))
    return plain


@pytest.mark.parametrize("name", FAMILIES)
def test_families(name):
    model = model_of(name)
    plain = same(model, call(name))
    same(model, call(name, batch=False), drafters=("recycling",))
    same(model, dict(input_ids=torch.tensor([[3, 9, 8, 7, 9, 8]])), drafters=("lookup",))        # no picture at all
    target = as_target(model)
    assert isinstance(target, SeeingTarget) and target.branches and target.batches
    other = call(name)
    other["pixel_values"] = -other["pixel_values"]
    changed = generate(model, **other, max_new_tokens=12, repetition_penalty=1.3, do_sample=False)
    if name != "Gemma3": assert not torch.equal(changed, plain), "the picture is looked at"      # its windows of four end before it


def test_samples_share_pictures_as_the_library_shares_them():
    model, inputs = model_of("Qwen2VL"), call("Qwen2VL", batch=False)
    two = [generate(model, **inputs, max_new_tokens=9, do_sample=True, num_return_sequences=2, seed=5, drafter=d) for d in ("none", "auto")]
    assert torch.equal(*two) and len(two[0]) == 2


def test_films_in_a_batch():
    "Two films at their own pace, one row with a picture, too"
    model, g = model_of("Qwen2_5_VL"), torch.Generator().manual_seed(3)
    film, more = [3, 45, *[46] * 8, 44, 5, 6, 7], [3, 45, *[47] * 4, 44, 45, *[46] * 8, 44, 9, 9]
    ids = torch.full((2, len(more)), 1)
    ids[0, len(more) - len(film):], ids[1] = torch.tensor(film), torch.tensor(more)
    same(model, dict(input_ids=ids, attention_mask=(ids != 1).long(), mm_token_type_ids=(ids == 46).long() * 2 + (ids == 47).long(), second_per_grid_ts=torch.tensor([1., 3.]),
                     pixel_values_videos=torch.randn(64, 96, generator=g).double(), video_grid_thw=torch.tensor([[2, 4, 4]] * 2),
                     pixel_values=torch.randn(16, 96, generator=g).double(), image_grid_thw=torch.tensor([[1, 4, 4]])))


def test_a_picture_is_read_once():
    model, seen = model_of("Llava"), []
    model.model.vision_tower.register_forward_hook(lambda *args: seen.append(1))
    out = generate(model, **call("Llava"), max_new_tokens=12, do_sample=False, return_dict_in_generate=True, drafter="lookup")
    assert len(seen) == 1 and len(out.traces) == 2


def test_what_cannot_be_done_with_pictures():
    model, inputs = model_of("Llava"), call("Llava", batch=False)
    with pytest.raises(ValueError, match="pictures"): generate(model, **inputs, past_key_values=hf.DynamicCache(), max_new_tokens=3)
    target = as_target(model)
    state = target.open([3, 47, 5, 6], inputs={"pixel_values": inputs["pixel_values"]})
    state.looked = 4
    state.cache.length = 1
    with pytest.raises(ValueError, match="read once"): target.score([(state, None)])
