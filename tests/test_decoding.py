"Part VIII: every way to decode has one text, whoever drafts, on every kind of model; and the ways to get it wrong are seen."
import json
import re
from fractions import Fraction as F

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, BloomConfig, GPT2Config, LlamaConfig, Qwen2Config
from transformers.generation import EpsilonLogitsWarper, EtaLogitsWarper, TypicalLogitsWarper

from conftest import ROOT
from drafters import Sampled, Wild
from specdec_nb import Draft, Keyed, Law, Llama, TableLM, Trace, exact_law, generate
from specdec_nb.lm import weather
from specdec_nb.decode import Request, decode, serve
from specdec_nb.stops import Stop
from specdec_nb.decoding.beams import Beams, BeamSearch, beam_search
from specdec_nb.decoding.samples import best_of, samples
from specdec_nb.decoding.contrastive import Contrastive, contrasted
from specdec_nb.decoding.grammars import Automaton, Constrained, Forced, GrammarProcessor, Guidance, _pruned
from specdec_nb.decoding.hidden import ContrastiveSearch, DoLa, VectorFSD
from specdec_nb.decoding.methods import FSD, Mirostat, Truncated, keep_above, keep_eta, keep_typical, zipf_cut
from specdec_nb.decoding.sed import Chaos, sed
from specdec_nb.models.hub import load_hf
from specdec_nb.roles import Drafter, as_target
from specdec_nb.sampling import NoMass, NoRepeatNgram, RepetitionPenalty, softmax

SIZES = dict(vocab_size=48, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
             max_position_embeddings=128, initializer_range=.4, bos_token_id=None, eos_token_id=None)


def small(kind, seed=0):
    torch.manual_seed(seed)
    config = {"gpt2": lambda: GPT2Config(vocab_size=48, n_embd=32, n_layer=3, n_head=4, n_positions=128, initializer_range=.4, bos_token_id=None, eos_token_id=None),
              "chains": lambda: BloomConfig(vocab_size=48, hidden_size=32, n_layer=3, n_head=4, initializer_range=.4, bos_token_id=None, eos_token_id=None),
              "sliding": lambda: Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=6, max_window_layers=1)}
    model = AutoModelForCausalLM.from_config(config.get(kind, lambda: LlamaConfig(**SIZES))()).double().eval()
    return Llama.from_hf(model) if kind == "own" else model


MODELS = {kind: small(kind) for kind in ("own", "gpt2", "sliding")}
DRAFTERS = {"lookup": lambda: "lookup", "recycling": lambda: "recycling", "auto": lambda: "auto", "wild": lambda: Wild(3)}
LAWS = {"typical": lambda t: Truncated(typical=.7), "epsilon": lambda t: Truncated(epsilon=.02, top_k=20), "eta": lambda t: Truncated(eta=.1),
        "mirostat": lambda t: Mirostat(surprise=1.5), "mirostat, penalised": lambda t: Mirostat(surprise=2., processors=(RepetitionPenalty(1.2), NoRepeatNgram(2))),
        "fsd": lambda t: FSD(), "fsd, n = 4": lambda t: FSD(n=4, k=8, alpha=.3), "vectors": lambda t: VectorFSD(layer=3), "vectors, n = 3": lambda t: VectorFSD(layer=2, n=3, k=9),
        "dola": lambda t: DoLa(temperature=0, unembed=t.unembed, layers=(1, 2), processors=(RepetitionPenalty(1.2),)),
        "dola, sampled": lambda t: DoLa(unembed=t.unembed, layers=(0, 2), top_p=.9)}


def told(model, law, drafter, begin=(5, 9, 7, 9, 5), n=24, seed=1, **settings):
    return Trace(decode(model, drafter, begin, limit=n, law=law, rng=Keyed(seed), **settings)).tokens


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


def along(model, law, begin, words):
    "The law's rows along a text, and the target's, each with the word that followed"
    target = as_target(model)
    state = target.open(begin, law.asks)
    while state.unread: target.score([(state, None)])
    [scores] = target.score([(state, Draft.chain(words))])
    s = law.read(law.start(begin), state)
    for i, word in enumerate(words):
        yield np.asarray(law.row(s, scores, i), float), softmax(scores.row(i)), word
        s = law.step(s, word, scores, i)


