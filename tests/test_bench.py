"""The benchmark: what it reads, how it adds up, that it resumes, and that it can say no."""

import pytest, torch
from benched import CIRCLE, SMALL, Parrot, Wild
from specdec_nb.bench.questions import Question
from specdec_nb.bench.bench import bench, divergence, rows_of, schedule
from specdec_nb.bench.timing import Setting, timed
from specdec_nb.workshop.ledger import Ledger
from specdec_nb.roles import Drafter, as_target
from specdec_nb.draft import Draft
from specdec_nb.verify import Verdict


class Letters:
    "A tokenizer: one letter a token"
    chat_template = None
    def __init__(self): self.asked = []
    def __call__(self, text, return_tensors=None):
        self.asked.append(text)
        ids = torch.tensor([[ord(c) % 32 - 1 for c in text if c.isalpha()]])
        return type("Ids", (), {"input_ids": ids})
    def decode(self, tokens, skip_special_tokens=True): return "".join(chr(97 + int(t)) for t in tokens)


def accept_all(draft, p, rng):
    "Every first guess"
    path = []
    while below := draft.children(path[-1] if path else -1): path.append(below[0])
    return Verdict.of(draft, path, rng.at(len(path), "target").categorical(p[path[-1] + 1 if path else 0]))


@pytest.fixture(scope="module")
def tiny():
    from transformers import AutoModelForCausalLM, LlamaConfig
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(LlamaConfig(
        vocab_size=26, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, initializer_range=.6, bos_token_id=None,
        eos_token_id=None, pad_token_id=None)).double().eval()


ROUNDS = [Question(f"q:{i}", "rounds" if i < 3 else "others", ("abcab", "ca")) for i in range(5)]


# -- adding up -----------------------------------------------------------------------------------------

def record(question, drafter, tokens, seconds, text=None, **more):
    default = dict(question=question, category="ab"[question % 2], drafter=drafter, warm=False, tokens=tokens,
                   calls=tokens, nodes=0, seconds=seconds, prefill=0., forward=seconds / 2, lossy=False,
                   judged=[], accepted=[], texts=[text or [0] * tokens])
    return {**default, **more}


def test_speedup_is_a_ratio_of_totals():
    records = [record(0, "none", 100, 10.), record(1, "none", 20, 2.),
               record(0, "x", 100, 8., calls=50, judged=[10, 4], accepted=[4, 1]),
               record(1, "x", 20, .25, calls=10, judged=[10], accepted=[6])]
    rows = {(r["drafter"], r["category"]): r for r in rows_of(records)}
    row = rows["x", "all"]
    assert (row["speedup"], row["speedup_median"]) == (12 / 8.25, (1.25 + 8) / 2)
    assert (row["n"], row["tokens"], row["calls"], row["tau"]) == (2, 120, 60, 2.)
    assert row["acceptance"] == [.5, .25]
    assert (row["seconds"], row["seconds_plain"], row["prefill"], row["overhead"]) == (8.25, 12., 0., .5)
    assert row["identical"] is True
    assert rows["x", "a"]["speedup"] == 1.25 and rows["none", "all"]["speedup"] == 1
    assert list(rows) == [(d, c) for d in ("none", "x") for c in ("a", "b", "all")]


def test_writing_less_is_no_speedup():
    row = rows_of([record(0, "none", 100, 10.), record(0, "x", 50, 5.)])[-1]
    assert row["speedup"] == 1 and row["identical"] is False and row["n_identical"] == 0


def test_what_is_asked_at_prefill_is_paid_for():
    "A drafter that wants to know more of the prompt's rows makes reading it dearer: that is its own cost"
    records = [record(0, "none", 10, 4., prefill=1., forward=3.), record(0, "asks", 10, 4.5, prefill=1.5, forward=3.)]
    row = rows_of(records)[-1]
    assert (row["speedup"], row["speedup_decoding"], row["overhead"]) == (4 / 4.5, 1, 0)
    assert (row["seconds"], row["seconds_plain"], row["prefill"], row["prefill_plain"]) == (4.5, 4., 1.5, 1.)
    half = rows_of([records[0], record(0, "half", 5, 2.5, prefill=1.)])[-1]
    assert half["speedup"] == half["speedup_decoding"] == 1, "who writes half reads all the same"


def test_every_method_once_a_question_and_who_is_first_rotates():
    plan = schedule(range(6), list("abc"))
    assert [i for i, _, _ in plan] == [i for i in range(6) for _ in range(3)]
    assert [m for _, _, m in plan[::3]] == list("abcabc") and len(set((i, m) for i, _, m in plan)) == 18


