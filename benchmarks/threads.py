"""Tokens/s with the chosen number of threads and with one per core, on quiet and on busy cores.

`python -m benchmarks.threads`, on a machine that does nothing else. Busy: one process per core that
computes without end. The two numbers of threads are timed in turn, round by round.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

COMMAND = "python -m benchmarks.threads"
ROUNDS = 7
CHOSEN, ALL = "chosen", "one per core"
# Model, sequences in flight, requests and tokens of each answer: a run of some tenths of a second.
CASES = (
    ("models/tiny", 1, 6, 48),
    ("models/tiny", 32, 64, 48),
    ("random:42m", 1, 1, 16),
    ("random:42m", 32, 32, 2),
)


def main() -> None:
    """Measure and record."""
    from fastdllm.machine.threads import allowed_threads, spin_briefly

    # As in every command: before torch is imported.
    spin_briefly()
    from benchmarks.record import record

    figures: dict[str, str] = {}
    for case in CASES:
        for processes, name in ((0, "quiet"), (allowed_threads(), "busy")):
            with busy(processes):
                speeds = tokens_per_s(*case)
            figures[f"{case[0]}, batch {case[1]}, {name} cores: threads as chosen"] = (
                f"{median(speeds[CHOSEN]):,.0f} tokens/s (one thread per core: "
                f"{median(speeds[ALL]):,.0f}, at worst {min(speeds[ALL]):,.0f})"
            )
    record("threads", command=COMMAND, figures=figures)
    for figure, value in figures.items():
        sys.stdout.write(f"{figure}: {value}\n")


def tokens_per_s(name: str, slots: int, requests: int, tokens: int) -> dict[str, list[float]]:
    """Decode with each number of threads in turn; return the speeds of all rounds."""
    import torch

    from fastdllm import DecodingSettings, Request, load_model
    from fastdllm.machine.threads import allowed_threads, use_threads
    from fastdllm.policy import default_policy
    from fastdllm.tools.bench.random_models import PREFIX, random_model
    from fastdllm.tools.bench.timing import interleaved, timed_run
    from fastdllm.tools.bench.workload import random_prompts

    model: Any = (random_model if name.startswith(PREFIX) else load_model)(name, device="cpu")
    policy = default_policy(DecodingSettings(max_new_tokens=tokens), model.config.num_layers)
    prompts = [Request(prompt) for prompt in random_prompts(model.config, [40] * requests)]

    def speed(threads: int) -> float:
        torch.set_num_threads(threads)
        return timed_run(model, [prompts], policy, slots=slots).tokens_per_s

    runs = {
        CHOSEN: lambda: speed(use_threads(product=model.config.largest_product)),
        ALL: lambda: speed(allowed_threads()),
    }
    interleaved(runs, 1, lambda: None)
    return interleaved(runs, ROUNDS, lambda: None)


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Run `count` processes that compute without end."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


if __name__ == "__main__":
    main()
