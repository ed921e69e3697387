"""nbs/outgrowing.md: every command on the page runs, and prints what stands below it. Where a program is absent, its section is skipped by name."""
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

PAGE = (ROOT/"nbs/outgrowing.md").read_text()
VLLM = Path(os.environ.get("VLLM", ROOT/".venv/vllm"))
BLOCKS = re.compile(r"```sh\n(.*?)```\n\n```text\n(.*?)```", re.S)
SECTIONS = {part.splitlines()[0]: BLOCKS.findall(part) for part in PAGE.split("\n## ")[1:] if "```sh" in part}
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])


def missing(script):
    "Of the programs that a script names, one that this machine has not"
    words = {w for w in ("ray", "torchrun", "curl", "specdec") if re.search(rf"(^|[\s|]){w}\s", script, re.M)}
    found = {w: shutil.which(w, path=PATH) for w in words}
    if "--ray" in script: found["ray"] = shutil.which("ray", path=PATH)
    if "$VLLM" in script: found["vllm"] = (VLLM/"bin/python").exists()
    return next((w for w, at in sorted(found.items()) if not at), None)


def alike(printed, got):
    "Whether all lines that are printed came, in this order; what is measured may differ"
    def lines(text): return [re.sub(r"\d+\.\d+", "#", line.strip()) for line in text.splitlines() if line.strip()]
    rest = iter(lines(got))
    return all(any(line == other for other in rest) for line in lines(printed))


def run(script, home):
    "What a script prints, and what it says beside"
    (home/"data").symlink_to(ROOT/"data")
    env = os.environ | dict(PATH=PATH, VLLM=str(VLLM), PYTHONPATH=str(ROOT), HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", VLLM_NO_USAGE_STATS="1", VLLM_CPU_OMP_THREADS_BIND="nobind")
    with open(home/"said", "w+") as said, open(home/"printed", "w+") as printed:
        shell = subprocess.Popen(["bash", "-euo", "pipefail", "-c", script], cwd=home, env=env, stdout=printed, stderr=said, start_new_session=True)
        try: code = shell.wait(900)
        finally:                                                          # what it left in the background, too
            try: os.killpg(shell.pid, signal.SIGTERM)
            except ProcessLookupError: pass
    printed, *logs = [(home/name).read_text() if (home/name).exists() else "" for name in ("printed", "said", "vllm.log")]
    return code, printed, "".join(logs)


def test_the_page_has_a_command_and_what_it_printed_for_each():
    assert {"vLLM", "torchrun"} <= {title.split(": ")[1] for title in SECTIONS}
    assert all(blocks and all(printed.strip() and not printed.isupper() for _, printed in blocks) for blocks in SECTIONS.values())
    assert PAGE.count("```sh") == sum(map(len, SECTIONS.values())), "a command without what it printed"


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("title", SECTIONS)
def test_the_commands_run(title, tmp_path):
    for script, printed in SECTIONS[title]:
        if program := missing(script): pytest.skip(f"{program} is not here")
        code, got, said = run(script, tmp_path)
        assert code == 0 and alike(printed, got), f"{printed}\nis what stands there; and what came, with exit code {code}:\n{got}\n{said[-3000:]}"


def test_another_output_would_be_seen(tmp_path):
    assert alike("a 1.5\nb\n", "x\na 2.25\n b\n") and not alike("a 1.5\nb", "b\na 1.5") and not alike("three rivers", "three lakes") and not alike("4", "5")
    code, got, said = run("echo one; echo two >&2; false; echo three", tmp_path)
    assert (code, got, said) == (1, "one\n", "two\n")
    assert missing("echo x") is None and missing("x --ray") in (None, "ray")
