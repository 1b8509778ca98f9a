"""A server on a thread: the real one, with a model of the tests."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from fastdllm import load_model
from fastdllm.endpoint.app import create_app
from fastdllm.endpoint.served import Served
from fastdllm.endpoint.server import open_port, server_of
from fastdllm.model.config import EMBEDDED_MODEL
from fastdllm.model.tokenizer import load_tokenizer
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


@contextmanager
def running(
    *, key: str | None = None, timeout_s: float = LIMIT_S, slots: int = 8, most_waiting: int = 64
) -> Iterator[Running]:
    """Serve the embedded model in float32, until the end of the block."""
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
        bound.listen()
        server = server_of(create_app(served, key=key), service.close)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        try:
            yield Running(served, port)
        finally:
            server.should_exit = True
            thread.join(LIMIT_S)
            assert not thread.is_alive()
