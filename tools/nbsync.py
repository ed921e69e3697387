"""The text is the source: nbs/_src/**/*.md (MyST) -> nbs/**/*.ipynb, keeping cell ids and outputs.
A notebook is dressed besides: its title has its number, references are links, solutions are folded (tools/dress.py).

    python tools/nbsync.py            text -> notebooks (--force: even over edits made only in the notebook)
    python tools/nbsync.py --to-text  notebooks edited outside JupyterLab -> text
    python tools/nbsync.py --check    writes nothing; exit 1 if a text and its notebook differ
    python tools/nbsync.py --trust    let JupyterLab show what the notebooks store, drawings included
    python tools/nbsync.py 05_draft   only the pairs whose path contains 05_draft (all four ways)
"""
import ast, argparse, configparser, hashlib, json, subprocess, sys
from difflib import SequenceMatcher
from pathlib import Path

sys.modules.setdefault("rfc3987_syntax", None)       # jsonschema would build forty parsers with it, in two seconds, for identifiers that we don't have

import jupytext, nbformat
from jupytext.config import load_jupytext_config
from nbdev.clean import clean_nb
from nbformat.sign import NotebookNotary

sys.path.insert(0, str(Path(__file__).resolve().parent))
from dress import WAY, Book, directives, undressed

ROOT = Path(__file__).resolve().parents[1]


def settings(root=ROOT):
    "What `settings.ini` says"
    ini = configparser.ConfigParser()
    ini.read(root/"settings.ini")
    return ini["DEFAULT"]


def notebooks(root=ROOT):
    "Every notebook of the book, index first, then in reading order: `{part/chapter: path}`"
    found = {p.relative_to(root/"nbs").with_suffix("").as_posix(): p for p in (root/"nbs").rglob("*.ipynb")}
    return {k: found[k] for k in sorted(found) if not any(part[0] in "._" for part in k.split("/"))}


def texts(root=ROOT):
    "Every text: `{part/chapter: path}`"
    src = root/"nbs/_src"
    return {p.relative_to(src).with_suffix("").as_posix(): p for p in sorted(src.rglob("*.md"))}


def cells(nb):
    "What text and notebook must agree on: type, source, tags and fold of every cell"
    def folded(c): return c.metadata.get("jupyter", {}).get("source_hidden", False)
    return [(c.cell_type, c.source.rstrip(), tuple(c.metadata.get("tags", [])), folded(c)) for c in nb.cells]


def save(nb, path, root=ROOT):
    "Write a notebook as `nbdev_clean` leaves it, so that diffs are small"
    cfg = settings(root)
    d = json.loads(nbformat.writes(nb, 4))
    clean_nb(d, allowed_cell_metadata_keys=cfg["allowed_cell_metadata_keys"].split(),
             allowed_metadata_keys=cfg["allowed_metadata_keys"].split())
    Path(path).write_text(json.dumps(d, sort_keys=True, indent=1, ensure_ascii=False)+"\n", encoding="utf-8")


def program(cell):
    "What a cell does, however its lines are broken: with the same program and directives it shows the same"
    source = cell.source.rstrip()
    if cell.cell_type != "code": return source
    try: tree = ast.parse(source)
    except (SyntaxError, ValueError): return source                # magics
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and (said := ast.get_docstring(node)):
            node.body[0].value.value = " ".join(said.split())
    return ast.dump(tree), tuple(directives(source).items())


def merge(new, old):
    "Give `new` cells the ids of `old` ones; outputs too, but only where the program is unchanged"
    used = set()
    def take(c, o, outputs):
        c.id = o.id
        used.add(o.id)
        if outputs and c.cell_type == "code": c.outputs = o.outputs
    a, b = ([(c.cell_type, program(c)) for c in nb.cells] for nb in (old, new))
    for op, i, i2, j, j2 in SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        if op not in ("equal", "replace"): continue
        for o, c in zip(old.cells[i:i2], new.cells[j:j2]):
            if o.cell_type == c.cell_type: take(c, o, op == "equal")
    return used


