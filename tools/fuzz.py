"""Random calls of `generate` against plain decoding, row by row, on small random models in float64.

    python tools/fuzz.py --seconds 60 --seed 1     cases 1000000, 1000001, … until the time is up; exit 1 if one fails
    python tools/fuzz.py --replay 1000017          that case again
    python tools/fuzz.py --case '{"family": …}'    a case written out, as failures are printed: the smallest found that still fails

Greedy rows are compared with `model.generate` of the row alone, drawn ones with `drafter="none"` under the same noise. A rule that has a
noise of its own writes another text of the same law: its texts must be those of both runtimes, their words possible, and over all
cases no likelier than the law says (`SURPRISE`). A call that raises where plain decoding does not has failed, too, unless it is one of
the refusals in `REFUSED`.
"""
import argparse, copy, json, sys, time, traceback, warnings
from collections import Counter
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models as token_models, pre_tokenizers
from transformers import LogitsProcessor, PreTrainedTokenizerFast

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from drafters import Oracle, Wild  # noqa: E402
from specdec_nb import Llama, ModelDrafter, generate  # noqa: E402
from specdec_nb.learned.eagle import Eagle3, EagleDrafter  # noqa: E402
from specdec_nb.learned.medusa import Medusa, MedusaDrafter  # noqa: E402
from specdec_nb.roles import as_target, make_drafter  # noqa: E402
from specdec_nb.workshop.shell import terminable  # noqa: E402
from specdec_nb.phrases.ouroboros import Ouroboros  # noqa: E402
from specdec_nb.phrases.trained import Advised  # noqa: E402
from specdec_nb.speedup import CostCurve  # noqa: E402
from specdec_nb.trees.dag import GraphDrafter  # noqa: E402
from families import FAMILIES, GPT, SIZES, build  # noqa: E402

V, ALONE = 48, 1 << 30
MORE = { # beside those of the tests: name -> configuration, and what differs
    "cohere2, window 5": ("Cohere2Config", dict(sliding_window=5)), "olmo2": ("Olmo2Config", {}), "granite": ("GraniteConfig", {}),
    "stablelm": ("StableLmConfig", {}), "phi": ("PhiConfig", {}), "falcon": ("FalconConfig", {}), "codegen": ("CodeGenConfig", GPT | dict(rotary_dim=4)),
    "falcon, alibi": ("FalconConfig", dict(alibi=True)), "gptj": ("GPTJConfig", GPT | dict(rotary_dim=4)), "ctrl": ("CTRLConfig", GPT | dict(dff=64)),
    "biogpt": ("BioGptConfig", {}),
    "roberta": ("RobertaConfig", dict(is_decoder=True, pad_token_id=1, max_position_embeddings=130)), "smollm3, some layers without places": ("SmolLM3Config", {}),
    "glm": ("GlmConfig", dict(head_dim=8)), "exaone4, window 5": ("Exaone4Config", dict(sliding_window=5)), "starcoder2, window 5": ("Starcoder2Config", dict(sliding_window=5)),
    "deepseek3": ("DeepseekV3Config", dict(q_lora_rank=16, kv_lora_rank=16, qk_rope_head_dim=8, qk_nope_head_dim=8, v_head_dim=8, n_routed_experts=4, n_group=1,
                                            topk_group=1, num_experts_per_tok=2, moe_intermediate_size=32, num_key_value_heads=4, first_k_dense_replace=1)),
}
KINDS = {name: how[:2] for name, how in FAMILIES.items()} | MORE
REFUSED = ("which a processor with a memory cannot bear", "leaving them out would give another text", "the attention mask ends in 0")
NAMES = """none lookup lookup:k=3 suffix reference rest pool recycling recycling:nodes=5 lookahead auto tuned wild wild true oracle
    model model:k=2 model:tree=5 model:least=0.3 gsd ouroboros layerskip medusa medusa:tree=0 eagle3 eagle3:tree=0 advised""".replace("wild true", "wild:true").split()
RULES = ["rejection", "kseq", "block", "traversal"]
ANYWHERE = [dict(suppress_tokens=[1, 2, 3]), dict(bad_words_ids=[[3], [9]]), dict(sequence_bias=[[[3], 4.0]]), dict(min_new_tokens=6),
            dict(renormalize_logits=True), dict(forced_eos_token_id=4), dict(suppress_tokens=[*range(40)])]
READING = [dict(repetition_penalty=1.3), dict(no_repeat_ngram_size=2), dict(encoder_repetition_penalty=1.2), dict(bad_words_ids=[[5, 9], [7]]),
           dict(encoder_no_repeat_ngram_size=2)]
