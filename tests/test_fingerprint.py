"""Whose drafter it is: the same model otherwise, a relative, another one."""
import pytest
import torch

from learners import WORDS, build, trained
from specdec_nb import Llama
from specdec_nb.learned.fingerprint import Lender, apart, fingerprint
from specdec_nb.learned.medusa import Medusa
from specdec_nb.roles import as_target
from specdec_nb.training.corpus import Corpus
from specdec_nb.training.features import Features


@pytest.fixture(scope="module")
def model(): return build(seed=4, dtype=torch.float32)


def test_another_model(model, data, tmp_path):
    "Is refused by its matrices; and states that another model read are not taken for this one's"
    other = build(seed=9, dtype=torch.float32)
    assert max(apart(fingerprint(Lender(model)), fingerprint(Lender(other))).values()) > .5
    shifted = build(seed=4, dtype=torch.float32)
    with torch.no_grad(): shifted.get_input_embeddings().weight[:, 1:] *= -1                 # the first column is the same
    assert apart(fingerprint(Lender(shifted)), fingerprint(Lender(model)))["embedding"] > 1
    assert not apart(fingerprint(Lender(build(seed=4, layers=3))), fingerprint(Lender(model))), "another shape"
    trained(model, data, tmp_path / "out")
    with pytest.raises(ValueError, match="another model"): trained(other, data, tmp_path / "new", begin=tmp_path / "out")
    documents = Corpus(data, apart=8).train
    mine, theirs = (Features(m, documents, [4], tmp_path / "shared").hidden[:50].clone() for m in (model, other))
    assert not torch.equal(mine, theirs)


@pytest.mark.parametrize("kind,changes", [("Llama", {}), ("Qwen3", dict(head_dim=16)), ("GPT2", dict(n_inner=None)), ("GPTNeoX", {})])
def test_the_same_model_otherwise(kind, changes, tmp_path, recwarn):
    "Another precision, another runtime, an embedding in eight bits: the same model, without a word. A fine-tuned twin: a warning; another model: an error"
    model = build(seed=4, kind=kind, dtype=torch.float32, **changes)
    net = Medusa.of(model, WORDS, heads=1).join(Lender(model))
    def copied(seed=4, dtype=torch.float32, change=lambda name, w: w):
        twin = build(seed=seed, kind=kind, dtype=torch.float32, **changes)
        for name, w in twin.named_parameters(): w.data.copy_(change(name, w.data))
        return twin.to(dtype)
    def rounded(name, w):
        if "emb" not in name and "wte" not in name: return w
        scale = w.abs().amax(1, keepdim=True) / 127
        return (w / scale).round() * scale
    same = [copied(), copied(dtype=torch.float64), copied(dtype=torch.bfloat16), copied(dtype=torch.float16), copied(change=rounded)]
    for twin in [*map(as_target, same), *(Llama.from_hf(m) for m in same[:4] if Llama.refuses(m.config) is None)]: net.join(twin)
    assert not [w for w in recwarn if "relative" in str(w.message)]
    noise = torch.Generator().manual_seed(0)
    def tuned(name, w): return w if "emb" in name or "wte" in name or w.dim() < 2 else w + .03 * w.std() * torch.randn(w.shape, generator=noise)
    with pytest.warns(UserWarning, match="trained for a relative of this model, [1-5][.].% apart"): net.join(as_target(copied(change=tuned)))
    with pytest.raises(ValueError, match="trained for another model"): net.join(as_target(copied(seed=5)))