@pytest.mark.parametrize("surprise, rate", [(1.2, 1.), (3., .4)])
def test_mirostat_is_the_papers(surprise, rate):
    "Algorithm 1 word by word: k of the paper's formula, the surprise of a word before truncation"
    model, begin, law, mu = MODELS["gpt2"], [5, 9, 7, 9, 5], Mirostat(surprise=surprise, rate=rate), 2 * surprise
    cut = 0
    for got, p, word in along(model, law, begin, told(model, law, "none", begin, 30)):
        top = np.sort(p)[::-1]
        t, b = np.log(np.arange(2, 49) / np.arange(1, 48)), np.log(top[:-1] / top[1:])
        s = (t * b).sum() / (t * t).sum()
        k = max(1, min(48, round((((s - 1) * 2 ** mu) / (1 - 48 ** (1 - s))) ** (1 / s))))
        kept = np.where(p >= top[k - 1], p, 0)
        assert np.allclose(got, kept / kept.sum())
        mu, cut = mu - rate * (-np.log2(p[word]) - surprise), cut + (k < 48)
    assert cut > 5, "the bar does something"


def test_fsd_is_the_definition():
    model, begin, law = MODELS["gpt2"], [5, 9, 7, 9, 5, 9, 7], FSD(alpha=.5, n=3)
    words = told(model, law, "none", begin, 24)
    for i, (got, p, _) in enumerate(along(model, law, begin, words)):
        text = [*begin, *words[:i]]
        def share(x, order):
            seen = [text[j + order - 1] for j in range(len(text) - order + 1) if text[j:j + order - 1] == text[len(text) - order + 1:]]
            return seen.count(x) / (len(seen) + (order > 1))
        value = {int(x): .5 * p[x] - .5 * (.9 * share(x, 3) + .09 * share(x, 2) + .01 * share(x, 1)) for x in np.argsort(-p)[:5]}
        assert int(got.argmax()) == max(value, key=value.get)


def test_dola_is_the_definition():
    model, begin = MODELS["gpt2"], [5, 9, 7, 9, 5]
    head, layers, law = as_target(model).unembed, (1, 2), DoLa(unembed=as_target(model).unembed, layers=(1, 2), relative=.2)
    words, chosen = told(model, law, "none", begin, 16), set()
    with torch.no_grad(): hidden = model(torch.tensor([[*begin, *words]]), output_hidden_states=True).hidden_states
    for i, (got, p, _) in enumerate(along(model, law, begin, words)):
        early = {n: (hidden[n][0, len(begin) - 1 + i] @ head.T).softmax(-1).detach().numpy() for n in layers}
        apart = {n: sum((x * np.log(x / ((p + q) / 2))).sum() for x in (p, q)) for n, q in early.items()}
        chosen.add(n := max(apart, key=apart.get))
        ratio = np.where(p >= .2 * p.max(), p / early[n], 0)
        assert np.allclose(got, ratio / ratio.sum())
    assert chosen == {*layers}, "each disagrees most somewhere"