WARPED = [dict(temperature=.7), dict(top_k=5), dict(top_p=.8), dict(min_p=.1), dict(typical_p=.8), dict(temperature=1.5, top_k=20, top_p=.9)]
SURPRISE = {} # rule -> what its words' surprisals exceed the entropies by, and the variance of that, both summed up


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


class Recorder:
    "A streamer that keeps what it is given"
    def __init__(self): self.got, self.ended = [], 0
    def put(self, ids): self.got.append(ids.tolist())
    def end(self): self.ended += 1


@lru_cache(maxsize=None)
def tokenizer():
    "Words of one and of two letters, in one writing: stop strings may end inside a word, or need two"
    words = [chr(97 + i) for i in range(20)] + [chr(97 + i) + chr(97 + (7 * i + 3) % 20) for i in range(V - 20)]
    made = Tokenizer(token_models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="a"))
    made.pre_tokenizer, made.decoder = pre_tokenizers.Split(Regex("."), "isolated"), decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="a")


def draw(seed) -> dict: # a case
    "A call, as plain values"
    gen = np.random.default_rng(seed)
    def one(among): return among[gen.integers(len(among))]
    def perhaps(share, x, otherwise=None): return x if gen.random() < share else otherwise
    rows = perhaps(.6, 1, int(gen.integers(2, 5)))
    most = int(one([3, 12, 40, 120]))
    lengths = gen.integers(1, most + 1, rows) if gen.random() < .7 else [int(gen.integers(1, most + 1))] * rows
    family = one(sorted(KINDS))
    lengths = np.minimum(lengths, KINDS[family][1].get("max_position_embeddings", SIZES["max_position_embeddings"]))
    words = V if gen.random() < .5 else 5                            # few words: texts that repeat, so that copying pays
    prompts = [gen.integers(1, words, n).tolist() for n in lengths]
    alike = len(set(map(len, prompts))) == 1
    options = {}
    for among in (ANYWHERE, READING): options |= perhaps(.3, one(among), {})
    drawn = gen.random() < .4
    eos = gen.choice(V, int(gen.integers(1, 6)), replace=False).tolist() if gen.random() < .5 else None
    process = perhaps(.3, one(["alternate", "count", "grammar"]))        # two of them read the last token, which may not be padding
    forms = ["list", "left"] + ["right"] * (alike or process in (None, "count")) + ["holes", "pads"] * alike + ["pads"]
    form = one(forms)
    holes = [sorted(int(i) for i in gen.choice(range(1, n - 1), int(gen.integers(1, 4)))) if n > 2 else [] for n in lengths] if form in ("holes", "pads") else []
    if form == "pads":                                               # pad ids in the text: transformers takes them for padding
        for row, at in zip(prompts, holes):
            for i in at: row[i] = 0
    strings = [tokenizer().decode(gen.integers(0, V, int(gen.integers(1, 3)))) for _ in range(3)] if gen.random() < .15 else None
    return dict(family=family, own=bool(gen.random() < .5), prompts=prompts, form=form, holes=holes if form == "holes" else [], drafter=one(NAMES),
                noise=int(gen.integers(99)), k=perhaps(.2, int(gen.integers(0, 6))), rule=one([None, *RULES]),
                seed=int(gen.integers(2**31)) if drawn else None, warp=one([{}, *WARPED]) if drawn else {}, options=options, eos=eos,
                new=int(gen.integers(1, 20)), criterion=perhaps(.2, int(gen.integers(3, 9))), process=process, strings=strings,
                copies=perhaps(.3, int(gen.integers(2, 4)), 1) if drawn and rows < 3 else 1, stream=bool(gen.random() < .2), told=bool(gen.random() < (.7 if drawn else .2)),
                onward=perhaps(.3, int(gen.integers(1, 9))), twice=bool(gen.random() < .3))


def single(case): return len(case["prompts"]) == 1 and case["copies"] == 1


def kinds(case) -> list:
    "What a case is an example of, for counting"
    more = [name for name in ("k", "eos", "criterion", "strings", "stream", "told", "onward", "twice") if case[name] not in (None, False) and (name not in ("stream", "told", "onward") or single(case))]
    return [case["form"], "drawn" if case["seed"] is not None else "greedy", f"{len(case['prompts']) * case['copies']} rows", *more, *case["options"], *case["warp"],
            *[f"rule {case['rule']}"] * bool(case["rule"]), *[case["process"]] * bool(case["process"]), f"drafter {case['drafter'].partition(':')[0]}", *["copies"] * (case["copies"] > 1)]


