"""Half an hour on a machine with a GPU, without a network: write text, read its states, train every kind, judge, bring the drafters back.

    python tools/gpu_day.py pack                          here: the model in pieces, build/gpu_day/0, 1, ...; prints what to run where
    python tools/gpu_day.py day --minutes 8 --out $OUT    there: does what is not done yet, as far as the minutes go; call it again
    python tools/gpu_day.py --smoke                       all of it, small, on this machine, in about two minutes

The model's file is larger than what may go over at a time, so it goes in pieces. There they are put together; whether to the bit is checked.
A piece carries the weights as they are packed in the file, four and eight bits each, so that the other side needs no package to read them.
"""
import argparse, json, os, shutil, subprocess, sys, tempfile, time
from hashlib import blake2b
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
HOME = ROOT / "build" / "gpu_day"
MOST, BACK = 64 << 20, 16 << 20                                  # bytes that go over at a time, and that a file may have on its way back
SHARES = {"eagle3": .6, "draft": .25, "medusa": .15}             # of the minutes that remain for training
NAMES = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", **{f"attn_{x}": f"self_attn.{x}_proj" for x in "qkv"},
         "attn_output": "self_attn.o_proj", **{f"ffn_{x}": f"mlp.{x}_proj" for x in ("gate", "up", "down")}}


# -- the model, in pieces ------------------------------------------------------------------------------

def name_of(name):
    "A tensor's name in a GGUF file -> in a Hugging Face folder"
    if name == "token_embd.weight": return "model.embed_tokens.weight"
    if name == "output_norm.weight": return "model.norm.weight"
    _, layer, kind, _ = name.split(".")
    return f"model.layers.{layer}.{NAMES[kind]}.weight"


def packed_tensors(gguf, config):
    "`{name: rows of bytes, or float32}` of a GGUF file of Llama's architecture, rows of queries and keys in Hugging Face's order"
    import numpy as np
    import torch
    from gguf import GGUFReader
    heads, tensors = dict(attn_q=config["num_attention_heads"], attn_k=config["num_key_value_heads"]), {}
    for t in GGUFReader(gguf).tensors:
        rows = np.array(t.data).reshape(int(t.shape[1]) if len(t.shape) > 1 else 1, -1)
        if (kind := t.name.split(".")[-2]) in heads:             # pairs that turn together lie side by side there, half a head apart here
            rows = rows.reshape(heads[kind], -1, 2, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)
        tensors[name_of(t.name)] = torch.from_numpy(np.ascontiguousarray(rows if len(t.shape) > 1 else rows[0]))
    return tensors


def unpack(rows, width):
    "Rows of blocks of 32 weights, in four bits (scale, minimum, halves of bytes) or eight (scale, bytes) -> float16 `[rows, width]`"
    import torch
    if rows.dtype == torch.float32: return rows.half()
    blocks = rows.view(len(rows), width // 32, -1)
    small = blocks.shape[-1] == 20
    scales = blocks[..., :4 if small else 2].contiguous().view(torch.float16).float()
    if not small: return (blocks[..., 2:].contiguous().view(torch.int8).float() * scales).flatten(1).half()
    nibbles = torch.cat([blocks[..., 4:] & 15, blocks[..., 4:] >> 4], -1).float()
    return (nibbles * scales[..., :1] + scales[..., 1:]).flatten(1).half()


def digest(tensors): return blake2b(b"".join(tensors[k].numpy().tobytes() for k in sorted(tensors)), digest_size=16).hexdigest()


def unpacked(tensors, d, inner):
    return {k: unpack(w, inner if "down_proj" in k else d) for k, w in tensors.items()}


def pack(folder=HOME):
    "The default model in `folder`: `model/` with its small files, and pieces that each fit beside the checkout"
    from safetensors.torch import load_file, save_file
    from specdec_nb.models.hub import default_folder, default_gguf
    source, small = default_folder(), folder / "model"
    shutil.rmtree(folder, ignore_errors=True)
    small.mkdir(parents=True)
    for name in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"): shutil.copy(source / name, small)
    config, whole = json.loads((source / "config.json").read_text()), folder / "whole"
    tensors = packed_tensors(default_gguf(), config)
    ours, theirs = digest(unpacked(tensors, config["hidden_size"], config["intermediate_size"])), load_file(source / "model.safetensors")
    if ours != digest({k: w for k, w in theirs.items() if k != "lm_head.weight"}): raise SystemExit("the packed weights are not those of the unpacked model")
    save_file(tensors, whole)
    tracked = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True).stdout.split(b"\0")
    room = MOST - sum(os.path.getsize(ROOT / os.fsdecode(f)) for f in tracked if f and os.path.exists(ROOT / os.fsdecode(f))) - sum(f.stat().st_size for f in small.iterdir()) - (2 << 20)
    if room < 1 << 20: raise SystemExit(f"the checkout leaves {room} bytes for a piece of the model: too few")
    data = whole.read_bytes()
    pieces = [data[i:i + room] for i in range(0, len(data), room)]
    for i, piece in enumerate(pieces): (folder / str(i)).write_bytes(piece)
    whole.unlink()
    (small / "pieces.json").write_text(json.dumps(dict(pieces=len(pieces), bytes=len(data), digest=ours)))
    return len(pieces)


