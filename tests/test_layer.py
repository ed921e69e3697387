"""One layer in a call: what it computes is what its steps compute, the same bits in any company, and drafts go on as before."""
import copy

import numpy as np
import pytest
import torch

from specdec_nb import Draft, Keyed, Law
from specdec_nb.decode import decode
from specdec_nb.learned import eagle
from specdec_nb.learned.eagle import Eagle3, EagleDrafter, EagleTarget
from specdec_nb.learned.eagle1 import Eagle1, Eagle1Drafter
from specdec_nb.models.layer import Layer
from specdec_nb.models.maps import why_not_native
from specdec_nb.models.native import Native, Rows
from specdec_nb.models.rows import RankedScores
from specdec_nb.roles import as_target
from specdec_nb.stops import Stop
from specdec_nb.verify import Trace
from families import claimed as build

pytestmark = pytest.mark.skipif(why_not_native() is not None, reason="the native kernels cannot serve here")
TOKENS = [x * 7 % 48 for x in range(40)]
TREE = Draft((3, 5, 3, 7, 1, 2), (-1, -1, 0, 0, 1, 4))


def network(cls, name="llama", **options):
    "A network whose layer has weights that matter, joined to a small model"
    torch.manual_seed(0)
    model = build(name).float()
    net = cls.of(model, np.arange(48), **options)
    with torch.no_grad():
        for w in net.parameters():
            if w.dim() == 2: w.add_(.2 * torch.randn_like(w))
    return net.join(as_target(Native.from_hf(model, 1))), model


def fed(net, layered, pieces=(len(TOKENS) - 1,), draft=TREE):
    "Logits of a draft's nodes below a text that was learnt in pieces, the last of which is pending"
    with pytest.MonkeyPatch.context() as patch:
        if not layered: patch.setattr(eagle, "why_not_native", lambda: "they are not wanted")
        packed = net.packed()
    assert (packed.layer is not None) == layered
    target, gen = EagleTarget(packed), torch.Generator().manual_seed(1)
    state, states, at = target.open(), torch.randn(len(TOKENS), net.fuse.in_features if hasattr(net.fuse, "in_features") else net.settings["d"], generator=gen), 0
    for end in (*pieces, len(TOKENS)):
        state.learn(TOKENS[at:end], states[at:end])
        at = end
        if end < len(TOKENS): target.score([(state, Draft())])
    rows = target.score([(state, Draft())])[0]
    for depth in sorted(set(draft.depth)):                          # a level a call, as drafting does
        nodes = [i for i in range(len(draft)) if draft.depth[i] <= depth]
        rows = target.score([(state, draft.take(nodes))])[0]
    return rows


@pytest.mark.parametrize("cls, options", [(Eagle3, {}), (Eagle3, dict(direct=True)), (Eagle1, {})])
@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_in_one_call_as_in_steps(cls, options, name):
    net, _ = network(cls, name, **options)
    a, b = fed(net, True), fed(net, False)
    assert isinstance(a, RankedScores) and not isinstance(b, RankedScores)
    assert a.rows.shape == b.rows.shape == (1 + len(TREE), 48)
    assert (a.rows - b.rows).abs().max() < 1e-4 * b.rows.abs().max()
    for i in range(len(a.rows)):
        ours, theirs = a.likely(i, 4), b.likely(i, 4)
        assert [x for x, _ in ours] == [x for x, _ in theirs] and np.allclose([p for _, p in ours], [p for _, p in theirs], atol=1e-5)


def test_what_is_left_out_shows():
    "The comparison above can fail: another norm, or none"
    net, _ = network(Eagle3)
    b = fed(net, False).rows
    with torch.no_grad(): net.norm2.weight.mul_(1.01)
    assert (fed(net, True).rows - b).abs().max() > 1e-3 * b.abs().max()


@pytest.mark.parametrize("pieces", [(1, 2, 39), (5, 17, 39), (38, 39)])
def test_how_the_text_was_learnt_does_not_show(pieces):
    net, _ = network(Eagle3)
    assert np.array_equal(fed(net, True, pieces).array, fed(net, True).array)


def layer_of(threads=1, **more):
    gen = torch.Generator().manual_seed(2)
    def w(n, k): return .2 * torch.randn(n, k, generator=gen)
    shapes = dict(q=(96, 80), k=(48, 80), v=(48, 80), o=(40, 96), gate=(72, 40), up=(72, 40), down=(40, 72), head=(50, 40))
    weights = {k: w(*shape) for k, shape in shapes.items()} | dict(norm2=torch.ones(40), norm=torch.ones(40)) | more
    return Layer(weights, 4, 2, 24, 1e4 ** -(torch.arange(0, 24, 2) / 24), threads=threads)


def over(layer, n=9, stranger=0, spoilt=None):
    gen, cache = torch.Generator().manual_seed(3), layer.new_cache()
    x, asked = torch.randn(32, 40, generator=gen), torch.randn(32, 80, generator=gen)
    if spoilt is not None: x[spoilt] = torch.nan
    parts = [Rows(cache, 0, [0] * n, [*range(-1, n - 1)])]
    if stranger: parts.append(Rows(layer.new_cache(), 0, [0] * stranger, [*range(-1, stranger - 1)]))
    ranked, made = layer.over(parts, x[:n + stranger], asked[:n + stranger])
    return ranked.rows[:n], made[:n].numpy(), ranked.best[:n]


def test_rows_have_the_same_bits_in_any_company_and_with_any_threads():
    layer = layer_of()
    rows, made, best = over(layer)
    for other in (over(layer, stranger=1), over(layer, stranger=13), over(layer_of(threads=2)), over(copy.copy(layer), stranger=20)):
        assert np.array_equal(rows, other[0]) and np.array_equal(made, other[1])
    for n in range(1, 9): assert np.array_equal(over(layer, n)[0], rows[:n])
    assert np.array_equal(best[:, 0], rows.argmax(1))


def test_a_row_that_is_no_number_stays_one_and_spoils_no_earlier_one():
    rows, made, best = over(layer_of(), spoilt=6)
    assert np.array_equal(rows[:6], over(layer_of())[0][:6]) and np.isnan(rows[6]).all() and best[6, 0] == -1
    assert list(np.isnan(made).all(1)) == [False] * 6 + [True] + [False] * 2


@pytest.mark.parametrize("drafter, cls", [(EagleDrafter, Eagle3), (Eagle1Drafter, Eagle1)])
@pytest.mark.parametrize("law", [Law(temperature=0), Law(temperature=1.)])
def test_texts_are_those_of_plain_decoding(drafter, cls, law):
    net, model = network(cls)
    target = Native.from_hf(model, 1)
    def text(d): return Trace(decode(target, d, TOKENS[:9], law=law, stop=Stop(24), rng=Keyed(4)))
    plain = text("none")
    for tree in (0, 5):
        made = drafter(net, k=3, tree=tree)
        assert text(made).tokens == plain.tokens
        assert made.target.layer is not None
