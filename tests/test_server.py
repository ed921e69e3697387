"""The server: every answer is the answer alone, every bad request is told why, whoever leaves leaves nothing behind."""
import asyncio
from dataclasses import replace
import gc
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time

import httpx
import numpy as np
import openai
import pytest
import torch
import transformers as hf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from conftest import ROOT
from specdec_nb import Keyed, Law, Llama, Stop, Trace
from specdec_nb.decode import decode
from specdec_nb.serving.server import application, running
from specdec_nb.serving.wire import Bounds, Refused, read_body
from specdec_nb.serving.answers import Prose, likelihoods

EOS = 256


def build():
    "A small model of bytes, whose answers are full of halves of letters"
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(letters)} | {"<end>": EOS, "<user>": 257, "<said>": 258}, merges=[]))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    inner.add_special_tokens(["<end>", "<user>", "<said>"])
    tokenizer = hf.PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>")
    tokenizer.chat_template = "{% for m in messages %}{% if m.content == 'nonsense' %}{{ raise_exception('no nonsense') }}{% endif %}<user>{{ m.content }}<end>{% endfor %}<said>"
    torch.manual_seed(0)
    model = hf.AutoModelForCausalLM.from_config(hf.LlamaConfig(vocab_size=259, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=512, initializer_range=.35, bos_token_id=None, eos_token_id=EOS, pad_token_id=None)).double().eval()
    return Llama.from_hf(model), tokenizer


MODEL, TOKENIZER = build()
BOUNDS = Bounds(body=20_000, tokens=64, plain=16, answers=6, queue=40, patience=5)


def app(**options):
    options = dict(drafter="lookup", most=6, chunk=16, memory=1 << 24) | options
    key, bounds = options.pop("key", None), options.pop("bounds", BOUNDS)
    return application(MODEL, TOKENIZER, "bytes", key, bounds, **options)


def alone(prompt, body, index):
    "The text and the reason of one answer, by `decode`, from the options themselves"
    n = len(prompt)
    def process(prefix, row):
        row = np.array(row, float)
        for t in prefix[n:]: row[t] -= body.get("frequency_penalty", 0)
        for t in set(prefix[n:]): row[t] -= body.get("presence_penalty", 0)
        for t, w in body.get("logit_bias", {}).items(): row[int(t)] += w
        return row
    stops = body.get("stop") or []
    stops = [stops] if isinstance(stops, str) else stops
    def said(text): return TOKENIZER.decode(text[n:], skip_special_tokens=True)
    extra = (process,) if any(body.get(x) for x in ("frequency_penalty", "presence_penalty", "logit_bias")) else ()
    law = Law(body.get("temperature", 1.), 0, body.get("top_p", 1.), 0, extra)
    stop = Stop(body.get("max_tokens", BOUNDS.plain), {EOS}, (lambda text: any(s in said(text) for s in stops),) if stops else ())
    trace = Trace(decode(MODEL, "none", prompt, law=law, rng=Keyed(body.get("seed", 0), index), stop=stop))
    text = said([*prompt, *trace.tokens])
    if found := [text.find(s) for s in stops if s in text]: text = text[:min(found)]
    return text, "stop" if trace.stopped in ("eos", "criterion") else "length", trace


