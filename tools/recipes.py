"""Short runs that choose: one recipe for the EAGLE-3 drafter against another, on the same documents, for the same number of steps.

    python tools/recipes.py base  steps=113 docs=384 --features training/features
    python tools/recipes.py heads steps=113 docs=384 kv=9 --features training/features

Options that `specdec train` does not have (optimizers, sharper laws, more key heads) are tried here before they are built there. The hidden
states must have been read (`specdec train … --features`). Every run appends a line to results/training.jsonl, which chapter 24 reads.
"""
import argparse, json, math, subprocess, sys, time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
LAYERS = [2, 15, 27, 30]
OPTIONS = dict(
    lr=1e-3, opt="adamw", wd=.01,                                # or muon
    schedule="const",                                            # with the mean of the latest weights; or cosine
    loss="kl", sharp=1.,                                         # kl, tv, lk = -log Σ min(p, q), half = kl + tv; p is taken to the power 1 / sharp
    reach=0, decay=.8,                                           # 1: a level counts as often as it is reached; else decay ** level
    answers=0,                                                   # 1: learn only from what the model itself wrote
    words=8000, depth=3, size=4, most=384, kv=9,                 # kv=3: as many key heads as the target
    direct=0,                                                    # 1: the word's embedding goes into the residual stream, too
    start="", first=0, docs=384, steps=113, seed=0)              # from a trained drafter; from document `first` to `docs`


class Stored:
    "Hidden states that lie on disk; none are read here"
    def __new__(cls, model, documents, path):
        from specdec_nb.training.features import Features
        class Only(Features):
            def _go_on(self, *_): raise SystemExit(f"the hidden states of these documents are not all in {self.path}")
        return Only(model, documents, LAYERS, path)


def network(o, model, corpus):
    "The drafter as it begins"
    from specdec_nb.learned.eagle import Eagle3
    from specdec_nb.learned.network import Trained
    from specdec_nb.learned.fingerprint import Lender
    net = Trained.from_pretrained(o["start"]).train() if o["start"] else Eagle3.of(model, corpus.commonest(o["words"]), depth=o["depth"])
    net = narrowed(net, o["kv"]) if o["kv"] < net.settings["kv_heads"] else net.widened() if o["kv"] > net.settings["kv_heads"] else net
    return (direct(net) if o["direct"] else net).join(Lender(model))


def direct(net):
    "The same function at first, and a matrix from the word's embedding to the residual stream"
    from specdec_nb.learned.eagle import Eagle3, _look
    class Direct(Eagle3):
        def unroll(self, tokens, hidden, depth):
            g, keys, values = self.features(hidden), [], []
            for s in range(depth):
                words = tokens.roll(-1 - s, 1)
                g = g + self.enter(self.norm_e(self.embed[words].float()))
                q, k, v = self.project(words, g, torch.arange(tokens.shape[1]) + s)
                keys.append(k)
                values.append(v)
                g = self.finish(g, _look(q, keys, values))
                yield g
    twin = Direct(net.settings, net.draft_vocab)
    twin.load_state_dict(net.state_dict())
    twin.enter = torch.nn.Linear(net.settings["d"], net.settings["d"], bias=False)
    torch.nn.init.zeros_(twin.enter.weight)
    return twin


