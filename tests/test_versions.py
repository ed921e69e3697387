"""The library's own tests of `generate`, of what it is given, and of the Hugging Face target, with the oldest and the newest transformers that are allowed."""
import os, subprocess, sys, sysconfig, tempfile, tomllib, venv

import pytest
from conftest import ROOT
from specdec_nb.models.hub import cache_folder

FILES = [f"tests/test_{name}.py" for name in ("generate", "options", "inputs", "calls", "hf", "foreign", "trials")]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
[ALLOWED] = [d for d in PROJECT["dependencies"] if d.startswith("transformers")]
OLDEST = ALLOWED.split(">=")[1].split(",")[0]


def environment(name, requirement):
    """A Python with `requirement`, and with peft, in the cache folder; everything else is what runs this test. Made once; asked
    again for the newest each time"""
    folder = cache_folder() / "versions" / f"{name}-py{sys.version_info.major}.{sys.version_info.minor}"
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists(): venv.create(folder, with_pip=True)
    site = subprocess.check_output([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True).strip()
    with open(f"{site}/outer.pth", "w") as f: f.write(sysconfig.get_path("purelib"))        # behind its own packages
    subprocess.run([python, "-m", "pip", "install", "-q", "--upgrade", requirement, "peft"], check=True)
    return python


def run(python, *command):
    "Tests in a test wait for nobody's turn: who waits for the machine alone waits for this test"
    with tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": folder}
        return subprocess.run([python, *command], cwd=ROOT, env=env, text=True, capture_output=True)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name,requirement", [("oldest", f"transformers=={OLDEST}.0"), ("newest", ALLOWED)])
def test_generate_with(name, requirement):
    python = environment(name, requirement)
    version = run(python, "-c", "import transformers; print(transformers.__version__)").stdout.strip()
    print(f"{name}: transformers {version}")
    assert version.startswith(OLDEST) if name == "oldest" else version, "the environment has another transformers than asked for"
    done = run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *FILES)
    assert done.returncode == 0, f"with transformers {version}:\n{done.stdout[-3000:]}{done.stderr[-1000:]}"


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_change_of_names_would_be_seen():
    "The same environment with a transformers whose models call the cache otherwise fails the same tests"
    python = environment("newest", ALLOWED)
    rename = "import specdec_nb.models.hf as m, pytest, sys; m.cache_name = lambda names, model='': 'cash'; sys.exit(pytest.main(sys.argv[1:]))"
    done = run(python, "-c", rename, "-q", "-x", "-p", "no:cacheprovider", FILES[0], "-k", "test_families and llama")
    assert done.returncode == 1, done.stdout[-2000:]
