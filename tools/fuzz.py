"""Random calls of `generate` against plain decoding, row by row, on small random models in float64.

    python tools/fuzz.py --seconds 60 --seed 1     cases 1000000, 1000001, … until the time is up; exit 1 if one fails
    python tools/fuzz.py --replay 1000017          that case again
    python tools/fuzz.py --case '{"family": …}'    a case written out, as failures are printed: the smallest found that still fails

Greedy rows are compared with `model.generate` of the row alone, drawn ones with `drafter="none"` under the same noise. A call that
raises where plain decoding does not has failed, too, unless it is one of the refusals in `REFUSED`.
"""
import argparse, copy, json, sys, time, traceback, warnings
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from transformers import LogitsProcessor

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from drafters import Oracle, Wild  # noqa: E402
from specdec_nb import Llama, ModelDrafter, generate  # noqa: E402
from specdec_nb.roles import as_target, make_drafter  # noqa: E402
from specdec_nb.phrases.ouroboros import Ouroboros  # noqa: E402
from specdec_nb.trees.dag import GraphDrafter  # noqa: E402
from test_generate import FAMILIES, SIZES, build  # noqa: E402

V, ALONE = 48, 1 << 30
REFUSED = ("which a processor with a memory cannot bear", "leaving them out would give another text")
NAMES = """none lookup lookup:k=3 suffix reference rest pool recycling recycling:nodes=5 lookahead auto tuned wild wild true oracle
    model model:k=2 model:tree=5 model:least=0.3 gsd ouroboros layerskip""".replace("wild true", "wild:true").split()
ANYWHERE = [dict(suppress_tokens=[1, 2, 3]), dict(bad_words_ids=[[3], [9]]), dict(sequence_bias=[[[3], 4.0]]), dict(min_new_tokens=6),
            dict(renormalize_logits=True), dict(forced_eos_token_id=4)]
READING = [dict(repetition_penalty=1.3), dict(no_repeat_ngram_size=2), dict(encoder_repetition_penalty=1.2), dict(bad_words_ids=[[5, 9], [7]]),
           dict(encoder_no_repeat_ngram_size=2)]
WARPED = [dict(temperature=.7), dict(top_k=5), dict(top_p=.8), dict(min_p=.1), dict(typical_p=.8), dict(temperature=1.5, top_k=20, top_p=.9)]


class Alternate(LogitsProcessor):
    "Words of one parity, then of the other: a function of the text's last token"
    def __call__(self, ids, scores):
        scores = scores.clone()
        scores[:, int(ids[0, -1]) % 2::2] = -float("inf")
        return scores


class Count(LogitsProcessor):
    "Forbids a word by the number of its calls"
    def __init__(self): self.calls = 0
    def __call__(self, ids, scores):
        self.calls, scores = self.calls + 1, scores.clone()
        scores[:, self.calls * 7 % V] = -float("inf")
        return scores


def draw(seed) -> dict: # a case
    "A call, as plain values"
    gen = np.random.default_rng(seed)
    def one(among): return among[gen.integers(len(among))]
    def perhaps(share, x, otherwise=None): return x if gen.random() < share else otherwise
    rows = perhaps(.5, 1, int(gen.integers(2, 6)))
    most = int(one([3, 12, 40, 120]))
    lengths = gen.integers(1, most + 1, rows) if gen.random() < .7 else [int(gen.integers(1, most + 1))] * rows
    family = one(sorted(FAMILIES))
    lengths = np.minimum(lengths, FAMILIES[family][1].get("max_position_embeddings", SIZES["max_position_embeddings"]))
    words = V if gen.random() < .5 else 5                            # few words: texts that repeat, so that copying pays
    prompts = [gen.integers(1, words, n).tolist() for n in lengths]
    alike = len(set(map(len, prompts))) == 1
    options = {}
    for among in [ANYWHERE] + [READING] * alike: options |= perhaps(.3, one(among), {})
    drawn = gen.random() < .4
    eos = gen.choice(V, int(gen.integers(1, 6)), replace=False).tolist() if gen.random() < .5 else None
    process = perhaps(.3, one(["alternate", "count", "grammar"]))        # two of them read the last token, which may not be padding
    return dict(family=family, own=bool(gen.random() < .5), prompts=prompts, form=one(["list", "left", "right"] if alike or process in (None, "count") else ["list", "left"]), drafter=one(NAMES),
                noise=int(gen.integers(99)), k=perhaps(.2, int(gen.integers(0, 6))), rule=None if drawn else one([None, "rejection", "kseq", "block", "traversal"]),
                seed=int(gen.integers(99)) if drawn else None, warp=one([{}, *WARPED]) if drawn else {}, options=options, eos=eos,
                new=int(gen.integers(1, 25)), criterion=perhaps(.2, int(gen.integers(3, 9))), process=process,
                twice=bool(gen.random() < .3))


