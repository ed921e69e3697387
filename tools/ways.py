"""All ways to decode of Part VIII on the real model: what each costs with guesses and without, and how many questions it answers.

    nice python tools/ways.py --out results/ways.json [--tokens 20]

Each way writes the same answers plainly and with drafters, which must be equal word for word; the model's calls and rows are counted inside every composed target, and the seconds are the processor's. A row is one that is computed: of a draft that grows on the last one,
only the new nodes are; `nodes` are those of whole drafts, a text's pending word among them.
A run that was stopped goes on with --resume.
"""
import argparse, time, warnings

import torch
from specdec_nb.chance import Keyed
from specdec_nb.decode import Request, serve
from specdec_nb.decoding.beams import beam_search
from specdec_nb.decoding.contrastive import Contrastive
from specdec_nb.decoding.hidden import ContrastiveSearch, DoLa, VectorFSD
from specdec_nb.decoding.methods import FSD, Mirostat, Truncated
from specdec_nb.decoding.samples import best_of
from specdec_nb.decoding.sed import YesNo, sed
from specdec_nb.drafters.model import draft_target
from specdec_nb.models.hub import chat
from specdec_nb.models.native import load_default
from specdec_nb.roles import as_target, make_drafter
from specdec_nb.sampling import Law, RepetitionPenalty
from specdec_nb.stops import Stop
from specdec_nb.workshop.ledger import Ledger, command_line, load_average, provenance

TASKS = ("Correct the spelling: 'The quik brown fox jumps over the lazi dog, and the lazi dog did not care at all.' Answer with the sentence only.",
         "Write a short poem about rain.",
         "Make it a question: 'The train to Vienna leaves at seven in the morning from platform four.'")
SUMS = ((3, 4), (2, 2), (5, 1), (6, 3), (4, 5), (7, 8), (9, 2))
QUESTIONS = {f"What is {a} + {b}?": str(a + b) for a, b in SUMS} | {
    "What is the capital of France?": "paris", "What is the capital of Italy?": "rome", "What is the capital of Japan?": "tokyo",
    "How many legs does a spider have?": "8|eight", "How many days are in a week?": "7|seven",
    "What is the opposite of hot?": "cold", "What is the opposite of up?": "down", "What colour is grass?": "green",
    "What colour is the sky on a clear day?": "blue", "Which animal says meow?": "cat", "Which animal barks?": "dog",
    "What do bees make?": "honey", "What is the first month of the year?": "january"}
DRAFTERS = ("lookup", "recycling")
COLUMNS = dict(calls="of the model, the reading of prompts apart", rows="that these calls computed: of a draft that grew on the last one, its new nodes",
               nodes="of whole drafts, each with the pending word, computed now or before", seconds="of the processor")


class Counting:
    "A target that counts the calls that are no reading of a prompt, the rows that they compute, and the nodes of their drafts"
    def __init__(self, model): self.inner, self.calls, self.rows, self.nodes = as_target(model), 0, 0, 0
    def __getattr__(self, name): return getattr(self.inner, name)
    def score(self, pairs):
        asked = [(state.scored, draft) for state, draft in pairs if draft is not None]
        self.calls, self.nodes = self.calls + bool(asked), self.nodes + sum(1 + len(draft) for _, draft in asked)
        self.rows += sum(len(draft) - len(old) if old is not None and draft.extends(old) else 1 + len(draft) for old, draft in asked)
        return self.inner.score(pairs)


def right(answer, wanted):
    "Whether one of the wanted words is said"
    said = "".join(c if c.isalnum() else " " for c in answer.lower()).split()
    return any(w in said for w in wanted.split("|"))


