"""A code summariser: what it learns from holds no answer, its copy law is over one vocabulary, its network is the formula, and as a target it is plain whoever drafts."""
import json

import numpy as np
import pytest
import torch
from conftest import ROOT
from drafters import Wild
from specdec_nb import Draft, TableLM, generate
from specdec_nb.decode import decode
from specdec_nb.sampling import Law
from specdec_nb.verify import Trace
from specdec_nb.roles import as_target, make_drafter
from specdec_nb.decoding.codesum import (SelfAttention, Summariser, SummariserConfig, between,
                                         load_summariser)
from specdec_nb.decoding.copylaw import (PAD, START, Vocabulary, copy_law, documented)

pytestmark = pytest.mark.filterwarnings("ignore")
POSITIONS = ("absolute", "distance", "directed")


def small(seed=0, **changes):
    torch.manual_seed(seed)
    model = Summariser(SummariserConfig(**dict(words=20, slots=4, encoder_layers=1, width=32, inner=48, clip=3, reads=12, writes=24) | changes)).double().eval()
    for weight in model.parameters():
        if weight.dim() > 1: torch.nn.init.normal_(weight, std=.4)
    return model


@pytest.mark.parametrize("directed", [True, False])
def test_attention_is_the_formula(directed):
    torch.manual_seed(0)
    attention, x = SelfAttention(8, 2, clip=2, directed=directed).double(), torch.randn(1, 5, 8).double()
    q, k, v = (part.view(5, 2, 4) for part in attention.qkv(x)[0].chunk(3, -1))
    near, carried = attention.tables.weight.chunk(2, -1)
    rows = []
    for i in range(5):
        at = [max(-2, min(2, j - i)) + 2 if directed else min(2, abs(j - i)) for j in range(5)]
        e = [torch.stack([q[i, h] @ (k[j, h] + near[at[j]]) for j in range(5)])/2 for h in range(2)]
        rows.append(torch.cat([sum(w * (v[j, h] + carried[at[j]]) for j, w in enumerate(e[h].softmax(0))) for h in range(2)]))
    assert torch.allclose(attention(x)[0], attention.out(torch.stack(rows)))
    assert between(4, 9, directed).max() == (12 if directed else 3)


def test_what_positions_see():
    "Moved behind noise nobody sees, a program is the same to distances and another to places; turned round it is the same to unsigned distances alone"
    x, mask = torch.tensor([[5, 6, 7, 8]]), torch.tensor([[0]*3 + [1]*4])
    moved = torch.cat([torch.full((1, 3), 9), x], 1)
    for positions in POSITIONS:
        read = small(positions=positions).encoder
        with torch.no_grad(): alone, shifted, turned = read(x)[0][0], read(moved, mask)[0][0, 3:], read(x.flip(1))[0][0].flip(0)
        assert torch.allclose(alone, shifted) is (positions != "absolute")
        assert torch.allclose(alone, turned) is (positions == "distance")


