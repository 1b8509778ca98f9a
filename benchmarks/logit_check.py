"""What the check for logits that are no finite numbers costs, as a share of the passes.

`python -m benchmarks.logit_check` decodes, then repeats the check alone, with the way of its values
to the host, on logits of the shapes that the passes read.
"""

from __future__ import annotations

import sys
import time
from statistics import median

import torch

from benchmarks.record import record
from fastdllm import DecodingSettings, Request, load_model
from fastdllm.decoding.events import PassRecord
from fastdllm.decoding.finite import first_not_finite
from fastdllm.decoding.loop import decode
from fastdllm.machine.threads import use_threads
from fastdllm.model.fused import FusedModel
from fastdllm.policy import default_policy
from fastdllm.tools.bench.random_models import PREFIX, random_model
from fastdllm.tools.bench.workload import random_prompts

COMMAND = "python -m benchmarks.logit_check"
ROUNDS = 7
# Model, sequences in flight, requests and tokens of each answer.
CASES = (
    ("models/tiny", 1, 12, 64),
    ("models/tiny", 32, 64, 64),
    ("random:42m", 8, 8, 8),
    ("random:1.5b", 1, 1, 4),
)


def main() -> None:
    """Measure and record."""
    figures = {}
    for name, slots, requests, tokens in CASES:
        model = (random_model if name.startswith(PREFIX) else load_model)(name, device="cpu")
        use_threads(product=model.config.largest_product)
        prompts = [Request(p) for p in random_prompts(model.config, [40] * requests)]
        shares_of(model, prompts, slots, tokens)
        shares = [shares_of(model, prompts, slots, tokens) for _ in range(ROUNDS)]
        figures[f"check for numbers that are none, {name}, batch {slots}"] = (
            f"{median(shares):.2%} of the passes ({min(shares):.2%} to {max(shares):.2%})"
        )
    record("logit_check", command=COMMAND, figures=figures)
    for figure, value in figures.items():
        sys.stdout.write(f"{figure}: {value}\n")


def shares_of(model: FusedModel, prompts: list[Request], slots: int, tokens: int) -> float:
    """Seconds of all checks over seconds of all passes."""
    policy = default_policy(DecodingSettings(max_new_tokens=tokens), model.config.num_layers)
    passes: list[PassRecord] = []

    def observe(event: object) -> None:
        if isinstance(event, PassRecord):
            passes.append(event)

    for _ in decode(model, prompts, policy, slots=slots, observe=observe):
        pass
    logits = torch.rand(max(p.rows_read for p in passes), model.config.vocab_size)
    started = time.perf_counter()
    for each in passes:
        first_not_finite(logits[: each.rows_read].sum(dim=-1).double().tolist())
    return (time.perf_counter() - started) / sum(p.seconds for p in passes)


if __name__ == "__main__":
    main()
