"""Token graphs: exact when unrolled, acyclic, no path twice, and the published defects."""
import numpy as np
import pytest
import torch
import transformers as hf

from specdec_nb import Draft, Keyed, Law, Llama, TableLM, Trace, generate, exact_law as law, verify_rejection, verify_walk
from specdec_nb.roles import as_target, make_drafter
from specdec_nb.decode import decode
from specdec_nb.drafters.model import ModelDrafter, shipped
from specdec_nb.trees.dag import GraphDrafter, TokenGraph, merged_rows, verify_longest

PROMPT = torch.tensor([[3, 14, 15, 9, 26, 5, 7, 33]])


def build(seed=0, layers=2, **changes):
    torch.manual_seed(seed)
    sizes = dict(vocab_size=48, hidden_size=32, intermediate_size=64, num_hidden_layers=layers, num_attention_heads=4, num_key_value_heads=2,
                 max_position_embeddings=128, initializer_range=.5, bos_token_id=None, eos_token_id=None, pad_token_id=None)
    return hf.AutoModelForCausalLM.from_config(hf.LlamaConfig(**{**sizes, **changes})).to(torch.float64).eval()


def near(model, noise=.03):
    torch.manual_seed(5)
    twin = type(model)(model.config).to(torch.float64).eval()
    twin.load_state_dict(model.state_dict())
    with torch.no_grad():
        for w in twin.parameters(): w.add_(torch.randn_like(w) * noise * w.std().nan_to_num(1))
    return twin


@pytest.fixture(scope="module")
def model(): return build()


def texts(model, drafter, n, **settings):
    return law(lambda rng: tuple(Trace(decode(model, drafter, [0], limit=n, rng=rng, **settings)).tokens))


def random_graph(seed, repeat, vocab=4, width=3, levels=5):
    gen, graph = np.random.default_rng(seed), TokenGraph([0, 1, 2], repeat)
    level = [-1]
    for _ in range(levels):
        below = [graph.add(u, int(x), gen.uniform(.2, .5)) for u in level for x in gen.choice(vocab, width, replace=False)]
        level = [u for u in below if u is not None][:6]
    return graph


# -- the graph

@pytest.mark.parametrize("repeat", [-1, 0, 1, 2])
def test_no_cycles_no_path_twice_exactly_the_budget(repeat):
    merged = 0
    for seed in range(30):
        graph = random_graph(seed, repeat)
        merged += graph.merged
        assert not any(graph.reaches(w, u) for u, out in graph.edges.items() for w, _, _ in out.values()), "an edge back"
        everything, values = graph.unroll(3000)
        paths = [tuple(everything.tokens[j] for j in everything.path(i)) for i in range(len(everything))]
        assert len(set(paths)) == len(paths) and list(values) == sorted(values, reverse=True)
        assert Draft.merge(paths)[0].tokens == everything.tokens, "already a trie"
        for n in (1, 7, 20):
            best, v = graph.unroll(n)
            assert len(best) == min(n, len(everything)) and v == values[:len(best)]
        assert graph.unroll(0)[0] == Draft() and max(graph.unroll(99, depth=2)[0].depth) <= 2
    assert (merged > 0) == (repeat >= 0)


def test_two_branches_that_lead_into_each_other():
    "The published graph excludes only ancestors: 1 2 | 2 1 then chase each other for ever"
    graph = TokenGraph([0], repeat=0)
    a, b = graph.add(-1, 1, .5), graph.add(-1, 2, .5)
    assert graph.add(a, 2, .5) is None
    assert graph.add(b, 1, .5) == 2 and len(graph.unroll(1000)[0]) == 5
    class Ancestors(TokenGraph):
        def reaches(self, w, u):
            while u >= 0 and u != w: u = self.parents[u]
            return u == w
    graph = Ancestors([0], repeat=0)
    a, b = graph.add(-1, 1, .5), graph.add(-1, 2, .5)
    assert graph.add(a, 2, .5) is None and graph.add(b, 1, .5) is None and len(graph.unroll(1000)[0]) == 1000


def test_several_continuations_are_kept():
    graph = TokenGraph([0], repeat=0)
    a, *_ = (graph.add(-1, x, .25) for x in (1, 2, 3, 4))
    assert [graph.add(a, x, .3) for x in (2, 3, 4)] == [None] * 3 and len(graph.edges[a]) == 3
    with pytest.raises(ValueError, match="token 2 already"): graph.add(a, 2, .3)


