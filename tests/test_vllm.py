"""What leaves for vLLM (chapter 35): the formats, what is refused, and the proposer's seats. The engine itself: `make test-vllm`."""
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from specdec_nb.drafters.model import shipped
from specdec_nb.serving import vllm
from specdec_nb.learned.eagle import Eagle3
from specdec_nb.learned.eagle1 import Eagle1
from specdec_nb.learned.network import Trained


def test_folder_is_whole_or_not_there(original, tmp_path, monkeypatch):
    net, model = Trained.from_pretrained(shipped("medusa")), original[0]
    told = vllm.export_drafter(net, model, tmp_path / "heads")
    assert told == dict(method="medusa", model=str(tmp_path / "heads"), num_speculative_tokens=len(net.mix))
    tensors = load_file(tmp_path / "heads/model.safetensors")
    written = tensors["lm_head.weight"].abs().sum(1).nonzero()[:, 0]
    assert torch.equal(written, net.draft_vocab.long().sort().values) and len(tensors["lm_head.weight"]) == net.vocab_size
    monkeypatch.setattr(vllm, "save", lambda *a: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"): vllm.export_drafter(net, model, tmp_path / "full")
    assert not (tmp_path / "full").exists() or not [*(tmp_path / "full").iterdir()]


def test_refusals(original, tmp_path):
    net = Trained.from_pretrained(shipped("eagle3"))
    net.settings["scale"] = 1.2
    with pytest.raises(ValueError, match="scaled angles"): vllm.export_drafter(net, original[0], tmp_path)
    net.kind = "telepathy"
    with pytest.raises(ValueError, match="no format.*'telepathy'"): vllm.export_drafter(net, original[0], tmp_path)
    assert not [*tmp_path.iterdir()]


def test_a_matrix_without_a_name_is_refused(original, tmp_path):
    "A drafter whose words enter the residual stream by themselves would be another function without that matrix"
    net = Eagle3.of(original[0], [1, 2, 3], direct=True)
    with pytest.raises(ValueError, match="direct.*stays here"): vllm.export_drafter(net, original[0], tmp_path)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("told", [True, False])
def test_eagle_1_is_a_layer_of_llama(original, tmp_path, told):
    "Its matrices under their names; a layer that is not told the word reads zeros for it"
    net, model = Eagle1.of(original[0], [1, 2, 3], told=told), original[0]
    assert vllm.export_drafter(net, model, tmp_path)["method"] == "eagle"
    tensors, page = load_file(tmp_path / "model.safetensors"), json.loads((tmp_path / "config.json").read_text())
    names = [f"self_attn.{x}_proj" for x in "qkvo"] + [f"mlp.{x}_proj" for x in ("gate", "up", "down")] + ["post_attention_layernorm"]
    assert tensors.keys() == {"fc.weight", *(f"layers.0.{name}.weight" for name in names)} and page["num_hidden_layers"] == 1
    d = net.settings["d"]
    assert torch.equal(tensors["fc.weight"][:, d:], net.mix.weight[:, d:]) and bool(tensors["fc.weight"][:, :d].any()) == told


def test_another_model_is_refused(tmp_path):
    import transformers as hf
    other = hf.LlamaForCausalLM(hf.LlamaConfig(vocab_size=99, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2))
    with pytest.raises(ValueError, match="trained for another model"):
        vllm.export_drafter(Trained.from_pretrained(shipped("medusa")), other, tmp_path)


def asked(proposer, rows, sampled=None):
    "A step of an engine whose batch has these texts"
    window = np.zeros((len(rows), max(map(len, rows))), np.int64)
    for i, text in enumerate(rows): window[i, :len(text)] = text
    return proposer.propose([[t[-1]] for t in rows] if sampled is None else sampled, np.array([*map(len, rows)]), window)


def config(k=4, size=50):
    return SimpleNamespace(model_config=SimpleNamespace(get_vocab_size=lambda: size), speculative_config=SimpleNamespace(num_speculative_tokens=k))


def test_rows_that_move_stay_who_they_are():
    p, one, two = vllm.LookupProposer(config()), [1, 2, 3, 1, 2], [7, 8, 9, 7, 8]
    assert asked(p, [one, two]) == [[3, 1, 2, 3], [9, 7, 8, 9]]
    seats = list(p.seats)
    assert asked(p, [two + [9], one + [3]]) == [[7, 8, 9, 7], [1, 2, 3, 1]] and p.seats == seats[::-1]
    assert asked(p, [one + [3, 1]])[0][:2] == [2, 3] and p.seats == seats[:1]           # the other has left


def test_twins_part_company():
    "Two requests with one text until then"
    p, text = vllm.LookupProposer(config()), [1, 2, 3, 1, 2]
    asked(p, [text, text])
    assert asked(p, [text + [3], text + [4, 1, 2]]) == [[1, 2, 3, 1], [4, 1, 2, 4]] and len({id(s) for s in p.seats}) == 2


def test_a_prompt_under_way_is_nobody_yet():
    p = vllm.LookupProposer(config())
    assert asked(p, [[1, 2, 1, 2], [5, 6]], [[2], []]) == [[1, 2, 1, 2], []] and p.seats[1] is None
    assert asked(p, [[1, 2, 1, 2, 1], [5, 6, 5, 6]], [[1], [6]])[1] == [5, 6, 5, 6]


def test_logits_are_heard_only_if_they_fit():
    p, model = vllm.RecyclingProposer(config()), SimpleNamespace(compute_logits=lambda x: x)
    p.load_model(model)
    text, rows = [1, 2, 3], torch.zeros(1, 50)
    rows[0, 7] = 1
    model.compute_logits(torch.zeros(1, 50))
    asked(p, [text])
    model.compute_logits(rows)
    asked(p, [text + [7]])                                                       # row 0 followed the 3
    assert p.drafter.table.row(2, 3)[1][0] == 7
    model.compute_logits(torch.zeros(9, 50))
    before = p.drafter.table.after.copy()
    asked(p, [text + [7, 5]])
    assert np.array_equal(before, p.drafter.table.after)


def test_what_was_measured_names_all_cases():
    rows = json.loads((vllm.Path(__file__).parents[1] / "results/vllm.json").read_text())["rows"]
    assert rows.keys() == {"plain", *vllm.WRITERS, "Lookup", "Suffix", "Recycling", "Pool"}