class Storm:
    "Random requests: good ones, of which some hang up, and bad ones"
    def __init__(self, address, seed): self.address, self.gen, self.wrong, self.seen = address, random.Random(seed), [], {}

    def good(self):
        g = self.gen
        words = ["sun", "rain", "é", "雪", "🦊 ", "ab ab ab ", "the cat sat "]
        body = dict(model="bytes", temperature=g.choice([0, 0, .7, 1]), seed=g.randrange(1 << 40), max_tokens=g.randrange(1, 40))
        if g.random() < .3: body["top_p"] = g.choice([.5, .9])
        if g.random() < .3: body |= dict(presence_penalty=g.uniform(-1, 1), frequency_penalty=g.uniform(-1, 1))
        if g.random() < .2: body["logit_bias"] = {str(g.randrange(259)): g.choice([-100, 5])}
        if g.random() < .4: body["stop"] = g.choice(["a", ["e", "\n"], ["é"], "zz"])
        if g.random() < .3: body["n"] = g.choice([2, 3])
        text = "".join(g.choice(words) for _ in range(g.randrange(1, 20)))
        if g.random() < .5: return "/v1/chat/completions", dict(body, messages=[dict(role="user", content=text)])
        return "/v1/completions", dict(body, prompt=g.choice([text, [text, "more"], TOKENIZER(text).input_ids]))

    def bad(self):
        g, (path, body) = self.gen, self.good()
        kind = g.randrange(10)
        if kind == 0: return path, json.dumps(body)[:-g.randrange(1, 9)].encode()
        if kind == 1: return path, g.randbytes(g.randrange(0, 300))
        if kind == 2: return path, b"[" * 5000 + b"]" * 5000
        if kind == 3: return path, b'{"prompt": "' + b"a" * 30_000 + b'"}'
        if kind == 4: return g.choice(["/", "/v1", "/v1/chat", "/../etc/passwd", "/v1/completions/x"]), json.dumps(body).encode()
        if kind == 5: body[g.choice(["temperature", "top_p", "n", "max_tokens", "seed", "stop", "stream", "logit_bias", "frequency_penalty"])] = g.choice([True, "x", [], {}, -1.5, 1e99, [[]], 10**25, {"a": "b"}][1:])
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

    async def one(self, client, i):
        kind = "bad" if i % 3 == 0 else "leaves" if i % 7 == 1 else "good"
        path, body = self.bad() if kind == "bad" else self.good()
        try:
            if kind == "bad": await self.refused(client, path, body)
            elif kind == "leaves": await self.leave(client, path, body)
            else: await self.right(client, path, body)
        except Exception as e: self.wrong.append((kind, path, body, repr(e)))

    def count(self, status): self.seen[status] = self.seen.get(status, 0) + 1

    async def refused(self, client, path, raw):
        r = await client.post(self.address + path, content=raw)
        self.count(r.status_code)
        if r.status_code == 200: return self.right_enough(path, raw)
        error = r.json()["error"]
        assert 400 <= r.status_code < 500 and len(error["message"]) > 12 and error["type"] == "invalid_request_error", (r.status_code, r.text)
        assert not re.search(r"Traceback|\.py|/(work|home|root|usr|tmp)/", r.text), r.text

    def right_enough(self, path, raw):
        "What was meant to be bad, and was good by chance"
        read_body(raw, "chat" if "chat" in path else "completion", TOKENIZER, 259, 512, BOUNDS)

    async def leave(self, client, path, body):
        body, g = dict(body, stream=self.gen.random() < .7), self.gen.random()
        try:
            async with asyncio.timeout(.002 + .2 * g):
                async with client.stream("POST", self.address + path, json=body) as r:
                    async for _ in r.aiter_lines():
                        if self.gen.random() < .3: break
        except TimeoutError: pass
        self.count("left")

    async def right(self, client, path, body):
        chat, stream = "chat" in path, self.gen.random() < .5
        for _ in range(200):
            r = await client.post(self.address + path, json=dict(body, stream=stream, **({"stream_options": {"include_usage": True}} if stream else {})))
            self.count(r.status_code)
            if r.status_code != 503: break
            assert int(r.headers["retry-after"]) >= 1
            await asyncio.sleep(.02 + .05 * self.gen.random())
        assert r.status_code == 200, r.text
        prompts = prompts_of(path, body)
        wanted = [alone(p, body, i) for i, p in enumerate(p for p in prompts for _ in range(body.get("n", 1)))]
        got, reasons, usage = self.texts(r, chat, stream, len(wanted))
        assert [(got[i], reasons[i]) for i in range(len(wanted))] == [w[:2] for w in wanted], ([w[0] for w in wanted], got)
        assert usage["completion_tokens"] == sum(len(w[2].tokens) for w in wanted) and usage["prompt_tokens"] == sum(map(len, prompts))
        assert 0 <= usage["completion_tokens_details"]["accepted_prediction_tokens"] <= usage["completion_tokens"]

    def texts(self, r, chat, stream, n, usage=True):
        texts, reasons = {i: "" for i in range(n)}, {}
        if not stream: events = [r.json()]
        else:
            lines = [line[6:] for line in r.text.splitlines() if line]
            assert lines.pop() == "[DONE]"
            events = [json.loads(line) for line in lines]
        for c in (c for e in events for c in e["choices"]):
            said = c["delta" if stream else "message"].get("content", "") if chat else c["text"]
            texts[c["index"]] += said
            if c["finish_reason"]: reasons[c["index"]] = c["finish_reason"]
        return texts, reasons, events[-1]["usage"] if usage else None

    async def blow(self, n, clients=16):
        limits = httpx.Limits(max_connections=clients + 8)
        async with httpx.AsyncClient(timeout=60, limits=limits) as client:
            left = iter(range(n))
            async def go():
                for i in left: await self.one(client, i)
            await asyncio.gather(*(go() for _ in range(clients)))


