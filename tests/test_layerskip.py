"""The target's own layers as its draft model: no memory, no text changed, and layers that matter are found."""
import pytest
import torch

from draftmodels import PROMPT, build
from specdec_nb import Keyed, Law, Llama, TableLM, Trace, generate
from specdec_nb.decode import answered, decode
from specdec_nb.drafters.layerskip import LayerSkip, agreement, some_layers
from specdec_nb.roles import as_target, read


@pytest.mark.parametrize("call,says", [
    (lambda: LayerSkip(skip=1.5), "1.5"),
    (lambda: list(decode(TableLM.random(3), LayerSkip(), [0], limit=2)), "TableTarget"),
    (lambda: list(decode(Llama.from_hf(build()), LayerSkip([1, 0]), [0], limit=2)), "ascending"),
    (lambda: list(decode(Llama.from_hf(build()), LayerSkip(3), [0], limit=2)), "0 to 1"),
    (lambda: generate(build(), PROMPT, drafter="layerskip", max_new_tokens=3), "HFTarget.*own"),
])
def test_clear_errors(call, says):
    with pytest.raises(ValueError, match=says): call()


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
