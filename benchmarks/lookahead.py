"""Tokens/s of look-ahead and of larger sub-blocks over plain decoding.

`python -m benchmarks.lookahead`: the embedded model on word problems, one thread. The variants are
timed in turn, so that a slow spell of the machine hits all alike, and the ratio is the median of
those of each round.
"""

from __future__ import annotations

import sys
from statistics import median

import torch

from benchmarks.record import record
from fastdllm import DecodingSettings, Request, load_model
from fastdllm.model.config import EMBEDDED_MODEL
from fastdllm.policy import default_policy
from fastdllm.tools.bench.timing import interleaved, timed_run
from fastdllm.tools.bench.workload import question_prompts

COMMAND = "python -m benchmarks.lookahead"
ROUNDS = 7
PLAIN = "plain"
VARIANTS = {
    PLAIN: {},
    "sub-blocks of 16": {"small_block_size": 16},
    "look-ahead, depth 3": {"lookahead_depth": 3},
    "look-ahead, depth 3, sub-blocks of 4": {"lookahead_depth": 3, "small_block_size": 4},
}
# Sequences in flight, and how many requests make a run of a second or more.
BATCHES = {1: 60, 32: 192}


def main() -> None:
    """Measure and record."""
    torch.set_num_threads(1)
    model = load_model(EMBEDDED_MODEL, device="cpu")
    figures = {}
    for slots, count in BATCHES.items():
        requests = [Request(p) for p in question_prompts(str(EMBEDDED_MODEL), None, count)]

        def speed(values: dict[str, int], slots: int = slots, requests=requests) -> float:
            settings = DecodingSettings(max_new_tokens=96, **values)
            policy = default_policy(settings, model.config.num_layers)
            return timed_run(model, [requests], policy, slots=slots).tokens_per_s

        runs = {name: (lambda values=values: speed(values)) for name, values in VARIANTS.items()}
        interleaved(runs, 1, lambda: None)
        speeds = interleaved(runs, ROUNDS, lambda: None)
        for name in list(VARIANTS)[1:]:
            ratios = sorted(a / b for a, b in zip(speeds[name], speeds[PLAIN], strict=True))
            figures[f"{name}, models/tiny, batch {slots}: over plain decoding"] = (
                f"{median(ratios):.2f} times the tokens/s ({ratios[0]:.2f} to {ratios[-1]:.2f})"
            )
    record("lookahead", command=COMMAND, figures=figures)
    for figure, value in figures.items():
        sys.stdout.write(f"{figure}: {value}\n")


if __name__ == "__main__":
    main()
