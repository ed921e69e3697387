"""A call of `generate`: who is told and asked of what, what comes back, and what is left behind."""
import threading, time

import pytest
import torch
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteriaList

from drafters import Oracle, Wild
from families import PROMPT, build, greedy
from specdec_nb import generate
from specdec_nb.models.calls import _noise, undisturbed
from specdec_nb.models.generate import custom_generate_folder


@pytest.fixture(scope="module")
def model(): return build("llama")


class Recorder:
    "A streamer that keeps what it is given"
    def __init__(self): self.got, self.ended = [], 0
    def put(self, ids): self.got += ids.flatten().tolist()
    def end(self): self.ended += 1


def test_eos_inside_a_block_and_nothing_after_it(model):
    plain = greedy(model)[0].tolist()
    for eos in ({plain[11]}, {plain[10], plain[17]}, {plain[8]}):
        expected = greedy(model, eos_token_id=list(eos))
        streamer = Recorder()
        out = generate(model, PROMPT, drafter=Oracle(plain), max_new_tokens=24, do_sample=False, eos_token_id=list(eos), streamer=streamer, return_dict_in_generate=True)
        assert torch.equal(out.sequences, expected) and streamer.got == expected[0].tolist() and streamer.ended == 1
        assert len(out.trace.tokens) == expected.shape[1] - 8 and out.trace.stopped == "eos"
        assert out.past_key_values.get_seq_length() == expected.shape[1] - 1
        assert out.trace.calls <= -(-len(out.trace.tokens) // 7) and sum(out.trace.drafted) <= len(out.trace.tokens)


def test_the_returned_cache_is_the_text_s(model):
    out = generate(model, PROMPT, drafter=Wild(3, greedy(model)[0].tolist()), max_new_tokens=15, do_sample=False, return_dict_in_generate=True)
    onward = model.generate(out.sequences, past_key_values=out.past_key_values, max_new_tokens=9, do_sample=False)
    assert torch.equal(onward, greedy(model, 24))


def test_criteria_are_asked_for_each_token(model):
    plain = greedy(model)[0].tolist()
    def full(ids, scores, **kw): return torch.tensor([ids.shape[1] >= 13])
    for criteria in (StoppingCriteriaList([full]), [full]):
        out = generate(model, PROMPT, drafter=Oracle(plain), max_new_tokens=24, do_sample=False, stopping_criteria=criteria)
        assert out[0].tolist() == plain[:13]


@pytest.mark.parametrize("rule", ["walk", "rejection", "kseq", "block", "traversal"])
@pytest.mark.parametrize("drawn", [{}, dict(do_sample=True, seed=4)])
def test_criteria_are_asked_of_the_text_alone(model, rule, drawn):
    "Once for each token, in order, never of a guess: they may count their calls"
    asked, truth = [], greedy(model)[0].tolist()
    def ninth(ids, scores, **kw):
        asked.append(ids[0].tolist())
        return torch.tensor([len(asked) == 9])
    for drafter in (Oracle(truth), Wild(2, truth), model):
        asked.clear()
        out = generate(model, PROMPT, drafter=drafter, rule=rule, max_new_tokens=20, stopping_criteria=[ninth], **{"do_sample": False, **drawn})
        assert asked == [out[0, :n].tolist() for n in range(9, 18)] and out.shape == (1, 17)


def test_whoever_listens_is_told_that_a_call_failed(model):
    def broken(ids, scores): return 1 / 0
    for call, error in ((dict(num_beams=2), ValueError), (dict(drafter="telepathy"), ValueError), (dict(logits_processor=[broken]), ZeroDivisionError), (dict(k=2.5), ValueError)):
        for run in (generate, model.generate):
            streamer = Recorder()
            more = {} if run is generate else dict(custom_generate=generate)
            if more and "num_beams" in call: continue            # the library refuses these before it asks us
            with pytest.raises(error): run(PROMPT, max_new_tokens=5, streamer=streamer, **call, **more) if more else run(model, PROMPT, max_new_tokens=5, streamer=streamer, **call)
            assert streamer.ended == 1


@pytest.mark.parametrize("run", ["ours", "theirs", "a folder"])
def test_an_end_is_told_once_even_if_it_fails(model, run):
    class Fails(Recorder):
        def end(self):
            super().end()
            raise LookupError("the reader is gone")
    class Both(Fails):
        def put(self, ids):
            super().put(ids)
            if len(self.got) > 10: raise KeyError("first")
    for kind, error in ((Fails, LookupError), (Both, KeyError)):
        streamer = kind()
        more = {"ours": {}, "theirs": dict(custom_generate=generate), "a folder": dict(custom_generate=custom_generate_folder(), trust_remote_code=True)}[run]
        with pytest.raises(error): (model.generate if more else lambda *a, **kw: generate(model, *a, **kw))(PROMPT, max_new_tokens=5, do_sample=False, streamer=streamer, **more)
        assert streamer.ended == 1


def test_noise_that_is_put_back_is_nobody_elses():
    "A thread that builds something leaves the generator as it was; what another draws meanwhile is not drawn again by a third"
    inside, drawn = threading.Event(), []
    def builds():
        with undisturbed():
            inside.set()
            time.sleep(.1)
    thread = threading.Thread(target=builds)
    thread.start()
    inside.wait()
    drawn.append(_noise(None, 0, True).gen.random())
    thread.join()
    drawn.append(_noise(None, 0, True).gen.random())
    assert drawn[0] != drawn[1]


def pieces(run):
    class Pieces:
        def __init__(self): self.got, self.ended = [], 0
        def put(self, x): self.got.append(x)
        def end(self): self.ended += 1
    streamer = Pieces()
    run(streamer)
    assert streamer.ended == 1
    return [(x.dtype, x.shape, x.tolist()) for x in streamer.got]


def test_dtype_and_streamed_pieces_are_plains(model):
    options = dict(max_new_tokens=9, do_sample=False)
    for ids in (PROMPT, PROMPT.int()):
        plain, ours = model.generate(ids, **options), generate(model, ids, drafter=Oracle(greedy(model)[0].tolist()), **options)
        assert torch.equal(ours, plain) and ours.dtype == plain.dtype
        expected = pieces(lambda s: model.generate(ids, streamer=s, **options))
        folder = dict(custom_generate=custom_generate_folder(), trust_remote_code=True)
        for run in (lambda s: generate(model, ids, streamer=s, **options), lambda s: model.generate(ids, streamer=s, custom_generate=generate, **options),
                    lambda s: model.generate(ids, streamer=s, drafter="lookup", **folder, **options)):
            assert pieces(run) == expected


@pytest.mark.parametrize("options", [{}, dict(repetition_penalty=1.3), dict(do_sample=True, seed=3), dict(do_sample=True, seed=3, temperature=.7, top_k=12, top_p=.9, no_repeat_ngram_size=2)])
def test_scores_and_logits_are_plains(model, options):
    told = dict(max_new_tokens=12, return_dict_in_generate=True, output_scores=True, output_logits=True)
    seed = options.get("seed")
    first = generate(model, PROMPT, drafter=Wild(1, greedy(model)[0].tolist()), **told, **options)
    given = first.sequences[0].tolist()
    class Forced(LogitsProcessor):
        "Plain decoding along our text: its scores before this processor are those to compare with"
        def __call__(self, ids, scores): return torch.full_like(scores, -1e9).index_fill_(1, torch.tensor([given[ids.shape[1]]]), 0)
    rest = {k: v for k, v in options.items() if k != "seed"}
    plain = model.generate(PROMPT, **told, **rest) if seed is None else model.generate(PROMPT, **told, logits_processor=LogitsProcessorList([Forced()]))
    assert torch.equal(first.sequences, plain.sequences) and isinstance(first, type(plain)) and len(first.scores) == len(first.logits) == 12
    for ours, theirs in zip(first.logits, plain.logits): assert ours.dtype == theirs.dtype and ours.shape == theirs.shape and torch.allclose(ours, theirs, atol=1e-5)
    if seed is None: assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(first.scores, plain.scores))
    else: assert all(bool(s[0, t] > -1e30) for s, t in zip(first.scores, given[8:]))
    again = generate(model, PROMPT, drafter="none", max_new_tokens=12, **options)
    assert torch.equal(first.sequences, again)