@lru_cache(maxsize=None)
def models(family): # `(the model, the same in our own runtime or None, a draft model)`
    model = build(family, families=KINDS)
    other = copy.deepcopy(model)
    gen = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for w in other.parameters(): w.add_(torch.randn(w.shape, generator=gen, dtype=w.dtype) * .05 * w.std().nan_to_num(1))
    own = Llama.from_hf(model) if Llama.refuses(model.config) is None else None
    return model, own, other


@lru_cache(maxsize=None)
def trained(family, kind):
    "A network that reads the model's hidden states, and knows most of its words"
    model, words = models(family)[0], np.arange(0, V, dtype=int)[np.arange(V) % 5 != 3]
    with torch.random.fork_rng():
        torch.manual_seed(1)
        net = (Medusa if kind == "medusa" else Eagle3).of(model, words).join(as_target(model))
        if kind == "medusa": net.record["ranks"] = [[.5, .2, .1, .1]] * 4
        with torch.no_grad():
            for w in net.parameters(): w.add_(torch.randn_like(w) * .1)
    return net


def drafter_of(case, truth):
    name, _, option = case["drafter"].partition(":")
    small, (key, _, value) = models(case["family"])[2], option.partition("=")
    settings = {key: float(value) if key == "least" else int(value)} if value else {}
    if name == "wild": return Wild(case["noise"], truth if option else None)
    if name == "oracle": return Oracle(truth, 1 + case["noise"] % 7)
    if name == "gsd": return GraphDrafter(small)
    if name == "ouroboros": return Ouroboros(small, phrases=bool(case["noise"] % 2))
    if name == "model": return ModelDrafter(small, **settings)
    if name == "medusa": return MedusaDrafter(trained(case["family"], name), **settings)
    if name == "eagle3": return EagleDrafter(trained(case["family"], name), **settings)
    # under a rule with noise of its own the text depends on the draft, and that on prices: two targets must not have two lists
    prices = dict(curve=CostCurve([1, 64], [1., 4.])) if case["rule"] and case["seed"] is not None else {}
    if name == "advised": return Advised(learned=EagleDrafter(trained(case["family"], "eagle3"), **settings), price=.05, **prices)
    return make_drafter(case["drafter"], **prices if name in ("auto", "tuned") else {})


def call_of(case):
    "The arguments of `generate` and `model.generate` alike"
    call = dict(max_new_tokens=case["new"], do_sample=case["seed"] is not None, pad_token_id=0, **case["options"], **case["warp"])
    if case["eos"]: call |= dict(eos_token_id=case["eos"], **({"exponential_decay_length_penalty": [3, 1.2]} if case["noise"] % 5 == 0 else {}))
    if (n := case["criterion"]): call["stopping_criteria"] = [lambda ids, scores, **more: ids[:, -1] % n == 1]
    if case["strings"]: call |= dict(stop_strings=case["strings"], tokenizer=tokenizer())
    if case["process"] == "alternate": call["logits_processor"] = [Alternate()]
    if case["process"] == "count": call["logits_processor"] = [Count()]
    if case["process"] == "grammar": # which has nothing to say behind an end that was written
        ends, start = set(case["eos"] or ()), max(map(len, case["prompts"]))
        def allowed(row, ids): return [] if len(ids) > start and int(ids[-1]) in ends else [*range(int(ids[-1]) % 3, V, 3)]
        call["prefix_allowed_tokens_fn"] = allowed
    return call


def prompt_of(case):
    rows, longest = case["prompts"], max(map(len, case["prompts"]))
    if case["form"] in ("list", "pads"): return rows, {}
    ids, mask = torch.zeros(len(rows), longest, dtype=torch.long), torch.zeros(len(rows), longest, dtype=torch.long)
    for i, row in enumerate(rows):
        at = slice(len(row)) if case["form"] == "right" else slice(longest - len(row), longest)
        ids[i, at], mask[i, at] = torch.tensor(row), 1
        if case["holes"]: mask[i, case["holes"][i]] = 0
    return ids, dict(attention_mask=mask)


def alone(case, i):
    "A row as a prompt for `model.generate`"
    ids = torch.tensor([case["prompts"][i]])
    if case["form"] == "pads": return ids, {}
    mask = torch.ones_like(ids)
    if case["holes"]: mask[0, case["holes"][i]] = 0
    return ids, dict(attention_mask=mask)


