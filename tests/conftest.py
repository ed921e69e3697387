"""What all tests share: one thread a process, no network, and turns with the cells that time something."""
import os, shutil, subprocess, sys
from pathlib import Path

import pytest
from nbrun import ENV, turn

os.environ |= {k: v for k, v in ENV.items() if k != "PYTHONPATH"}

ROOT = Path(__file__).resolve().parents[1]


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run the tests marked slow, too")


def pytest_collection_modifyitems(config, items):
    marked = {kind: [i for i in items if i.get_closest_marker(kind)] for kind in ("slow", "gpu")}
    if not config.getoption("--slow"):
        for i in marked["slow"]: i.add_marker(pytest.mark.skip(reason="slow: run with --slow"))
    if marked["gpu"] and not __import__("torch").cuda.is_available():
        for i in marked["gpu"]: i.add_marker(pytest.mark.skip(reason="gpu: torch sees no CUDA device"))


@pytest.fixture(autouse=True)
def _turn(request):
    "While `make outputs` times a cell, no test runs"
    if request.module.__name__ == "test_notebooks": yield
    else:
        with turn(): yield


@pytest.fixture(scope="session")
def original():
    "`(model, tokenizer)`: the default model, by transformers. For all tests of a worker: who changes it puts it back"
    from specdec_nb.models import hub
    if hub.default_gguf() is None: pytest.skip(f"the default model is not installed: {hub.INSTALL}")
    return hub.load_hf()


@pytest.fixture(scope="session")
def smollm2(original):
    "The same in our own runtime"
    from specdec_nb.models.llama import Llama
    return Llama.from_hf(original[0]), original[1]


@pytest.fixture(scope="module")
def on_disk(model, tmp_path_factory):
    "The `model` of a test file in a folder, with a tokenizer of sixteen words"
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast
    words = {w: i for i, w in enumerate("w0 the of a is to in and for if def self return import . ,".split())}
    tokenizer = Tokenizer(WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = Whitespace()
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="w0").save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    "A folder of two shards that a small model, seed 4 of `learners.build`, wrote. Who harms it harms a copy"
    import numpy as np, torch
    from learners import build
    from specdec_nb.training.corpus import Part, write_documents
    model = build(seed=4, dtype=torch.float32)
    folder, gen = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for number in range(2):
        plans = [[Part(gen.integers(0, 16, 4).tolist(), 16, float(i % 2))] for i in range(40)]
        written = write_documents(model, plans, batch=20, seed=number)
        np.savez(folder / f"{number:04d}.npz", tokens=np.concatenate([np.array(t, np.uint16) for t, _ in written]),
                 lengths=[len(t) for t, _ in written], begins=[b for _, b in written], kinds=["continued"] * 40)
    return folder


@pytest.fixture(scope="session")
def one_shard(tmp_path_factory):
    "A folder of one shard, larger, of the same model"
    import numpy as np, torch
    from learners import build
    from specdec_nb.training.corpus import Part, write_documents, write_shard
    model = build(seed=4, dtype=torch.float32)
    folder, gen = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    texts = write_documents(model, [[Part(gen.integers(0, 16, 4).tolist(), 16, float(i % 2))] for i in range(240)], batch=60)
    write_shard(folder / "0000.npz", dict(tokens=np.concatenate([np.array(t, np.uint16) for t, _ in texts]), lengths=[len(t) for t, _ in texts],
                                          begins=[b for _, b in texts], kinds=["continued"] * 240))
    return folder


@pytest.fixture
def copy(tmp_path):
    "A copy of the checkout, without what git ignores"
    files = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, text=True, check=True,
                           capture_output=True).stdout.splitlines()
    for f in files:
        if not (ROOT/f).is_file(): continue
        (tmp_path/f).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT/f, tmp_path/f)
    return tmp_path


@pytest.fixture
def tool():
    "Run a command of this Python's environment in a folder; its completed process"
    def run(*command, cwd):
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        env = {**os.environ, "PATH": path}
        return subprocess.run(command, cwd=cwd, text=True, capture_output=True, env=env)
    return run
