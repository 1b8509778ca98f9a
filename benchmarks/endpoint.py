"""Tokens/s through the endpoint over those of the decoder alone, 8 streams.

`python -m benchmarks.endpoint`: the embedded model on word problems, 64 tokens each, one thread. A
process of its own asks; both ways are timed in turn, one round forwards and one backwards, and the
ratio is the median of those of each round. Prefixes are kept, as always, but too few to be found
again.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from statistics import median

import torch

from benchmarks.record import record
from fastdllm import DecodingSettings, Request, load_model
from fastdllm.endpoint.app import create_app
from fastdllm.endpoint.served import Served
from fastdllm.endpoint.server import listen, open_port, server_of
from fastdllm.model.config import EMBEDDED_MODEL
from fastdllm.model.tokenizer import load_tokenizer
from fastdllm.policy import default_policy
from fastdllm.serving.service import Service
from fastdllm.tools.bench.timing import timed_run
from fastdllm.tools.bench.workload import question_prompts

COMMAND = "python -m benchmarks.endpoint"
ROUNDS, REQUESTS, STREAMS, TOKENS = 8, 72, 8, 64
PREFIX_BYTES = 2**20
# Asks in threads of its own, over sockets: a client package would cost more than the server.
CLIENT = """
import json, socket, sys, threading, time
port, streams, is_streamed = json.loads(sys.argv[1])
for line in sys.stdin:
    prompts = json.loads(line)
    lock = threading.Lock()
    def ask():
        with socket.create_connection(("127.0.0.1", port)) as there:
            while True:
                with lock:
                    if not prompts:
                        return
                    body = json.dumps({"prompt": prompts.pop(), "stream": is_streamed}).encode()
                head = f"POST /v1/completions HTTP/1.1\\r\\nHost: localhost\\r\\n"
                head += f"Content-Length: {len(body)}\\r\\n\\r\\n"
                there.sendall(head.encode() + body)
                answer, end = b"", b"[DONE]\\n\\n\\r\\n0\\r\\n\\r\\n" if is_streamed else b"}}"
                while not answer.endswith(end):
                    answer += there.recv(65536)
                assert answer.startswith(b"HTTP/1.1 200"), answer
    started = time.perf_counter()
    threads = [threading.Thread(target=ask) for _ in range(streams)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    print(time.perf_counter() - started, flush=True)
"""


def main() -> None:
    """Measure and record."""
    torch.set_num_threads(1)
    model = load_model(EMBEDDED_MODEL, device="cpu")
    # So that all answers have the same length.
    model.config = dataclasses.replace(model.config, stop_tokens=())
    settings = DecodingSettings(max_new_tokens=TOKENS)
    policy = default_policy(settings, model.config.num_layers)
    prompts = question_prompts(str(EMBEDDED_MODEL), None, ROUNDS * REQUESTS)
    service = Service(model, slots=STREAMS, prefix_bytes=PREFIX_BYTES)
    served = Served("tiny", model, load_tokenizer(str(EMBEDDED_MODEL)), service, settings)
    bound = open_port("127.0.0.1", 0)
    listen(bound)
    server = server_of(create_app(served), service.close)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    port = bound.getsockname()[1]
    clients = {
        f"through the endpoint, {kind}": _client(port, is_streamed)
        for kind, is_streamed in (("streamed", True), ("whole", False))
    }

    def alone(asked: list[tuple[int, ...]]) -> float:
        run = timed_run(model, [[Request(p) for p in asked]], policy, slots=STREAMS)
        return run.elapsed_s

    ways: dict[str, Callable[[list[tuple[int, ...]]], float]] = {"alone": alone}
    ways |= {name: lambda asked, c=client: _asked(c, asked) for name, client in clients.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way(prompts[:STREAMS])
    for number in range(ROUNDS):
        asked = prompts[number * REQUESTS : (number + 1) * REQUESTS]
        for name in list(ways) if number % 2 else reversed(ways):
            seconds[name].append(ways[name](asked))
    for client in clients.values():
        client.stdin.close()
        client.wait()
    server.should_exit = True
    thread.join()
    figures = {}
    for name in clients:
        ratios = sorted(a / b for a, b in zip(seconds["alone"], seconds[name], strict=True))
        figures[f"{name}, models/tiny, {STREAMS} streams: over the decoder alone"] = (
            f"{median(ratios):.2f} times the tokens/s ({ratios[0]:.2f} to {ratios[-1]:.2f}), "
            f"load {os.getloadavg()[0]:.1f}"
        )
    record("endpoint", command=COMMAND, figures=figures)
    for figure, value in figures.items():
        sys.stdout.write(f"{figure}: {value}\n")
    speeds = {n: [round(REQUESTS * TOKENS / s) for s in times] for n, times in seconds.items()}
    sys.stdout.write(f"tokens/s: {json.dumps(speeds)}\n")


def _client(port: int, is_streamed: bool) -> subprocess.Popen[str]:
    values = json.dumps([port, STREAMS, is_streamed])
    return subprocess.Popen(
        [sys.executable, "-c", CLIENT, values],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _asked(client: subprocess.Popen[str], asked: list[tuple[int, ...]]) -> float:
    """Seconds until all are answered."""
    assert client.stdin is not None
    assert client.stdout is not None
    client.stdin.write(json.dumps(asked) + "\n")
    client.stdin.flush()
    return float(client.stdout.readline())


if __name__ == "__main__":
    main()
