"""What a guess must bring: the speed-up is its price; and a machine's curve, measured once."""
import pytest

from specdec_nb import Keyed, Law, TableLM, Trace
from specdec_nb.decode import decode
from specdec_nb.phrases.price import Pace, cost_of
from specdec_nb.phrases.tuning import Auto
from specdec_nb.roles import as_target
from specdec_nb.speedup import CostCurve

CPU = CostCurve((1, 4, 8, 16, 32, 64), (.0167, .0197, .0241, .0300, .0446, .0757))
GREEDY = Law(temperature=0)


def test_price_is_the_speed_up():
    pace = Pace(CPU, memory=50)
    for _ in range(400): pace.saw(3, 7)
    assert pace.price == pytest.approx(3 / CPU.relative(8), rel=1e-3)


def test_sizes_fall_with_the_price_and_nothing_is_drafted_on_nothing():
    cheap, dear = Pace(CPU), Pace(CPU)
    for _ in range(400): dear.saw(9, 8)
    for values in ([.2, .1, .05], [.5] * 4 + [.1] * 9, [.9 ** i for i in range(30)], [.01] * 5):
        assert dear.size(values) <= cheap.size(values)
    assert cheap.size([]) == 0 and cheap.size([.01] * 5) == 0 and cheap.size([.99] * 10) == 10


def test_cost_is_measured_once_and_kept(tmp_path, monkeypatch):
    import torch
    from transformers import LlamaConfig
    from specdec_nb.phrases import price
    from specdec_nb.models.llama import Llama
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(price, "_CURVES", {})
    torch.manual_seed(0)
    from transformers import LlamaForCausalLM
    config = LlamaConfig(vocab_size=60, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2,
                         num_key_value_heads=2, max_position_embeddings=256)
    model = Llama.from_hf(LlamaForCausalLM(config).double().eval())
    target = as_target(model)
    curve = cost_of(target)
    assert curve is cost_of(target) and len(list(tmp_path.rglob("*.json"))) == 1
    price._CURVES.clear()
    assert cost_of(target) == curve, "read from disk"
    assert cost_of(as_target(TableLM.random(3, 1, 0))) is not curve
    for run in (dict(law=GREEDY), dict(rng=Keyed(3))):
        drafter = Auto()
        for i in range(3):
            plain, ours = (Trace(decode(model, d, [1, 5, 9, 5 + i], limit=24, **run)) for d in ("none", drafter))
            assert ours.tokens == plain.tokens
    config.max_position_embeddings = 32
    small = as_target(Llama.from_hf(LlamaForCausalLM(config).double().eval()))
    assert cost_of(small).rows[0] == 1, "a window too small to be timed"