def to_notebook(key, text, nb_path, root=ROOT, book=None):
    "The notebook of `text`; ids of new cells come from their place and source, so they are reproducible"
    new = (book or Book(root, texts(root))).dress(key, jupytext.read(text))
    old = nbformat.read(nb_path, 4) if nb_path.exists() else nbformat.v4.new_notebook()
    used = merge(new, old)
    for i, c in enumerate(new.cells):
        if WAY.match(c.source): c.id = "way-on"      # no text knows this cell, so no place gives it an id
        if c.id in used | {"way-on"}: continue
        c.id = next(h for n in range(99) if (h := hashlib.sha1(
            f"{key}/{i}/{c.source}/{n or ''}".encode()).hexdigest()[:8]) not in used)
        used.add(c.id)
    new.metadata.pop("jupytext", None)           # pairing lives in jupytext.toml only
    nb_path.parent.mkdir(parents=True, exist_ok=True)
    save(new, nb_path, root)


def only_notebook_edited(key, text, nb_path, root=ROOT, book=None):
    "Was the notebook edited since HEAD, and its text not?"
    book = book or Book(root, texts(root))
    def told(nb): return cells(book.dress(key, nb))
    def head(p, fmt):
        r = subprocess.run(["git", "show", f"HEAD:./{p.relative_to(root)}"], cwd=root, text=True,
                           capture_output=True)
        return told(jupytext.reads(r.stdout, fmt=fmt)) if r.returncode == 0 else None
    return head(text, "md:myst") == told(jupytext.read(text)) and \
        head(nb_path, "ipynb") not in (None, told(nbformat.read(nb_path, 4)))


def to_text(nb_path, text, root=ROOT):
    "The text of a notebook, the same bytes as a save in JupyterLab; links stay"
    text.parent.mkdir(parents=True, exist_ok=True)
    config = load_jupytext_config(str(root/"nbs"))
    nb = undressed(nbformat.read(nb_path, 4))
    nb.metadata.setdefault("kernelspec", {"display_name": "python3", "language": "python", "name": "python3"})
    text.write_text(jupytext.writes(nb, fmt="md:myst", config=config), encoding="utf-8")


def difference(key, text, nb_path, book):
    "In words, how a pair differs; None if it does not"
    if not nb_path.exists(): return "has no notebook: run tools/nbsync.py"
    if not text.exists(): return "has no text: run tools/nbsync.py --to-text, or delete the notebook"
    a, b = cells(book.dress(key, jupytext.read(text))), cells(nbformat.read(nb_path, 4))
    if a == b: return None
    i = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
    return (f"differs from cell {i} on ({len(a)} cells in the text, {len(b)} in the notebook): "
            "run tools/nbsync.py, or --to-text if the notebook is right")


def pairs(words=(), root=ROOT):
    "`(key, text, notebook)` of every pair whose key contains one of `words`"
    keys = sorted(texts(root).keys() | notebooks(root).keys())
    return [(k, root/f"nbs/_src/{k}.md", root/f"nbs/{k}.ipynb") for k in keys
            if not words or any(Path(w).stem in k for w in words)]


def check(words=(), root=ROOT):
    "Every pair that is out of step, in words"
    book = Book(root, texts(root))
    return [f"{k} {d}" for k, t, n in pairs(words, root) if (d := difference(k, t, n, book))]


def trust(words=(), root=ROOT):
    "Sign the notebooks in a database of this checkout's, which `make lab` and `make edit` name"
    (home := root/".venv/share/jupyter").mkdir(parents=True, exist_ok=True)
    notary = NotebookNotary(data_dir=str(home))
    for _, _, nb in pairs(words, root): notary.sign(nbformat.read(nb, 4))


def main(argv=None):
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for flag in ("--check", "--to-text", "--trust", "--force"): a.add_argument(flag, action="store_true")
    a.add_argument("pairs", nargs="*")
    o = a.parse_args(argv)
    if o.check:
        bad = check(o.pairs)
        print("\n".join(bad) or f"{len(pairs(o.pairs))} pairs in step")
        return bool(bad)
    if o.trust: return trust(o.pairs)
    book = Book(ROOT, texts())
    for key, text, nb in pairs(o.pairs):
        if not (how := difference(key, text, nb, book)): continue
        if o.to_text: to_text(nb, text) if nb.exists() else None
        elif not text.exists(): print(f"{key} {how}")
        elif nb.exists() and not o.force and only_notebook_edited(key, text, nb, book=book):
            sys.exit(f"{key}: the notebook was edited since HEAD and its text was not. Expected edits in the "
                     "text: run tools/nbsync.py --to-text to keep them, or --force to drop them")
        else: to_notebook(key, text, nb, book=book)
        print(key)


if __name__ == "__main__": sys.exit(main())