@pytest.mark.parametrize("theirs, ours", [(TypicalLogitsWarper, keep_typical), (EpsilonLogitsWarper, keep_above), (EtaLogitsWarper, keep_eta)])
@pytest.mark.parametrize("x", [1e-6, .01, .2, .7, .999])
def test_filters_are_the_librarys(theirs, ours, x):
    rows = torch.randn(40, 48, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * torch.linspace(.1, 4, 40)[:, None]
    warped = theirs(x)(None, rows.clone()).softmax(-1).numpy()
    assert all(np.allclose(ours(softmax(z), x), w) for z, w in zip(rows.numpy(), warped))


@pytest.mark.parametrize("alpha", [F(101, 1000), F(499, 1000), F(907, 1000)])
def test_plausible_is_what_the_expert_finds(alpha):
    "In logits and in fractions: what the expert finds improbable has no mass, whatever the amateur says"
    gen, masked = np.random.default_rng(0), 0
    for _ in range(20):
        p, q = (np.array([F(int(w), int(ws.sum())) for w in ws], dtype=object) for ws in gen.integers(1, 30, (2, 7)))
        exact, logits = contrasted(p, q, alpha, (2, 1)), contrasted(np.log(p.astype(float)), np.log(q.astype(float)), float(alpha), (2, 1))
        assert np.allclose(softmax(logits), exact.astype(float)) and [x > 0 for x in exact] == [x >= alpha * max(p) for x in p]
        masked += [x >= alpha * max(p) for x in p] != [x >= alpha * max(q) for x in q]
    assert masked > 5, "the amateur's mask is another"


def test_drawn_guesses_stay_where_a_grammar_forbids_them():
    "By enumeration: a drawn node that is dropped for its own token biases"
    clever, crude = weather()
    rule = Automaton({(0, 0): 0, (0, 1): 1, (1, 0): 0, (1, 2): 2, (2, 0): 0}, 3)
    law_of = lambda drafter: exact_law(lambda rng: tuple(Trace(decode(clever, drafter, [0], limit=3, law=Constrained(grammar=rule), rng=rng, rule="rejection")).tokens))
    assert law_of(Forced(Sampled(crude, (1, 1)))) == law_of("none")
    dropped = exact_law(lambda rng: _pruned(Draft.chain([rng.at(0, "draft").categorical(crude.p([0]))], [crude.p([0])]), rule, 0).tokens)
    assert dropped == {(x,): w for x, w in enumerate(crude.p([0])) if w}


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


@pytest.mark.parametrize("kind", MODELS)
def test_the_best_of_many(kind):
    "Ranked by what the model thinks of each text by itself, not by the law that was sampled from; or as a judge says; whoever drafts"
    model, begin, law = MODELS[kind], [5, 9, 7, 9, 5], Law(temperature=.5, top_k=9)
    ranked = {d: best_of(model, begin, 5, Stop(9, frozenset({7})), law=law, seed=2, drafter=d) for d in ("none", "siblings", "lookup")}
    assert all([t.tokens for _, t in r] == [t.tokens for _, t in ranked["none"]] for r in ranked.values())
    def opinion(tokens):
        target = as_target(model)
        rows = target.score([(target.open(begin), Draft.chain(tokens))])[0].rows[:-1].double().log_softmax(-1)
        return float(rows.gather(-1, torch.tensor(tokens)[:, None]).mean())
    marks = [mark for mark, _ in ranked["siblings"]]
    assert np.allclose(marks, [opinion(t.tokens) for _, t in ranked["siblings"]], atol=1e-4) and marks == sorted(marks, reverse=True) and marks[0] > marks[-1]
    judged = best_of(model, begin, 5, Stop(9, frozenset({7})), lambda tokens: -len(tokens) - tokens[0] / 100, law=law, seed=2)
    assert [len(t.tokens) for _, t in judged] == sorted(len(t.tokens) for _, t in judged)


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


@pytest.mark.parametrize("composed", [lambda: Contrastive(MODELS["gpt2"], small("own", 5), beta=.7), lambda: ContrastiveSearch(MODELS["gpt2"], k=4)], ids=["contrastive", "search"])
def test_samples_of_targets_of_two_parts(composed):
    "A copy of a state is the whole target's: both of its models are asked"
    target, law = composed(), Law(.9)
    for begin in ([5, 9, 7, 9, 5], [3]):
        wanted = [Trace(decode(target, "none", begin, limit=10, law=law, rng=Keyed(4, i))).tokens for i in range(3)]
        assert all([t.tokens for t in samples(target, begin, 3, Stop(10), law, d, seed=4)] == wanted for d in ("none", "siblings", "lookup"))


def test_beams_and_searches_of_two_models():
    "Li et al. search their difference with beams; whoever has rows can be searched"
    pair, begin = Contrastive(MODELS["gpt2"], small("own", 5), beta=.7), [5, 9, 7, 9, 5]
    rows = lambda words: softmax(pair.score([(pair.open([*begin, *words]), Draft())])[0].row(0))
    groups, search, stop = BeamSearch(3).start(), BeamSearch(3), Stop(7, frozenset({7, 21}))
    def logs(words):
        with np.errstate(divide="ignore"): return np.log(rows(words))
    while not groups[0].done: groups = search.step(groups, logs, stop)
    for drafter in ("none", *(d() for d in DRAFTERS.values()), Wild(2, truth=[*begin, *groups[0].finished[0][1]])):
        assert [t for _, t in beam_search(pair, begin, 7, {7, 21}, drafter, width=3).texts] == [t for _, t in groups[0].finished]
    searched = ContrastiveSearch(pair, k=3)
    plain = told(searched, Law(temperature=0), "none", n=8)
    assert plain != told(ContrastiveSearch(MODELS["gpt2"], k=3), Law(temperature=0), "none", n=8)
    assert all(told(searched, Law(temperature=0), d(), n=8) == plain for d in DRAFTERS.values())


class Chain:
    "Self-evaluation decoding, word by word; its judge: how probable word 7 is after the answer"
    def __init__(self, model, stop, k, branchings, chaos, least): self.target, self.stop, self.k, self.branchings, self.chaos, self.least = as_target(model), stop, k, branchings, chaos, least
    def p(self, words): return softmax(self.target.score([(self.target.open(words), Draft())])[0].row(0))
    def judge(self, begin, answers): return [self.p([*begin, *a])[7] for a in answers]
    def greedy(self, begin, new):
        while not (new and self.stop.why(new[-1], len(new), None)): new = (*new, int(self.p([*begin, *new]).argmax()))
        return new
    def write(self, begin):
        new, used = (), 0
        while not (new and self.stop.why(new[-1], len(new), None)):
            p = self.p([*begin, *new])
            order = np.argsort(-p, kind="stable").tolist()
            word = order[0]
            if used < self.branchings and self.chaos(p):
                worth = self.judge(begin, [self.greedy(begin, (*new, c)) for c in order[:self.k]])
                best = int(np.argmax([.8 * e + (1 - .8) * p[c] for e, c in zip(worth, order)]))
                word, used = order[self.k] if max(worth) < self.least else order[best], used + 1
            new = (*new, word)
        return new


@pytest.mark.parametrize("kind", ["own", "gpt2", "chains"])
@pytest.mark.parametrize("settings", [dict(k=2, branchings=3, chaos=Chaos(), least=1e-3), dict(k=3, branchings=2, chaos=Chaos(entropy=1.), least=.03)])
def test_self_evaluation(kind, settings):
    model, stop = MODELS[kind] if kind in MODELS else small(kind), Stop(10, frozenset({21, 30}))
    assert as_target(model).branches == (kind != "chains"), "who takes no trees can be asked all the same"
    plain = Chain(model, stop, **settings)
    for begin in ([5, 9, 7, 9, 5], [3]):
        wanted = plain.write(begin)
        for drafter in ("none", "recycling", Wild(1)):
            assert sed(model, begin, lambda answers: plain.judge(begin, answers), stop, drafter=drafter, **settings).tokens == wanted


@pytest.mark.parametrize("kind, likelihood", [("own", False), ("gpt2", True)])
def test_contrastive_decoding(kind, likelihood):
    both = Contrastive(MODELS[kind], small("own", 5), beta=.7, likelihood=likelihood)
    for law in (Law(temperature=0), Mirostat(surprise=2.)):
        plain = told(both, law, "none", n=14)
        assert all(told(both, law, d, n=14) == plain for d in ("amateur", "amateur:tree=5:k=3", *(d() for d in DRAFTERS.values())))
        assert told(both, law, Wild(0, truth=[5, 9, 7, 9, 5, *plain]), n=14) == plain
        assert plain != told(MODELS[kind], law, "none", n=14)


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
    (lambda t: FSD(k=0), "k must be"), (lambda t: FSD(alpha=2), "alpha must be"), (lambda t: FSD(alpha=-.1), "alpha must be"), (lambda t: FSD(n=0), "n must be"), (lambda t: FSD(beta=1.1), "beta must be"),
    (lambda t: VectorFSD(n=1), "n must be"), (lambda t: Mirostat(surprise=-1), "surprise must be"), (lambda t: Mirostat(surprise=np.nan), "surprise must be"), (lambda t: Mirostat(rate=-1), "rate must be"),
    (lambda t: DoLa(unembed=t.unembed), "layers"), (lambda t: DoLa(layers=(1,)), "unembed"), (lambda t: DoLa(unembed=t.unembed, layers=(1,), relative=2), "relative must be"),
    (lambda t: Truncated(epsilon=-.1), "epsilon must be"), (lambda t: Truncated(eta=2, top_p=.5), "eta must be"), (lambda t: FSD(temperature=-1), "temperature must be"),
    (lambda t: beam_search(t, [5], 3, early="sometimes"), "early must be"), (lambda t: beam_search(ContrastiveSearch(t), [5], 3), "branches of a tree"),
    (lambda t: sed(t, [5], lambda a: [.5], Stop(4), k=3, chaos=Chaos(ratio=0.)), "of each"), (lambda t: sed(t, [5], lambda a: [np.nan] * len(a), Stop(4), chaos=Chaos(ratio=0.)), "of each"),
    (lambda t: sed(t, [5], lambda a: [.5] * len(a), Stop(4), k=48), "48 words"),
    (lambda t: ContrastiveSearch(t, k=0), "k=0"), (lambda t: ContrastiveSearch(t, alpha=2), "alpha=2"), (lambda t: Contrastive(t, t, alpha=2), "alpha"), (lambda t: Contrastive(t, t, beta=-1), "beta")])
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