@pytest.mark.parametrize("rule", ["rejection", "kseq", "walk"])
def test_to_be_told_changes_nothing(model, rule):
    "Also where the text depends on what the drafter knows of the law: beside a processor with a memory, min-p"
    class Count(LogitsProcessor):
        def __init__(self): self.calls = 0
        def __call__(self, ids, scores):
            self.calls += 1
            return scores.index_fill(1, torch.tensor([self.calls * 7 % 48]), -float("inf"))
    for options in (dict(min_p=.1), dict(temperature=.7, top_k=9, min_p=.1), dict(repetition_penalty=1.3)):
        def text(**told):
            return generate(model, PROMPT, drafter=model, rule=rule, do_sample=True, seed=3, max_new_tokens=24, logits_processor=[Count()], **options, **told)
        told = text(return_dict_in_generate=True, output_scores=True)
        assert torch.equal(text(), told.sequences) and len(told.scores) == 24


def test_criteria_that_read_scores(model):
    def sure(ids, scores, **kw): return torch.tensor([len(scores) >= 5 and scores[-1].shape == (1, 48)])
    told = dict(max_new_tokens=20, do_sample=False, return_dict_in_generate=True, output_scores=True, stopping_criteria=[sure])
    plain = model.generate(PROMPT, **{**told, "stopping_criteria": StoppingCriteriaList([sure])})
    ours = generate(model, PROMPT, drafter=Oracle(greedy(model)[0].tolist()), **told)
    assert torch.equal(ours.sequences, plain.sequences) and ours.sequences.shape == (1, 13) and len(ours.scores) == 5


