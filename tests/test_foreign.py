"""Other people's models: the cache's name, wrappers, adapters, and what is no model."""
import pytest
import torch

from drafters import Wild
from families import PROMPT, build, greedy
from specdec_nb import generate
from specdec_nb.models.foreign import cache_name, plain_model

pytestmark = pytest.mark.filterwarnings("ignore")


def test_the_cache_s_name():
    assert cache_name({"input_ids", "past_key_values"}) == "past_key_values" and cache_name({"cache"}) == "cache"
    with pytest.raises(ValueError, match="Odd.*rolled back"): cache_name({"input_ids", "mems"}, "Odd")


def test_compiled_models_are_unwrapped():
    model = build("llama")
    assert torch.equal(generate(torch.compile(model), PROMPT, max_new_tokens=24, do_sample=False), greedy(model))
    assert plain_model(torch.nn.DataParallel(model)) is model


def adapted(**changes):
    peft = pytest.importorskip("peft")
    kind = getattr(peft, changes.pop("kind", "LoraConfig"))
    return peft.get_peft_model(build("llama"), kind(task_type="CAUSAL_LM", **changes)).double().eval()


def test_adapters_in_the_layers_speak():
    model = adapted(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    plain = model.generate(input_ids=PROMPT, max_new_tokens=15, do_sample=False)
    assert not torch.equal(plain, greedy(build("llama"), 15))
    assert torch.equal(generate(model, PROMPT, drafter=Wild(1, plain[0].tolist()), max_new_tokens=15, do_sample=False), plain)
    assert torch.equal(generate(build("llama"), PROMPT, drafter=model, max_new_tokens=15, do_sample=False), greedy(build("llama"), 15))


def test_adapters_before_the_prompt_are_refused():
    model = adapted(kind="PromptTuningConfig", num_virtual_tokens=3)
    with pytest.raises(ValueError, match="PROMPT_TUNING.*model.generate"): generate(model, PROMPT, max_new_tokens=3)


def test_an_adapter_that_does_more_is_noticed():
    model = adapted(r=4, target_modules=["q_proj"])
    forward = type(model).forward
    type(model).forward = lambda self, *args, **more: type("Out", (), {"logits": forward(self, *args, **more).logits.flip(-1)})()
    try:
        with pytest.raises(ValueError, match="more than its layers"): generate(model, PROMPT, max_new_tokens=3)
    finally: type(model).forward = forward


@pytest.mark.parametrize("wrong,says", [(lambda: build("llama").model, "no head"), (lambda: None, "NoneType is no target"), (lambda: "gpt2", "load\\('gpt2'\\)"),
                                        (lambda: (build("llama"), None), "the first of the two"), (lambda: torch.nn.Linear(3, 3), "Linear is no target")])
def test_what_is_no_model_is_told_so(wrong, says):
    with pytest.raises((TypeError, ValueError), match=says): generate(wrong(), PROMPT, max_new_tokens=3)