def scribe(tokenizer, rows=0, seed=1):
    "A small random model over a tokenizer's words, and some rows more"
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(GPT2Config(vocab_size=len(tokenizer) + rows, n_embd=16, n_layer=1, n_head=2, n_positions=128, initializer_range=.5,
                                                       bos_token_id=None, eos_token_id=tokenizer.eos_token_id)).double().eval()


def test_grammars_hold_whoever_drafts():
    pytest.importorskip("llguidance")
    _, tokenizer = load_hf()
    model = scribe(tokenizer)
    schema = {"type": "array", "items": {"type": "object", "properties": {"id": {"type": "integer", "minimum": 0, "maximum": 9}, "ok": {"type": "boolean"}}, "required": ["id", "ok"]},
              "minItems": 1, "maxItems": 2}
    for grammar, valid in ((Guidance(tokenizer, schema), lambda t: all({*x} >= {"id", "ok"} for x in json.loads(t))),
                           (Guidance(tokenizer, regex="(ab|c)+d{2,3}[0-9]"), lambda t: re.fullmatch("(ab|c)+d{2,3}[0-9]", t))):
        for seed in range(2):
            run = dict(law=Constrained(temperature=.3 + seed, grammar=grammar), seed=seed, max_new_tokens=100, pad_token_id=0)
            texts = [generate(model, torch.tensor([[3, 14]]), drafter=d, **run)[0, 2:].tolist() for d in ("none", "grammar", "grammar:drafter=recycling", "auto", Wild(seed))]
            assert all(t == texts[0] for t in texts)
            if texts[0][-1] == tokenizer.eos_token_id: assert valid(tokenizer.decode(texts[0], skip_special_tokens=True))
        ahead = [generate(model, torch.tensor([[3, 14]]), drafter=Wild(0), rule=rule, **run)[0, 2:].tolist() for rule in ("walk", "traversal", "block")]
        assert all(valid(tokenizer.decode(t, skip_special_tokens=True)) for t in ahead if t[-1] == tokenizer.eos_token_id)


