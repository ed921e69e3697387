"""What is answered: likelihoods of all words, and prose of any bytes."""
import numpy as np

from served import TOKENIZER
from specdec_nb.serving.answers import Prose, likelihoods


def test_likelihoods_are_of_all_words():
    "Against sorting all of them, for rows long enough that this is not done"
    gen = np.random.default_rng(0)
    for V in (40, 900, 5000):
        row, k = gen.normal(size=V).astype(np.float32), 5
        own, best = likelihoods(row, 7, k)
        p = np.exp(row.astype(float)) / np.exp(row.astype(float)).sum()
        assert abs(own - np.log(p[7])) < 1e-9 and [x for x, _ in best] == np.argsort(-p)[:k].tolist() and np.allclose([w for _, w in best], np.log(np.sort(p)[::-1][:k]))


def test_prose_of_random_bytes():
    gen = np.random.default_rng(0)
    for i in range(60):
        ids, strings = gen.integers(0, 259, 40).tolist(), [("a",), ("é", "xy"), ()][i % 3]
        if i % 2: ids = TOKENIZER("".join(gen.choice(list("aéxy🦊 "), 30))).input_ids
        prose, whole = Prose(TOKENIZER, strings), TOKENIZER.decode(ids, skip_special_tokens=True)
        sent = "".join(prose.add(ids[j:j + 3], j + 3 >= len(ids)) for j in range(0, len(ids), 3))
        cuts = [whole.find(s) for s in strings if s in whole]
        assert sent == whole[:min(cuts, default=len(whole))]
