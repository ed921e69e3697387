"""tools/gpu_day.py: all of it, small, on this machine; and pieces that are not what they should be."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
import gpu_day                                                   # noqa: E402


def test_smoke():
    "Text, states, three kinds of drafter, figures, and all that would come back; the packed model is the unpacked one, to the bit"
    done = subprocess.run([sys.executable, ROOT / "tools" / "gpu_day.py", "--smoke"], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-2000:]
    for kind in ("eagle3", "draft", "medusa"): assert f"{kind}/model.safetensors" in done.stdout
    report = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    assert set(report["tau"]) == {"eagle3", "draft", "medusa"} and all(t >= 1 for t in report["tau"].values())
    assert done.stdout.count("waiting for") >= 2


def block(values):
    "A row of 32 numbers in four bits, with scale and minimum, as a GGUF file has it"
    low, scale = min(values), (max(values) - min(values)) / 15
    halves = torch.tensor([round((v - low) / scale) for v in values], dtype=torch.uint8)
    head = torch.tensor([scale, low], dtype=torch.float16).view(torch.uint8)
    return torch.cat([head, halves[:16] | halves[16:] << 4])[None]


def test_four_bits():
    values = [i / 4 - 3 for i in range(16)] * 2
    assert torch.equal(gpu_day.unpack(block(values), 32)[0], torch.tensor(values).half())


def test_pieces_that_do_not_fit(tmp_path):
    from safetensors.torch import save
    packed = {"model.layers.0.self_attn.q_proj.weight": block([i / 4 for i in range(16)] * 2)}
    data, small = save(packed), tmp_path / "model"
    small.mkdir()
    about = dict(pieces=2, bytes=len(data), digest=gpu_day.digest(gpu_day.unpacked(packed, 32, 64)))
    (small / "config.json").write_text(json.dumps(dict(hidden_size=32, intermediate_size=64)))
    (small / "pieces.json").write_text(json.dumps(about))
    (tmp_path / "0").write_bytes(data[:100])
    assert gpu_day.join(tmp_path) is None
    (tmp_path / "1").write_bytes(data[100:-1])
    with pytest.raises(ValueError, match="bytes together"): gpu_day.join(tmp_path)
    (tmp_path / "1").write_bytes(data[100:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ValueError, match="do not make the model that was packed"): gpu_day.join(tmp_path)
    (tmp_path / "1").write_bytes(data[100:])
    assert gpu_day.join(tmp_path) == small and gpu_day.join(tmp_path) == small
