"""Random requests to a server: good ones, of which some hang up, and bad ones. Every answer is compared with the answer alone.

    python tools/storm.py --requests 10000 --seed 1     requests 1:0, 1:1, … to a server of a small random model; exit 1 if an answer is wrong, a bad
                                                        request is not refused, something is left of a request, or memory grows
    python tools/storm.py --replay 1:17                 that request again, on its own
    python tools/storm.py --hold 300 --clients 64       so many clients, for so many seconds, of `specdec serve` with the default model: is memory flat?
                                                        Then it is killed, started again, and told to end while somebody is served

What is compared: texts, reasons to end, counts, and log-probabilities of words and of their rivals; streamed and whole, of one answer or of several.
"""
import argparse, asyncio, gc, json, os, random, re, signal, socket, subprocess, sys, time
from collections import Counter, namedtuple
from functools import lru_cache
from pathlib import Path

import httpx
import numpy as np
import psutil
import torch
import transformers as hf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from specdec_nb import Keyed, Law, Llama, Native, Stop, load_default
from specdec_nb.decode import decode
from specdec_nb.models.hub import chat
from specdec_nb.models.state import RowState
from specdec_nb.serving.answers import token_name
from specdec_nb.serving.server import application, running
from specdec_nb.serving.wire import Bounds, read_body

Alone = namedtuple("Alone", "text reason tokens rows")
EOS = 256


class House:
    "A model that is served, and what it says when nobody else is there"
    def __init__(self, model, tokenizer, name, bounds): self.model, self.tokenizer, self.name, self.bounds = model, tokenizer, name, bounds

    def app(self, **options):
        options = dict(drafter="lookup", most=6, chunk=16, memory=1 << 24, key=None, bounds=self.bounds) | options
        return application(self.model, self.tokenizer, self.name, **options)

    def alone(self, prompt, body, index) -> Alone:
        "One answer by `decode`, from the options themselves; and the rows that its words were drawn from"
        n, stops = len(prompt), body.get("stop") or []
        stops = [stops] if isinstance(stops, str) else stops
        def process(prefix, row):
            row = np.array(row, float)
            for t in prefix[n:]: row[t] -= body.get("frequency_penalty", 0)
            for t in set(prefix[n:]): row[t] -= body.get("presence_penalty", 0)
            for t, w in body.get("logit_bias", {}).items(): row[int(t)] += w
            return row
        def said(text): return self.tokenizer.decode(text[n:], skip_special_tokens=True)
        extra = (process,) if any(body.get(x) for x in ("frequency_penalty", "presence_penalty", "logit_bias")) else ()
        law = Law(body.get("temperature", 1.), body.get("top_k", 0), body.get("top_p", 1.), body.get("min_p", 0), extra)
        limit = body.get("max_tokens", body.get("max_completion_tokens", self.bounds.plain))
        stop = Stop(limit, {self.tokenizer.eos_token_id}, (lambda text: any(s in said(text) for s in stops),) if stops else ())
        steps = list(decode(self.model, "none", prompt, law=law, rng=Keyed(body.get("seed", 0), index), stop=stop))
        tokens = [t for step in steps for t in step.verdict.tokens]
        text = said([*prompt, *tokens])
        if found := [text.find(s) for s in stops if s in text]: text = text[:min(found)]
        reason = "stop" if steps[-1].stopped in ("eos", "criterion") else "length"
        return Alone(text, reason, tokens, [step.scores.row(0) for step in steps] if body.get("logprobs") is not None else None)

    def prompts(self, path, body) -> list:
        "As token ids"
        if "chat" in path:
            def said(content): return content if isinstance(content, str) else "".join(part["text"] for part in content)
            return [chat(self.tokenizer, [dict(m, content=said(m["content"])) for m in body["messages"]])[0].tolist()]
        prompts = body["prompt"]
        if isinstance(prompts, list) and isinstance(prompts[0], int): return [prompts]
        return [self.tokenizer(p).input_ids for p in ([prompts] if isinstance(prompts, str) else prompts)]

    def wanted(self, path, body) -> list: # of `Alone`
        "What a body must be answered"
        return [self.alone(p, body, i) for i, p in enumerate(p for p in self.prompts(path, body) for _ in range(body.get("n", 1)))]