def join(folder=HOME):
    "The model's folder, put together from its pieces; None while some are missing. ValueError if they do not fit together"
    from safetensors.torch import load_file, save_file
    small, done = folder / "model", folder / "model" / "model.safetensors"
    if done.exists(): return small
    about, config = (json.loads((small / name).read_text()) for name in ("pieces.json", "config.json"))
    pieces = [folder / str(i) for i in range(about["pieces"])]
    if missing := [p.name for p in pieces if not p.exists()]: return print(f"waiting for {len(missing)} of {len(pieces)} pieces")
    (folder / "whole").write_bytes(b"".join(p.read_bytes() for p in pieces))
    if (n := (folder / "whole").stat().st_size) != about["bytes"]: raise ValueError(f"the pieces have {n} bytes together, {about['bytes']} expected: pack again")
    tensors = unpacked(load_file(folder / "whole"), config["hidden_size"], config["intermediate_size"])
    if digest(tensors) != about["digest"]: raise ValueError("the pieces do not make the model that was packed: pack again")
    save_file({**tensors, **({} if config.get("tie_word_embeddings") else {})}, f"{done}.tmp", metadata={"format": "pt"})
    os.replace(f"{done}.tmp", done)
    (folder / "whole").unlink()
    return small


# -- the day -------------------------------------------------------------------------------------------

class Clock:
    "The minutes of this command"
    def __init__(self, minutes): self.ends = time.time() + 60 * minutes
    def left(self): return (self.ends - time.time()) / 60


def say(*words): print(time.strftime("%H:%M:%S"), *words, flush=True)


def grow(model, tokenizer, data, shards, clock, documents, batch=512):
    "Write shards until there are so many, or a third of the minutes is over"
    from specdec_nb.training.corpus import fill_shard, plan_shard, write_shard
    until = time.time() + 20 * clock.left()
    for n in range(shards):
        if (path := data / f"{n:04d}.npz").exists(): continue
        if time.time() > until: return say(f"text: {n} shards of {shards}, no time for more")
        write_shard(path, fill_shard(model, plan_shard(tokenizer, n, documents, batch)))
        say(f"text: shard {n + 1} of {shards}")


def begin_data(data, documents=None):
    "The text that is in the repository: all of it, or of its first file so many short documents"
    import numpy as np
    source = ROOT / "data" / "smollm2-135m"
    if documents is None: return shutil.copytree(source, data)
    data.mkdir()
    with np.load(source / "0000.npz") as shard: tokens, about = shard["tokens"], {k: shard[k] for k in ("lengths", "begins", "kinds")}
    short = np.flatnonzero(about["lengths"] < 100)[:documents]
    texts = np.split(tokens, np.cumsum(about["lengths"])[:-1])
    np.savez(data / "0000.npz", tokens=np.concatenate([texts[i] for i in short]), **{k: v[short] for k, v in about.items()})


def day(minutes, out, home=HOME, device=None, shards=40, size=64, lr=2e-3, smoke=False):
    "What is not done yet, as far as the minutes go; the drafters, their cards and the text go to `out`"
    import torch
    from specdec_nb.models.hub import load_hf
    from specdec_nb.training.train import train
    clock, out = Clock(minutes), Path(out)
    if (folder := join(home)) is None: return
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    model, tokenizer = load_hf(str(folder.resolve()), torch.bfloat16)
    model = model.to(device)
    say(f"the model is here, on {torch.cuda.get_device_name(device) if device.type == 'cuda' else device}")
    data = home / "data"
    if not data.exists(): begin_data(data, 16 if smoke else None)
    grow(model, tokenizer, data, shards, clock, 2 if smoke else 512)
    options = dict(size=size, lr=lr, features=home / "features", resume=True, **(dict(apart=4, steps=4) if smoke else dict(epochs=1000)),
                   tick=lambda what, done, total, figures: figures.get("held") and say(what, done, figures["held"]["top1"]))
    made, total = {}, sum(SHARES.values())
    for kind, share in SHARES.items():
        budget = (clock.left() - 1.5) * share / total
        total -= share
        if budget <= 0 and not smoke:
            say(f"{kind}: no time")
            continue
        made[kind] = train(kind, data, home / kind, model, minutes=None if smoke else budget, record=facts(model, device), **options)
        say(kind, made[kind].record["steps"], "steps;", "kept apart:", made[kind].record["held"])
    say("tokens a call, tree of 8:", judged := taus(folder, home, made, 8 if smoke else 64))
    return collect(home, out, made, judged, data)