def narrowed(net, kv):
    "As the target shares its heads: of each group of keys and values the first"
    s = net.settings
    twin, state = type(net)({**s, "kv_heads": kv}, net.draft_vocab), net.state_dict()
    q, k, v = state["qkv.weight"].unflatten(0, (-1, s["head_dim"])).split([s["heads"], s["kv_heads"], s["kv_heads"]])
    first = slice(None, None, s["kv_heads"] // kv)
    twin.load_state_dict({**state, "qkv.weight": torch.cat([q, k[first], v[first]]).flatten(0, 1)})
    return twin


def losses():
    from specdec_nb.learned.losses import variation_loss
    def kl(z, p): return p.sum(-1) * z.logsumexp(-1) - (p * z).sum(-1)               # up to a constant
    def lk(z, p): return -(1 - variation_loss(z, p)).clamp_min(1e-4).log()
    return dict(kl=kl, lk=lk, tv=variation_loss, half=lambda z, p: kl(z, p) + variation_loss(z, p))


def sharper(p, heat):
    "The law at another temperature; what the words leave out counts as one word"
    if heat == 1: return p
    rest, s = (1 - p.sum(-1, keepdim=True)).clamp_min(0), p.pow(1 / heat)
    return s / (s.sum(-1, keepdim=True) + rest.pow(1 / heat)).clamp_min(1e-9)


def levels(net, batch, p, depth):
    "Of each level: which rows are real, their logits, their laws"
    T = batch["tokens"].shape[1]
    for s, g in enumerate(net.unroll(batch["tokens"], batch["hidden"], depth)):
        real = batch["real"][:, 1 + s:]
        yield real, net.norm(g[:, :T - 1 - s])[real] @ net.head.T, p[:, 1 + s:][real]


def loss_of(net, batch, o, objective):
    p, reach, total = sharper(batch["p"], o["sharp"]), torch.ones(batch["tokens"].shape), 0.
    for s, (real, z, p_s) in enumerate(levels(net, batch, p, o["depth"])):
        each, n = objective(z, p_s), real.shape[1]
        if not o["reach"]: total = total + o["decay"] ** s * each.mean()
        else:
            total = total + (reach[:, :n][real] * each).sum() / real.sum()
            with torch.no_grad():
                accepted = torch.zeros(real.shape).masked_scatter(real, torch.minimum(z.softmax(-1), p_s).sum(-1).float().clamp_min(.2))
                reach[:, :n] *= accepted
    return total


@torch.no_grad()
def judged(net, batches):
    "On documents kept apart, by depth: favourites right, overlap; and the tokens a call of a chain of four"
    hits, overlap, n, whole = (torch.zeros(4) for _ in range(4))
    for i in range(0, len(batches), 3):
        batch = batches[i]
        so_far = torch.ones(batch["tokens"].shape)
        for s, (real, z, p) in enumerate(levels(net, batch, batch["p"], 4)):
            top, favourite = p.max(-1)
            right = ((z.argmax(-1) == favourite) & (top > 1 - p.sum(-1))).float()
            grid = torch.zeros(batch["tokens"].shape)
            grid[:, :real.shape[1]].masked_scatter_(real, right)
            so_far = so_far * grid
            for sums, x in ((hits, right.sum()), (overlap, torch.minimum(p, z.softmax(-1)).sum()), (n, len(p)), (whole, so_far.sum())): sums[s] += x
    four = lambda x: [round(v, 4) for v in x.tolist()]
    return dict(top1=four(hits / n), overlap=four(overlap / n), chain=round(1 + float((whole / n).sum()), 3))


class Muon:
    "Orthogonalised momentum (Jordan et al. 2024) for matrices, scaled to the length of AdamW's steps"
    def __init__(self, params, wd): self.params, self.speed, self.wd = params, [torch.zeros_like(p) for p in params], wd

    @torch.no_grad()
    def step(self, lr):
        for p, v in zip(self.params, self.speed):
            v.mul_(.95).add_(p.grad)
            p.mul_(1 - lr * self.wd).add_(self.turned(p.grad + .95 * v), alpha=-lr * .2 * max(p.shape) ** .5)

    def turned(self, g):
        x = (g if g.shape[0] <= g.shape[1] else g.T).bfloat16()
        x = x / (x.norm() + 1e-7)
        for _ in range(5):
            a = x @ x.T
            x = 3.4445 * x + (2.0315 * a @ a - 4.7750 * a) @ x
        return (x if g.shape[0] <= g.shape[1] else x.T).float()


def learn(net, batches, o):
    "The run; returns how many tokens it saw"
    objective, params = losses()[o["loss"]], list(net.parameters())
    mats = [p for p in params if p.dim() == 2] if o["opt"] == "muon" else []
    adam, muon = torch.optim.AdamW([p for p in params if all(p is not m for m in mats)], betas=(.9, .95), weight_decay=o["wd"]), Muon(mats, o["wd"])
    mean, tokens = [p.detach().clone() for p in params], 0
    for step in range(o["steps"]):
        falls = .5 + .5 * math.cos(math.pi * step / o["steps"]) if o["schedule"] == "cosine" else 1
        rate = o["lr"] * min(1, (step + 1) / 10) * falls
        with torch.autocast("cpu", torch.bfloat16):
            batch = batches[step]
            loss = loss_of(net, batch, o, objective)
        net.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.)
        for group in adam.param_groups: group["lr"] = rate
        adam.step()
        muon.step(rate)
        torch._foreach_lerp_(mean, [p.detach() for p in params], min(1., 8 / (step + 8)))
        tokens += batch["real"].numel()
        if step % 20 == 19: print(step + 1, round(loss.item(), 3), flush=True)
    if o["schedule"] == "const":
        for p, w in zip(params, mean): p.data.copy_(w)
    return tokens


def main():
    from specdec_nb.models.hub import load_hf
    from specdec_nb.training.corpus import Corpus
    from specdec_nb.training.features import Batches
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name")
    parser.add_argument("options", nargs="*", help=", ".join(f"{k}={v}" for k, v in OPTIONS.items()))
    parser.add_argument("--features", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=ROOT / "data" / "smollm2-135m")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "training.jsonl")
    a = parser.parse_args()
    given = dict(x.split("=", 1) for x in a.options)
    if wrong := [k for k in given if k not in OPTIONS]: parser.error(f"no option {wrong[0]!r}; there are {', '.join(OPTIONS)}")
    o = {k: type(v)(float(given[k])) if k in given and not isinstance(v, str) else given.get(k, v) for k, v in OPTIONS.items()}
    torch.set_num_threads(1)
    torch.manual_seed(o["seed"])
    corpus, half, last = Corpus(a.data), load_hf(None, torch.bfloat16)[0], o["docs"]
    net = network(o, load_hf()[0], corpus)
    train, held = Stored(half, corpus.train[:last], a.features / "train"), Stored(half, corpus.held, a.features / "held")
    train.documents, train.at = train.documents[o["first"]:], train.at[o["first"]:]
    begins = corpus.begins["train"][o["first"]:last] if o["answers"] else None
    began = time.process_time()
    tokens = learn(net, Batches(train, net, o["size"], o["seed"], o["most"], begins), o)
    hours = (time.process_time() - began) / 3600
    with torch.autocast("cpu", torch.bfloat16): figures = judged(net, Batches(held, net, 8, begins=corpus.begins["held"]))
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    line = dict(what="try", name=a.name, hours=round(hours, 4), steps=o["steps"], tokens=tokens, given={k: o[k] for k in given}, **figures,
                command=" ".join(["python", "tools/recipes.py", a.name, *a.options]), commit=commit, torch=torch.__version__)
    with open(a.out, "a", encoding="utf-8") as f: f.write(json.dumps(line) + "\n")
    print(json.dumps(line))


if __name__ == "__main__": main()