def test_turns_have_the_answers_as_history():
    tokenizer = Letters()
    bench(CIRCLE, tokenizer, ROUNDS[:1], [], Setting(max_new_tokens=3, turns=2))
    assert tokenizer.asked[-2:] == ["abcab", "abcab\n\ncab\n\nca"]


def test_window_and_settings_are_checked_first(tiny):
    long = Question("q:9", "long", ("a" * 129,))
    with pytest.raises(ValueError, match="q:9: .*129 tokens.*128"):
        bench(tiny, Letters(), [ROUNDS[0], long], setting=SMALL)
    for name, wrong in dict(max_new_tokens=0, turns=0, k=-1, temperature=-1, rule="trust").items():
        with pytest.raises(ValueError, match=f"{name}.*{wrong}"): Setting(**{name: wrong})
    with pytest.raises(ValueError, match="telepathy.*known"): bench(CIRCLE, Letters(), ROUNDS, ["telepathy"])
    with pytest.raises(ValueError, match="no questions"): bench(CIRCLE, Letters(), [])
    near = bench(tiny, Letters(), [Question("q:8", "long", ("a" * 126,))], ["lookup"], SMALL)
    assert {r["tokens"] for r in near} == {3}, "an answer ends with the model's window"


@pytest.mark.parametrize("setting", [SMALL, Setting(max_new_tokens=20, temperature=1, seed=3)])
def test_identical(tiny, setting):
    rows = rows_of(bench(tiny, Letters(), ROUNDS, {"wild": Wild, "parrot": Parrot}, setting))
    assert all(r["identical"] and r["n_identical"] == r["n"] and not r["divergences"] for r in rows)
    assert [(r["drafter"], r["warm"]) for r in rows if r["category"] == "all"] == [
        ("none", False), ("wild", False), ("parrot", False), ("parrot", True)]


def test_a_lossy_rule_is_not_identical(tiny):
    records = bench(tiny, Letters(), ROUNDS, {"wild": Wild}, Setting(max_new_tokens=7, rule=accept_all))
    [row] = [r for r in rows_of(records) if (r["drafter"], r["category"]) == ("wild", "all")]
    assert row["identical"] is False and row["n_identical"] == 0 and len(row["divergences"]) == 5
    assert all(d["position"] == 0 and d["margin"] > 1e-6 for d in row["divergences"])


def test_divergence_is_found_where_it_is(tiny):
    texts = [[int(t) for t in timed(as_target(tiny), Wild(), [0, 1, 2, 0, 1], SMALL)[0].tokens]]
    other = [texts[0][:4] + [(texts[0][4] + 1) % 26] + texts[0][5:]]
    found = divergence(as_target(tiny), Letters(), ROUNDS[0], SMALL, 0, texts, other)
    with torch.no_grad(): row = tiny(torch.tensor([[0, 1, 2, 0, 1, *texts[0][:4]]])).logits[0, -1]
    first, second = row.topk(2).values.tolist()
    assert (found["turn"], found["position"]) == (0, 4) and abs(found["margin"] - (first - second)) < 1e-9


# -- interrupted ---------------------------------------------------------------------------------------

def exact(records):
    "What does not depend on the clock"
    kept = ("question", "drafter", "warm", "calls", "judged", "accepted", "texts")
    return [{k: r[k] for k in kept} for r in records]


class Two(Drafter):
    def propose(self, ctx, rng): return Draft.chain([2, 0])


@pytest.mark.parametrize("at", [0, 1, 6, 11, 14])
def test_resume(tmp_path, at):
    "Killed after `at` records, in the middle of a line: nothing lost, nothing doubled, warm memory included"
    drafters = {"parrot": Parrot, "two": Two}
    whole, header = bench(CIRCLE, Letters(), ROUNDS, drafters, SMALL), {"setting": SMALL.as_dict()}
    ledger = Ledger(tmp_path/"out.json", header)
    def killed(todo):
        for item in todo:
            if len(ledger.records) == at: raise KeyboardInterrupt
            yield item
    with pytest.raises(KeyboardInterrupt):
        bench(CIRCLE, Letters(), ROUNDS, drafters, SMALL, log=ledger, progress=killed)
    with open(ledger.path, "a") as f: f.write('{"question": 3, "id": "q')
    before = exact(ledger.records)
    ledger.leave()                                               # the lock goes with the process
    resumed = Ledger(tmp_path/"out.json", header, resume=True)
    assert exact(resumed.records) == before and len(before) == at
    assert exact(bench(CIRCLE, Letters(), ROUNDS, drafters, SMALL, log=resumed)) == exact(whole)
    assert len(resumed.path.read_text().splitlines()) == 1 + len(whole) == 21
    resumed.close({"rows": []})
    assert [p.name for p in tmp_path.iterdir()] == ["out.json"]
