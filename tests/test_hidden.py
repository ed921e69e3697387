"""Laws that look at hidden states, and searches among candidates: one text, whoever drafts, on every kind of model."""
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from decoders import DRAFTERS, MODELS, SIZES, along, told
from drafters import Wild
from specdec_nb import Draft, Keyed, Law, Trace, generate
from specdec_nb.decode import Request, decode, serve
from specdec_nb.decoding.hidden import ContrastiveSearch, DoLa, VectorFSD
from specdec_nb.decoding.methods import FSD, Mirostat, Truncated, zipf_cut
from specdec_nb.roles import as_target
from specdec_nb.sampling import NoRepeatNgram, RepetitionPenalty, softmax
from specdec_nb.stops import Stop

LAWS = {"typical": lambda t: Truncated(typical=.7), "epsilon": lambda t: Truncated(epsilon=.02, top_k=20), "eta": lambda t: Truncated(eta=.1),
        "mirostat": lambda t: Mirostat(surprise=1.5), "mirostat, penalised": lambda t: Mirostat(surprise=2., processors=(RepetitionPenalty(1.2), NoRepeatNgram(2))),
        "fsd": lambda t: FSD(), "fsd, n = 4": lambda t: FSD(n=4, k=8, alpha=.3), "vectors": lambda t: VectorFSD(layer=3), "vectors, n = 3": lambda t: VectorFSD(layer=2, n=3, k=9),
        "dola": lambda t: DoLa(temperature=0, unembed=t.unembed, layers=(1, 2), processors=(RepetitionPenalty(1.2),)),
        "dola, normed": lambda t: DoLa(temperature=0, unembed=t.unembed, layers=(1, 2), norm=torch.nn.functional.normalize),
        "dola, sampled": lambda t: DoLa(unembed=t.unembed, layers=(0, 2), top_p=.9)}


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("law", LAWS)
def test_one_text_whoever_drafts(kind, law):
    model = MODELS[kind]
    made = LAWS[law](as_target(model))
    for begin, n in (((5, 9, 7, 9, 5), 14), ((3,), 4)):
        plain = told(model, made, "none", begin, n)
        assert all(told(model, made, d(), begin, n) == plain for d in DRAFTERS.values())
    wild = Wild(0, truth=[*begin, *plain])                               # right for a while, then not
    assert told(model, made, wild, begin, n, rule="walk") == plain


@pytest.mark.parametrize("normed", [False, True])
def test_dola_is_the_definition(normed):
    model, begin = MODELS["gpt2"], [5, 9, 7, 9, 5]
    norm = model.transformer.ln_f if normed else None
    head, layers, law = as_target(model).unembed, (1, 2), DoLa(unembed=as_target(model).unembed, layers=(1, 2), relative=.2, norm=norm)
    words, chosen = told(model, law, "none", begin, 16), set()
    with torch.no_grad(): hidden = model(torch.tensor([[*begin, *words]]), output_hidden_states=True).hidden_states
    for i, (got, p, _) in enumerate(along(model, law, begin, words)):
        early = {n: ((norm or torch.nn.Identity())(hidden[n][0, len(begin) - 1 + i]) @ head.T).softmax(-1).detach().numpy() for n in layers}
        apart = {n: sum((x * np.log(x / ((p + q) / 2))).sum() for x in (p, q)) for n, q in early.items()}
        chosen.add(n := max(apart, key=apart.get))
        ratio = np.where(p >= .2 * p.max(), p / early[n], 0)
        assert np.allclose(got, ratio / ratio.sum())
    if not normed: assert chosen == {*layers}, "each disagrees most somewhere"


@pytest.mark.parametrize("kind", ["own", "sliding"])
def test_contrastive_search(kind):
    search, greedy = ContrastiveSearch(MODELS[kind], k=4), Law(temperature=0)
    plain = told(search, greedy, "none", n=20)
    assert all(told(search, greedy, d(), n=20) == plain for d in DRAFTERS.values())
    assert told(search, greedy, Wild(0, truth=[5, 9, 7, 9, 5, *plain]), n=20) == plain
    assert plain != told(MODELS[kind], greedy, "none", n=20)
    requests = [Request(search, "lookup", p, greedy, stop=Stop(12)) for p in ([5, 9, 7, 9, 5], [3], [8, 8, 1])]
    together = {r: [] for r in requests}
    for r, step in serve(requests): together[r] += step.verdict.tokens
    assert [*together.values()] == [told(search, greedy, "none", r.tokens[:r.prompt], n=12) for r in requests]