@lru_cache(maxsize=None)
def models(family): # `(the model, the same in our own runtime or None, a draft model)`
    model = build(family)
    other = copy.deepcopy(model)
    gen = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for w in other.parameters(): w.add_(torch.randn(w.shape, generator=gen, dtype=w.dtype) * .05 * w.std().nan_to_num(1))
    own = Llama.from_hf(model) if Llama.refuses(model.config) is None else None
    return model, own, other


def drafter_of(case, truth):
    name, _, option = case["drafter"].partition(":")
    small = models(case["family"])[2]
    if name == "wild": return Wild(case["noise"], truth if option else None)
    if name == "oracle": return Oracle(truth, 1 + case["noise"] % 7)
    if name == "gsd": return GraphDrafter(small)
    if name == "ouroboros": return Ouroboros(small, phrases=bool(case["noise"] % 2))
    if name == "model":
        key, _, value = option.partition("=")
        return ModelDrafter(small, **({key: float(value) if key == "least" else int(value)} if option else {}))
    return make_drafter(case["drafter"])


def call_of(case):
    "The arguments of `generate` and `model.generate` alike"
    call = dict(max_new_tokens=case["new"], do_sample=case["seed"] is not None, pad_token_id=0, **case["options"], **case["warp"])
    if case["eos"]: call |= dict(eos_token_id=case["eos"], **({"exponential_decay_length_penalty": [3, 1.2]} if case["noise"] % 5 == 0 else {}))
    if (n := case["criterion"]): call["stopping_criteria"] = [lambda ids, scores, **more: ids[:, -1] % n == 1]
    if case["process"] == "alternate": call["logits_processor"] = [Alternate()]
    if case["process"] == "count": call["logits_processor"] = [Count()]
    if case["process"] == "grammar": # which has nothing to say behind an end that was written
        ends, start = set(case["eos"] or ()), max(map(len, case["prompts"]))
        def allowed(row, ids): return [] if len(ids) > start and int(ids[-1]) in ends else [*range(int(ids[-1]) % 3, V, 3)]
        call["prefix_allowed_tokens_fn"] = allowed
    return call


def prompt_of(case):
    rows, longest = case["prompts"], max(map(len, case["prompts"]))
    if case["form"] == "list": return rows, {}
    left = case["form"] == "left"
    ids, mask = torch.zeros(len(rows), longest, dtype=torch.long), torch.zeros(len(rows), longest, dtype=torch.long)
    for i, row in enumerate(rows):
        at = slice(longest - len(row), longest) if left else slice(len(row))
        ids[i, at], mask[i, at] = torch.tensor(row), 1
    return ids, dict(attention_mask=mask)


