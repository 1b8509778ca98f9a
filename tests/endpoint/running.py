"""A server on a thread: the real one, with a model of the tests."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any

from fastapi import FastAPI

from fastdllm import load_model
from fastdllm.decoding.sequence import Request
from fastdllm.endpoint.app import create_app
from fastdllm.endpoint.served import Served
from fastdllm.endpoint.server import listen, open_port, server_of
from fastdllm.model.config import EMBEDDED_MODEL
from fastdllm.model.tokenizer import load_tokenizer
from fastdllm.policy import Policy
from fastdllm.serving.service import Service
from fastdllm.settings import DecodingSettings

LIMIT_S = 60  # for what hangs


@dataclass(frozen=True)
class Running:
    """A server that answers at a port of this machine."""

    served: Served
    port: int

    @property
    def service(self) -> Service:
        return self.served.service

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}/v1"

    def ask(
        self,
        path: str,
        body: Any = None,
        *,
        method: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, Any]:
        """Send a request; return status and answer, parsed if it is JSON.

        body: bytes as they are, anything else as JSON; None asks with GET.
        """
        connection = HTTPConnection("localhost", self.port, timeout=LIMIT_S)
        sent = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        try:
            verb = method or ("GET" if body is None else "POST")
            connection.request(verb, path, sent, headers or {})
            answer = connection.getresponse()
            text = answer.read()
            is_json = answer.headers["content-type"] == "application/json"
            return answer.status, json.loads(text) if is_json and text else text
        finally:
            connection.close()

    def open(self, path: str, body: Any) -> socket.socket:
        """Send a request, and return the socket that its answer comes on."""
        there = socket.create_connection(("localhost", self.port), timeout=LIMIT_S)
        sent = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(sent)}\r\n\r\n"
        there.sendall(head.encode() + sent)
        return there

    def wait_until_idle(self) -> None:
        """Wait until nothing decodes or waits."""
        wait_until(lambda: not (self.service.figures().decoding + self.service.figures().waiting))


def wait_until(holds: Callable[[], Any]) -> None:
    """Wait for what other threads do."""
    end = time.monotonic() + LIMIT_S
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.002)


class Gate(Policy):
    """Waits before each of its passes until it is let through; holds up all decoding meanwhile."""

    def __init__(self, settings: Any, parameters: Any = None, num_layers: int = 14) -> None:
        super().__init__(settings, parameters or Policy.Parameters(), num_layers)
        self.has_begun, self.passes, self.is_open = threading.Event(), threading.Semaphore(0), False

    def next_pass(self, state: Any) -> Any:
        self.has_begun.set()
        assert self.is_open or self.passes.acquire(timeout=LIMIT_S)
        return super().next_pass(state)


@contextmanager
def held_up(server: Running) -> Iterator[Gate]:
    """Hold up all decoding, pass by pass, until the end of the block."""
    # A token per pass, and more of them than any test lets through.
    gate = Gate(server.served.settings.model_copy(update={"threshold": 1.0, "stop_token": 500}))
    stream = server.service.submit(Request((1, 2), max_new_tokens=1900), policy=gate)
    assert gate.has_begun.wait(LIMIT_S)
    try:
        yield gate
    finally:
        gate.is_open = True
        gate.passes.release()
        stream.cancel()
        server.wait_until_idle()


@contextmanager
def running(
    *,
    key: str | None = None,
    timeout_s: float = LIMIT_S,
    slots: int = 8,
    most_waiting: int = 64,
    complete: Callable[[FastAPI, Served, str | None], None] | None = None,
) -> Iterator[Running]:
    """Serve the embedded model in float32, until the end of the block.

    complete: adds to the app, as of `serve_until_signal`.
    """
    model = load_model(EMBEDDED_MODEL, device="cpu", dtype="float32")
    service = Service(model, slots=slots, most_waiting=most_waiting)
    served = Served(
        "tiny",
        model,
        load_tokenizer(str(EMBEDDED_MODEL)),
        service,
        DecodingSettings(max_new_tokens=96),
        timeout_s=timeout_s,
    )
    with service, open_port("127.0.0.1", 0) as bound:
        port = bound.getsockname()[1]
        listen(bound)
        app = create_app(served, key=key)
        if complete is not None:
            complete(app, served, key)
        server = server_of(app, service.close)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        try:
            yield Running(served, port)
        finally:
            server.should_exit = True
            thread.join(LIMIT_S)
            assert not thread.is_alive()
