"""What the tests of trained drafters share: small models and networks, what training reads of a text, and what must hold of every drafter."""
import numpy as np
import pytest
import torch
import transformers as hf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from specdec_nb import Dice, Keyed, Law, Stop, Trace
from specdec_nb.decode import answered, decode
from specdec_nb.draft import Budget
from specdec_nb.learned.block import BlockDrafter, BlockLayer
from specdec_nb.learned.chimera import Chimera, ChimeraDrafter
from specdec_nb.learned.eagle1 import Eagle1, Eagle1Drafter
from specdec_nb.learned.hydra import Hydra, HydraDrafter
from specdec_nb.learned.losses import forward_kl
from specdec_nb.learned.prophet import Prophet, ProphetDrafter
from specdec_nb.roles import Context, Tokens, as_target, read
from specdec_nb.sampling import Asks, FrequencyPenalty, RepetitionPenalty
from specdec_nb.training.train import train

SIZES = dict(hidden_size=32, intermediate_size=48, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=96,
             initializer_range=.4, bos_token_id=None, eos_token_id=None, pad_token_id=None)
WORDS = np.array([0, 1, 2, 3, 5, 8, 9, 11, 13, 15])                 # token 0 is a word like any other
GEN = np.random.default_rng(3)
KINDS = {"hydra": (Hydra, HydraDrafter, dict(heads=4)), "eagle": (Eagle1, Eagle1Drafter, {}), "block": (BlockLayer, BlockDrafter, dict(reach=3, m=5)),
         "prophet": (Prophet, ProphetDrafter, dict(reach=3, m=3)), "chimera": (Chimera, ChimeraDrafter, dict(reach=3))}



def build(seed=0, vocab=16, layers=4, kind="Llama", dtype=torch.float64, **changes):
    torch.manual_seed(seed)
    config = getattr(hf, f"{kind}Config")(**{**SIZES, "vocab_size": vocab, "num_hidden_layers": layers, **changes})
    return hf.AutoModelForCausalLM.from_config(config).to(dtype).eval()


def shaken(net, std=.3, seed=1):
    "Random weights, so that nothing is right by being small"
    torch.manual_seed(seed)
    with torch.no_grad():
        for w in net.parameters(): w.copy_(torch.randn_like(w) * std)
    return net


def batch_of(target, net, texts, pad=0):
    "What training reads of some texts, from the target's own mouth"
    T, layers = max(map(len, texts)), sorted({*net.layers, target.layers})
    tokens, real = torch.full((len(texts), T), pad), torch.zeros(len(texts), T, dtype=torch.bool)
    hidden, p = {i: torch.zeros(len(texts), T, net.settings["d"]) for i in layers}, torch.zeros(len(texts), T, len(net.draft_vocab))
    for r, text in enumerate(texts):
        n = len(text)
        seen = read(target.open([*text, 0], Asks(hidden=tuple(layers)))).prefilled.hidden
        tokens[r, :n], real[r, :n] = torch.tensor(text), True
        for i in layers: hidden[i][r, :n] = seen[i]
        p[r, :n] = (seen[target.layers].double() @ target.unembed.double().T).softmax(-1)[:, net.draft_vocab].float()
    return dict(tokens=tokens, real=real, hidden=hidden, p=p)


def texts(*lengths, vocab=16): return [GEN.integers(0, vocab, n).tolist() for n in lengths]
def context(text, **kwargs): return Context(Tokens(text), Budget(99, 99), Law(**kwargs), vocab_size=16)


def padding_is_not_text(target, net):
    ours = texts(12, 5, 9)
    batch, alone = batch_of(target, net, ours, pad=7), [batch_of(target, net, [t]) for t in ours]
    with torch.no_grad():
        whole, figures = net.loss(batch)
        levels = len(figures["top1"])
        totals = [[float(net.loss(one, objective=lambda logits, p, only=k, seen=[]: seen.append(0) or
                   (forward_kl(logits, p) if len(seen) == only + 1 else forward_kl(logits, p) * 0))[0]) for k in range(levels)] for one in alone]
    guesses = np.array([[len(t) - 1 - k for k in range(levels)] for t in ours])
    expected = (np.array(totals) * guesses).sum(0) / guesses.sum(0)
    assert float(whole) == pytest.approx(expected.sum(), rel=1e-4)
    assert float(whole) != pytest.approx(np.mean(np.sum(totals, 1)), rel=1e-4), "not the mean of the documents' means"
    for x in (batch["p"], *batch["hidden"].values()): x[~batch["real"]] = 5.
    batch["tokens"][~batch["real"]] = 3
    with torch.no_grad(): assert float(net.loss(batch)[0]) == float(whole)