def quiet(a, seconds=10):
    "Wait until nobody is served"
    door, until = a.state.door, time.time() + seconds
    while (door.engine.running or door.engine.waiting or door.open) and time.time() < until: time.sleep(.02)
    assert not door.engine.running and not door.engine.waiting and door.open == 0
    assert door.engine.memory.held([]) <= door.engine.memory.limit


def storm(n, seed, **options):
    a = app(**options)
    with running(a) as address:
        blown = Storm(address, seed)
        asyncio.run(blown.blow(n))
        assert not blown.wrong, blown.wrong[:3]
        quiet(a)
        assert httpx.get(f"{address}/health").json() == {"status": "ok"}
        metrics = httpx.get(f"{address}/metrics").text
    assert re.search(r"specdec_running 0\n", metrics) and re.search(r'responses_total\{status="400"\} \d', metrics) and "500" not in metrics
    return blown.seen


@pytest.mark.parametrize("drafter, seed", [("lookup", 1), ("auto", 2)])
def test_a_storm(drafter, seed):
    seen = storm(100, seed, drafter=drafter)
    assert seen[200] > 20 and seen[400] > 12 and seen["left"] > 3


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_long_storm():
    "Ten thousand requests: no wrong answer, no leak, no crash"
    import psutil
    storm(300, 0)
    before = psutil.Process().memory_info().rss
    seen = storm(10_000, 1, drafter="auto")
    assert sum(seen.values()) >= 10_000 and psutil.Process().memory_info().rss - before < 100 << 20, seen


def test_a_wrong_answer_would_be_seen(monkeypatch):
    "The control: noise that does not follow the seed, a text with a letter too many"
    from specdec_nb.serving.wire import Asked
    monkeypatch.setattr(Asked, "noise", lambda self, i: Keyed(self.seed + 1, i))
    with running(app()) as address:
        blown = Storm(address, 3)
        asyncio.run(blown.blow(40))
    assert any(kind == "good" for kind, *_ in blown.wrong)


class Held:
    "So many clients, each with one question after another, for a while; what each is told is what it would be told alone"
    def __init__(self, address, clients, seconds, bodies=60):
        self.blown, self.clients, self.seconds = Storm(address, 5), clients, seconds
        self.asked, self.sizes = [self.question() for _ in range(bodies)], [] # sizes: in MiB and in objects, between the parts

    def question(self):
        path, body = self.blown.good()
        body["stream"] = self.blown.gen.random() < .5
        return path, body, Wanted(path, body)

    async def client(self, http, until):
        while time.time() < until:
            path, body, wanted = self.blown.gen.choice(self.asked)
            r = await http.post(self.blown.address + path, json=body)
            self.blown.count(r.status_code)
            if r.status_code == 503: await asyncio.sleep(.05)
            else:
                got = self.blown.texts(r, "chat" in path, body["stream"], len(wanted.texts), usage=False)
                if got[:2] != (dict(enumerate(wanted.texts)), dict(enumerate(wanted.reasons))): self.blown.wrong.append((body, got, wanted.texts))

    async def hold(self):
        until, limits = time.time() + self.seconds, httpx.Limits(max_connections=self.clients)
        async with httpx.AsyncClient(timeout=None, limits=limits) as http:
            await asyncio.gather(*(self.client(http, until) for _ in range(self.clients)))

    def weigh(self):
        "When nobody is served: MiB of this process, and how many objects live"
        import psutil
        gc.collect()
        self.sizes.append((round(psutil.Process().memory_info().rss / 2**20), len(gc.get_objects())))


