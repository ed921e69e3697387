"""README.md is the index notebook in plain Markdown.

    python tools/readme.py [--check]
"""
import base64, re, sys
from html import escape
from html.parser import HTMLParser
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


class Drawing(HTMLParser):
    """What HTML becomes where styles are dropped, as GitHub drops them: a paragraph or a block of text stays,
    coloured pieces turn bold where the colour is the first that its legend (`<small>`) names, tables turn Markdown."""
    def __init__(self, html):
        super().__init__()
        self.blocks, self.rows, self.style, self.legend = [[]], [], "", []
        self.small = self.cell = False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        if tag == "span": self.style = dict(attrs).get("style", "")
        if tag == "small": self.small = True
        if tag in ("div", "p"): self.blocks.append([])
        if tag == "tr": self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.cell = True

    def handle_endtag(self, tag):
        if tag == "span": self.style = ""
        if tag == "small": self.small = False
        if tag in ("td", "th"): self.cell = False

    def handle_data(self, data):
        if self.cell: self.rows[-1][-1] += data
        elif self.small: self.legend += [(data.strip(), self.style)] if data.strip() else []
        else: self.blocks[-1].append((data, self.style))

    def markdown(self):
        bold = self.legend[0][1] if self.legend else None
        def piece(text, style): return f"<b>{escape(text, False)}</b>" if bold and style == bold else escape(text, False)
        texts = ["".join(piece(*p) for p in block).replace("</b><b>", "") for block in self.blocks]
        out = [f"<pre>{t}</pre>" for t in texts if t.strip()]
        if self.legend: out.append(f"Bold: {self.legend[0][0]}. Plain: {', '.join(t for t, _ in self.legend[1:])}.")
        rows = [f"| {' | '.join(c.strip().replace('|', chr(92)+'|') for c in row)} |" for row in self.rows]
        if rows: out.append("\n".join([rows[0], "|--" * len(self.rows[0]) + "|", *rows[1:]]))
        return "\n\n".join(out)


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
        elif "text/html" in data and "data-touch" not in "".join(data["text/html"]): out.append(Drawing("".join(data["text/html"])).markdown())
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
