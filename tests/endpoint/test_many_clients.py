"""Many clients at once: right answers, whoever goes away, and nobody is held up by others."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from typing import Any

import pytest

from fastdllm import DecodingSettings, Request, generate
from fastdllm.endpoint import app, exchange
from fastdllm.endpoint.api_errors import timed_out
from fastdllm.endpoint.exchange import MOST_BODY_BYTES, EventStream
from fastdllm.endpoint.server import listen, open_port, server_of
from fastdllm.model.tokenizer import prompt_ids
from tests.endpoint.running import LIMIT_S, Running, held_up, running, wait_until
from tests.endpoint.test_openai_client import QUESTIONS, SETTINGS

pytestmark = pytest.mark.slow

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


def chat_body(question: str, **wishes: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}]} | wishes


def events_of(answer: bytes) -> list[Any]:
    """The events of a stream, which ends as it should."""
    *events, done, rest = answer.decode().split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in events if event[0] != ":"]


def text_of(answer: bytes) -> str:
    return "".join(
        choice["delta"].get("content", "")
        for event in events_of(answer)
        for choice in event["choices"]
    )


def everything(there: socket.socket) -> bytes:
    """All that comes until the other side closes."""
    return b"".join(iter(lambda: there.recv(65536), b""))


def test_eight_clients_who_come_and_go_have_the_answers_of_generate(server: Running) -> None:
    found: list[tuple[str, dict[str, Any], str]] = []

    def talk(number: int) -> None:
        draw = random.Random(number)
        for _ in range(6):
            question, settings = draw.choice(QUESTIONS), draw.choice(SETTINGS)
            body = chat_body(question, user=f"user {number}", **settings)
            manner = draw.choice(["whole", "streamed", "closed", "closed while streamed"])
            if manner == "whole":
                status, answer = server.ask(CHAT, body)
                assert status == 200, answer
                found.append((question, settings, answer["choices"][0]["message"]["content"]))
            elif manner == "streamed":
                status, answer = server.ask(CHAT, body | {"stream": True})
                assert status == 200, answer
                found.append((question, settings, text_of(answer)))
            else:
                with server.open(CHAT, body | {"stream": manner != "closed"}) as there:
                    if draw.random() < 0.5:
                        there.recv(draw.choice([1, 100, 500]))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(talk, range(8)))
    server.wait_until_idle()
    assert len(found) > 8
    tokenizer = server.served.tokenizer
    for question, settings, text in found:
        chosen = DecodingSettings(**({"max_new_tokens": 96} | settings))
        request = Request(prompt_ids(tokenizer, question))
        (alone,) = generate(server.served.model, [request], chosen)
        assert text == tokenizer.decode(alone.token_ids, skip_special_tokens=True)
    assert all(len(engine.cache._free) == 1 for engine in server.served.model.idle_engines)


@pytest.mark.parametrize("stream", [False, True])
def test_a_closed_connection_leaves_the_queue_and_its_slot_at_once(
    server: Running, monkeypatch, stream: bool
) -> None:
    cancelled: list[Any] = []
    cancel = server.service.cancel

    def spy(which: Any) -> None:
        cancel(which)
        cancelled.append(which)

    monkeypatch.setattr(server.service, "cancel", spy)
    body = chat_body(QUESTIONS[0], stream=stream, stop_token=500)
    with held_up(server) as gate:
        with server.open(CHAT, body):
            wait_until(lambda: server.service.figures().waiting == 1)
        # Nothing is decoded meanwhile.
        wait_until(lambda: server.service.figures().waiting == 0)
        before = server.service.figures()
        with server.open(CHAT, body):
            wait_until(lambda: server.service.figures().waiting == 1)
            gate.passes.release()
            wait_until(lambda: server.service.figures().decoding == 2)
            cancelled.clear()
        wait_until(lambda: cancelled)
        gate.passes.release(2)
        wait_until(lambda: server.service.figures().decoding == 1)
        after = server.service.figures()
        assert after.answers["cancelled"] == before.answers["cancelled"] + 1
        assert after.tokens - before.tokens < 96


def test_a_long_prompt_is_refused_and_holds_up_nobody(server: Running) -> None:
    # The second is just short enough that its tokens are counted.
    prompt, counted = "Tom has 12 pens. " * (2**20 // 17), "Tom has 12 pens. " * 1900
    with ThreadPoolExecutor(4) as threads:
        long = [threads.submit(server.ask, CHAT, chat_body(text)) for text in (prompt, counted)]
        long.append(threads.submit(server.ask, COMPLETIONS, {"prompt": prompt, "stream": True}))
        short = [server.ask(CHAT, chat_body(question))[0] for question in QUESTIONS]
    assert short == [200] * len(QUESTIONS)
    for status, answer in (each.result() for each in long):
        assert status == 400
        assert answer["error"]["code"] == "context_length_exceeded"


def test_a_long_body_is_prepared_beside_others(server: Running, monkeypatch) -> None:
    has_begun, goes_on, prepare = threading.Event(), threading.Event(), app.question_of

    def slow(*given: Any, **how: Any) -> Any:
        has_begun.set()
        assert goes_on.wait(LIMIT_S)
        return prepare(*given, **how)

    monkeypatch.setattr(app, "question_of", slow)
    body = json.dumps(chat_body(QUESTIONS[0])).encode() + b" " * app.LONG_BODY
    with ThreadPoolExecutor(1) as threads:
        long = threads.submit(server.ask, CHAT, body)
        assert has_begun.wait(LIMIT_S)
        assert server.ask("/health")[0] == 200
        goes_on.set()
        assert long.result()[0] == 200


def test_tokens_come_while_the_rest_is_decoded(server: Running) -> None:
    body = chat_body(QUESTIONS[0], stream=True, threshold=1)
    with held_up(server) as gate, server.open(CHAT, body) as there:
        seen = b""
        while b'"delta":{"content":' not in seen:
            gate.passes.release()
            there.settimeout(1)
            with suppress(TimeoutError):
                seen += there.recv(65536)
        assert server.service.figures().decoding == 2
        assert b'"finish_reason":"' not in seen


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_body_over_the_limit_is_refused(server: Running, is_chunked: bool) -> None:
    body = b" " * (MOST_BODY_BYTES + 10**6)
    with closing(socket.create_connection(("localhost", server.port), LIMIT_S)) as there:
        if is_chunked:
            length = "Transfer-Encoding: chunked"
            body = f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"
        else:
            length = f"Content-Length: {len(body)}"
        there.sendall(f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\n{length}\r\n\r\n".encode())
        there.sendall(body)
        there.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        answer = everything(there)
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"the body is longer than 4194304 bytes" in answer
    assert answer.endswith(b'{"status":"ok"}')


def test_a_hundred_connections_are_served_or_told_to_come_back(server: Running) -> None:
    idle = [socket.create_connection(("localhost", server.port), LIMIT_S) for _ in range(100)]
    begun = threading.Barrier(100)

    def ask(number: int) -> tuple[int, Any]:
        begun.wait(LIMIT_S)
        return server.ask(CHAT, chat_body(QUESTIONS[number % 8], max_tokens=8))

    with ThreadPoolExecutor(100) as threads:
        answers = list(threads.map(ask, range(100)))
    for one in idle:
        one.close()
    assert {status for status, _ in answers} <= {200, 429}
    assert sum(status == 200 for status, _ in answers) >= 64
    server.wait_until_idle()


def test_readers_who_read_nothing_hold_up_nobody(server: Running) -> None:
    body = chat_body(QUESTIONS[0], stream=True, stop_token=500, max_tokens=150)
    slow = []
    for _ in range(10):
        there = socket.socket()
        there.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        there.connect(("127.0.0.1", server.port))
        sent = json.dumps(body).encode()
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(sent)}\r\n\r\n"
        there.sendall(head.encode() + sent)
        slow.append(there)
    assert [server.ask(CHAT, chat_body(q))[0] for q in QUESTIONS] == [200] * len(QUESTIONS)
    server.wait_until_idle()
    for there in slow:
        there.close()


def test_a_reader_who_takes_nothing_is_left_when_the_time_is_over(monkeypatch) -> None:
    monkeypatch.setattr(exchange, "FAREWELL_S", 0.01)
    ended = []

    async def events():
        while True:
            yield b"data: 1\n\n"

    async def run() -> None:
        async def send(_):
            await asyncio.sleep(LIMIT_S)

        async def receive():
            await asyncio.sleep(LIMIT_S)

        stream = EventStream(
            events(),
            end=lambda: ended.append(True),
            deadline=asyncio.get_running_loop().time() + 0.01,
            late=timed_out(0.01),
        )
        await stream({"type": "http"}, receive, send)

    asyncio.run(asyncio.wait_for(run(), LIMIT_S / 2))
    assert ended == [True]


def test_what_takes_too_long_is_told_so() -> None:
    with running(timeout_s=1.5) as server, held_up(server):
        status, answer = server.ask(CHAT, chat_body("x"))
        assert status == 504
        assert answer["error"]["code"] == "timeout"
        assert "no whole answer within 1.5 s, waiting included" in answer["error"]["message"]
        status, streamed = server.ask(CHAT, chat_body("x", stream=True))
        assert status == 200
        *_, last, rest = streamed.decode().split("\n\n")
        assert (json.loads(last.removeprefix("data: ")), rest) == (answer, "")
        wait_until(lambda: server.service.figures().waiting == 0)


def test_a_body_that_does_not_come_is_not_waited_for(server: Running, monkeypatch) -> None:
    monkeypatch.setattr(exchange, "UPLOAD_S", 0.05)
    with closing(socket.create_connection(("localhost", server.port), LIMIT_S)) as there:
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n{{"
        there.sendall(head.encode())
        answer = everything(there)
    assert answer.startswith(b"HTTP/1.1 408")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "slow_upload"


def test_waiting_clients_see_that_the_connection_lives(server: Running, monkeypatch) -> None:
    monkeypatch.setattr("fastdllm.endpoint.app.IDLE_S", 0.01)
    with held_up(server), server.open(CHAT, chat_body(QUESTIONS[0], stream=True)) as there:
        seen = b""
        while b": waiting\n\n" not in seen:
            seen += there.recv(1000)
    server.wait_until_idle()


def test_streams_are_told_that_the_server_ends() -> None:
    told: dict[bool, bytes] = {}

    def read(server: Running, is_streamed: bool) -> None:
        with server.open(CHAT, chat_body("x", stream=is_streamed)) as there:
            told[is_streamed] = everything(there)

    with ThreadPoolExecutor(2) as threads:
        with running() as server:
            with held_up(server) as gate:
                work = [threads.submit(read, server, kind) for kind in (False, True)]
                wait_until(lambda: server.service.figures().waiting == 2)
                closing_it = threading.Thread(target=server.service.close)
                closing_it.start()
                wait_until(lambda: not server.service.is_open)
                assert server.ask("/ready")[0] == 503
                gate.is_open = True
                gate.passes.release()
                closing_it.join(LIMIT_S)
            assert server.ask("/health") == (200, {"status": "ok"})
            assert server.ask(CHAT, chat_body("x"))[0] == 503
        for each in work:
            each.result(LIMIT_S)
    assert told[False].startswith(b"HTTP/1.1 503")
    assert b'"code":"closed"' in told[True]


def test_an_open_page_does_not_keep_the_server_from_ending(monkeypatch, capfd) -> None:
    monkeypatch.setattr("fastdllm.endpoint.server.GRACE_S", 0.1)
    is_gone = threading.Event()

    async def page(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"alive", "more_body": True})
            while (await receive())["type"] != "http.disconnect":
                pass
            is_gone.set()

    with open_port("127.0.0.1", 0) as bound:
        listen(bound)
        server = server_of(page, lambda: None)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        with socket.create_connection(bound.getsockname(), LIMIT_S) as there:
            there.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            while b"alive" not in there.recv(1000):
                pass
            server.should_exit = True
            thread.join(LIMIT_S)
    assert is_gone.is_set()
    assert capfd.readouterr().err == ""


def test_metrics_agree_with_the_answers() -> None:
    with running() as server:
        usages = []
        for number, question in enumerate(QUESTIONS[:4]):
            body = chat_body(question, stop_token=500 if number else None, max_tokens=40)
            usages.append(server.ask(CHAT, body)[1]["usage"])
        assert server.ask(CHAT, chat_body("x", n=2))[0] == 400
        status, text = server.ask("/metrics")
        assert status == 200
        values = dict(
            line.rsplit(" ", 1) for line in text.decode().splitlines() if not line.startswith("#")
        )
        assert float(values["fastdllm_tokens_total"]) == sum(
            usage["completion_tokens"] for usage in usages
        )
        for kind in ("prefill", "full_block", "sub_block", "commit", "reused"):
            assert float(values[f'fastdllm_passes_total{{kind="{kind}"}}']) == sum(
                usage["passes"][kind] for usage in usages
            )
        assert float(values['fastdllm_answers_total{reason="stop"}']) == 1
        assert float(values['fastdllm_answers_total{reason="length"}']) == 3
        assert float(values["fastdllm_slots"]) == 8
        for name in ("decoding", "waiting", "failed_total"):
            assert float(values[f"fastdllm_{name}"]) == 0