class Wanted:
    "What `decode` says to a body"
    def __init__(self, path, body):
        answers = [alone(p, body, i) for i, p in enumerate(p for p in prompts_of(path, body) for _ in range(body.get("n", 1)))]
        self.texts, self.reasons, _ = zip(*answers)


def prompts_of(path, body):
    "As token ids"
    if "chat" in path:
        return [TOKENIZER.apply_chat_template(body["messages"], add_generation_prompt=True, return_dict=True)["input_ids"]]
    prompts = body["prompt"]
    if isinstance(prompts, list) and isinstance(prompts[0], int): return [prompts]
    return [TOKENIZER(p).input_ids for p in ([prompts] if isinstance(prompts, str) else prompts)]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("drafter", ["lookup", "auto"])
def test_64_clients_for_five_minutes(drafter):
    """Every answer is the answer alone, and memory does not grow once caches and pools are as large as they may be: weighed between
    five parts of the time, when nobody is served, the last is the second up to what an allocator keeps"""
    a = app(drafter=drafter, most=16, bounds=replace(BOUNDS, queue=200))
    with running(a) as address:
        held = Held(address, 64, float(os.environ.get("SPECDEC_HOLD", 300)) / 5)
        for _ in range(5):
            asyncio.run(held.hold())
            assert not held.blown.wrong, held.blown.wrong[:2]
            quiet(a)
            held.weigh()
    (_, before), (grown, after) = held.sizes[1], (held.sizes[-1][0] - held.sizes[1][0], held.sizes[-1][1])
    print(f"{drafter}: {held.blown.seen}, {held.sizes}")
    assert held.blown.seen[200] > 100 and grown < 32 and after < 1.02 * before, held.sizes


@pytest.fixture(scope="module")
def door():
    a = app(key="sesame", drafter="auto")
    with running(a) as address: yield a, address, openai.OpenAI(base_url=f"{address}/v1", api_key="sesame", max_retries=0)


def test_the_openai_client(door):
    a, address, client = door
    body = dict(temperature=.8, seed=5, max_tokens=20, n=2, presence_penalty=.4)
    chat = client.chat.completions.create(model="bytes", messages=[dict(role="user", content="ab ab ab")], logprobs=True, top_logprobs=3, **body)
    prompt = TOKENIZER("<user>ab ab ab<end><said>").input_ids
    for i, c in enumerate(chat.choices):
        text, reason, trace = alone(prompt, body, i)
        assert (c.message.content, c.finish_reason, c.message.role) == (text, reason, "assistant") and len(c.logprobs.content) == len(trace.tokens)
        rows = [MODEL_ROWS(prompt + trace.tokens[:t]) for t in range(len(trace.tokens))]
        for t, (row, log) in enumerate(zip(rows, c.logprobs.content)):
            p = row - np.log(np.exp(row - row.max()).sum()) - row.max()
            assert abs(log.logprob - p[trace.tokens[t]]) < 1e-6 and [round(x.logprob, 5) for x in log.top_logprobs] == [round(x, 5) for x in sorted(p)[:-4:-1]]
    assert chat.usage.completion_tokens == sum(len(c.logprobs.content) for c in chat.choices)
    details = chat.usage.completion_tokens_details
    assert details.accepted_prediction_tokens >= 0 and details.rejected_prediction_tokens >= 0
    plain = client.completions.create(model="bytes", prompt=["sun", "rain"], temperature=0, max_tokens=9, logprobs=2)
    assert [c.text for c in plain.choices] == [alone(TOKENIZER(p).input_ids, dict(temperature=0, max_tokens=9), 0)[0] for p in ("sun", "rain")]
    assert all(len(c.logprobs.tokens) == len(c.logprobs.top_logprobs) > 0 for c in plain.choices)
    pieces = list(client.chat.completions.create(model="bytes", messages=[dict(role="user", content="ab ab ab")], stream=True, stream_options=dict(include_usage=True), **body))
    assert pieces[-1].usage.completion_tokens == chat.usage.completion_tokens and pieces[0].choices[0].delta.role == "assistant"
    for i, c in enumerate(chat.choices): assert "".join(p.choices[0].delta.content or "" for p in pieces if p.choices and p.choices[0].index == i) == c.message.content
    assert [m.id for m in client.models.list()] == ["bytes"]