def plain_of(case, seed=None): # the new tokens of each row; None if `model.generate` has no answer to compare with
    model, own, _ = models(case["family"])
    if case["seed"] is not None:
        ids, more = prompt_of(case)
        return new_of(case, generate(model, ids, drafter="none", seed=seed or case["seed"], num_return_sequences=case["copies"], **more, **call_of(case)))
    rows = []
    for i, row in enumerate(case["prompts"]):
        hidden = len(case["holes"][i]) if case["holes"] else row.count(0) if case["form"] == "pads" and 0 not in (case["eos"] or ()) else 0
        room = min(case["new"], (as_target(model).window or ALONE) + 1 - len(row) + hidden)
        if room < case["new"] and "forced_eos_token_id" in case["options"]: return None      # it is forced at the limit that was asked for
        ids, more = alone(case, i)
        try: rows.append(model.generate(ids, **more, **{**call_of(case), "max_new_tokens": room})[0, len(row):].tolist())
        except (IndexError, RuntimeError):
            if hidden: return None                                   # it counts masked rows, too, and has no more of them
            raise
    return rows


def new_of(case, ids): return ids[:, max(map(len, case["prompts"])):].tolist() # of each row, with what fills it up


def check(case) -> str: # None, or what is wrong
    "Run a case"
    model, own, _ = models(case["family"])
    target = own if own is not None and (case["own"] or case["drafter"] == "layerskip") else model
    if case["drafter"] == "layerskip" and own is None: return None
    if case["drafter"][:6] in ("medusa", "eagle3") and not fits(case["family"], case["drafter"][:6]): return None
    other = case["seed"] is not None and case["rule"]                 # it writes a text of its own, and must not know plain's
    try: plain = plain_of(case, other and case["seed"] + 1)
    except ValueError as e:
        return None if any(known in str(e) for known in (*REFUSED, "every word is masked")) else "plain: " + traceback.format_exc(limit=-4)
    except Exception: return "plain: " + traceback.format_exc(limit=-4)
    if plain is None: return None
    truth, (ids, more) = case["prompts"][0] + plain[0], prompt_of(case)
    drafter, settings = drafter_of(case, truth), dict(k=case["k"], rule=case["rule"], seed=case["seed"], num_return_sequences=case["copies"], **more)
    try:
        if other: plain = new_of(case, generate(own or model, ids, drafter=drafter_of(case, truth), **settings, **call_of(case)))
        for turn in range(1 + case["twice"]):
            with uncounted() if turn else nullcontext(): wrong = compared(case, target, drafter, ids, settings, plain)
            if wrong: return f"turn {turn + 1}, {wrong}"
            if other and case["twice"]: break                        # a warm drafter's is another text
    except ValueError as e:
        if any(known in str(e) for known in (*REFUSED, *["every word is masked"] * bool(other))): return None      # its own text may come to such a place
        return traceback.format_exc(limit=-4)
    except Exception: return traceback.format_exc(limit=-4)
    return None


@lru_cache(maxsize=None)
def fits(family, kind):
    try: return bool(trained(family, kind))
    except ValueError: return False                                  # it is for models of the Llama family


def compared(case, target, drafter, ids, settings, plain):
    "One call against plain's answer, and what else comes back of a single row"
    streamer = Recorder() if case["stream"] and single(case) else None
    told = dict(return_dict_in_generate=True, output_scores=True, output_logits=True) if case["told"] and single(case) else {}
    if case["onward"] and single(case): told["return_dict_in_generate"] = True
    out = generate(target, ids, drafter=drafter, streamer=streamer, **settings, **told, **call_of(case))
    sequences = out.sequences if told else out
    for i, (ours, theirs) in enumerate(zip(new_of(case, sequences), plain, strict=True)):
        if ours[:len(theirs)] != theirs or any(ours[len(theirs):]): return f"row {i}: {ours}, not {theirs}"
    new = new_of(case, sequences)[0]
    if streamer and (streamer.ended != 1 or streamer.got[0] != sequences[:, :-len(new)].tolist() or streamer.got[1:] != [[t] for t in new]): return f"streamed {streamer.got}"
    return case["told"] and told and scores_of(case, out, new) or case["onward"] and told and continued(case, target, out)


