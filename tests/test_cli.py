"""The command `specdec`, run as a shell runs it."""
import json, os, re, shlex, shutil, signal, subprocess, sys, time
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import pytest
import specdec_nb
from conftest import ROOT
from specdec_nb.cli import NEEDS, main

COMMAND = [sys.executable, "-m", "specdec_nb.cli"]
ENV = {**os.environ, "PYTHONPATH": str(ROOT)}


def shell(*argv, cwd=None):
    return subprocess.run([*COMMAND, *argv], text=True, capture_output=True, cwd=cwd, env=ENV)


@pytest.fixture(scope="module", autouse=True)
def one_model():
    "The model is loaded once for the calls of `main` in this process"
    from specdec_nb.models import native
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "load", lru_cache(native.load))
        yield


def told(capsys, *argv, sign=2):
    "What `main` says of bad input: one line on stderr, exit code 2, nothing on stdout"
    code = main(list(map(str, argv)))
    out, err = capsys.readouterr()
    assert (code, out) == (sign, "") and err.count("\n") == 1 and "Traceback" not in err, (code, out, err)
    return err


def test_help_is_instant():
    t = time.perf_counter()
    done = shell("--help")
    assert done.returncode == 0 and "race" in done.stdout and "bench" in done.stdout
    assert time.perf_counter() - t < 5
    program = ("import sys; from specdec_nb.cli import parser; parser().format_help(); "
               "print(sum(m in sys.modules for m in ('torch', 'transformers', 'numpy', 'rich')))")
    assert subprocess.check_output([sys.executable, "-c", program], text=True, env=ENV) == "0\n"


def test_race(capsys):
    assert main(["race", "--example", "repeat", "--max-new-tokens", "24", "--json"]) == 0
    out = capsys.readouterr().out
    won = json.loads(out)
    assert out.count("\n") == 1 and won["identical"] is True and won["calls"] < won["tokens"] <= 24
    assert won["tau"] == won["tokens"] / won["calls"] > 2
    assert won["speedup"] == won["seconds_plain"] / won["seconds"] > 0
    assert won["text"].startswith("def settle") and won["drafted"] == won["tokens"] - won["calls"]


def test_race_in_colours(capsys):
    prompt = "Repeat exactly: one two three, one two three."
    assert main(["race", "--prompt", prompt, "--max-new-tokens", "6", "--temperature", "0.5"]) == 0
    out, err = capsys.readouterr()
    assert "plain decoding" in out and "speculative decoding: lookup" in out
    assert "yes" in out.split("identical to plain decoding")[1]


@pytest.mark.parametrize("argv", [["race", "--drafter", "telepathy"],
                                  ["bench", "--drafters", "none,telepathy"]])
def test_unknown_drafter(capsys, argv):
    err = told(capsys, *argv)
    assert "telepathy" in err and "lookup" in err and "none" in err