@lru_cache
def small(runtime="own") -> House:
    "A model of bytes, whose answers are full of halves of letters"
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(letters)} | {"<end>": EOS, "<user>": 257, "<said>": 258}, merges=[]))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    inner.add_special_tokens(["<end>", "<user>", "<said>"])
    tokenizer = hf.PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>")
    tokenizer.chat_template = "{% for m in messages %}{% if m.content == 'nonsense' %}{{ raise_exception('no nonsense') }}{% endif %}<user>{{ m.content }}<end>{% endfor %}<said>"
    torch.manual_seed(0)
    model = hf.AutoModelForCausalLM.from_config(hf.LlamaConfig(vocab_size=259, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=512, initializer_range=.35, bos_token_id=None, eos_token_id=EOS, pad_token_id=None)).double().eval()
    model = Llama.from_hf(model) if runtime == "own" else Native.from_hf(model.float(), 1)
    return House(model, tokenizer, "bytes", Bounds(body=20_000, tokens=64, plain=16, answers=6, queue=40, patience=5))


class Told:
    "What a response says, whole or streamed: of each answer the text, the reason to end, and the log-probabilities"
    def __init__(self, response, path, stream):
        self.texts, self.reasons, self.logs, self.usage = {}, {}, {}, None
        if not stream: events = [response.json()]
        else:
            lines = [line[6:] for line in response.text.splitlines() if line]
            assert lines.pop() == "[DONE]", response.text[-300:]
            events = [json.loads(line) for line in lines]
        for event in events:
            self.usage = event.get("usage") or self.usage
            for c in event["choices"]: self.hear(c, (c["delta" if stream else "message"].get("content") or "") if "chat" in path else c["text"])

    def hear(self, c, said):
        i = c["index"]
        assert i not in self.reasons, "words behind the end"
        self.texts[i] = self.texts.get(i, "") + said
        if c["finish_reason"]: self.reasons[i] = c["finish_reason"]
        if logs := c["logprobs"]:
            for what, entries in logs.items(): self.logs.setdefault(i, {}).setdefault(what, []).extend(entries)

    def entries(self, i) -> tuple: # `(name, log p, bytes or None, [(rival, log p), ...])` of each word, and where each begins, or None
        logs = self.logs.get(i, {})
        if "content" in logs:
            return [(c["token"], c["logprob"], c["bytes"], [(r["token"], r["logprob"]) for r in c["top_logprobs"]]) for c in logs["content"]], None
        told = zip(logs.get("tokens", ()), logs.get("token_logprobs", ()), logs.get("top_logprobs", ()))
        return [(name, p, None, [*rivals.items()]) for name, p, rivals in told], logs.get("text_offset", [])


