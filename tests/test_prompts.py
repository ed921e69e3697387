"""Questions of one's own: each is answered, turn by turn, and what is no question is named."""
import copy, json

import numpy as np
import pytest

from specdec_nb.cli import main
from specdec_nb.models.hub import load_hf
from specdec_nb.training.command import answering, read_prompts
from specdec_nb.training.corpus import fill_shard, plan_shard

FORMS = ['{"prompt": "Who?"}', '"Who?"', '{"turns": ["Who?"]}', '{"messages": [{"role": "user", "content": "Who?"}]}',
         '{"prompt": [{"role": "user", "content": "Who?"}]}', '["Who?"]']


@pytest.mark.parametrize("line", FORMS)
def test_a_question_in_any_form(tmp_path, line):
    (path := tmp_path/"q.jsonl").write_text(f"\n{line}\n\n")
    assert read_prompts(path) == [["Who?"]]


def test_a_conversation_and_a_text(tmp_path):
    turns = [dict(role=r, content=c) for r, c in (("user", "Who?"), ("assistant", "I."), ("user", "Why?"))]
    (path := tmp_path/"q.jsonl").write_text(json.dumps(dict(messages=turns)))
    assert read_prompts(path) == [["Who?", "Why?"]]
    (path := tmp_path/"q.txt").write_text(' {"prompt": 1}\nWho?\n', "utf-8")
    assert read_prompts(path) == [['{"prompt": 1}'], ["Who?"]], "a text is a text"


@pytest.mark.parametrize("line", ["{", "7", "null", "{}", '{"prompt": 7}', '{"prompt": " "}', '{"turns": []}', '{"turns": ["a", 1]}', '{"turns": ["a", ""]}', "[[]]",
                                  '{"messages": [{"role": "assistant", "content": "I"}]}', '{"messages": [{"role": "user", "content": null}]}', "NaN"])
def test_what_is_no_question_is_named(tmp_path, line):
    (path := tmp_path/"q.jsonl").write_text(f'"Who?"\n{line}\n')
    with pytest.raises(ValueError, match="line 2"): read_prompts(path)


def test_a_system_message_is_not_dropped_in_silence(tmp_path):
    turns = [dict(role=r, content=c) for r, c in (("system", "Be brief."), ("user", "Why?"))]
    (path := tmp_path/"q.jsonl").write_text(json.dumps(dict(messages=turns)))
    with pytest.raises(ValueError, match="system"): read_prompts(path)


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xff\xfe\x00"])
def test_files_that_hold_nothing(tmp_path, content):
    (path := tmp_path/"q.jsonl").write_bytes(content)
    with pytest.raises(ValueError, match="q.jsonl"): read_prompts(path)
    with pytest.raises(ValueError, match="cannot be read"): read_prompts(tmp_path)
    with pytest.raises(ValueError, match="cannot be read"): read_prompts(tmp_path/"none.jsonl")


@pytest.fixture(scope="module")
def default(): return load_hf()


def test_the_template_stands_around_each_turn(default):
    "The same tokens that a chat with these turns would have, answers apart"
    model, tokenizer = default
    plan = answering([["Say A.", "Say B."], ["Say C."]])
    kind, parts = plan(np.random.default_rng(0), tokenizer, 0)
    said = ["".join(tokenizer.decode(p.given) for p in parts[:n]) for n in (1, 2)]
    turns = [dict(role="user", content="Say A.")]
    assert said[0] == tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    turns += [dict(role="assistant", content=""), dict(role="user", content="Say B.")]
    assert said[1] == tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert len(plan(np.random.default_rng(0), tokenizer, 1)[1]) == 1
    assert plan(np.random.default_rng(0), tokenizer, 2) == (kind, parts), "it begins again at the end"
    shard = plan_shard(tokenizer, 1, 2, plan=answering([[w] for w in "abcd"]))
    assert ["cd"[i] in tokenizer.decode(p[0].given) for i, (_, p) in enumerate(shard.plans)] == [True, True], "a shard goes on where the last one ended"
    heats = {plan(np.random.default_rng(i), tokenizer, 0)[1][0].temperature for i in range(40)}
    assert heats == {0, .7, 1}


def test_a_model_without_a_template_goes_on_from_each_turn(default):
    bare = copy.deepcopy(default[1])
    bare.chat_template = None
    _, parts = answering([("Say A.", "Say B.")])(np.random.default_rng(0), bare, 0)
    assert [bare.decode(p.given) for p in parts] == ["Say A.", "Say B."] and parts[0].ends == {bare.eos_token_id}


def test_they_are_answered(default):
    model, tokenizer = default
    shard = plan_shard(tokenizer, 0, 2, plan=answering([["Say A.", "Say B."], ["Say C."]]))
    short = [(kind, [type(p)(p.given, 6, 0., p.ends) for p in parts]) for kind, parts in shard.plans]
    made = fill_shard(model, type(shard)(0, short, 2, 0))
    first, second = np.split(made["tokens"], made["lengths"][:1])
    text = tokenizer.decode(first)
    assert text.count("<|im_start|>assistant\n") == 2 and text.index("Say A.") < text.index("Say B.")
    assert "Say C." in tokenizer.decode(second[:made["begins"][1]]) and len(second) > made["begins"][1]


def told(capsys, *argv):
    assert main([str(a) for a in argv]) == 2
    return capsys.readouterr().err


def test_what_can_be_known_before_the_night(capsys, tmp_path, monkeypatch):
    from specdec_nb.models import hub
    def loaded(*_): raise AssertionError("a model was loaded")
    monkeypatch.setattr(hub, "load_hf", loaded)
    (path := tmp_path/"q.jsonl").write_text("".join(f'"Who is {i}?"\n' * 2 for i in range(39)))                # each counts once
    data = ("train", "data", "--out", tmp_path/"out", "--prompts")
    assert "39 prompts" in told(capsys, *data, path)
    assert "--shards does not" in told(capsys, *data, path, "--shards", 2)
    assert "cannot be read" in told(capsys, *data, tmp_path/"none")
    assert "--prompts is for" in told(capsys, "train", "draft", "--out", tmp_path/"out", "--data", tmp_path, "--prompts", path)
    assert not (tmp_path/"out").exists()