def test_the_network_s_law_is_the_copy_law():
    net, source, said = small(), torch.tensor([[5, 20, 7, 5, 21]]), torch.tensor([[START, 7, 20]])
    with torch.no_grad():
        memory = net.encoder(source)[0]
        state = net.decoder(said, memory[..., :-1])[-1]
        p, a, g = (state[0, -1] @ net.embed.weight.T).softmax(-1), net.points(state, memory)[0, -1], net.gate(state)[0, -1].sigmoid()
        wanted = copy_law(p.numpy(), a.numpy(), source[0].tolist(), float(g), 4)
        assert np.allclose(net(source, decoder_input_ids=said).logits[0, -1].exp().numpy(), wanted)
    assert wanted[5] > float((1 - g)*p[5] + g*a[0]), "both places count"
    with pytest.raises(ValueError, match="half precision"): small().half()(source, decoder_input_ids=said)
    with pytest.raises(ValueError, match="no copy law"): small(copies=False).points(state, memory)
    with pytest.raises(ValueError, match="positions must be"): SummariserConfig(positions="rotary")


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("positions, copies", [("absolute", True), ("distance", True), ("directed", True), ("directed", False)])
def test_as_a_target(positions, copies, left):
    model = small(positions=positions, copies=copies)
    assert as_target(model).branches and as_target(model).batches
    rows = [[5, 20, 7, 5, 21, 9], [6, 20, 7], [8, 20, 21, 8]]
    ids = torch.tensor([[PAD]*(6 - len(r)) + r if left else r + [PAD]*(6 - len(r)) for r in rows])
    call = dict(input_ids=ids, attention_mask=(ids != PAD).long(), min_new_tokens=18, max_new_tokens=18, no_repeat_ngram_size=2)
    plain = model.generate(**call, do_sample=False)
    assert len({*plain.flatten().tolist()}) > 4
    for drafter in ("lookup:shortest=1", "suffix:shortest=1", "recycling", Wild(1, plain[0].tolist()), *["pointing:least=0"]*copies):
        assert torch.equal(generate(model, **call, do_sample=False, drafter=drafter), plain), drafter
    texts = [generate(model, **call, do_sample=True, seed=3, drafter=d) for d in ("none", Wild(2), *["pointing:least=0"]*copies)]
    assert all(torch.equal(texts[0], t) for t in texts) and not torch.equal(texts[0], plain)


def test_positions_are_told():
    "The negative control of `branches`: a network that numbers its words by itself gets chains"
    class Deaf(Summariser):
        def forward(self, *given, past_key_values=None, decoder_position_ids=None, **more):
            return super().forward(*given, past_key_values=past_key_values, **more)
    deaf = Deaf(small().config).double().eval()
    deaf.load_state_dict(small().state_dict())
    assert not as_target(deaf).branches


def test_pointing_reads_on_from_where_it_points():
    "Two equal words: the one that was pointed at says what comes next, and the draft is asked of the row that said the word"
    class State: given = type("", (), dict(tokens=(5, 6, 5, 7, 8), hidden=torch.zeros(1, 5, 3), mask=None))
    drafting, budget = make_drafter("pointing:least=0.1:k=3").begin(None, State), type("", (), dict(nodes=8, depth=3))
    def guess(weights, tokens):
        drafting.weights = weights
        return drafting.propose(type("", (), dict(tokens=tokens, budget=budget)), None)
    assert guess((), [1, 5]) == Draft()
    assert guess([.6, 0, .05, 0, 0], [1, 5]).tokens[:1] == (6,) and guess([.05, 0, .6, 0, 0], [1, 5]).tokens[:1] == (7,)
    both = guess([.4, 0, .5, 0, 0], [1, 5])
    assert {both.tokens[i] for i in both.children(-1)} == {6, 7} and both.tokens[0] == 7
    said = guess([.3, .2, .3, .05, 0], [1, 9])                   # it said a word of the list: what it pointed at may come next, and what follows
    assert [said.tokens[i] for i in said.children(-1)] == [5, 6] and {said.tokens[i] for i in said.children(0)} == {6, 7}
    assert 5 not in {both.tokens[i] for i in guess([.9, .1, 0, 0, 0], [1, 5]).children(-1)}, "the word just said is not said again"


def test_pointing_learns_where_the_target_pointed():
    model = small(3)
    target, source = as_target(model), torch.tensor([[5, 20, 7, 5, 21, 9]])
    drafter = make_drafter("pointing:least=0")
    seen, points = [], model.points
    model.points = lambda *a: seen.append(points(*a)) or seen[-1]
    trace = Trace(decode(target, drafter, [START], 12, Law(temperature=0), inputs=target.encode(input_ids=source)))
    model.points = points
    with torch.no_grad():
        memory = model.encoder(source)[0]
        whole = model.points(model.decoder(torch.tensor([[START, *trace.tokens]]), memory[..., :-1])[-1], memory)[0]
    asked, at = [a[0] for a in seen if a.dim() == 2], 0
    assert len(asked) == trace.calls
    for a, (_, verdict) in zip(asked, trace.steps):
        at += len(verdict.tokens)
        assert torch.allclose(a, whole[at - 1]), "the row that its last word followed"