def test_bad_input(capsys, tmp_path):
    (tmp_path/"long.txt").write_text("word " * 9000)
    (tmp_path/"binary.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path/"qa.jsonl").write_text(json.dumps({"category": "qa", "turns": ["Why?"]}))
    (tmp_path/"odd.jsonl").write_text('{"question": 1}')
    (tmp_path/"broken").mkdir()
    (tmp_path/"broken/config.json").write_text("{")
    race, bench, qa = ("race", "--json"), ("bench", "--questions"), tmp_path/"qa.jsonl"
    assert "empty" in told(capsys, *race, "--prompt", " ")
    assert "at least 1, got '0'" in told(capsys, *race, "--max-new-tokens", 0)
    assert "temperature" in told(capsys, *race, "--temperature", -1)
    assert "trust" in told(capsys, *race, "--rule", "trust")
    assert "no-such" in told(capsys, *race, "--file", tmp_path/"no-such")
    assert "not a text file" in told(capsys, *race, "--file", tmp_path/"binary.txt")
    assert "sonnet" in told(capsys, *race, "--example", "sonnet")
    (tmp_path/"blank.txt").write_text(" \n")
    assert "blank.txt is empty" in told(capsys, *race, "--file", tmp_path/"blank.txt")
    err = told(capsys, *race, "--file", tmp_path/"long.txt")
    assert "context window 8192" in err and "long.txt" in err
    assert "no-such" in told(capsys, *race, "--model", tmp_path/"no-such")
    assert "incomplete or damaged" in told(capsys, *race, "--model", tmp_path/"broken")
    assert "no-such.jsonl" in told(capsys, *bench, tmp_path/"no-such.jsonl")
    assert "odd.jsonl:1" in told(capsys, *bench, tmp_path/"odd.jsonl")
    assert "there are: qa" in told(capsys, *bench, qa, "--categories", "math")
    assert "there are: editing, code, answering" in told(capsys, "bench", "--categories", "math"), "our own questions have categories, too"
    assert "at least 1" in told(capsys, *bench, qa, "--n", 0)
    assert "at least 1" in told(capsys, *bench, qa, "--max-new-tokens", 0)
    assert "cannot write" in told(capsys, *bench, qa, "--json", tmp_path/"no/out.json")
    assert "cannot write" in told(capsys, *bench, qa, "--json", tmp_path)
    assert "--resume needs --json" in told(capsys, *bench, qa, "--resume")
    train = ("train", "draft", "--out", tmp_path/"out")
    assert "--data is missing" in told(capsys, *train)
    assert "--data" in told(capsys, *train, "--data", tmp_path/"no-such") and "no such folder" in told(capsys, *train, "--data", tmp_path/"no-such")
    assert "unknown loss 'hinge'" in told(capsys, *train, "--data", tmp_path, "--objective", "hinge")
    for option in ("--batch", "--words", "--minutes", "--lr", "--epochs"):
        assert option in told(capsys, *train, "--data", tmp_path, option, 0)
    assert "--lr is settled" in told(capsys, "train", "all", "--data", tmp_path, "--out", tmp_path/"out", "--lr", .1)
    assert "--device nonsense is not to be had here" in told(capsys, *train, "--data", tmp_path, "--device", "nonsense")
    assert "no data in" in told(capsys, *train, "--data", tmp_path)


def test_a_shell_sees_exit_codes():
    done = shell("race", "--drafter", "telepathy", "--json")
    assert (done.returncode, done.stdout) == (2, "") and "telepathy" in done.stderr
    assert done.stderr.count("\n") == 1
    assert shell("race", "--dtype", "int3").returncode == 2


def test_bare_version_and_drafters(capsys):
    assert main([]) == 0 and "race|bench|report|train|diagnose|export|check|serve|drafters" in capsys.readouterr().out
    assert main(["--version"]) == 0 and capsys.readouterr().out == f"specdec {specdec_nb.__version__}\n"
    assert main(["drafters"]) == 0
    listed = capsys.readouterr().out
    assert NEEDS.keys() == specdec_nb.DRAFTERS.keys()
    for name in specdec_nb.DRAFTERS: assert re.search(rf"^{name} .*\n(?:  .*\n)*? +needs \w", listed, re.M), name
    assert "longest=4" in listed and "tree=8" in listed


@pytest.mark.parametrize("argv", [
    ["race", "--k", "-1"], ["race", "--k", "2.5"], ["race", "--temperature", "nan"], ["race", "--temperature", "inf"], ["race", "--seed", "x"],
    ["race", "--max-new-tokens", "-3"], ["race", "--drafter", "lookup:depth=3"], ["race", "--rule", "trust"], ["race", "--prompt", os.fsdecode(b"na\xefve")],
    ["race", "--dtype", "int3"], ["race", "--runtime", "vllm"], ["race", "more"], ["race", "--promt", "x"], ["race", "--prompt", "x", "--file", "y"],
    ["bench", "--drafters", ","], ["bench", "--n", "1.5"], ["bench", "--turns", "0"], ["bench", "--rule", "trust"],
    ["bench", "--json", "no/such/out.json"], ["bench", "--questions", "."], ["bench", "--drafters", "lookup:longest=0"],
    ["train", "data"], ["train", "dance", "--out", "x"], ["train", "draft", "--out", "x", "--data", "y", "--epochs", "0"],
    ["race", "--drafter", "lookup:k=abc"], ["race", "--drafter", "lookup:k"], ["race", "--drafter", "layerskip:options=3"], ["bench", "--drafters", "recycling:table=x"],
    ["race", "--drafter", f"rest:store={ROOT/'README.md'}"], ["race", "--file", "/dev/null"], ["race", "--file", "a\0b"], ["bench", "--json", "x" * 300],
    ["train", "data", "--out", "/dev/null/x"], ["train", "data", "--out", "x", "--by", "nowhere"], ["train", "draft", "--out", "x", "--data", str(ROOT/"README.md")],
    ["diagnose"], ["diagnose", "telepathy"], ["diagnose", "lookup"], ["diagnose", "medusa", "--n", "0"], ["diagnose", "medusa", "--questions", "nowhere.jsonl"],
    ["diagnose", "medusa", "--data", str(ROOT/"nbs")], ["diagnose", "medusa", "--max-new-tokens", "1"], ["diagnose", str(ROOT/"nbs")],
    ["train", "data", "--out", "x", "--workers", "0"], ["train", "sweep", "--out", "x"], ["train", "sweep", "--out", "x", "--data", ".", "--try", "lr"],
    ["train", "sweep", "--out", "x", "--data", ".", "--kinds", "telepathy"], ["train", "sweep", "--out", "x", "--data", ".", "--try", "heads=2"],
    ["train", "draft", "--out", "x", "--data", "y", "--lr", "nan"], ["train", "draft", "--out", str(ROOT/"README.md"), "--data", "y"], ["dance"], ["--dance"],
    ["serve", "--port", "65536"], ["serve", "--host", "nope.invalid"], ["serve", "--host", ""], ["serve", "--host", "a b"], ["serve", "--host", "192.0.2.1"], ["serve", "--host", "." * 9],
    ["serve", "--host", "x" * 300], ["serve", "--host", "1.2.3.4.5"], ["serve", "--drafter", "telepathy"], ["serve", "--drafter", "lookup:k=abc"], ["train", "data", "--out", "x", "--device", "meta"], ["race", "--temperature", "1e-320"]])
def test_arguments_are_checked_before_a_model_is_loaded(capsys, monkeypatch, argv):
    from specdec_nb.training import sweep  # noqa: F401  what is imported below would keep the patched loader
    from specdec_nb.models import hub, native
    def loaded(*_): raise AssertionError("a model was loaded")
    monkeypatch.setattr(native, "load", loaded)
    monkeypatch.setattr(hub, "load_hf", loaded)
    told(capsys, *argv)


def test_a_drafter_that_is_not_well_is_an_error(capsys):
    argv = ["diagnose", "eagle3", "--n", "1", "--max-new-tokens", "12", "--json"]
    assert main(argv) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    said = [line for line in err.splitlines() if not line.startswith("Compiling ")]   # once on a new machine
    assert out.count("\n") == 1 and not said and found["healthy"] and found["figures"]["ways"]["served"][1] > 4
    assert main([*argv, "--raw"]) == 2                               # the question without its template
    out, err = capsys.readouterr()
    assert [f["name"] for f in json.loads(out)["faults"]] == ["other frame"] and err == "specdec diagnose: eagle3 is not well: other frame\n"


def test_a_report_is_claimed_before_a_model_is_loaded(capsys, monkeypatch, tmp_path):
    from specdec_nb.models import native
    from specdec_nb.workshop.ledger import Ledger
    monkeypatch.setattr(native, "load", lambda *_: pytest.fail("a model was loaded"))
    out = tmp_path/"out.json"
    first = Ledger(out)
    assert "another run" in told(capsys, "bench", "--json", out)
    first.leave()
    out.write_text("{}")
    assert "--force" in told(capsys, "bench", "--json", out) and out.read_text() == "{}"
    assert [p.name for p in tmp_path.iterdir()] == ["out.json"]


def test_a_refused_resume_names_the_setting(capsys, tmp_path):
    from specdec_nb.workshop.ledger import Ledger
    begun = Ledger(tmp_path/"out.json", {"max_new_tokens": 4, "questions": {"n": 3}})
    begun.leave()
    err = told(capsys, "bench", "--no-hf", "--json", tmp_path/"out.json", "--resume", "--max-new-tokens", 8)
    assert "max_new_tokens = 4, now it is 8" in err and "dtype = None, now it is float32" in err


FAKE = r"""
import sys
from specdec_nb.models import native
from specdec_nb.lm import TableLM
from specdec_nb.cli import main
def load(*_): raise ValueError("the model \u03c4 \u00d7 \udcff was asked for")
native.load = load
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("env", [dict(LC_ALL="C", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0"), dict(PYTHONIOENCODING="latin-1"), dict(PYTHONIOENCODING="ascii:strict"),
                                 dict(LC_ALL="C.UTF-8"), dict(COLUMNS="20", PYTHONIOENCODING="latin-1")])
def test_what_can_be_printed_is_printed(env):
    "Text that this terminal does not know, on stdout and on stderr; the fake model's error stands for an answer"
    done = subprocess.run([sys.executable, "-c", FAKE, "race", "--prompt", "\u00fcber \u03c4"], capture_output=True, env={**ENV, **env})
    assert done.returncode == 2 and b"was asked for" in done.stderr and b"Traceback" not in done.stderr, done.stderr
    assert subprocess.run([*COMMAND, "bench", "--help"], capture_output=True, env={**ENV, **env}).returncode == 0
    program = "import sys; from specdec_nb.workshop.shell import speakable; speakable(); print('\\u03c4 1.20\\u00d7', flush=True)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, env={**ENV, **env})
    assert done.returncode == 0 and b" 1.20" in done.stdout
    assert subprocess.run([sys.executable, "-c", program.replace("speakable();", "")], capture_output=True,
                          env={**ENV, "PYTHONIOENCODING": "ascii:strict"}).returncode == 1, "the negative control"


def test_whoever_hangs_up(tmp_path):
    done = subprocess.run(f"{shlex.join([*COMMAND, 'drafters'])} | true; echo ${{PIPESTATUS[0]}}", shell=True, executable="/bin/bash", text=True,
                          capture_output=True, env=ENV)
    assert done.stdout in ("141\n", "0\n") and "Traceback" not in done.stderr and "Exception" not in done.stderr
    for argv in (["--help"], ["race", "--help"], ["--version"], []):
        for buffered in ("", "1"):                                   # argparse keeps quiet of what it could not write
            with open("/dev/full", "w") as full: done = subprocess.run([*COMMAND, *argv], stdout=full, stderr=subprocess.PIPE, text=True, env={**ENV, "PYTHONUNBUFFERED": buffered})
            assert done.returncode == 2 and done.stderr.count("\n") == 1 and "space" in done.stderr, argv
    assert subprocess.run([*COMMAND, "race", "--file", "-", "--json"], input=b"\xff\xfe", capture_output=True, env=ENV).returncode == 2


def test_a_prompt_from_a_pipe_in_half_precision(capsys, monkeypatch):
    import io
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("Repeat exactly: eins, zw\u00f6lf, eins, zw\u00f6lf.".encode())))
    assert main(["race", "--file", "-", "--dtype", "float16", "--max-new-tokens", "4", "--json"]) == 0
    won = json.loads(capsys.readouterr().out)
    assert won["provenance"]["dtype"] == "float16" and won["tokens"] == 4


def test_a_broken_model_folder_is_one_line(capsys, tmp_path):
    for i, config in enumerate(("[]", "null", '{"model_type": 3}', '{"model_type": "llama", "hidden_size": "x"}', '{"model_type": "nonsense"}', "[" * 99_999)):
        (tmp_path/f"m{i}").mkdir()
        (tmp_path/f"m{i}/config.json").write_text(config)
        told(capsys, "race", "--json", "--model", tmp_path/f"m{i}")


def test_what_looks_like_markup_is_text(scene, capsys, monkeypatch):
    "Categories, folders and drafters may hold brackets; after an hour of measuring a table must come"
    monkeypatch.chdir(scene)
    (scene/"marked.jsonl").write_text('{"category": "[/oops]", "turns": ["w1 w2 w3 w1 w2"]}\n{"category": "[bold", "turns": ["w1 w2"]}')
    if not (scene/"[/x] model").exists(): shutil.copytree(scene/"my/model", scene/"[/x] model")
    drafter, tail = "model:model=[/x] model", ["--model", "[/x] model", "--runtime", "own", "--max-new-tokens", "2"]
    assert main(["bench", "--no-hf", "--questions", "marked.jsonl", "--drafters", drafter, *tail]) == 0
    shown = capsys.readouterr().out
    assert "[/oops]" in shown and "[bold" in shown and "[/x]" in shown
    for more in ([], ["--json"]): assert main(["race", "--prompt", "w1 w2", "--drafter", drafter, *more, *tail]) == 0
    assert drafter in capsys.readouterr().out


def test_a_question_of_half_a_letter(capsys, tmp_path):
    (tmp_path/"half.jsonl").write_text('{"category": "qa", "turns": ["\\ud800 x"]}')
    assert "half.jsonl:1: halves of surrogate" in told(capsys, "bench", "--questions", tmp_path/"half.jsonl")


def test_a_file_that_leaves_is_named(capsys, tmp_path):
    (tmp_path/"leaves.py").write_text("import sys; sys.exit(3)")
    assert "leaves.py cannot be run: SystemExit" in told(capsys, "check", tmp_path/"leaves.py", sign=1)


@pytest.mark.parametrize("change,says", [(lambda d: d["provenance"].pop("model"), None), (lambda d: d["records"][3].pop("drafter"), "records\\[3\\]"), (lambda d: d["records"][3].update(cpu="x"), "records\\[3\\].cpu"),
                                         (lambda d: [r.update(cpu=0., cpu_first=0.) for r in d["records"]], None)])
def test_reports_with_something_amiss(capsys, tmp_path, change, says):
    report = json.loads((ROOT/"results/auto.json").read_text())
    change(report)
    (tmp_path/"r.json").write_text(json.dumps(report))
    if says: assert re.search(says, told(capsys, "report", tmp_path/"r.json"))
    else: assert main(["report", str(tmp_path/"r.json")]) == 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no full device here")
def test_a_full_device_is_named(scene, capsys, monkeypatch):
    monkeypatch.chdir(scene)
    code = main(["bench", "--no-hf", "--questions", "FILE.jsonl", "--n", "1", "--max-new-tokens", "2", "--model", "my/model", "--runtime", "own", "--json", "/dev/full"])
    assert code == 2 and "/dev/full" in capsys.readouterr().err
    for left in Path("/dev").glob("full.partial*"): left.unlink()


# -- the command lines of the book

def printed():
    "Every command line of `specdec` in the texts: in blocks of a shell, and in back-ticks, from `specdec` on"
    found = {}
    for path in [*sorted((ROOT/"nbs").rglob("*.md")), ROOT/"README.md", ROOT/"CONTRIBUTING.md", *sorted((ROOT/"data").glob("*.md"))]:
        if "_src/" not in str(path) and path.name == "index.md": continue
        text = path.read_text()
        lines = [line for block in re.findall(r"```sh\n(.*?)```", text, re.S) for line in block.replace("\\\n", " ").splitlines()]
        lines += re.findall(r"`(specdec [^`\n]* --[\w-]+ [^`\n]+)`", text)          # what has no option is a mention
        for line in lines:
            if m := re.search(r"(?:^|\s)(specdec (?:race|bench|report|train|diagnose|export|check|drafters|--).*)", line.split(" #")[0]): found[m[1].rstrip(" &")] = path.name
    return found


BOOK = printed()
SMALL = {"race": ["--max-new-tokens", "4"], "bench": ["--max-new-tokens", "4", "--n", "1", "--no-hf"], "train": ["--smoke"], "export": [], "diagnose": ["--max-new-tokens", "8", "--n", "1"],
         "check": ["--tokens", "2"], "drafters": [], "--version": []}


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    "What the book's command lines take for granted: a model, a corpus, files of questions, small"
    import transformers as hf
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    home = tmp_path_factory.mktemp("book")
    questions = [{"category": c, "turns": ["w1 w2 w3 w1 w2 w3"]} for c in ("writing", "translation", "summarization", "qa", "math_reasoning", "rag")]
    for name in ("FILE.jsonl", "spec_bench_dev.jsonl"): (home/name).write_text("\n".join(map(json.dumps, questions)))
    for name in ("q.jsonl", "humaneval_dev.jsonl"): (home/name).write_text('{"prompt": "w1 w2 w1 w2"}')
    (home/"mydrafter.py").write_text("from specdec_nb import Draft, Drafter\nclass Mine(Drafter):\n    def propose(self, ctx, rng): return Draft.chain([0])\n")
    import torch
    torch.manual_seed(0)
    sizes = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2)
    model = hf.LlamaForCausalLM(hf.LlamaConfig(vocab_size=64, **sizes, max_position_embeddings=1024, bos_token_id=None, eos_token_id=0, pad_token_id=0))
    model.save_pretrained(home/"my/model")
    words = Tokenizer(WordLevel({f"w{i}": i for i in range(64)}, unk_token="w5"))
    words.pre_tokenizer = __import__("tokenizers").pre_tokenizers.Whitespace()
    tokenizer = hf.PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w0")
    tokenizer.chat_template = "{% for m in messages %}w1 {{ m['content'] }} w2 {% endfor %}w3"
    tokenizer.save_pretrained(home/"my/model")
    return home


STANDS_FOR = {"data/smollm2-135m": "corpus", "specdec_nb/weights/eagle3": "my-eagle3", "N": "1", "\u2026": "one two"}


def small(line, more=()):
    "The options of a printed line, and what makes it small"
    argv = [STANDS_FOR.get(a, Path(a).name if a.endswith(".jsonl") else a) for a in shlex.split(line)[1:]]
    return [*argv, *SMALL[argv[0]], *more]


def test_the_book_prints_command_lines():
    assert {line.split()[1] for line in BOOK} >= {"race", "bench", "train"} and len(BOOK) >= 6, BOOK
    assert any(line.startswith("specdec train data") for line in BOOK)


@pytest.mark.parametrize("line", [line for line in BOOK if not line.startswith("specdec train")])
def test_command_lines_of_the_book_run(line, scene, monkeypatch, capsys):
    "Each as it is printed, but small: at most four tokens, one question a category"
    monkeypatch.chdir(scene)
    code, err = main(small(line)), capsys.readouterr().err
    assert code == 0 or "diagnose" in line and err.startswith("specdec diagnose: eagle3 is not well: "), (line, err)  # eight words of nonsense


def test_training_lines_of_the_book_run(scene, monkeypatch, capsys):
    "Data first, then who trains on it; on a small model, where the line does not name one"
    monkeypatch.chdir(scene)
    monkeypatch.setattr(os, "nice", lambda n: 0)                     # this process has other tests to run
    lines = [line for line in BOOK if line.startswith("specdec train") and "--out" in line]
    assert any("--ray" in line for line in lines)
    if find_spec("ray") is None: lines = [line.replace(" --ray", " --workers 2") for line in lines]
    lines = sorted(lines, key=lambda line: ("--by" in line or "--begin" in line, "train data" not in line))
    for n, line in enumerate(lines):
        if "--by" in line: assert main(["train", "draft", "--model", "my/model", "--data", "corpus", "--out", "draft", "--smoke"]) == 0
        argv = small(line, [] if "--model" in line else ["--model", "my/model"])
        assert main(argv) == 0, (line, capsys.readouterr().err)
        said = capsys.readouterr().out
        assert ("Train on it: specdec train" if "train data" in line else "Use it: specdec_nb.generate(model, ids, drafter=") in said, line
    told = re.search(r"specdec (race --drafter \S+ --model \S+)", said)
    assert told and main([*told[1].split(), "--prompt", "w1 w2 w3", "--max-new-tokens", "4"]) == 0, "what the last line says works"


def test_no_line_of_the_book_lacks_its_output():
    assert not [line for line in BOOK if line.startswith("specdec train") and "--out" not in line]


def test_bench_is_killed_and_resumes(tmp_path, monkeypatch, capsys):
    "SIGKILL after the first record, then --resume: every record once, every answer identical"
    questions = [{"category": c, "turns": [f"Repeat exactly: {c} {c} {c} {c}."]} for c in ("red", "blue")]
    (tmp_path/"q.jsonl").write_text("\n".join(map(json.dumps, questions)))
    argv = ["bench", "--no-hf", "--drafters", "lookup", "--questions", "q.jsonl", "--max-new-tokens", "8"]
    argv, partial = [*argv, "--json", "out.json"], tmp_path/"out.json.partial.jsonl"
    run = subprocess.Popen([*COMMAND, *argv], cwd=tmp_path, env=ENV, stderr=subprocess.DEVNULL)
    def recorded(): return partial.exists() and partial.read_bytes().count(b"\n") >= 2
    while run.poll() is None and not recorded(): time.sleep(.02)
    run.send_signal(signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL and not (tmp_path/"out.json").exists()
    first = partial.read_text().splitlines()[1]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["specdec", *argv, "--resume"])
    assert main(sys.argv[1:]) == 0 and "lookup" in capsys.readouterr().out
    report = json.loads((tmp_path/"out.json").read_text())
    keys = [(r["question"], r["drafter"]) for r in report["records"]]
    assert sorted(keys) == [(i, d) for i in range(2) for d in ("lookup", "none")]
    assert report["records"][0]["seconds"] == json.loads(first)["seconds"], "it was measured again"
    rows = {(r["drafter"], r["category"]): r for r in report["rows"]}
    assert set(rows) == {(d, c) for d in ("none", "lookup") for c in ("red", "blue", "all")}
    assert all(r["identical"] for r in rows.values()) and rows["lookup", "all"]["n"] == 2
    wanted = {"drafter", "category", "n", "tokens", "calls", "tau", "acceptance", "seconds", "seconds_plain",
              "speedup", "identical", "warm"}
    assert wanted <= rows["lookup", "all"].keys()
    source = report["provenance"]
    assert source["questions"]["files"].keys() == {"q.jsonl"} and source["model"].startswith("SmolLM2")
    assert source["command"].startswith("specdec bench")
    assert {"device", "cpu", "threads", "dtype", "runtime", "fingerprint", "torch", "transformers", "python", "specdec_nb", "date",
            "commit", "seed"} <= source.keys()
    assert not list(tmp_path.glob("*.partial*"))
