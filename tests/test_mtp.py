"""MTP heads that checkpoints ship: three layouts, offsets, the shared head; what is missing is refused by name; exact everywhere."""
import json

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file

from specdec_nb import Dice, Keyed, Law, Llama, Stop, Trace
from specdec_nb.decode import Request, answered, decode, serve
from specdec_nb.learned.mtp import MtpDrafter, load_mtp, mtp_layers
from specdec_nb.roles import Context, Tokens, as_target, make_drafter, read
from specdec_nb.draft import Budget

pytest.importorskip("transformers.modeling_layers", reason="no MtpModel")
if not hasattr(hf.modeling_layers, "MtpModel"): pytest.skip("transformers before 5.23 has no MtpModel", allow_module_level=True)

D, N = 32, 2
BASE = dict(vocab_size=48, hidden_size=D, intermediate_size=48, moe_intermediate_size=16, num_attention_heads=4, num_key_value_heads=2, num_experts_per_tok=2,
            max_position_embeddings=96, initializer_range=.3, bos_token_id=None, eos_token_id=None, pad_token_id=None, num_hidden_layers=N + 1)
ROUTED = dict(n_routed_experts=4, n_group=1, topk_group=1, first_k_dense_replace=1, n_shared_experts=1)
FAMILIES = {"deepseek": (hf.DeepseekV3Config, dict(ROUTED, num_key_value_heads=4, kv_lora_rank=8, q_lora_rank=8, qk_rope_head_dim=4, qk_nope_head_dim=4, v_head_dim=8)),
            "glm": (hf.Glm4MoeConfig, dict(ROUTED, head_dim=8)),
            "qwen": (hf.Qwen3NextConfig, dict(num_experts=4, shared_expert_intermediate_size=16, head_dim=8, layer_types=["full_attention"] * (N + 1)))}


def checkpoint(kind, folder, split=False):
    "A small random model of a family with its MTP module, in the family's layout"
    config, options = FAMILIES[kind]
    torch.manual_seed(0)
    hf.AutoModelForCausalLM.from_config(config(**{**BASE, **options})).float().save_pretrained(folder)
    path, gen = folder / "model.safetensors", torch.Generator().manual_seed(1)
    weights, old = load_file(path), f"model.layers.{N}."
    def norm(): return (kind != "qwen") + .2 * torch.randn(D, generator=gen)
    if kind == "qwen":
        weights = {k.replace(old, "mtp.layers.0."): w for k, w in weights.items()}
        more = {"mtp.pre_fc_norm_embedding": norm(), "mtp.pre_fc_norm_hidden": norm(), "mtp.norm": norm(), "mtp.fc": .2 * torch.randn(D, 2 * D, generator=gen)}
    else:
        more = {old + "enorm": norm(), old + "hnorm": norm(), old + "shared_head.norm": norm(), old + "eh_proj": .2 * torch.randn(D, 2 * D, generator=gen),
                old + "shared_head.head": weights["lm_head.weight"] + 0, old + "embed_tokens": weights["model.embed_tokens.weight"] + 0}
    weights |= {f"{k}.weight": w for k, w in more.items()}
    about = json.loads((folder / "config.json").read_text()) | dict(num_hidden_layers=N)
    if about.get("layer_types"): about["layer_types"] = about["layer_types"][:N]
    (folder / "config.json").write_text(json.dumps(about))
    if not split: save_file(weights, path, metadata={"format": "pt"})
    else:
        path.unlink()
        parts = {f"model-{i}.safetensors": {k: w for j, (k, w) in enumerate(weights.items()) if j % 2 == i} for i in range(2)}
        for name, part in parts.items(): save_file(part, folder / name, metadata={"format": "pt"})
        (folder / "model.safetensors.index.json").write_text(json.dumps(dict(weight_map={k: name for name, part in parts.items() for k in part}, metadata={})))
    return weights


def loaded(folder):
    model = hf.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model._is_stateful = False                                           # Qwen's tiny model here has attention layers only
    return model