def MODEL_ROWS(text):
    from specdec_nb.roles import as_target, read
    from specdec_nb import Draft
    target = as_target(MODEL)
    return target.score([(read(target.open(text)), Draft())])[0].row(0)


def test_the_openai_client_is_refused_as_it_expects(door):
    a, address, client = door
    for wrong, error in ((dict(model="gpt", prompt="a"), openai.NotFoundError), (dict(model="bytes", prompt="a" * 600), openai.BadRequestError),
                         (dict(model="bytes", prompt="a", extra_body=dict(beam=3)), openai.BadRequestError)):
        with pytest.raises(error): client.completions.create(**wrong)
    with pytest.raises(openai.AuthenticationError): openai.OpenAI(base_url=f"{address}/v1", api_key="sesam", max_retries=0).models.list()
    with pytest.raises(openai.BadRequestError, match="no nonsense"): client.chat.completions.create(model="bytes", messages=[dict(role="user", content="nonsense")])
    assert httpx.get(f"{address}/metrics").status_code == 401 and httpx.get(f"{address}/health").status_code == 200


def test_curl(door):
    a, address, client = door
    body = json.dumps(dict(prompt="the cat sat ", temperature=0, max_tokens=12, stream=True))
    done = subprocess.run(["curl", "-sN", f"{address}/v1/completions", "-H", "Authorization: Bearer sesame", "-d", body], capture_output=True, text=True, timeout=30)
    lines = [line[6:] for line in done.stdout.splitlines() if line]
    assert lines[-1] == "[DONE]" and "".join(c["text"] for e in lines[:-1] for c in json.loads(e)["choices"]) == alone(TOKENIZER("the cat sat ").input_ids, dict(temperature=0, max_tokens=12), 0)[0]