def changes_nothing(model, own, make, requests=12):
    "Greedy and keyed, on both runtimes, many requests through one warm drafter: always the text of \"none\""
    for target in (as_target(model), as_target(own)):
        for drafter in make():
            accepted = 0
            for i in range(requests):
                settings = dict(law=Law(temperature=0)) if i % 2 else dict(law=Law(temperature=.9), rng=Keyed(2, i))
                prompt = GEN.integers(0, 16, 1 + i % 5).tolist()
                plain, ours = (Trace(decode(target, d, prompt, limit=16, **settings)) for d in ("none", drafter))
                assert ours.tokens == plain.tokens and len(ours.tokens) == 16
                accepted += sum(ours.drafted)
            assert accepted, "it drafted and was right at times"


def ends_where_it_should(target, drafter):
    greedy = dict(law=Law(temperature=0))
    plain = Trace(decode(target, "none", [4, 2], limit=30, **greedy)).tokens
    for eos in plain[5], plain[11]:
        at = plain.index(eos)
        trace = Trace(decode(target, drafter, [4, 2], stop=Stop(30, eos={eos}), **greedy))
        assert trace.tokens == plain[:at + 1] and trace.stopped == "eos"
    for n in range(1, 6): assert Trace(decode(target, drafter, [4, 2], limit=n, **greedy)).tokens == plain[:n]
    long = GEN.integers(0, 16, target.window - 6).tolist()
    for n in (5, 6): assert len({tuple(Trace(decode(target, d, long, limit=n, **greedy)).tokens) for d in ("none", drafter)}) == 1
    for k in (0, 1, 2): assert Trace(decode(target, drafter, [7], limit=12, k=k, **greedy)).tokens == Trace(decode(target, "none", [7], limit=12, **greedy)).tokens


class Spy:
    "Dice that write down what they were asked to draw from"
    def __init__(self): self.dice, self.asked = Dice(5), []
    def since(self, position): return self
    def at(self, position, purpose):
        assert purpose == "draft"
        return self
    def categorical(self, q):
        x = self.dice.categorical(q)
        self.asked.append((q, x))
        return x


def q_is_what_was_drawn_from(target, drafter):
    for law in (Law(), Law(temperature=.5, top_k=3), Law(processors=(FrequencyPenalty(.5), RepetitionPenalty(1.3)))):
        text = GEN.integers(0, 16, 7).tolist()
        drafter.bind(target)
        ctx, spy = Context(Tokens(text), Budget(99, 99), law, law.start(text), 16), Spy()
        draft = answered(drafter.begin(ctx, read(target.open(text, drafter.asks))).propose(ctx, spy))
        assert draft.is_chain and len(draft) == len(spy.asked) == drafter.k
        for i, (q, x) in enumerate(spy.asked):
            assert draft.q(i) is q and draft.tokens[i] == x and q[x] > 0
            assert not set(np.flatnonzero(q)) - set(WORDS) and np.isclose(q.sum(), 1)


def network(kind, model, shake=True):
    cls, _, options = KINDS[kind]
    net = cls.of(model, WORDS, **options).join(as_target(model))
    return shaken(net) if shake else net


def distances(target, net, drafter, text, k=3):
    "For each depth of a chain drafted after `text`: how far drafting's row is from training's"
    drafter.bind(target)
    drafting = drafter.begin(context(text), read(target.open(text, drafter.asks)))
    asked = []
    def ask(draft, ask=drafting.ask):
        rows = yield from ask(draft)
        asked.append(rows.scores.rows[len(draft)])
        return rows
    drafting.ask = ask
    draft = answered(drafting.propose(context(text), Dice(len(text))))
    batch = batch_of(target, net, [text + list(draft.tokens)])
    with torch.no_grad(): trained = [logits for logits, _ in net.guessed(batch)][:k]
    return [float((a - b[len(text) - 2]).abs().max() / b[len(text) - 2].abs().max()) for a, b in zip(asked, trained)]


def trained(model, data, out, steps=12, **options): return train("medusa", data, out, model, steps=steps, draft_vocab_size=16, size=2, apart=8, **options)


# -- draft models

def near(model, noise=.02, seed=5):
    "A draft model that resembles `model`"
    torch.manual_seed(seed)
    twin = type(model)(model.config).to(torch.float64).eval()
    twin.load_state_dict(model.state_dict())
    with torch.no_grad():
        for w in twin.parameters(): w.add_(torch.randn_like(w) * noise * w.std().nan_to_num(1))
    return twin


def words(*names):
    "A tokenizer that knows some words"
    tok = Tokenizer(models.WordLevel({w: i for i, w in enumerate(names)}, unk_token=names[0]))
    tok.pre_tokenizer, tok.decoder = pre_tokenizers.Whitespace(), decoders.WordPiece(prefix="##", cleanup=False)
    return hf.PreTrainedTokenizerFast(tokenizer_object=tok)