class Storm:
    "Requests by number, and what was wrong with their answers"
    WORDS = ["sun", "rain", "é", "雪", "🦊 ", "ab ab ab ", "the cat sat "]
    def __init__(self, house, address, seed): self.house, self.address, self.seed, self.wrong, self.seen = house, address, seed, [], Counter()

    def good(self, g):
        body = dict(model=self.house.name, temperature=g.choice([0, 0, .3, .7, 1, 1.5]), seed=g.choice([0, g.randrange(1 << 40), -g.randrange(1, 1 << 63)]))
        chat, V = g.random() < .5, self.house.model.vocab_size
        body[g.choice(["max_tokens", "max_completion_tokens"]) if chat else "max_tokens"] = g.randrange(1, 40)
        for name, values in dict(top_p=[0, .5, .9, 1], top_k=[1, 3, V + 7], min_p=[.1, 1], n=[2, 2, 3], user=["é"], store=[False], stop=[None, [], "a", ["e", "\n"], ["é", "🦊"], "zz"]).items():
            if g.random() < .25: body[name] = g.choice(values)
        if g.random() < .3: body |= dict(presence_penalty=g.uniform(-2, 2), frequency_penalty=g.uniform(-2, 2))
        if g.random() < .2: body["logit_bias"] = {str(g.randrange(V)): g.choice([-100, 5]) for _ in range(3)}
        if g.random() < .3: body |= dict(logprobs=True, top_logprobs=g.randrange(4)) if chat else dict(logprobs=g.randrange(4))
        text = "".join(g.choice(self.WORDS) for _ in range(g.randrange(1, 20)))
        if not chat: return "/v1/completions", dict(body, prompt=g.choice([text, [text, "more"], self.house.tokenizer(text).input_ids]))
        content = g.choice([text, [{"type": "text", "text": text}]])
        return "/v1/chat/completions", dict(body, messages=[dict(role="system", content="ab")] * (g.random() < .3) + [dict(role="user", content=content)])

    def bad(self, g):
        (path, body), kind = self.good(g), g.randrange(10)
        if kind == 0: return path, json.dumps(body)[:-g.randrange(1, 9)].encode()
        if kind == 1: return path, g.randbytes(g.randrange(0, 300))
        if kind == 2: return path, b"[" * 5000 + b"]" * 5000
        if kind == 3: return path, b'{"prompt": "' + b"a" * 30_000 + b'"}'
        if kind == 4: return g.choice(["/", "/v1", "/v1/chat", "/../etc/passwd", "/v1/completions/x"]), json.dumps(body).encode()
        if kind == 5: body[g.choice(["temperature", "top_p", "n", "max_tokens", "seed", "stop", "stream", "logit_bias", "frequency_penalty"])] = g.choice(["x", {}, -1.5, 1e99, [[]], 10**25, {"a": "b"}])
        if kind == 6: body[g.choice(["tools", "suffix", "best_of", "beam", "x" * 300, "response_format"])] = g.choice([7, "y", ["z"], {"type": "json_object"}])
        if kind == 7: body |= g.choice([dict(prompt=None, messages=None), dict(prompt=[], messages=[]), dict(prompt=[999], messages=[{}]), dict(prompt=[-1, True], messages="hi"),
                                        dict(prompt="a" * 600, messages=[dict(role="user", content="a" * 600)]), dict(prompt="\ud800", messages=[dict(role="user", content="\ud800")]), dict(model="gpt")])
        if kind == 8: body["max_tokens"], body["n"] = g.choice([(65, 1), (1, 7), (0, 1), (1 << 70, 1)])
        if kind == 9 and g.random() < .3:
            depth = g.randrange(900, 1000)
            return path, b'{"prompt": "a", "seed": %s}' % (b"[" * depth + b"]" * depth)
        if kind == 9:
            body |= g.choice([{"\ud800": 1}, {g.choice(["logit_bias", "user"]): {"\udfff": "\ud800"}}, dict(stream_options={"include_usage": True}),
                              dict(logit_bias={"9" * 40: 1}), dict(echo=0)])
        return path, json.dumps({k: v for k, v in body.items() if not (k == "prompt" and "messages" in body and "chat" in path or k == "messages" and "chat" not in path)}).encode()

    def request(self, i) -> tuple: # `(kind, path, body or bytes, dice)`
        "Of that number, the same each time"
        g = random.Random(f"{self.seed}:{i}")
        kind = "bad" if i % 3 == 0 else "leaves" if i % 7 == 1 else "good"
        return kind, *(self.bad if kind == "bad" else self.good)(g), g

    async def one(self, client, i):
        kind, path, body, g = self.request(i)
        try: await dict(bad=self.refused, leaves=self.leave, good=self.right)[kind](client, path, body, g)
        except Exception as e: self.wrong.append((f"{self.seed}:{i}", kind, path, body, repr(e)[:1500]))

    async def refused(self, client, path, raw, g):
        r = await client.post(self.address + path, content=raw)
        self.seen[r.status_code] += 1
        if r.status_code == 200: return self.right_enough(path, raw)
        error = r.json()["error"]
        if r.status_code == 503: return                                    # good by chance, and the house was full
        assert 400 <= r.status_code < 500 and len(error["message"]) > 12 and error["type"] == "invalid_request_error", (r.status_code, r.text)
        assert not re.search(r"Traceback|\.py|/(work|home|root|usr|tmp)/", r.text), r.text

    def right_enough(self, path, raw):
        "What was meant to be bad, and was good by chance"
        model = self.house.model
        read_body(raw, "chat" if "chat" in path else "completion", self.house.tokenizer, model.vocab_size, model.config.max_position_embeddings, self.house.bounds)

    async def leave(self, client, path, body, g):
        try:
            async with asyncio.timeout(.002 + .2 * g.random()):
                async with client.stream("POST", self.address + path, json=dict(body, stream=g.random() < .7)) as r:
                    async for _ in r.aiter_lines():
                        if g.random() < .3: break
        except TimeoutError: pass
        self.seen["left"] += 1

    async def right(self, client, path, body, g):
        stream = g.random() < .5
        for _ in range(500):
            r = await client.post(self.address + path, json=dict(body, stream=stream, **({"stream_options": {"include_usage": True}} if stream else {})))
            self.seen[r.status_code] += 1
            if r.status_code != 503: break
            assert int(r.headers["retry-after"]) >= 1
            await asyncio.sleep(.02 + .05 * random.random())
        assert r.status_code == 200, r.text
        self.same(Told(r, path, stream), path, body, self.house.wanted(path, body))

    def same(self, told, path, body, wanted):
        "AssertionError unless that was said which the model says alone"
        for i, w in enumerate(wanted):
            assert (told.texts[i], told.reasons[i]) == (w.text, w.reason), (i, w[:3], told.texts[i], told.reasons[i])
            assert (w.rows is not None) == (i in told.logs), i
            if w.rows is not None: self.same_logs(told, i, w, body.get("top_logprobs", 0) if "chat" in path else body["logprobs"])
        assert len(told.texts) == len(wanted)
        if not (usage := told.usage): return
        prompts = self.house.prompts(path, body)
        assert usage["completion_tokens"] == sum(len(w.tokens) for w in wanted) and usage["prompt_tokens"] == sum(map(len, prompts)), usage
        assert 0 <= usage["completion_tokens_details"]["accepted_prediction_tokens"] <= usage["completion_tokens"], usage

    def same_logs(self, told, i, w, k):
        tokenizer, (entries, places) = self.house.tokenizer, told.entries(i)
        names, whole = [token_name(tokenizer, t) for t in w.tokens], tokenizer.decode(w.tokens, skip_special_tokens=True)
        assert [(name, raw or [*names[j][1]]) for j, (name, _, raw, _) in enumerate(entries)] == [(name, [*raw]) for name, raw in names], (i, entries, names)
        for token, row, (name, p, _, rivals) in zip(w.tokens, w.rows, entries):
            z = np.asarray(row, float) - np.max(row)
            z -= np.log(np.exp(z).sum())
            best = np.sort(z)[::-1][:k]
            assert abs(p - z[token]) < 1e-9 and np.allclose([q for _, q in rivals], best, atol=1e-9, rtol=0), (i, name, p, z[token], rivals, best)
        for at, name, token in zip(places or (), *([x for x, *_ in entries], w.tokens)):
            if not name.startswith("bytes:") and tokenizer.decode([token], skip_special_tokens=True): assert whole[at:at + len(name)] == name, (i, at, name, whole)

    async def blow(self, numbers, clients=16):
        async with httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=clients + 8)) as client:
            left = iter(numbers)
            async def go():
                for i in left: await self.one(client, i)
            await asyncio.gather(*(go() for _ in range(clients)))