def test_grammars_in_a_batch():
    "Rows of unequal length, as law and as processor, greedily and several samples of one prompt; each row finds its own place"
    pytest.importorskip("llguidance")
    _, tokenizer = load_hf()
    model, grammar = scribe(tokenizer), Guidance(tokenizer, {"type": "object", "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 99}}, "required": ["n"], "additionalProperties": False})
    ids = torch.tensor([[0, 0, 5, 6, 7], [9, 8, 7, 6, 5], [0, 11, 12, 13, 14]])
    call, made = dict(attention_mask=(ids != 0).long(), max_new_tokens=16, pad_token_id=0), lambda: dict(logits_processor=[GrammarProcessor(grammar, 5)])
    plain = model.generate(ids, do_sample=False, **made(), **call)
    assert all("n" in json.loads(tokenizer.decode(row[5:], skip_special_tokens=True)) for row in plain)
    for drafter in ("none", "lookup", "grammar", Wild(1, plain[1].tolist())):
        assert torch.equal(generate(model, ids, do_sample=False, drafter=drafter, **made(), **call), plain)
        assert torch.equal(generate(model, ids, law=Constrained(temperature=0, grammar=grammar), drafter=drafter, **call), plain)
    three = [generate(model, ids[1:2], do_sample=True, num_return_sequences=3, seed=2, drafter=d, max_new_tokens=16, pad_token_id=0, **made()) for d in ("none", Wild(2))]
    assert torch.equal(*three) and len({*map(tuple, three[0].tolist())}) > 1


def test_a_matcher_that_moves_with_guesses_is_seen():
    pytest.importorskip("llguidance")
    _, tokenizer = load_hf()
    model, begin = scribe(tokenizer), torch.tensor([[3, 14]])
    grammar = Guidance(tokenizer, regex="(ab|c)+d{2,3}[0-9]")
    class Early(Constrained):
        "One matcher for the request, advanced on every word that a mask is asked behind"
        here = {}
        def start(self, prompt): self.here[0] = self.grammar.start(); return None, None
        def step(self, s, token, scores=None, i=0): self.here[0] = self.grammar.step(self.here[0], token); return s
        def row(self, s, scores, i): return super().row((None, self.here[0]), scores, i)
    def told(law, drafter): return generate(model, begin, law=law, drafter=drafter, seed=5, max_new_tokens=24, pad_token_id=0)[0, 2:].tolist()
    plain = told(Constrained(grammar=grammar), "none")
    wild = lambda: Wild(0, truth=[3, 14, *plain[:4], 7, 7])                # right for a while
    assert told(Constrained(grammar=grammar), wild()) == plain
    assert told(Early(grammar=grammar), "none") == plain != told(Early(grammar=grammar), wild())


def test_a_grammar_that_cannot_be_kept_is_refused(monkeypatch):
    pytest.importorskip("llguidance")
    _, tokenizer = load_hf()
    for wrong, says in ((dict(schema={"type": "strin"}), "strin"), (dict(schema={"type": "array", "uniqueItems": True}), "uniqueItems"), (dict(schema={"not": {}}), "not"),
                        (dict(schema="no json"), "cannot be compiled"), (dict(schema={"enum": {1, 2}}), "cannot be compiled"), (dict(schema=[1]), "cannot be compiled"),
                        (dict(regex="("), "unclosed"), (dict(regex=3), "cannot be compiled"), (dict(regex=r"a[^\s\S]"), "no text fits"), (dict(lark="x"), "cannot be compiled"),
                        (dict(regex="a", vocab_size=10), "vocab"), (dict(regex="a", eos=-1), "eos"), (dict(), "one of"), (dict(regex="a", schema={}), "one of")):
        with pytest.raises(ValueError, match=says): Guidance(tokenizer, **wrong)
    assert Guidance(tokenizer, regex="").start().allowed.sum() == 1         # an empty text is a text
    monkeypatch.setitem(__import__("sys").modules, "llguidance", None)
    with pytest.raises(ImportError, match="specdec_nb.grammar"): Guidance(tokenizer, regex="a")


def test_where_a_grammar_leads_nowhere_nothing_is_said():
    "Neither a word that it forbids nor an early end, whoever drafts; a guess that leads there is no fault"
    pytest.importorskip("llguidance")
    _, tokenizer = load_hf()
    model, begin = scribe(tokenizer), torch.tensor([[3, 14]])
    endless = Guidance(tokenizer, lark='start: "a" start')
    for temperature in (0, 1):
        for drafter in ("none", "grammar", "lookup", Wild(1)):
            with pytest.raises(NoMass, match="grammar"): generate(model, begin, law=Constrained(temperature, grammar=endless), drafter=drafter, max_new_tokens=9)
    with pytest.raises(NoMass, match="grammar"):
        model.generate(begin, logits_processor=[GrammarProcessor(endless, 2)], max_new_tokens=9, pad_token_id=0, do_sample=False)


@pytest.mark.parametrize("rows", [7, 64])
def test_a_model_with_more_rows_than_words(rows):
    "As many have, padded: none of them is a word, and a drafter may guess them"
    pytest.importorskip("llguidance")
    _, tokenizer = load_hf()
    model, begin, words = scribe(tokenizer, rows), torch.tensor([[3, 14]]), len(tokenizer)
    grammar, end = Guidance(tokenizer, regex="(ab|c){2,5}d[0-9]"), dict(max_new_tokens=24, pad_token_id=0)
    class Beyond(Drafter):
        def propose(self, ctx, rng): return Draft.merge([[words, 5], [*ctx.tokens[-2:]]])[0]
    plain = generate(model, begin, law=Constrained(temperature=0, grammar=grammar), drafter="none", **end)
    for drafter in ("grammar", Beyond(), Forced(Beyond()), "recycling"):
        assert torch.equal(generate(model, begin, law=Constrained(temperature=0, grammar=grammar), drafter=drafter, **end), plain)
    assert torch.equal(model.generate(begin, do_sample=False, logits_processor=[GrammarProcessor(grammar, 2)], **end), plain)
    assert re.fullmatch("(ab|c){2,5}d[0-9]", tokenizer.decode(plain[0, 2:], skip_special_tokens=True))


def test_what_was_measured_of_all_ways():
    "Every text with guesses was the plain one; and the tool counts what it says"
    import ways as tool
    report = json.loads((ROOT/"results/ways.json").read_text())
    assert all(r["identical"] == r["n"] == len(tool.TASKS) for r in report["rows"]) and all(r["asked"] == len(tool.QUESTIONS) for r in report["records"])
    named = {r["way"] for r in report["rows"]}
    assert named == {r["way"] for r in report["records"]} and all({"none", *tool.DRAFTERS} <= {r["drafter"] for r in report["rows"] if r["way"] == way} for way in named)
    for part in ("greedy", "temperature", "top-k", "top-p", "min-p", "typical", "ε", "η", "Mirostat", "repetition", "FSD", "vector FSD", "DoLa", "contrastive search", "contrastive decoding", "beams", "diverse beams", "best of", "self-evaluation"):
        assert any(way.startswith(part) for way in named), part
    assert tool.right("It's 7.", "7|seven") and tool.right("Seven!", "7|seven") and not tool.right("17", "7|seven")
    counted = tool.Counting(MODELS["own"])
    told(counted, Law(temperature=0), Wild(0), n=4)
    assert counted.calls <= 4 < counted.rows


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


def test_a_law_that_moves_with_guesses_is_seen():
    class Leaky(Mirostat):
        mu = {}
        def start(self, prompt): self.mu[0] = 2 * self.surprise; return super().start(prompt)
        def step(self, s, token, scores=None, i=0):
            s = super().step((s[0], self.mu[0]), token, scores, i)
            self.mu[0] = s[1]
            return s
        def row(self, s, scores, i): return super().row((s[0], self.mu[0]), scores, i)
    law, model = Leaky(surprise=1.5), MODELS["own"]
    plain = told(model, law, "none", n=40)
    assert plain == told(model, Mirostat(surprise=1.5), "none", n=40)
    assert told(model, law, Wild(0, truth=[5, 9, 7, 9, 5, *plain]), n=40) != plain


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="typical"): Truncated(typical=2)
    search = ContrastiveSearch(MODELS["own"])
    [scores] = search.score([(search.open([5, 9]), Draft.merge([[1], [2], [3]])[0])])
    with pytest.raises(ValueError, match="walk or rejection"): [scores.row(i) for i in (1, 2, 3)]
    assert np.isclose(sum(Truncated(typical=.5).row(None, type("S", (), {"row": lambda self, i: np.zeros(4)})(), 0)), 1)


def test_beams_want_a_stop():
    with pytest.raises(TypeError, match=r"stop=Stop\(limit\)"): Beams(TableLM({(): [1, 1]}), "none", [0])
