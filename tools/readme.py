"""README.md is the index notebook in plain Markdown.

    python tools/readme.py [--check]
"""
import base64, re, sys
from pathlib import Path

import nbformat

sys.path.insert(0, str(Path(__file__).resolve().parent))
from nbrun import directives
from nbsync import ROOT, settings

HEAD = "<!-- made from nbs/index.ipynb by tools/readme.py: edit nbs/_src/index.md -->"


def prose(source):
    "Markdown that GitHub reads: Sphinx roles become their text, links point into nbs/"
    source = re.sub(r"\{[\w:]+\}`([^`<]*?)(?:\s*<[^>]*>)?`", r"\1", source)
    return re.sub(r"(?<=\]\()(?![a-z]+:|#|/|\.\.)([^)\s]+)", r"nbs/\1", source).replace("](../", "](")


def code(cell, n):
    "A code cell and its outputs, as Markdown; and the images it needs, `{path: bytes}`"
    d = directives(cell.source)
    if {"hide", "default_exp"} & d.keys() or d.get("include") == "false": return "", {}
    source = "\n".join(line for line in cell.source.splitlines() if not re.match(r"\s*#\s*\|", line)).strip()
    out, images = ([f"```python\n{source}\n```"] if source and d.get("echo") != "false" else []), {}
    for o in cell.outputs if d.get("output") != "false" else []:
        data = o.get("data", {})
        if kind := next((k for k in ("image/svg+xml", "image/png") if k in data), None):
            path = f"docs/_static/readme_{n}.{'svg' if 'svg' in kind else 'png'}"
            images[path] = "".join(data[kind]).encode() if "svg" in kind else base64.b64decode(data[kind])
            out.append(f"![{d.get('fig-alt') or d.get('fig-cap') or 'figure'}]({path})")
        elif "text/markdown" in data: out.append("".join(data["text/markdown"]))
        elif text := "".join(data.get("text/plain") or o.get("text", "")).rstrip():
            out.append(f"```text\n{text}\n```")
    return "\n\n".join(out), images


def readme(nb):
    "`(text, images)` of the index notebook"
    parts, images = [HEAD], {}
    for n, c in enumerate(nb.cells):
        if c.cell_type == "markdown": text, new = prose(c.source), {}
        elif c.cell_type == "code": text, new = code(c, n)
        else: continue
        parts.append(text)
        images |= new
    return "\n\n".join(p.strip() for p in parts if p.strip())+"\n", images


def stale(root=ROOT):
    "Files of the README that are not what the index says"
    text, images = readme(nbformat.read(root/"nbs"/settings(root)["readme_nb"], 4))
    want = {"README.md": text.encode(), **images}
    return {p: b for p, b in want.items() if not (root/p).exists() or (root/p).read_bytes() != b}


if __name__ == "__main__":
    files = stale()
    if "--check" in sys.argv:
        sys.exit(f"{', '.join(files)}: not what nbs/index.ipynb says; run tools/readme.py" if files else 0)
    for p, b in files.items():
        (ROOT/p).parent.mkdir(parents=True, exist_ok=True)
        (ROOT/p).write_bytes(b)
