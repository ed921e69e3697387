"""Stores of hidden states: read once, and again where they were cut; disks that are full or fill up."""
import resource, shutil, subprocess, sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as hf

from learners import SIZES, build
from specdec_nb.training.corpus import Corpus
from specdec_nb.training.features import Features


@pytest.fixture(scope="module")
def model(): return build(seed=4, dtype=torch.float32)


def test_a_store_is_read_once(model, data, tmp_path):
    "A shorter list finds its part, a longer one reads on, another model or other documents begin where they differ"
    documents, read = Corpus(data, apart=8).train, []
    def states(documents, of=model):
        read.clear()
        f = Features(of, documents, [2, 4], tmp_path / "f", tick=lambda n: read.append(n))
        return f.hidden.clone(), f.logz.clone(), list(read)
    whole, z, ticks = states(documents[:40])
    assert ticks
    n = sum(map(len, documents[:10]))
    part, z10, ticks = states(documents[:10])
    assert torch.equal(part, whole[:n]) and torch.equal(z10, z[:n]) and not ticks
    again, _, ticks = states(documents[:40])
    assert torch.equal(again, whole) and not ticks, "the longer store is still there"
    changed, _, ticks = states([*documents[:10], documents[11], documents[10]])
    assert ticks == [sum(map(len, documents[:12]))] and torch.equal(changed[:n], whole[:n])
    other, _, ticks = states(documents[:10], build(seed=9, dtype=torch.float32))
    assert ticks and not torch.equal(other, part)


def test_a_store_that_was_cut(model, data, tmp_path):
    "Files of other lengths than they claim are read anew, none is mapped beyond its end"
    documents = Corpus(data, apart=8).train[:20]
    whole = Features(model, documents, [4], tmp_path / "f").hidden.clone()
    for kind in ("hidden", "logz", "marks"):
        path = tmp_path / f"f.{kind}"
        path.write_bytes(path.read_bytes()[:-8])
        assert torch.equal(Features(model, documents, [4], tmp_path / "f").hidden, whole)


def test_a_full_disk(model, data, tmp_path, monkeypatch):
    "Is told before anything is read, with the bytes that are missing; one that fills up meanwhile raises, and reading goes on later"
    documents, usage = Corpus(data, apart=8).train, shutil.disk_usage
    need = sum(map(len, documents)) * (2 * 32 + 4)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(path)._replace(free=need - 1))
    with pytest.raises(OSError, match="GB more for hidden states, 0.00 GB are free: make room"): Features(model, documents, [4], tmp_path / "f")
    assert not (tmp_path / "f.hidden").stat().st_size
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(path)._replace(free=need))
    assert len(Features(model, documents, [4], tmp_path / "f").hidden) == sum(map(len, documents))


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="needs a limit on the size of files")
def test_a_disk_that_fills_up(model, data, tmp_path):
    documents = Corpus(data, apart=8).train
    code = """if True:
        import resource, signal, sys, torch
        sys.path[:0] = [{tests!r}]
        from learners import build
        from specdec_nb.training.corpus import Corpus
        from specdec_nb.training.features import Features
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
        try: Features(build(seed=4, dtype=torch.float32), Corpus({data!r}, apart=8).train, [4], {path!r})
        except OSError as e: print("OSError", e)
        """
    done = subprocess.run([sys.executable, "-c", code.format(tests=str(Path(__file__).parent), data=str(data), path=str(tmp_path / "f"), limit=len(documents) * 20 * 68 // 4)],
                          capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("OSError"), done.stderr[-1000:]
    assert torch.equal(Features(model, documents, [4], tmp_path / "f").hidden, Features(model, documents, [4], tmp_path / "g").hidden)


def test_a_head_that_is_more_than_a_matrix(tmp_path):
    capped = hf.Gemma2Config(**{**SIZES, "pad_token_id": 0}, vocab_size=16, num_hidden_layers=2, head_dim=8, final_logit_softcapping=.5)
    model = hf.AutoModelForCausalLM.from_config(capped).eval()
    with pytest.raises(ValueError, match="a cap"): Features(model, [np.arange(12)], [2], tmp_path / "f")