def test_runs_begin_before_the_root():
    graph = TokenGraph([7, 8, 9], repeat=2)
    a = graph.add(-1, 8, .5)
    b = graph.add(a, 9, .5)
    other = graph.add(-1, 5, .5)
    assert graph.add(b, 8, .5) is not None, "9 8 after 8, and 9 8 after 8 9: the run is 8 9 8 here and 8 9 8 there, but the way leads back"
    assert graph.add(other, 8, .5) is not None and graph.merged == 0


def test_an_edge_to_an_old_node_is_damped():
    graph = TokenGraph([0], repeat=0)
    a, _ = graph.add(-1, 1, .5), graph.add(-1, 2, .4)
    graph.add(a, 2, 1.)
    draft, values = graph.unroll(9, damp=.5)
    assert dict(zip([tuple(draft.tokens[j] for j in draft.path(i)) for i in range(3)], values)) == {(1,): .5, (2,): .4, (1, 2): .25}


def test_only_runs_that_match_are_looked_at():
    "One look into a dictionary a candidate: a search through the nodes would ask of each of them whether a path leads back"
    asked = []
    class Counting(TokenGraph):
        def reaches(self, w, u): return asked.append(w) or super().reaches(w, u)
    graph, u = Counting([0], repeat=0), -1
    for i in range(1, 1001): u = graph.add(u, i, .9)
    assert not asked and graph.add(-1, 500, .5) is None and asked == [499]


def test_free_meetings():
    crude = TableLM.random(3, 1, 4)
    def grown(repeat):
        graph, level = TokenGraph([0], repeat), [(-1, (0,))]
        for _ in range(4):
            below = [(graph.add(u, x, q), path + (x,)) for u, path in level for x, q in enumerate(crude.p(path)) if q]
            level = [(u, path) for u, path in below if u is not None]
        return graph
    tree, met = grown(-1), grown(0)
    assert met.unroll(500, depth=4) == tree.unroll(500, depth=4) and len(met.tokens) < len(tree.tokens) / 2


# -- exact, and the modes that are not

@pytest.mark.parametrize("repeat", [-1, 0, 1])
@pytest.mark.parametrize("rule", ["walk", "rejection"])
def test_exact(repeat, rule):
    for seed in range(2):
        target, crude = TableLM.random(3, 2, seed), TableLM.random(3, 1, seed + 50)
        for options in (dict(k=2, tree=6, width=2), dict(k=3, tree=5, width=3, sibling=0., damp=1)):
            assert texts(target, GraphDrafter(crude, repeat=repeat, **options), 3, rule=rule) == target.law([0], 3)


def test_lossy_modes_are_caught_and_marked():
    target, crude = TableLM({(): [2, 1, 1], (0, 1): [1, 1, 4], (1, 1): [4, 1, 1], (2, 1): [1, 4, 1]}), TableLM({(): [1, 1, 1]})
    drafter = GraphDrafter(crude, k=2, tree=12, width=3, repeat=0)
    assert texts(target, drafter, 3, rule=merged_rows(0)) != target.law([0], 3)
    small = GraphDrafter(crude, k=2, tree=4, width=2, repeat=0)
    assert texts(target, small, 2, rule=verify_longest) != target.law([0], 2)
    for rule in (merged_rows(0), verify_longest):
        trace = Trace(decode(target, drafter, [0], limit=4, rule=rule, rng=Keyed(0)))
        assert trace.lossy and "LOSSY" in repr(trace)
    for rule in (verify_walk, verify_rejection): assert not Trace(decode(target, drafter, [0], limit=4, rule=rule, rng=Keyed(0))).lossy
    greedy = [Trace(decode(target, drafter, [0], limit=9, law=Law(temperature=0), rule=r)).tokens for r in (verify_longest, "walk")]
    assert greedy[0] == greedy[1], "the published mode is exact where the law is a point"