def facts(model, device):
    from specdec_nb.workshop.ledger import command_line, provenance
    keep = ("device", "cpu", "cores", "threads", "commit", "torch", "transformers")
    return {**{k: v for k, v in provenance(model).items() if k in keep}, "model": "SmolLM2-135M-Instruct", "command": command_line("python tools/gpu_day.py")}


def taus(folder, home, made, limit):
    "Tokens a call on three questions of our own, greedy, in float32"
    import torch
    from specdec_nb.bench.questions import SAMPLE
    from specdec_nb.verify import Trace
    from specdec_nb.roles import make_drafter
    from specdec_nb.stops import Stop
    from specdec_nb.decode import decode
    from specdec_nb.drafters.model import ModelDrafter
    from specdec_nb.models.hub import chat
    from specdec_nb.models.native import load
    from specdec_nb.sampling import Law
    model, tokenizer = load(str(folder.resolve()), torch.float32, "own")
    found = {}
    for kind in made:
        drafter = ModelDrafter(home / kind, k=4) if kind == "draft" else make_drafter(kind, network=home / kind, tree=8)
        traces = [Trace(decode(model, drafter, chat(tokenizer, q.turns[0])[0].tolist(), law=Law(temperature=0), stop=Stop(limit, eos={tokenizer.eos_token_id}))) for q in SAMPLE]
        found[kind] = round(sum(len(t.tokens) for t in traces) / sum(t.calls for t in traces), 3)
    return found


def collect(home, out, made, judged, data):
    "Into `out` what is small enough to come back"
    out.mkdir(parents=True, exist_ok=True)
    for kind in made:
        (out / kind).mkdir(exist_ok=True)
        for name in ("model.safetensors", "config.json", "README.md", "log.json"):
            if (n := (home / kind / name).stat().st_size) > BACK: raise ValueError(f"{kind}/{name} has {n} bytes: too many to come back")
            shutil.copy(home / kind / name, out / kind)
    shutil.copytree(data, out / "data", ignore=shutil.ignore_patterns("*.lock", "*.tmp"), dirs_exist_ok=True)
    (out / "day.json").write_text(json.dumps(dict(tau=judged, held={k: n.record["held"] for k, n in made.items()})) + "\n")
    return sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file())


# -- all of it, small ----------------------------------------------------------------------------------

def smoke():
    "Pack, lose a piece, join, write, read, train, judge, collect; and again: what is done is not done twice"
    import torch
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        home, away, out = Path(folder) / "here", Path(folder) / "there", Path(folder) / "out"
        n = pack(home)
        shutil.copytree(home / "model", away / "model")
        for i in range(n):
            assert day(1, out, away) is None, "a piece is missing"
            shutil.copy(home / str(i), away)
            assert (home / str(i)).stat().st_size < MOST
        small = dict(device="cpu", shards=2, size=4, lr=1e-3, smoke=True)
        print(*day(9, out, away, **small), (out / "day.json").read_text(), sep="\n")
        before = {p: p.stat().st_mtime_ns for p in away.rglob("*.hidden")}
        day(9, out, away, **small)
        assert {p: p.stat().st_mtime_ns for p in away.rglob("*.hidden")} == before, "what is done is not done twice"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("verb", nargs="?", choices=["pack", "day"])
    parser.add_argument("--minutes", type=float, default=8, help="of this command (default: 8)")
    parser.add_argument("--out", type=Path, default=os.environ.get("OUT") or HOME / "out", help="what comes back goes there")
    parser.add_argument("--shards", type=int, default=40, help="of text, 125 000 tokens each (default: 40)")
    parser.add_argument("--smoke", action="store_true")
    o = parser.parse_args()
    if o.smoke: return smoke()
    if o.verb == "day": return print(*day(o.minutes, o.out, shards=o.shards) or (), sep="\n")
    if o.verb != "pack": parser.error("pack, day or --smoke")
    n = pack()
    where = HOME.relative_to(ROOT)
    print(f"{n} pieces. On the machine with the GPU, one command each, in this order:")
    for i in range(n): print(f"  carry {where}/model {where}/{i}:  python tools/gpu_day.py day --minutes 8 --out $OUT" + "   (it waits for the others)" * (i < n - 1))
    print("  again, carrying nothing:  python tools/gpu_day.py day --minutes 8 --out $OUT", "  python tools/gpu_check.py",
          f"  python -m specdec_nb.cli bench --model {where}/model --drafters medusa,eagle3 --json $OUT/bench.json", sep="\n")


if __name__ == "__main__": main()
