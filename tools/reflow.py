"""Break code cells' lines of more than 100 columns, where that can be done without making them worse: the program stays the same.

    python tools/reflow.py [TEXT ...]          say how many lines are too long, and how many of them would be broken
    python tools/reflow.py --write [TEXT ...]  break them; `nbsync` then keeps the outputs of cells whose program is the same

A line is broken between the items of its outermost bracket, and goes on under the first of them; what follows a colon goes to a line of
its own; a comment behind a statement goes above it. Documented arguments, docstrings and long strings are left to the author.
"""
import argparse, ast, io, re, sys, tokenize
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from nbsync import texts

WIDTH = 100
CELL = re.compile(r"(?ms)^```\{code-cell\}\n(.*?)^```$")
HEADS = {"if", "elif", "else", "for", "while", "with", "try", "except", "finally", "def", "class"}
FIELD = re.compile(r"^\s*\*{0,2}\w+\s*:[^#]*#|^\s*(def|class|\)) ?.*#|^\s*\*{0,2}\w+(=[^#]*)?,\s*#")       # comments that are documentation


def tokens_of(line):
    "The tokens of a line that is a statement, or a header with its body; None if it is neither"
    try: return [t for t in tokenize.generate_tokens(io.StringIO(line.strip() + "\n").readline) if t.type not in (tokenize.NEWLINE, tokenize.NL, tokenize.ENDMARKER)]
    except (tokenize.TokenError, SyntaxError, IndentationError): return None


def after_colon(tokens):
    "Where the body of a one-line compound statement begins; None: there is none"
    if tokens[0].string not in HEADS: return None
    depth = lambdas = 0
    for t, following in zip(tokens, tokens[1:]):
        depth += (t.string in "([{") - (t.string in ")]}") if t.type == tokenize.OP else 0
        lambdas += t.string == "lambda"
        if t.string == ":" and not depth:
            if not lambdas: return None if following.type == tokenize.COMMENT else following.start[1]
            lambdas -= 1
    return None


def places(tokens):
    "Where a line may be broken: `(column, rank, column to go on at)`; outer brackets rank first, and in them items, loops and filters"
    opened, found = [], []                                       # of each open bracket: where its content begins, its loops, what may not be parted
    for t, following in zip(tokens, tokens[1:]):
        if t.type == tokenize.OP and t.string in "([{": opened.append([following.start[1], 0, ""])
        if t.type == tokenize.OP and t.string in ")]}" and opened: opened.pop()
        if not opened: continue
        now = opened[-1]
        if t.string in ("for", "lambda"): now[2] = t.string
        if now[2] == "for" and t.string == "in" or now[2] == "lambda" and t.string == ":": now[2] = ""
        now[1] += following.string == "for"
        filters = following.string == "if" and now[1] and not any(u.string == "else" for u in same_bracket(tokens, following))
        item = t.string == "," and not now[2] and not now[1] or t.type == following.type == tokenize.STRING
        if following.string in (")", "]", "}"): continue
        if item or following.string == "for" or filters: found.append((following.start[1], (len(opened), 0), now[0]))
        elif following.string in ("and", "or") and not now[1]: found.append((following.start[1], (len(opened), 1), now[0]))
    return found


def same_bracket(tokens, first):
    "The tokens from `first` on, as far as its bracket goes, without what is inside of others"
    depth = 0
    for t in tokens[tokens.index(first):]:
        depth += (t.string in ("(", "[", "{")) - (t.string in (")", "]", "}"))
        if depth < 0: return
        if not depth: yield t


def last_item(tokens):
    "The column behind the last comma outside of all brackets: what is assigned side by side is not broken before its last"
    depth, column = 0, 0
    for t in tokens:
        depth += (t.string in ("(", "[", "{")) - (t.string in (")", "]", "}"))
        if t.string == "," and not depth: column = t.end[1]
    return column


def filled(line):
    "A statement over several lines; itself where nothing can be done"
    indent = len(line) - len(line.lstrip())
    rows, rest, tokens = [], line.strip(), tokens_of(line)
    if tokens is None: return [line]
    spots, done, at = [p for p in places(tokens) if p[0] > last_item(tokens)], 0, indent   # `done` columns are written; the rest begins at `at`
    start = {0: indent}                                          # where each written column came to stand: for brackets on later lines
    def shown(column): return max((s for s in start if s <= column)), column
    while at + len(rest) - done > WIDTH:
        fit = [(rank, -column, column, align) for column, rank, align in spots if done < column and at + column - done <= WIDTH + 1]
        if not fit: return [line]
        _, _, column, align = min(fit)
        rows.append(" " * at + rest[done:column].rstrip())
        base, _ = shown(align)
        new = start[base] + align - base
        if new > WIDTH - 40: return [line]
        done, at = column, new
        start[column] = new
    return [*rows, " " * at + rest[done:]]


def broken(line):
    "A line that is too long, as several"
    if len(line) <= WIDTH or (tokens := tokens_of(line)) is None or not tokens: return [line]
    indent = len(line) - len(line.lstrip())
    if tokens[-1].type == tokenize.COMMENT:
        if FIELD.match(line) or len(tokens) == 1 or line.lstrip().startswith("#|"): return [line]
        code, comment = line[:indent + tokens[-1].start[1]].rstrip(), " " * indent + tokens[-1].string
        return [comment, *broken(code)] if len(comment) <= WIDTH else [line]
    if (body := after_colon(tokens)) is not None:
        head, tail = line[:indent + body].rstrip(), " " * (indent + 4) + line[indent + body:]
        whole = [*broken(head), *broken(tail)]
        return whole if max(map(len, whole)) < len(line) else [line]
    return filled(line)


def reflowed(source):
    "A cell with shorter lines, if it is Python and stays the same program"
    lines, parts, changed = source.split("\n"), [], False
    for line in lines:
        new = broken(line)
        parts += new
        changed |= new != [line]
    text = "\n".join(parts)
    if not changed: return source
    try: same = ast.dump(ast.parse(text)) == ast.dump(ast.parse(source))
    except SyntaxError: same = False
    if same: return text
    kept = lines                                                 # one line spoils it: try them one at a time
    for line in lines:
        if len(new := broken(line)) == 1: continue
        i = kept.index(line)
        tried = [*kept[:i], *new, *kept[i + 1:]]
        try:
            if ast.dump(ast.parse("\n".join(tried))) == ast.dump(ast.parse(source)): kept = tried
        except SyntaxError: pass
    return "\n".join(kept)


def long_lines(text): return sum(len(line) > WIDTH for cell in CELL.findall(text) for line in cell.split("\n"))


def main(argv=None):
    ask = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ask.add_argument("texts", nargs="*", type=Path)
    ask.add_argument("--write", action="store_true")
    o, before, after = ask.parse_args(argv), 0, 0
    for path in o.texts or texts().values():
        text = path.read_text()
        new = CELL.sub(lambda m: m[0].replace(m[1], reflowed(m[1])) if max(map(len, m[1].split("\n"))) > WIDTH else m[0], text)
        before, after = before + long_lines(text), after + long_lines(new)
        if o.write and new != text: path.write_text(new)
    print(f"{before} lines of more than {WIDTH} columns, {after} {'are' if o.write else 'would be'} left")


if __name__ == "__main__": main()
