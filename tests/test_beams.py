"""Beams are the library's and the papers', whoever drafts and whatever the prompt is."""
import numpy as np
import pytest
import torch

from decoders import DRAFTERS, MODELS
from drafters import Wild
from specdec_nb import Law, TableLM
from specdec_nb.decoding.beams import Beams, beam_search
from specdec_nb.decoding.hidden import ContrastiveSearch
from specdec_nb.decoding.samples import samples
from specdec_nb.roles import as_target
from specdec_nb.sampling import RepetitionPenalty
from specdec_nb.stops import Stop


@pytest.mark.parametrize("kind", ["gpt2", pytest.param("sliding", marks=pytest.mark.slow)])
@pytest.mark.parametrize("options", [{}, dict(eos_token_id=[7, 21, 30]), dict(eos_token_id=[7, 30], early_stopping=True), dict(eos_token_id=[5, 7, 9, 30], length_penalty=-1.),
                                     dict(eos_token_id=[7, 21, 30], early_stopping="never", length_penalty=2., repetition_penalty=1.2, num_return_sequences=3)])
def test_beams_are_the_librarys(kind, options):
    model, begin, options = MODELS[kind], [5, 9, 7, 9, 5], dict(options)
    n = options.get("num_return_sequences", 1)
    theirs = model.generate(torch.tensor([begin]), num_beams=4, do_sample=False, max_new_tokens=14, pad_token_id=0, **options)[:, 5:].tolist()
    eos, penalty = options.get("eos_token_id", ()), options.get("repetition_penalty")
    rules = dict(width=4, early=options.get("early_stopping", False), length_penalty=options.get("length_penalty", 1.), processors=(RepetitionPenalty(penalty),) if penalty else ())
    plain = beam_search(model, begin, 14, eos, "none", **rules)
    assert [list(t) for _, t in plain.texts[:n]] == [t[:len(ours)] for t, (_, ours) in zip(theirs, plain.texts)]
    for drafter in (*(d() for d in DRAFTERS.values()), Wild(2, truth=[*begin, *plain.texts[0][1]])):
        b = beam_search(model, begin, 14, eos, drafter, **rules)
        assert [t for _, t in b.texts] == [t for _, t in plain.texts] and b.steps == plain.steps and b.calls <= b.steps
    with_siblings = samples(model, begin, 4, Stop(10), Law(temperature=.7), seed=2)
    assert [t.tokens for t in with_siblings] == [t.tokens for t in samples(model, begin, 4, Stop(10), Law(temperature=.7), "none", seed=2)]


@pytest.mark.parametrize("groups, each, diversity, n", [(2, 2, .5, 5), (3, 1, 2., 4), (2, 3, 50., 4), (4, 1, 1e-9, 3)])
def test_diverse_beams_are_the_papers(groups, each, diversity, n):
    "Vijayakumar et al. written down naively: group by group in every step, the last one, too"
    model, begin = MODELS["gpt2"], [5, 9, 7, 9, 5]
    def logs(words):
        with torch.no_grad(): return model(torch.tensor([[*begin, *words]])).logits[0, -1].log_softmax(-1).numpy()
    beams = [[(0., ())] for _ in range(groups)]
    for _ in range(n):
        taken = []
        for g, beam in enumerate(beams):
            grown = [(score + z[x] - diversity * taken.count(x), (*words, x)) for score, words in beam for z in [logs(words)] for x in range(48)]
            beams[g] = sorted(grown, key=lambda f: -f[0])[:each]
            taken += [words[-1] for _, words in beams[g]]
    wanted = sorted((f for beam in beams for f in beam), key=lambda f: -f[0])
    for drafter in ("none", "lookup", Wild(1), Wild(2, truth=[*begin, *wanted[0][1]])):
        found = beam_search(model, begin, n, (), drafter, width=groups * each, groups=groups, diversity=diversity).texts
        assert sorted(t for _, t in found) == sorted(t for _, t in wanted) and np.allclose([s for s, _ in found], [s / n for s, _ in wanted])


def test_beams_take_what_generate_takes():
    "Prompts of every form and of one word, up to the window's end; and what cannot be is refused by name"
    model, begin, full = MODELS["gpt2"], [5, 9, 7, 9, 5], [(7 * i) % 48 for i in range(120)]
    wanted = beam_search(model, begin, 6).texts
    assert all(beam_search(model, p, 6).texts == wanted for p in (torch.tensor(begin), np.array(begin), tuple(begin)))
    for prompt, n in (([3], 5), (full, 8)):
        theirs = model.generate(torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long), num_beams=4, do_sample=False, max_new_tokens=n, pad_token_id=0)
        assert all(list(beam_search(model, prompt, n, (), d()).texts[0][1]) == theirs[0, len(prompt):].tolist() for d in DRAFTERS.values())
    assert beam_search(model, full, 30).texts == beam_search(model, full, 9).texts             # the window has 128 places, and what follows the last needs none
    for prompt, says in (([], "empty"), ([48], "token ids"), ([-1], "token ids"), ([0] * 200, "window")):
        with pytest.raises(ValueError, match=says): beam_search(model, prompt, 6)
    for n in (0, -1):
        with pytest.raises(ValueError, match="at least 1"): samples(model, begin, n, Stop(4))


@pytest.mark.parametrize("wrong, says", [
    (lambda t: beam_search(t, [5], 3, early="sometimes"), "early must be"),
    (lambda t: beam_search(ContrastiveSearch(t), [5], 3), "branches of a tree"),
])
def test_numbers_that_mean_nothing(wrong, says):
    with pytest.raises(ValueError, match=says): wrong(as_target(MODELS["own"]))


def test_beams_want_a_stop():
    with pytest.raises(TypeError, match=r"stop=Stop\(limit\)"): Beams(TableLM({(): [1, 1]}), "none", [0])