@pytest.mark.parametrize("name", ["llama", "mistral, window 5"])
@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_an_interrupted_call_leaves_rows_of_text_alone_in_the_callers_cache(name, error):
    model, told = build(name), dict(max_new_tokens=12, do_sample=False)
    first = model.generate(PROMPT, return_dict_in_generate=True, **told)
    past, turn = first.past_key_values, torch.cat([first.sequences, torch.tensor([[7, 9, 11]])], 1)
    truth = model.generate(turn, **told)
    class Breaks(Recorder):
        def put(self, ids):
            super().put(ids)
            if len(self.got) == turn.shape[1] + 5: raise error
    streamer = Breaks()
    with pytest.raises(error): generate(model, turn, drafter=Wild(1, truth[0].tolist()), past_key_values=past, streamer=streamer, **told)
    said = streamer.got
    assert said == truth[0, :len(said)].tolist() and past.get_seq_length() < turn.shape[1] + 12
    onward = torch.tensor([truth[0, :past.get_seq_length()].tolist() + [5, 3, 2]])
    assert torch.equal(generate(model, onward, past_key_values=past, **told), model.generate(onward, **told))


@pytest.mark.parametrize("drafter", ["auto", "recycling", "pool", "lookahead", "model"])
def test_the_callers_random_state(model, drafter):
    "Greedy decoding draws nothing; a drafter that builds modules draws for itself"
    torch.manual_seed(3)
    before = torch.get_rng_state()
    class Builder(Wild):
        def bind(self, target): torch.nn.Linear(3, 3)
        def begin(self, ctx, state): torch.nn.Linear(3, 3)
    generate(model, PROMPT, drafter=build("gpt2") if drafter == "model" else drafter, max_new_tokens=5, do_sample=False) if drafter != "model" else None
    torch.set_rng_state(before)
    generate(model, PROMPT, drafter=Builder() if drafter == "model" else drafter, max_new_tokens=5, do_sample=False)
    assert torch.equal(torch.get_rng_state(), before)