def quiet(app, seconds=10):
    "Wait until nobody is served. AssertionError if something is left of whoever was"
    door, until = app.state.door, time.time() + seconds
    while (door.engine.running or door.engine.waiting or door.open) and time.time() < until: time.sleep(.02)
    assert not door.engine.running and not door.engine.waiting and door.open == 0
    assert door.engine.memory.held([]) <= door.engine.memory.limit and door.metrics.answers[500] == 0


def alive() -> int: # states of requests in this process
    gc.collect()
    return sum(issubclass(type(o), RowState) for o in gc.get_objects())


def weigh(app, before=0) -> tuple: # MiB of this process, objects, states of requests that nobody keeps
    "What is there when nobody is served; `before` states were somebody else's"
    states = alive() - before - len(app.state.door.engine.memory.kept)
    return round(psutil.Process().memory_info().rss / 2**20), len(gc.get_objects()), states


def blown(house, n, seed, parts=1, say=lambda *_: None, **options) -> tuple: # `(the Storm, [weigh(), ...])`
    "A storm of so many requests on a server of its own"
    app, weights, before = house.app(**options), [], alive()
    with running(app) as address:
        storm = Storm(house, address, seed)
        for part in range(parts):
            asyncio.run(storm.blow(range(part * n // parts, (part + 1) * n // parts)))
            quiet(app)
            weights.append(weigh(app, before))
            say(part, storm, weights[-1])
        assert httpx.get(f"{address}/health").json() == {"status": "ok"} and "specdec_running 0\n" in httpx.get(f"{address}/metrics").text
    return storm, weights


class Held:
    "So many clients, each with one question after another, for a while"
    def __init__(self, house, address, clients, seed=5, bodies=60):
        self.storm, self.clients, self.dice = Storm(house, address, seed), clients, random.Random(seed)
        self.asked = [self.question(i) for i in range(bodies)]

    def question(self, i):
        g = random.Random(f"{self.storm.seed}:{i}")
        path, body = self.storm.good(g)
        return path, dict(body, stream=g.random() < .5), self.storm.house.wanted(path, body)

    async def client(self, http, until):
        while time.time() < until:
            path, body, wanted = self.dice.choice(self.asked)
            r = await http.post(self.storm.address + path, json=body)
            self.storm.seen[r.status_code] += 1
            if r.status_code == 503: await asyncio.sleep(.05)
            else:
                try: self.storm.same(Told(r, path, body["stream"]), path, body, wanted)
                except Exception as e: self.storm.wrong.append((path, body, repr(e)[:1500]))

    async def hold(self, seconds):
        until, limits = time.time() + seconds, httpx.Limits(max_connections=self.clients)
        async with httpx.AsyncClient(timeout=None, limits=limits) as http:
            await asyncio.gather(*(self.client(http, until) for _ in range(self.clients)))

    async def every(self):
        "Each question once"
        async with httpx.AsyncClient(timeout=None) as http:
            for path, body, wanted in self.asked:
                self.storm.same(Told(await http.post(self.storm.address + path, json=body), path, body["stream"]), path, body, wanted)


class Program:
    "`specdec serve`, as a process of its own"
    def __init__(self, *options):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        self.address, self.options = f"http://127.0.0.1:{self.port}", options

    def start(self):
        env = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}
        self.process = subprocess.Popen([sys.executable, "-m", "specdec_nb.cli", "serve", "--port", str(self.port), *self.options], env=env, stderr=subprocess.DEVNULL)
        for _ in range(900):
            try: return httpx.get(f"{self.address}/health").raise_for_status() and self
            except httpx.HTTPError: time.sleep(.1)
        raise AssertionError("specdec serve did not begin within 90 seconds")

    def quiet(self) -> int: # MiB
        "Wait until nobody is served"
        for _ in range(300):
            told = httpx.get(f"{self.address}/metrics").text
            if "specdec_running 0\n" in told and "specdec_waiting 0\n" in told: break
            time.sleep(.1)
        else: raise AssertionError("somebody is still served")
        return round(psutil.Process(self.process.pid).memory_info().rss / 2**20)

    def streaming(self, end):
        "What a client reads of a long answer if the server is sent a signal behind the first piece"
        body = dict(prompt="Once upon a time", max_tokens=60, stream=True, temperature=0)
        with httpx.stream("POST", f"{self.address}/v1/completions", json=body, timeout=60) as r:
            lines = r.iter_lines()
            next(lines)
            self.process.send_signal(end)
            try: return [line for line in lines if line]
            except httpx.HTTPError: return None


def held(seconds, clients, drafter="auto", parts=5) -> int: # faults
    "Clients of `specdec serve` with the default model; then kill -9 and a new beginning; then SIGTERM"
    model, tokenizer = load_default()
    house = House(model, tokenizer, "smol", Bounds(tokens=64))
    program = Program("--name", "smol", "--max-tokens", "64", "--queue", str(4 * clients), "--most", "16", "--memory", "512", "--drafter", drafter).start()
    try:
        hold, weights = Held(house, program.address, clients), []
        for _ in range(parts):
            asyncio.run(hold.hold(seconds / parts))
            weights.append(program.quiet())
            print(f"{dict(hold.storm.seen)}, {len(hold.storm.wrong)} wrong, {weights[-1]} MiB", flush=True)
        for fault in hold.storm.wrong[:3]: print(fault)
        faults = len(hold.storm.wrong) + (weights[-1] - weights[1] > 48)
        cut = program.streaming(signal.SIGKILL)
        program.process.wait()
        program.start()
        asyncio.run(hold.every())
        rest = program.streaming(signal.SIGTERM)
        code = program.process.wait(40)
        print(f"killed: {'cut off' if cut is None else cut}; begun again: {len(hold.asked)} answers right; told to end: {rest and rest[-1]}, exit code {code}")
        return faults + (cut is not None) + (not rest or rest[-1] != "data: [DONE]") + (code not in (0, -signal.SIGTERM))
    finally: program.process.kill()


def main(args=None) -> int: # faults
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--replay", metavar="SEED:NUMBER")
    parser.add_argument("--runtime", choices=["own", "native"], default="own", help="of the small model")
    parser.add_argument("--drafter", default="auto")
    parser.add_argument("--hold", type=float, metavar="SECONDS")
    parser.add_argument("--clients", type=int, default=16)
    asked = parser.parse_args(args)
    torch.set_num_threads(1)
    if asked.hold: return held(asked.hold, asked.clients, asked.drafter)
    house = small(asked.runtime)
    if asked.replay:
        seed, number = map(int, asked.replay.split(":"))
        with running(house.app(drafter=asked.drafter)) as address:
            storm = Storm(house, address, seed)
            print(storm.request(number)[:3])
            asyncio.run(storm.blow([number]))
        print(*storm.wrong or ["right"], sep="\n")
        return len(storm.wrong)
    def say(part, storm, weight): print(f"{part + 1}: {dict(storm.seen)}, {len(storm.wrong)} wrong, {weight[0]} MiB, {weight[1]} objects, {weight[2]} states left", flush=True)
    storm, weights = blown(house, asked.requests, asked.seed, 10 if asked.requests >= 1000 else 1, say, drafter=asked.drafter)
    for fault in storm.wrong[:5]: print(fault)
    leaks = any(states for *_, states in weights) + (len(weights) > 3 and weights[-1][0] - weights[3][0] > 32)
    print(f"{asked.requests} requests, {len(storm.wrong)} wrong{', something leaks' * leaks}")
    return len(storm.wrong) + leaks


if __name__ == "__main__": sys.exit(main() > 0)
