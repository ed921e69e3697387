"""The server: every answer is the answer alone, every bad request is told why, whoever leaves leaves nothing behind."""
import asyncio
from dataclasses import replace
from functools import partial
import json
import os
import signal
import socket
import subprocess
import sys
import time

import httpx
import numpy as np
import openai
import pytest

import storm
from conftest import ROOT
from served import BOUNDS, HOUSE, MODEL, TOKENIZER, alone, app
from storm import EOS
from specdec_nb import Keyed, Stop
from specdec_nb.models.maps import why_not_native
from specdec_nb.serving.server import doors_at, running
from specdec_nb.serving.wire import Bounds
from specdec_nb.serving.answers import likelihoods


@pytest.mark.parametrize("drafter, seed", [("lookup", 1), ("auto", 2)])
def test_a_storm(drafter, seed):
    blown, [(_, _, left)] = storm.blown(HOUSE, 120, seed, drafter=drafter)
    assert not blown.wrong, blown.wrong[:3]
    assert blown.seen[200] > 20 and blown.seen[400] > 12 and blown.seen["left"] > 3 and left == 0


def test_a_request_is_its_number():
    one, other = (storm.Storm(HOUSE, "", 1) for _ in range(2))
    drawn = [one.request(i)[:3] for i in range(90)]
    assert drawn == [other.request(i)[:3] for i in range(90)] != [storm.Storm(HOUSE, "", 2).request(i)[:3] for i in range(90)]
    assert {name for kind, _, body in drawn if kind != "bad" for name in body} >= {"logprobs", "n", "stop", "seed", "logit_bias", "min_p", "top_k", "presence_penalty"}


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("runtime", ["own", "native"])
def test_a_long_storm(runtime):
    "Ten thousand requests: no wrong answer, no leak, no crash"
    if runtime == "native" and (why := why_not_native()): pytest.skip(why)
    assert storm.main(["--requests", "10000", "--seed", "1", "--runtime", runtime]) == 0


@pytest.mark.parametrize("spoilt", ["noise", "logs", "leak"])
def test_what_is_wrong_would_be_seen(monkeypatch, spoilt):
    "The control: noise that does not follow the seed; log-probabilities after the temperature; a place in the queue that is not given back"
    from specdec_nb.serving import answers, server, wire
    if spoilt == "noise": monkeypatch.setattr(wire.Asked, "noise", lambda self, i: Keyed(self.seed + 1, i))
    if spoilt == "logs": monkeypatch.setattr(answers, "likelihoods", lambda row, *more: likelihoods(1.01 * np.asarray(row), *more))
    if spoilt == "leak": monkeypatch.setattr(server.Door, "left", lambda self, answers: None)
    if spoilt == "leak":
        monkeypatch.setattr(storm, "quiet", partial(storm.quiet, seconds=.5))
        with pytest.raises(AssertionError): storm.blown(HOUSE, 4, 3)
    else: assert any(kind == "good" for _, kind, *_ in storm.blown(HOUSE, 40, 3)[0].wrong)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("drafter", ["lookup", "auto"])
def test_64_clients_for_five_minutes(drafter):
    """Every answer is the answer alone, and memory does not grow once caches and pools are as large as they may be: weighed between
    five parts of the time, when nobody is served, the last is the second up to what an allocator keeps"""
    a, weights = app(drafter=drafter, most=16, bounds=replace(BOUNDS, queue=200)), []
    with running(a) as address:
        held = storm.Held(HOUSE, address, 64)
        for _ in range(5):
            asyncio.run(held.hold(float(os.environ.get("SPECDEC_HOLD", 300)) / 5))
            assert not held.storm.wrong, held.storm.wrong[:2]
            storm.quiet(a)
            weights.append(storm.weigh(a))
    (_, before, _), (grown, after, left) = weights[1], (weights[-1][0] - weights[1][0], *weights[-1][1:])
    print(f"{drafter}: {held.storm.seen}, {weights}")
    assert held.storm.seen[200] > 100 and grown < 32 and after < 1.02 * before and left == 0, weights


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_64_clients_of_the_program():
    "For five minutes, `specdec serve` with the default model; kill -9, a new beginning, and the end"
    assert storm.held(float(os.environ.get("SPECDEC_HOLD", 300)), 64) == 0


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
        text, reason, tokens, _ = alone(prompt, body, i)
        assert (c.message.content, c.finish_reason, c.message.role) == (text, reason, "assistant") and len(c.logprobs.content) == len(tokens)
        rows = [MODEL_ROWS(prompt + tokens[:t]) for t in range(len(tokens))]
        for t, (row, log) in enumerate(zip(rows, c.logprobs.content)):
            p = row - np.log(np.exp(row - row.max()).sum()) - row.max()
            assert abs(log.logprob - p[tokens[t]]) < 1e-6 and [round(x.logprob, 5) for x in log.top_logprobs] == [round(x, 5) for x in sorted(p)[:-4:-1]]
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
            storm.quiet(a, 5)
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
        storm.quiet(a)


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


@pytest.mark.parametrize("begun", [[b""], [b"POST /v1/comp"], [b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /he"]], ids=["nothing", "a word", "a second one"])
def test_a_head_that_does_not_arrive(begun):
    "Who says nothing, or half of what he wants, is not waited for; who is being answered is"
    a = app(bounds=Bounds(patience=.4), drafter="none")
    score = a.state.door.engine.target.score
    a.state.door.engine.target.score = lambda pairs: (time.sleep(.1), score(pairs))[1]
    with running(a) as address, socket.create_connection(address[7:].split(":")) as sock:
        sock.settimeout(4)                                                 # uvicorn alone would wait for five seconds, or for ever
        for part in begun:
            sock.sendall(part)
            if part.endswith(b"\n"): assert b"200 OK" in sock.recv(1000)
        while sock.recv(1000): pass
        long = httpx.post(f"{address}/v1/completions", json=dict(prompt="a", max_tokens=8, temperature=0, logit_bias={str(EOS): -100}))
        assert long.status_code == 200 and long.elapsed.total_seconds() > .7


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
import sys; sys.path.insert(0, "tools")
import storm, time
from specdec_nb.serving.server import doors_at, open_door
a = storm.small().app(drafter="none")
score = a.state.door.engine.target.score
a.state.door.engine.target.score = lambda pairs: (time.sleep(.03), score(pairs))[1]
open_door(a, doors_at("127.0.0.1", int(sys.argv[1])))
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


def test_a_taken_port_is_told_before_anything_is_served():
    with running(app()) as address:
        port = int(address.rsplit(":")[-1])
        with pytest.raises(ValueError, match=f"cannot listen at host '127.0.0.1', port {port}: Address already in use"): doors_at("127.0.0.1", port)
        with pytest.raises(ValueError, match="cannot listen"), running(app(), port=port): pass
        assert httpx.get(f"{address}/health").status_code == 200, "and who listens there is not disturbed"
    doors = doors_at("localhost", 0)
    assert len({door.getsockname()[1] for door in doors}) == 1, "one port at all addresses of a name"
    for door in doors: door.close()