@pytest.mark.parametrize("runtime", ["hf", "own"])
@pytest.mark.filterwarnings("ignore")
def test_same_text(model, runtime):
    target = model if runtime == "hf" else Llama.from_hf(model)
    drafters = [GraphDrafter(Llama.from_hf(near(model)), k=3, tree=9, repeat=r) for r in (-1, 0, 1)] + [GraphDrafter(build(9, layers=1), k=4, tree=12, repeat=0, sibling=0.)]
    for options in ({}, dict(repetition_penalty=1.3), dict(eos_token_id=[2, 7, 30])):
        plain = model.generate(PROMPT, max_new_tokens=20, do_sample=False, **options)
        for d in drafters:
            for _ in range(2): assert torch.equal(generate(target, PROMPT, drafter=d, max_new_tokens=20, do_sample=False, **options), plain)
    outs = [generate(target, PROMPT, drafter=d, max_new_tokens=20, do_sample=True, top_p=.9, seed=3, return_dict_in_generate=True) for d in ("none", *drafters)]
    assert all(torch.equal(o.sequences, outs[0].sequences) for o in outs) and min(o.trace.calls for o in outs) < 18
    end = torch.arange(115)[None] % 48
    long = generate(target, end, drafter="none", max_new_tokens=99, do_sample=False)
    for d in drafters: assert torch.equal(generate(target, end, drafter=d, max_new_tokens=99, do_sample=False), long)


def test_a_hundred_requests(model):
    own = Llama.from_hf(model)
    drafter = GraphDrafter(Llama.from_hf(near(model)), k=2, tree=6, repeat=0)
    for i in range(100):
        settings = dict(limit=4, rng=Keyed(i), law=Law(temperature=i % 3 / 2))
        assert Trace(decode(own, drafter, [i % 48, 3 * i % 48], **settings)).tokens == Trace(decode(own, "none", [i % 48, 3 * i % 48], **settings)).tokens


def test_the_draft_model_reads_nothing_twice(model):
    "Rows fed: the prompt, and then never more than a level's nodes and what was accepted without a row"
    own, fed = as_target(Llama.from_hf(model)), []
    plain = own.forward
    own.forward = lambda feeds: fed.extend(len(f.tokens) for f in feeds) or plain(feeds)
    trace = Trace(decode(model, GraphDrafter(own, k=3, tree=9, width=3, level=3, repeat=0), PROMPT[0].tolist(), limit=24, law=Law(temperature=0)))
    assert fed[0] == 8 and max(fed[1:]) <= 3 + 9 and sum(fed[1:]) <= trace.calls * (1 + 3 + 3) + len(trace.tokens)


def test_a_tree_when_nothing_meets(model):
    "repeat = -1 is the plain tree of the model drafter, when it expands as many nodes"
    draft = Llama.from_hf(near(model))
    tree, graph = ModelDrafter(draft, k=3, tree=10, width=3), GraphDrafter(draft, k=3, tree=10, width=3, level=3, repeat=-1, sibling=0.)
    a, b = (Trace(decode(model, d, PROMPT[0].tolist(), limit=20, law=Law(temperature=0))) for d in (tree, graph))
    assert [{tuple(d.tokens[j] for j in d.path(i)) for i in range(len(d))} for d, _ in a.steps] == [{tuple(d.tokens[j] for j in d.path(i)) for i in range(len(d))} for d, _ in b.steps]


@pytest.mark.parametrize("options,says", [(dict(repeat=-2), "-2"), (dict(tree=0), "at least 1"), (dict(tree=Draft([0], [-1])), "number of nodes"), (dict(damp=0.), "damp"),
                                          (dict(sibling=2.), "sibling"), (dict(level=0), "level=0"), (dict(k=-1), "k=-1"), (dict(width=0), "width=0")])
def test_clear_errors(options, says):
    with pytest.raises(ValueError, match=says): GraphDrafter(TableLM.random(3), **options)


def test_by_name():
    if shipped() is None:
        with pytest.raises(ValueError, match="draft model"): make_drafter("gsd")
    else: assert make_drafter("gsd", k=2).k == 2


def test_a_text_shorter_than_the_run():
    "Two continuations that agree in two tokens do not meet where four are asked for"
    graph = TokenGraph([9], repeat=3)
    a, b = graph.add(-1, 1, .5), graph.add(-1, 2, .5)
    c = graph.add(b, 1, .5)
    assert c is not None and graph.add(a, 5, .5) is not None and graph.add(c, 5, .5) is not None and graph.merged == 0
