"""Questions about long texts: the book's own chapters, cut to so many tokens of the default model.

    python tools/contexts.py          writes results/contexts.jsonl: two texts of 500, 4000 and 1500 tokens each
"""
import json, re
from pathlib import Path

from specdec_nb.models.hub import load_hf
from specdec_nb.workshop.files import whole

HERE = Path(__file__).resolve().parents[1]
OUT, LENGTHS = HERE/"results/contexts.jsonl", (500, 4000, 1500)
TEXTS = ("1_exactness", "2_models"), ("6_phrases", "9_measuring")     # parts; one text of each pair


def prose(folder):
    "The chapters of a part one after another, without their code"
    texts = [p.read_text().split("---\n", 2)[-1] for p in sorted((HERE/"nbs/_src"/folder).glob("*.md"))]
    return re.sub(r"\n{3,}", "\n\n", re.sub(r"^```.*?^```$", "", "\n\n".join(texts), flags=re.M | re.S)).strip()


def questions(tokenizer):
    "One of each length and text; categories are lengths in tokens. The first warms a benchmark up, so it is short"
    texts = [tokenizer("\n\n".join(map(prose, parts))).input_ids for parts in TEXTS]
    return [{"category": str(n), "turns": ["Summarize the following text in a few sentences.\n\n" + tokenizer.decode(text[:n])]}
            for n in LENGTHS for text in texts]


if __name__ == "__main__":
    with whole(OUT) as f: f.write("".join(json.dumps(q) + "\n" for q in questions(load_hf()[1])).encode())