class Ways:
    "`{name: (a function of prompts, a stop and a drafter -> answers as token ids, its target)}`"
    def __init__(self, model, tokenizer):
        self.target, self.tokenizer, few = as_target(model), tokenizer, tuple(range(0, 30, 8))
        head, norm, eps = self.target.unembed, torch.from_numpy(model.packed.vector("norm"))[:model.config.hidden_size], model.config.rms_norm_eps
        def normed(h): return h * (h.pow(2).mean(-1, keepdim=True) + eps).rsqrt() * norm
        laws = {"greedy": Law(temperature=0), "temperature 0.7": Law(temperature=.7), "top-k 20": Law(top_k=20), "top-p 0.9": Law(top_p=.9), "min-p 0.1": Law(min_p=.1),
                "typical 0.9": Truncated(typical=.9), "ε 0.0003": Truncated(epsilon=3e-4), "η 0.0003": Truncated(eta=3e-4), "Mirostat 3": Mirostat(),
                "repetition 1.2": Law(temperature=0, processors=(RepetitionPenalty(1.2),)), "FSD": FSD(), "vector FSD": VectorFSD(layer=self.target.layers),
                "DoLa": DoLa(temperature=0, unembed=head, layers=few, processors=(RepetitionPenalty(1.2),)),
                "DoLa, normed": DoLa(temperature=0, unembed=head, layers=few, norm=normed)}
        self.ways = {name: self.served(law) for name, law in laws.items()}
        self.ways["contrastive search"] = self.served(laws["greedy"], ContrastiveSearch)
        amateur = draft_target(None, self.target)
        self.ways["contrastive decoding"] = self.served(laws["greedy"], lambda expert: Contrastive(expert, amateur))
        self.ways["beams, 4"] = self.beams(width=4)
        self.ways["diverse beams, 2 of 2"] = self.beams(width=4, groups=2, diversity=.5)
        self.ways["best of 4"] = self.best(Law(temperature=.8, top_p=.95))
        self.ways["self-evaluation"] = self.evaluated

    def served(self, law, composed=lambda model: model):
        def write(model, questions, stop, drafter):
            target, one = composed(model), make_drafter(drafter)
            asked = [Request(target, one, self.ids(q), law, rng=Keyed(2, i), stop=stop) for i, q in enumerate(questions)]
            for _ in serve([*asked]): pass
            return [r.tokens[r.prompt:] for r in asked]
        return write

    def beams(self, **rules):
        def write(model, questions, stop, drafter):
            return [list(beam_search(model, self.ids(q), stop.limit, stop.eos, drafter, **rules).texts[0][1]) for q in questions]
        return write

    def best(self, law):
        def write(model, questions, stop, drafter):
            return [best_of(model, self.ids(q), 4, stop, law=law, seed=2, drafter=drafter)[0][1].tokens for q in questions]
        return write

    def evaluated(self, model, questions, stop, drafter):
        yes, no = (self.tokenizer.encode(w)[0] for w in ("Yes", "No"))
        def judge(q):
            return YesNo(model, lambda answer: self.ids(f"Question: {q}\nAnswer: {self.text(answer)}\nIs the answer correct? Say Yes or No."), yes, no)
        return [list(sed(model, self.ids(q), judge(q), stop, branchings=2, drafter=drafter).tokens) for q in questions]

    def ids(self, question): return chat(self.tokenizer, question)[0].tolist()
    def text(self, tokens): return self.tokenizer.decode(tokens, skip_special_tokens=True)
    def stop(self, n): return Stop(n, frozenset({self.tokenizer.eos_token_id}))

    def measured(self, name, tokens, drafters):
        "One way: its calls, rows and seconds, plainly and with each drafter, task by task; and the questions it answers"
        plain, rows = None, []
        for drafter in ("none", *drafters):
            model, texts, began = Counting(self.target), [], time.process_time()
            for task in TASKS: texts += self.ways[name](model, [task], self.stop(tokens), drafter)
            seconds, plain = time.process_time() - began, texts if plain is None else plain
            rows.append(dict(way=name, drafter=drafter, n=len(TASKS), identical=sum(a == b for a, b in zip(texts, plain)), tokens=sum(map(len, texts)), calls=model.calls, rows=model.rows, nodes=model.nodes, seconds=seconds))
        answers = self.ways[name](self.target, [*QUESTIONS], self.stop(8), "none")
        return rows, dict(way=name, asked=len(QUESTIONS), right=sum(right(self.text(a), w) for a, w in zip(answers, QUESTIONS.values())))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", default="results/ways.json")
    p.add_argument("--tokens", type=int, default=20, help="words of an answer at most")
    for flag in ("--resume", "--force"): p.add_argument(flag, action="store_true")
    a = p.parse_args()
    warnings.simplefilter("ignore")
    ledger, (model, tokenizer) = Ledger(a.out, resume=a.resume, force=a.force), load_default()
    ways, source = Ways(model, tokenizer), dict(provenance(model), tokens=a.tokens, columns=COLUMNS)
    ledger.begin(source)
    for name in [*ways.ways][len(ledger.records):]:
        rows, record = ways.measured(name, a.tokens, (*DRAFTERS, *["amateur:k=3"] * (name == "contrastive decoding"), *["siblings"] * name.startswith("best")))
        print(record, *rows, sep="\n  ", flush=True)
        ledger.add(dict(record, rows=rows))
    header = dict(source, command=command_line("python tools/ways.py"), load=load_average(), date=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
    ledger.close(dict(provenance=header, rows=[row for r in ledger.records for row in r["rows"]], records=[{k: r[k] for k in ("way", "asked", "right")} for r in ledger.records]))


if __name__ == "__main__": main()