def test_whoever_hangs_up_is_called_off(door):
    a, address, client = door
    engine = a.state.door.engine
    score = engine.target.score
    engine.target.score = lambda pairs: (time.sleep(.05), score(pairs))[1]
    try:
        for stream in (True, False):
            sock = socket.create_connection(address[7:].split(":"))
            raw = json.dumps(dict(prompt="a", max_tokens=64, stream=stream, logit_bias={str(EOS): -100}))
            sock.sendall(f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sesame\r\nContent-Length: {len(raw)}\r\n\r\n{raw}".encode())
            until = time.time() + 10
            while not engine.running and time.time() < until: time.sleep(.01)
            before = engine.counts["tokens"]
            sock.close()
            quiet(a, 5)
            assert engine.counts["tokens"] - before < 40, "it went on for nobody"
    finally: engine.target.score = score


def test_too_many_are_told_to_come_again():
    a = app(bounds=Bounds(tokens=64, queue=2, answers=4), most=1, drafter="none")
    score = a.state.door.engine.target.score
    a.state.door.engine.target.score = lambda pairs: (time.sleep(.02), score(pairs))[1]
    with running(a) as address:
        async def all_at_once():
            async with httpx.AsyncClient(timeout=60) as c:
                return await asyncio.gather(*(c.post(f"{address}/v1/completions", json=dict(prompt="a", max_tokens=20, temperature=0, logit_bias={str(EOS): -100})) for _ in range(12)))
        answers = asyncio.run(all_at_once())
        statuses = [r.status_code for r in answers]
        assert set(statuses) == {200, 503} and statuses.count(200) >= 3
        assert all(r.headers["retry-after"] == "1" for r in answers if r.status_code == 503) and len({r.json()["choices"][0]["text"] for r in answers if r.status_code == 200}) == 1
        quiet(a)


def test_a_mistake_of_ours_says_nothing_of_this_machine():
    a = app()
    with running(a) as address:
        a.state.door.engine.target.score = lambda pairs: 1 / 0
        r = httpx.post(f"{address}/v1/completions", json=dict(prompt="a"))
        assert r.status_code == 500 and r.json()["error"]["message"] == "something failed here, and this request with it" and len(r.text) < 200
        a.state.door.submit = lambda *_: open("/no/such/file")
        r = httpx.post(f"{address}/v1/completions", json=dict(prompt="a"))
        assert r.status_code == 500 and "such" not in r.text and a.state.door.open == 0


def test_a_body_that_does_not_arrive(door):
    a = app(bounds=Bounds(patience=.3))
    with running(a) as address:
        sock = socket.create_connection(address[7:].split(":"))
        sock.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        sock.settimeout(5)
        assert b" 408 " in sock.recv(1000)


def test_nothing_that_a_client_writes_breaks_an_answer():
    "Names that are halves of letters, numbers of a thousand digits, lists at every depth that a parser still bears"
    a, sent = app(), [b'{"prompt": "a", "\\ud800": 1}', b'{"prompt": [1' + b"0" * 4000 + b']}', b'{"prompt": "a", "' + b"x" * 9000 + b'": 1}',
                      b'{"messages": [{"role": "user", "content": "a", "' + b"y" * 9000 + b'": 1}]}']
    sent += [b'{"prompt": "a", "n": %s}' % (b"[" * n + b"]" * n) for n in range(940, 1010)]
    def answers():
        with running(a) as address:
            return [httpx.post(f"{address}/v1/{'chat/' * (b'messages' in raw)}completions", content=raw) for raw in sent]
    for raw, r in zip(sent, answers()):
        assert r.status_code == 400 and len(r.text) < 600 and r.json()["error"]["type"] == "invalid_request_error", (raw[:60], r.text[:200])


def test_a_broken_answer_would_be_seen(monkeypatch):
    "The control: JSON as it is usually written cannot carry what the client wrote"
    from starlette.responses import JSONResponse
    from specdec_nb.serving import server
    monkeypatch.setattr(server.Reply, "render", JSONResponse.render)
    with running(app()) as address:
        assert httpx.post(f"{address}/v1/completions", content=b'{"prompt": "a", "\\ud800": 1}').status_code == 500


def test_halves_of_letters_have_names_and_places(door):
    "Bytes of all tokens together are the text's, and a stream says the same as a whole answer"
    a, address, client = door
    body = dict(model="bytes", prompt="é雪🦊 ", temperature=1, seed=11, max_tokens=40, logprobs=2, logit_bias={str(EOS): -100})
    whole = client.completions.create(**body).choices[0]
    chat = client.chat.completions.create(model="bytes", messages=[dict(role="user", content="é雪🦊 ")], temperature=1, seed=11, max_tokens=40, logprobs=True,
                                          logit_bias={str(EOS): -100}).choices[0]
    assert bytes(b for t in chat.logprobs.content if t.token not in ("<user>", "<said>") for b in t.bytes).decode(errors="replace") == chat.message.content
    names = whole.logprobs.tokens
    assert any(n.startswith("bytes:\\x") for n in names) and "\ufffd" not in "".join(names)
    for at, name in zip(whole.logprobs.text_offset, names): assert len(name) > 1 or whole.text[at] == name
    pieces = [c.choices[0] for c in client.completions.create(**body, stream=True)]
    offsets = [at for c in pieces if c.logprobs for at in c.logprobs.text_offset]
    assert offsets == whole.logprobs.text_offset and offsets[-1] > 10
    assert [n for c in pieces if c.logprobs for n in c.logprobs.tokens] == names and "".join(c.text for c in pieces) == whole.text


def test_what_is_streamed_is_not_kept(monkeypatch):
    "Twenty rivals for each of two thousand tokens are many megabytes"
    from specdec_nb.serving import server
    made = []
    class Seen(server.Answer):
        def __init__(self, *args): super().__init__(*args); made.append(self)
    monkeypatch.setattr(server, "Answer", Seen)
    with running(app()) as address:
        for stream in (True, False): httpx.post(f"{address}/v1/completions", json=dict(prompt="a", max_tokens=9, logprobs=5, stream=stream, logit_bias={str(EOS): -100}))
    assert [len(a.logs) for a in made] == [0, 9]


def test_likelihoods_are_of_all_words():
    "Against sorting all of them, for rows long enough that this is not done"
    gen = np.random.default_rng(0)
    for V in (40, 900, 5000):
        row, k = gen.normal(size=V).astype(np.float32), 5
        own, best = likelihoods(row, 7, k)
        p = np.exp(row.astype(float)) / np.exp(row.astype(float)).sum()
        assert abs(own - np.log(p[7])) < 1e-9 and [x for x, _ in best] == np.argsort(-p)[:k].tolist() and np.allclose([w for _, w in best], np.log(np.sort(p)[::-1][:k]))


def test_small_manners(door):
    a, address, client = door
    assert client.models.retrieve("bytes").id == "bytes"
    with pytest.raises(openai.NotFoundError, match="there is no model 'other/one' here"): client.models.retrieve("other/one")
    assert httpx.get(f"{address}/v1/models/bytes").status_code == 401
    key = {"Authorization": "bearer sesame"}
    assert httpx.get(f"{address}/v1/models", headers=key).status_code == 200
    for wrong in ("sesame", "Basic sesame", "Bearer", "Bearer sesam", "Bearer sesame sesame", "Bearer é"):
        assert httpx.get(f"{address}/v1/models", headers={"Authorization": wrong.encode()}).status_code == 401, wrong
    r = httpx.get(f"{address}/v1/completions", headers=key)
    assert (r.status_code, r.headers["allow"]) == (405, "POST")
    chunks = list(client.completions.create(model="bytes", prompt="a", max_tokens=3, stream=True, stream_options=dict(include_usage=True)))
    assert all(c.usage is None for c in chunks[:-1]) and chunks[-1].usage.completion_tokens == 3 and not chunks[-1].choices


def test_different_seeds_are_different(door):
    "Negative ones, too, and the largest"
    a, address, client = door
    texts = {s: client.completions.create(model="bytes", prompt="a", max_tokens=12, seed=s).choices[0].text for s in (-1, -2, -(1 << 63), (1 << 63) - 1, 0)}
    assert len(set(texts.values())) == 5
    for s, text in texts.items(): assert text == alone(TOKENIZER("a").input_ids, dict(max_tokens=12, seed=s), 0)[0]


def test_who_takes_nothing_has_left():
    "A client that stays connected and reads nothing of its stream"
    a = app(bounds=replace(BOUNDS, patience=.2))
    raw = json.dumps(dict(prompt="a", max_tokens=40, stream=True, logit_bias={str(EOS): -100})).encode()
    scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": [], "query_string": b"", "asgi": {"spec_version": "2.3"}}
    async def talk(stuck):
        asked, sent = [{"type": "http.request", "body": raw, "more_body": False}], []
        async def receive():
            if asked: return asked.pop()
            await asyncio.sleep(60)
        async def send(message):
            sent.append(message)
            if stuck and len(sent) > 2: await asyncio.sleep(60)
        async with a.router.lifespan_context(a): await asyncio.wait_for(a(scope, receive, send), 20)
        return sent
    assert len(asyncio.run(talk(True))) == 3 and a.state.door.open == 0
    a = app(bounds=replace(BOUNDS, patience=.2))
    assert asyncio.run(talk(False))[-1] == {"type": "http.response.body", "body": b"", "more_body": False}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_health_is_the_engines():
    a = app()
    with running(a) as address:
        assert httpx.get(f"{address}/health").status_code == 200
        engine = a.state.door.engine
        engine.run = lambda: sys.exit()                                    # a thread ends so, and says nothing
        engine.submit([97], stop=Stop(3))
        a.state.door.worker.join(5)
        engine.waiting.clear()
        r = httpx.get(f"{address}/health")
        assert r.status_code == 503 and "engine has stopped" in r.text


SERVER = """
import sys; sys.path.insert(0, "tests")
import test_server as t, time
from specdec_nb.serving.server import open_door
a = t.app(drafter="none")
score = a.state.door.engine.target.score
a.state.door.engine.target.score = lambda pairs: (time.sleep(.03), score(pairs))[1]
open_door(a, port=int(sys.argv[1]))
"""


def test_it_ends_when_it_is_told_to_and_begins_again():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    address, body = f"http://127.0.0.1:{port}", dict(prompt="a", max_tokens=40, temperature=0, logit_bias={str(EOS): -100})
    def start():
        process = subprocess.Popen([sys.executable, "-c", SERVER, str(port)], cwd=ROOT, env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT}/tools:{ROOT}/tests"}, stderr=subprocess.PIPE)
        for _ in range(900):
            try: return process, httpx.get(f"{address}/health").raise_for_status()
            except httpx.HTTPError: time.sleep(.1)
        raise AssertionError(process.stderr.read())
    process, _ = start()
    with httpx.stream("POST", f"{address}/v1/completions", json=dict(body, stream=True), timeout=30) as r:
        lines = r.iter_lines()
        next(lines)
        process.kill()
        with pytest.raises(httpx.HTTPError): list(lines)
    process.wait()
    process, _ = start()                                                   # the same port, nothing to mend
    with httpx.stream("POST", f"{address}/v1/completions", json=dict(body, stream=True), timeout=30) as r:
        lines = r.iter_lines()
        next(lines)
        process.send_signal(signal.SIGTERM)
        rest = [line for line in lines if line]
    assert rest[-1] == "data: [DONE]" and len(rest) > 20                   # who is inside is served
    assert process.wait(20) in (0, -signal.SIGTERM)
    with pytest.raises(httpx.HTTPError): httpx.get(f"{address}/health")


def test_prose_of_random_bytes():
    gen = np.random.default_rng(0)
    for i in range(60):
        ids, strings = gen.integers(0, 259, 40).tolist(), [("a",), ("é", "xy"), ()][i % 3]
        if i % 2: ids = TOKENIZER("".join(gen.choice(list("aéxy🦊 "), 30))).input_ids
        prose, whole = Prose(TOKENIZER, strings), TOKENIZER.decode(ids, skip_special_tokens=True)
        sent = "".join(prose.add(ids[j:j + 3], j + 3 >= len(ids)) for j in range(0, len(ids), 3))
        cuts = [whole.find(s) for s in strings if s in whole]
        assert sent == whole[:min(cuts, default=len(whole))]


@pytest.mark.parametrize("raw, says", [(b'{"messages": [{"role": "tool", "content": "a"}]}', "role"), (b'{"messages": [{"role": "user", "content": "a", "name": "b"}]}', "name"),
    (b'{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}', "text"), (b'{"messages": [{"role": "user", "content": "a"}], "top_logprobs": 2}', "needs logprobs"),
    (b'{"messages": [{"role": "user", "content": "a"}], "temperature": 0.001}', "0.01"), (b'{"messages": [{"role": "user", "content": "a"}], "response_format": {"type": "json_object"}}', "response_format"),
    (b'{"messages": [{"role": "user", "content": null}]}', "content is a text"), (b'{"messages": [{"role": "user", "content": [{"type": "text", "text": "a", "cache": 1}]}]}', "parts"),
    (b'{"messages": [{"role": "user", "content": "a"}], "store": 0}', "store"), (b'{"messages": [{"role": "user", "content": "a"}], "parallel_tool_calls": 1}', "parallel_tool_calls"),
    (b'{"messages": [{"role": "user", "content": "a"}], "logit_bias": {"05": 1}}', "token ids"), (b'{"messages": [{"role": "user", "content": "a"}], "logit_bias": {"1_0": 1}}', "token ids"),
    (b'{"messages": [{"role": "user", "content": "a"}], "stream_options": {"include_usage": true}}', "needs stream")])
def test_what_chat_refuses(raw, says):
    with pytest.raises(Refused, match=says): read_body(raw, "chat", TOKENIZER, 259, 512)