def test_rows_a_thousand_nats_apart():
    "What is nearly impossible has no finite odds; the laws have texts all the same, and one whoever drafts"
    torch.manual_seed(2)
    model = AutoModelForCausalLM.from_config(LlamaConfig(**{**SIZES, "initializer_range": .99})).double().eval()
    for weight in model.parameters(): weight.data *= 6
    for law in (Mirostat(surprise=2., temperature=.01), Mirostat(surprise=0., rate=0.), DoLa(temperature=0, unembed=as_target(model).unembed, layers=(0, 1, 2)),
                DoLa(unembed=as_target(model).unembed, layers=(0, 2), relative=0.)):
        plain = told(model, law, "none", n=10)
        assert all(told(model, law, d(), n=10) == plain for d in DRAFTERS.values())
    for gap in (1., 700., 740., 744.):                                   # from 710 on a quotient of two such probabilities is no number
        assert zipf_cut(softmax(np.array([0., -gap, -gap, -800.])), 3.) >= 1


@pytest.mark.parametrize("wrong, says", [
    (lambda t: FSD(n=0), "n must be"),
    (lambda t: VectorFSD(n=1), "n must be"),
    (lambda t: DoLa(unembed=t.unembed), "layers"),
    (lambda t: DoLa(layers=(1,)), "unembed"),
    (lambda t: DoLa(unembed=t.unembed, layers=(1,), relative=2), "relative must be"),
    (lambda t: ContrastiveSearch(t, k=0), "k=0"),
    (lambda t: ContrastiveSearch(t, alpha=2), "alpha=2"),
])
def test_numbers_that_mean_nothing(wrong, says):
    with pytest.raises(ValueError, match=says): wrong(as_target(MODELS["own"]))


def test_a_search_that_has_chosen_hears_no_penalty():
    "A target whose rows are choices refuses what would come too late, by name; stops and seeds are no penalties"
    search, ids = ContrastiveSearch(MODELS["gpt2"], k=4), torch.tensor([[5, 9, 7, 9, 5]])
    for late in (dict(repetition_penalty=1.3), dict(no_repeat_ngram_size=2), dict(suppress_tokens=[7]), dict(min_new_tokens=4, eos_token_id=7)):
        with pytest.raises(ValueError, match="ContrastiveSearch has chosen before"): generate(search, ids, max_new_tokens=6, do_sample=False, **late)
    plain = generate(search, ids, max_new_tokens=9, do_sample=False)
    ended = generate(search, ids, max_new_tokens=9, do_sample=True, seed=1, eos_token_id=plain[0, 7].item())
    assert ended[0].tolist() == plain[0, :len(ended[0])].tolist() and len(ended[0]) <= 8


def test_generate_takes_laws_and_targets():
    model, ids = MODELS["gpt2"], torch.tensor([[5, 9, 7, 9, 5]])
    for law in (Mirostat(surprise=2.), Truncated(eta=.1), FSD(), VectorFSD(layer=3)):
        texts = [generate(model, ids, law=law, drafter=d(), seed=3, max_new_tokens=16) for d in (lambda: "none", *DRAFTERS.values())]
        assert all(torch.equal(t, texts[0]) for t in texts)
        assert texts[0][0, 5:].tolist() == Trace(decode(model, "none", ids[0].tolist(), limit=16, law=law, rng=Keyed(3))).tokens
    rows = generate(model, [[5, 9, 7], [3], [8, 8]], law=FSD(), drafter="lookup", max_new_tokens=9)
    assert rows[1][-9:].tolist() == generate(model, [[3]], law=FSD(), drafter="none", max_new_tokens=9)[0, 1:].tolist()
    banned = generate(model, ids, law=FSD(), suppress_tokens=[1, 2, 3], max_new_tokens=24)[0, 5:].tolist()
    assert not {1, 2, 3} & {*banned}
    inside = model.generate(ids, custom_generate=generate, law=FSD(), drafter="lookup", max_new_tokens=12, do_sample=False)
    assert torch.equal(inside, generate(model, ids, law=FSD(), max_new_tokens=12))
    for wrong in (dict(temperature=.5), dict(do_sample=True), dict(top_k=4), dict(typical_p=.5), dict(output_scores=True, return_dict_in_generate=True), dict(num_return_sequences=2)):
        with pytest.raises(ValueError, match="law="): generate(model, ids, law=FSD(), max_new_tokens=4, **wrong)
    with pytest.raises(TypeError, match="must be a Law"): generate(model, ids, law="mirostat", max_new_tokens=4)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="typical"): Truncated(typical=2)
    search = ContrastiveSearch(MODELS["own"])
    [scores] = search.score([(search.open([5, 9]), Draft.merge([[1], [2], [3]])[0])])
    with pytest.raises(ValueError, match="walk or rejection"): [scores.row(i) for i in (1, 2, 3)]
    assert np.isclose(sum(Truncated(typical=.5).row(None, type("S", (), {"row": lambda self, i: np.zeros(4)})(), 0)), 1)
