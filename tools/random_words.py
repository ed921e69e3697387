"""Questions that nobody can foretell the answer of: words of the default model's vocabulary in random order, to be continued.

    python tools/random_words.py          writes results/random.jsonl, the same bytes every time
"""
import json
from pathlib import Path

import numpy as np

from specdec_nb.models.hub import load_hf
from specdec_nb.workshop.files import whole

OUT = Path(__file__).resolve().parents[1]/"results/random.jsonl"


def questions(tokenizer, n=6, length=90, seed=0):
    "`n` texts of `length` words each, drawn from the tokens that are a space and four to nine small letters"
    words = sorted(w[1:] for w in tokenizer.get_vocab() if w[0] == "Ġ" and w[1:].isascii() and w[1:].isalpha() and w[1:].islower() and 4 <= len(w[1:]) <= 9)
    rng = np.random.default_rng(seed)
    return [{"category": "random words", "turns": [" ".join(words[i] for i in rng.choice(len(words), length, replace=False))], "chat": False} for _ in range(n)]


if __name__ == "__main__":
    with whole(OUT) as f: f.write("".join(json.dumps(q) + "\n" for q in questions(load_hf()[1])).encode())