def test_pointing_needs_a_copy_law():
    for model in (small(copies=False), TableLM({(): [1, 2]})):
        with pytest.raises(ValueError, match="where it points"): make_drafter("pointing").bind(as_target(model))
    with pytest.raises(ValueError, match="nodes=0"): make_drafter("pointing:nodes=0")


def test_the_shipped_one():
    model, vocabulary = load_summariser()
    folder = ROOT/"specdec_nb/weights/codesum"
    assert sum(p.stat().st_size for p in folder.iterdir()) < 2e6 and model.config.copies and len(vocabulary.known) == model.config.words
    [(code, _)] = documented('def remove_node(self, node):\n    "?"\n    del self.nodes[node]\n    self.count -= 1')
    ids, unknown = vocabulary.read(code)
    said = vocabulary.say(model.generate(torch.tensor([ids]), max_new_tokens=16, do_sample=False)[0], unknown).split()
    assert {"remove", "node"} & {*said}, said


def test_what_was_measured():
    report = json.loads((ROOT/"results/codesum.json").read_text())
    kinds = {(r["positions"], r["copies"]) for r in report["records"]}
    assert kinds == {(p, c) for p in POSITIONS for c in (False, True)} and all(r["identical"] == r["n"] for r in report["rows"])
    assert "std.json" in report["provenance"]["data"]["held_packages"] and not {*report["provenance"]["data"]["packages"]} <= {*report["provenance"]["data"]["held_packages"]}


def test_two_drafters_in_one_tree():
    "Half of the nodes for each; the text is plain decoding's; and without either there is less in the tree"
    import codesum as tool
    model, vocabulary = load_summariser()
    model, rates = model.double(), {}
    functions = [f'def {verb}_{noun}(self, {noun}):\n    "?"\n    del self.{noun}s[{noun}]' for verb in ("remove", "add", "get") for noun in ("node", "edge", "name")]
    for name in ("pointing:nodes=4", "recycling:nodes=4", "pointing + recycling", "recycling, cold"):
        made, calls, tokens = tool.drafter_of(name), 0, 0
        for code in functions:
            ids = torch.tensor([vocabulary.read(documented(code)[0][0])[0]])
            if "cold" in name: made = tool.drafter_of(name)
            plain, out = (generate(model, ids, drafter=d, max_new_tokens=12, do_sample=False, return_dict_in_generate=True) for d in ("none", made))
            assert torch.equal(plain.sequences, out.sequences) and max(len(draft) for draft, _ in out.trace.steps) <= 8
            calls, tokens = calls + out.trace.calls, tokens + len(out.trace.tokens)
        rates[name] = tokens / calls
    assert rates["pointing + recycling"] > max(rates["pointing:nodes=4"], rates["recycling:nodes=4"]) and rates["recycling, cold"] < rates["recycling:nodes=4"], rates


def test_the_tool_s_batches_and_scores(monkeypatch):
    "What is judged is what is said: a network that repeats the truth gets all points, an empty one none"
    import codesum as tool
    pairs = [(["def", f"name{i}", "(", ")", "x"] * 3, ["return", "the", f"name{i}", "now", "and", "then"]) for i in range(5)]
    vocabulary = Vocabulary.of([d for _, d in pairs], 9)
    for said, points in ((lambda *a: [" ".join(d) for _, d in pairs], 100), (lambda *a: ["x"]*5, 0)):
        monkeypatch.setattr(tool, "summaries", said)
        scores = tool.judged(None, vocabulary, pairs)
        assert all(abs(scores[k] - points) < 1e-6 for k in ("bleu", "rouge_l", "rare")) and scores["n_rare"] == 5, scores
    sources, said = next(tool.batches(vocabulary, pairs * 20, size=8))
    assert sources.shape == (8, 15) and said.shape[0] == 8
    assert {"rich", "networkx"} < tool.HELD and not {"sympy", "numpy"} & tool.HELD