def plain_of(case): # the new tokens of each row; None if `model.generate` has no answer to compare with
    model, own, _ = models(case["family"])
    if case["seed"] is not None:
        ids, more = prompt_of(case)
        return new_of(case, generate(model, ids, drafter="none", seed=case["seed"], **more, **call_of(case)))
    alone = []
    for row in case["prompts"]:
        room = min(case["new"], (as_target(model).window or ALONE) + 1 - len(row))
        if room < case["new"] and "forced_eos_token_id" in case["options"]: return None      # it is forced at the limit that was asked for
        ids = torch.tensor([row])
        out = model.generate(ids, attention_mask=torch.ones_like(ids), **{**call_of(case), "max_new_tokens": room})
        alone.append(out[0, len(row):].tolist())
    return alone


def new_of(case, ids): return ids[:, max(map(len, case["prompts"])):].tolist() # of each row, with what fills it up


def check(case) -> str: # None, or what is wrong
    "Run a case"
    model, own, _ = models(case["family"])
    target = own if own is not None and (case["own"] or case["drafter"] == "layerskip") else model
    if case["drafter"] == "layerskip" and own is None: return None
    try: plain = plain_of(case)
    except ValueError as e:
        if any(known in str(e) for known in REFUSED): return None
        raise
    if plain is None: return None
    truth = case["prompts"][0] + plain[0]
    drafter, (ids, more) = drafter_of(case, truth), prompt_of(case)
    settings = dict(k=case["k"], rule=case["rule"], seed=case["seed"], **more)
    for turn in range(1 + case["twice"]):
        try: out = generate(target, ids, drafter=drafter, **settings, **call_of(case))
        except ValueError as e:
            if any(known in str(e) for known in REFUSED): return None
            return traceback.format_exc(limit=-4)
        except Exception: return traceback.format_exc(limit=-4)
        for i, (ours, theirs) in enumerate(zip(new_of(case, out), plain)):
            if ours[:len(theirs)] != theirs or any(ours[len(theirs):]): return f"turn {turn + 1}, row {i}: {ours}, not {theirs}"
    return None


def smaller(case):
    "Simpler cases, one step away"
    if len(case["prompts"]) > 1:
        for i in range(len(case["prompts"])): yield case | dict(prompts=[*case["prompts"][:i], *case["prompts"][i + 1:]])
    for name, simple in dict(form="list", twice=False, k=None, rule=None, criterion=None, process=None, eos=None, own=False, warp={}).items():
        if case[name] != simple: yield case | {name: simple}
    for name in case["options"]: yield case | dict(options={k: x for k, x in case["options"].items() if k != name})
    if ":" in case["drafter"]: yield case | dict(drafter=case["drafter"].split(":")[0])
    for n in (1, case["new"] // 2, case["new"] - 1):
        if 0 < n < case["new"]: yield case | dict(new=n)
    for i, row in enumerate(case["prompts"]):
        for part in (row[len(row) // 2:], row[1:], row[:-1]):
            if 0 < len(part) < len(row): yield case | dict(prompts=[*case["prompts"][:i], part, *case["prompts"][i + 1:]])


def minimised(case, seconds=30):
    "The smallest case found that still fails"
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = next((c for c in smaller(case) if time.monotonic() < until and check(c)), None)
        if found is None: break
        case = found
    return case


def report(case, what):
    small = minimised(case)
    print(f"{what}\nthe smallest found: {check(small)}\n  python tools/fuzz.py --case '{json.dumps(small)}'", flush=True)


def main(args=None) -> int: # how many cases failed
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--cases", type=int, default=ALONE)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--replay", type=int)
    parser.add_argument("--case", type=json.loads)
    asked = parser.parse_args(args)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if asked.replay is not None or asked.case:
        case = asked.case or draw(asked.replay)
        print(json.dumps(case), check(case) or "right", sep="\n")
        return int(check(case) is not None)
    until, failed, n = time.monotonic() + asked.seconds, 0, 0
    while time.monotonic() < until and n < asked.cases:
        seed = asked.seed * 1_000_000 + n
        if what := check(draw(seed)):
            failed += 1
            print(f"case {seed}: ", end="")
            report(draw(seed), what)
        n += 1
    print(f"{n} cases, {failed} failed")
    return failed


if __name__ == "__main__": sys.exit(main() > 0)