@pytest.fixture(scope="module", params=FAMILIES)
def shipped(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, folder, checkpoint(request.param, folder), loaded(folder)


def drafted(target, drafter, text):
    "The rows that drafting a chain after `text` looked at, and the chain"
    drafter.bind(target)
    ctx = Context(Tokens(text), Budget(99, 99), Law(temperature=0), vocab_size=48)
    drafting, rows = drafter.begin(ctx, read(target.open(text, drafter.asks))), []
    def ask(draft, ask=drafting.ask):
        scores = yield from ask(draft)
        rows.append(scores.rows[len(draft)])
        return scores
    drafting.ask = ask
    return answered(drafting.propose(ctx, Dice(0))), rows


def by_hand(model, mtp, text, more):
    "The same rows, the whole text read anew: word j + 1 beside state j, the module's own output where the model has none"
    with torch.no_grad():
        h, rows = model(torch.tensor([text]), output_hidden_states=True).hidden_states[-1][:, :-1], []
        for k in range(1 + len(more)):
            words = torch.tensor([text[1:] + list(more[:k])])
            made = mtp.forward_layer(0, h, torch.arange(1, words.shape[1] + 1)[None], None, input_ids=words)
            rows.append(mtp.shared_head(made)[0, -1])
            h = torch.cat([h, made[:, -1:]], 1)
    return rows


def test_it_drafts_what_transformers_layer_says(shipped):
    kind, folder, weights, model = shipped
    target, mtp = as_target(model), load_mtp(model)
    for text in ([5, 17, 3, 9], [1, 2], [7, 7, 30, 2, 9, 11, 4]):
        draft, rows = drafted(target, MtpDrafter(k=3), text)
        theirs = by_hand(model, mtp, text, draft.tokens[:-1])
        assert len(rows) == 3 and all((a - b).abs().max() < 1e-3 * b.abs().max() for a, b in zip(rows, theirs))
        assert list(draft.tokens) == [int(r.argmax()) for r in theirs]


def test_a_state_too_early_or_too_late_is_seen(shipped):
    _, _, _, model = shipped
    mtp, text = load_mtp(model), [5, 17, 3, 9, 21]
    with torch.no_grad():
        h = model(torch.tensor([text]), output_hidden_states=True).hidden_states[-1]
        def row(states, words): return mtp.shared_head(mtp.forward_layer(0, states, torch.arange(1, len(words) + 1)[None], None, input_ids=torch.tensor([words])))[0, -1]
        right = row(h[:, :-1], text[1:])
        assert (row(h[:, 1:], text[1:]) - right).abs().max() > .05 and (row(h[:, :-1], text[:-1]) - right).abs().max() > .05


def test_the_layout(shipped):
    kind, folder, weights, model = shipped
    mtp, found = load_mtp(model), mtp_layers(model)
    pre = "mtp." if kind == "qwen" else f"model.layers.{N}."
    assert set(found) == {k for k in weights if k.startswith(pre)} and not set(found) & set(model.state_dict())
    assert torch.equal(mtp.layers[0].eh_proj.weight, weights[pre + ("fc.weight" if kind == "qwen" else "eh_proj.weight")])
    assert torch.equal(mtp.layers[0].enorm.weight, weights[pre + ("pre_fc_norm_embedding.weight" if kind == "qwen" else "enorm.weight")])
    assert torch.equal(mtp.layers[0].hnorm.weight, weights[pre + ("pre_fc_norm_hidden.weight" if kind == "qwen" else "hnorm.weight")])
    assert mtp.shared_head is model.lm_head and mtp.embed_tokens is model.get_input_embeddings()
    block = mtp.layers[0].mtp_block
    assert torch.equal(block.mlp.experts.down_proj[1], weights[pre + ("layers.0." if kind == "qwen" else "") + "mlp.experts.1.down_proj.weight"])
    assert getattr(model.config, "num_mtp_layers", None) in (None, 1) and model.config.num_hidden_layers == N, "the user's configuration is as it was"


def test_the_text_stays(shipped):
    _, _, _, model = shipped
    target = as_target(model)
    for drafter in (MtpDrafter(k=3), MtpDrafter(k=3, tree=6, width=3), make_drafter("mtp:k=2")):
        for settings in (dict(law=Law(temperature=0)), dict(law=Law(temperature=.9), rng=Keyed(2))):
            for prompt in ([4], [4, 2, 30, 9]):
                a, b = (Trace(decode(target, d, prompt, limit=14, **settings)) for d in ("none", drafter))
                assert a.tokens == b.tokens and b.calls <= a.calls


def test_batches(shipped):
    _, _, _, model = shipped
    target, drafter, prompts = as_target(model), MtpDrafter(k=2), ([3], [5, 6, 7], [40, 1, 2, 3, 9])
    plain = [Trace(decode(target, "none", p, limit=10, law=Law(temperature=0))).tokens for p in prompts]
    requests, steps = [Request(target, drafter, p, stop=Stop(10), law=Law(temperature=0)) for p in prompts], {}
    for request, step in serve(requests): steps.setdefault(requests.index(request), []).append(step)
    assert [Trace(steps[i]).tokens for i in range(3)] == plain


def test_in_several_files_and_another_folder(tmp_path):
    checkpoint("glm", tmp_path, split=True)
    model = loaded(tmp_path)
    assert len({*mtp_layers(model).values()}) == 2
    whole = load_mtp(model)
    model.config.name_or_path = "somewhere/else"
    with pytest.raises(ValueError, match="'somewhere/else' is no folder"): load_mtp(model)
    again = load_mtp(model, tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters()))
    text = [1, 2, 3]
    assert drafted(as_target(model), MtpDrafter(tmp_path, k=2), text)[0].tokens


def test_refused_by_name(tmp_path):
    plain = hf.AutoModelForCausalLM.from_config(hf.LlamaConfig(vocab_size=48, hidden_size=D, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, eos_token_id=None))
    plain.save_pretrained(tmp_path / "llama")
    model = loaded(tmp_path / "llama")
    with pytest.raises(ValueError, match="LlamaForCausalLM in .* ships no MTP head"): next(decode(model, "mtp", [1, 2], limit=3))
    with pytest.raises(ValueError, match="for a Hugging Face model.*not for LlamaTarget"): next(decode(Llama.from_hf(model), "mtp", [1, 2], limit=3))
    (tmp_path / "glm").mkdir()
    checkpoint("glm", tmp_path / "glm")
    path = tmp_path / "glm" / "model.safetensors"
    weights = load_file(path)
    del weights[f"model.layers.{N}.hnorm.weight"]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="is not whole: .*hnorm"): load_mtp(loaded(tmp_path / "glm"))
    for wrong in (dict(k=-1), dict(tree=-2), dict(width=0)):
        with pytest.raises(ValueError, match="need k >= 0"): MtpDrafter(**wrong)
