"""Tokens/s through the endpoint over those of the decoder alone, 8 streams.

`python -m benchmarks.endpoint`: the embedded model on word problems, 64 tokens each, one thread. A
process of its own asks; both ways are timed in turn, one round forwards and one backwards, and the
ratio is the median of those of each round. That of the CPU time of the decoding process counts all
that the endpoint costs, also what a second core would do beside, and depends less on who else is at
work. Prefixes are kept, as always, but too few to be found again.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import threading
import time
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
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for way in ways.values():
        way(prompts[:STREAMS])
    for number in range(ROUNDS):
        asked = prompts[number * REQUESTS : (number + 1) * REQUESTS]
        for name in list(ways) if number % 2 else reversed(ways):
            before = time.process_time()
            seconds = ways[name](asked)
            spent[name].append((seconds, time.process_time() - before))
    for client in clients.values():
        client.stdin.close()
        client.wait()
    server.should_exit = True
    thread.join()
    figures = {}
    for name in clients:
        pairs = list(zip(spent["alone"], spent[name], strict=True))
        clock = sorted(alone[0] / through[0] for alone, through in pairs)
        cpu = sorted(alone[1] / through[1] for alone, through in pairs)
        figures[f"{name}, models/tiny, {STREAMS} streams: over the decoder alone"] = (
            f"{median(clock):.2f} times the tokens/s ({clock[0]:.2f} to {clock[-1]:.2f}), "
            f"{median(cpu):.2f} times those per CPU second ({cpu[0]:.2f} to {cpu[-1]:.2f}), "
            f"load {os.getloadavg()[0]:.1f}"
        )
    record("endpoint", command=COMMAND, figures=figures)
    for figure, value in figures.items():
        sys.stdout.write(f"{figure}: {value}\n")


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