def scores_of(case, out, new):
    "The rows that came with the tokens against the model's own, and how surprising the tokens are under them"
    model, ids = models(case["family"])[0], alone(case, 0)[0]
    if not case["holes"] and case["form"] != "pads" and case["family"] != "llama dynamic rope":
        text = torch.cat([ids, torch.tensor([new])], 1)[:, :-1]
        places = dict(position_ids=torch.arange(text.shape[1])[None]) if "position_ids" in as_target(model).takes else {}
        with torch.no_grad(): rows = model(text, **places).logits[0, ids.shape[1] - 1:]
        for ours, theirs in zip(out.logits, rows, strict=True):
            if ours.shape != (1, V) or not torch.allclose(ours[0].double(), theirs, atol=1e-4 * float(theirs.abs().max())): return f"logits {ours[0][:4]}…, not {theirs[:4]}…"
    for row, token in zip(out.scores, new, strict=True):
        if case["seed"] is None:
            if row[0].argmax() != token: return f"scores that favour {int(row[0].argmax())}, not {token}"
            continue
        p = row[0].double().softmax(-1).numpy()
        if p[token] <= 0: return f"{token} has no score"
        s = -np.log(np.where(p > 0, p, 1))
        mean, sums = float(p @ s), SURPRISE.setdefault(case["rule"] or "walk", [0., 0., 0])
        for j, x in enumerate((float(s[token]) - mean, float(p @ s**2) - mean**2, 1)): sums[j] += x


def continued(case, target, out):
    "The cache that came back, in a second turn, against a call that reads everything"
    past, model = out.past_key_values, models(case["family"])[0]
    turn = torch.cat([out.sequences, torch.tensor([[7, 9]])], 1)
    if past is None or case["form"] == "pads" or turn.shape[1] + case["onward"] > (as_target(model).window or ALONE): return None
    plain, greedy = dict(attention_mask=torch.ones_like(turn)), dict(do_sample=False, max_new_tokens=case["onward"], pad_token_id=0)
    expected = model.generate(turn, **plain, **greedy)
    if target is model and case["noise"] % 2: second = model.generate(turn, past_key_values=past, **plain, **greedy)
    else: second = generate(target, turn, drafter="lookup", past_key_values=past, **plain, **greedy)
    if not torch.equal(second, expected): return f"a second turn of {second[0, turn.shape[1]:].tolist()}, not {expected[0, turn.shape[1]:].tolist()}"


def smaller(case):
    "Simpler cases, one step away"
    if len(case["prompts"]) > 1:
        for i in range(len(case["prompts"])): yield case | {name: [*case[name][:i], *case[name][i + 1:]] for name in ("prompts", "holes")}
    simple = dict(form="list", twice=False, k=None, rule=None, criterion=None, process=None, eos=None, own=False, warp={}, strings=None, copies=1, stream=False, told=False, onward=None)
    for name, plain in simple.items():
        more = dict(holes=[], prompts=[[t or 1 for t in row] for row in case["prompts"]]) if name == "form" else {}
        if case[name] != plain: yield case | {name: plain} | more
    for name in case["options"]: yield case | dict(options={k: x for k, x in case["options"].items() if k != name})
    if ":" in case["drafter"]: yield case | dict(drafter=case["drafter"].split(":")[0])
    for n in (1, case["new"] // 2, case["new"] - 1):
        if 0 < n < case["new"]: yield case | dict(new=n)
    for i, row in enumerate(case["prompts"] if not case["holes"] else ()):
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
    with uncounted():
        small = minimised(case)
        print(f"{what}\nthe smallest found: {check(small)}\n  python tools/fuzz.py --case '{json.dumps(small)}'", flush=True)


@contextmanager
def uncounted():
    "What is tried again under the same noise says nothing new of a rule's law"
    kept = copy.deepcopy(SURPRISE)
    try: yield
    finally:
        SURPRISE.clear()
        SURPRISE.update(kept)


def surprised() -> list: # of rules
    "Rules whose words are likelier or unlikelier than their laws say, which chance does once in a million"
    for rule, (sum_, variance, n) in sorted(SURPRISE.items()): print(f"{rule}: {n} words, {sum_ / max(variance, 1e-9) ** .5:+.2f} standard deviations from the law")
    return [rule for rule, (sum_, variance, _) in SURPRISE.items() if abs(sum_) > 5 * variance ** .5 + 1e-6]


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
    SURPRISE.clear()
    if asked.replay is not None or asked.case:
        case = asked.case or draw(asked.replay)
        print(json.dumps(case), wrong := check(case) or "right", sep="\n")
        return int(wrong != "right")
    until, failed, counts, n = time.monotonic() + asked.seconds, 0, Counter(), 0
    with terminable() as stop:                                       # whoever is ended says what it has tried
        while time.monotonic() < until and n < asked.cases and not stop.is_set():
            seed = asked.seed * 1_000_000 + n
            counts.update(kinds(draw(seed)))
            if what := check(draw(seed)):
                failed += 1
                print(f"case {seed}: ", end="")
                report(draw(seed), what)
            n += 1
    print("  ".join(f"{name}: {times}" for name, times in sorted(counts.items())))
    failed += len(surprised())
    print(f"{n} cases, {failed} failed")
    return failed


if __name__ == "__main__": sys.exit(main() > 0)
