"""CPU time that the decoder itself takes per pass: all but the layers and their logits.

`python -m benchmarks.host_part` decodes word problems with the embedded model once, keeps the
logits of each pass, and then decodes again with an engine that runs no layer. What is left is the
work of the host, which nothing overlaps on a GPU, with the softmax of the logits. Times are those
of the processor, on one thread, without the copies of the logits that stand in for the engine.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from statistics import median
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from benchmarks.record import record
from fastdllm import DecodingSettings, Request
from fastdllm.decoding.loop import decode
from fastdllm.engine.batch import Segment
from fastdllm.engine.cache import KVCache
from fastdllm.model.config import EMBEDDED_MODEL
from fastdllm.model.fused import FusedModel
from fastdllm.model.loading import load_plain_model
from fastdllm.model.plain import BlockDiffusionModel
from fastdllm.policy import Policy, default_policy
from fastdllm.tools.bench.workload import question_prompts

COMMAND = "python -m benchmarks.host_part"
ROUNDS = 15
# Sequences in flight, and how many requests make some hundred passes.
BATCHES = {1: 40, 8: 160, 32: 320}


class Recorded(FusedModel):
    """Runs passes, and keeps their logits."""

    def __init__(self, model: BlockDiffusionModel) -> None:
        super().__init__(model)
        self.kept: list[Tensor] = []

    def logits(self, hidden: Tensor) -> Tensor:
        """Keep a copy: the decoder overwrites what it gets."""
        logits = super().logits(hidden)
        self.kept.append(logits.clone())
        return logits


class Replayed(FusedModel):
    """Runs no layer: gives kept logits, pass by pass, and is its own engine.

    passes: given so far. copying_s: CPU seconds of their copies.
    """

    def __init__(self, model: BlockDiffusionModel, kept: Sequence[Tensor]) -> None:
        super().__init__(model, make_engine=self._engine)
        self._kept, self._hidden = kept, torch.empty(0)
        self.rewind()

    def rewind(self) -> None:
        """Begin with the first pass again."""
        self.passes, self.copying_s = 0, 0.0

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits of the next pass."""
        started = time.process_time()
        logits = self._kept[self.passes].clone()
        self.passes += 1
        self.copying_s += time.process_time() - started
        return logits

    def _engine(self, model: FusedModel, capacity: int) -> Any:
        cache = KVCache(self.config, capacity=capacity, device=self.device, dtype=self.dtype)
        return SimpleNamespace(cache=cache, recording_s=0.0, open=self._open)

    def _open(self, segments: Sequence[Segment]) -> Any:
        return SimpleNamespace(embed=lambda: self._hidden, layers=lambda hidden, *_, **__: hidden)


def main() -> None:
    """Measure and record."""
    torch.set_num_threads(1)
    figures = {}
    for slots in BATCHES:
        times = sorted(host_ms(slots))
        figures[f"host part of a pass, models/tiny, {slots} slots"] = (
            f"{median(times):.3f} ms of CPU time ({times[0]:.3f} to {times[-1]:.3f})"
        )
    record("host_part", command=COMMAND, figures=figures)
    for figure, value in figures.items():
        sys.stdout.write(f"{figure}: {value}\n")


def host_ms(slots: int, rounds: int = ROUNDS) -> list[float]:
    """CPU milliseconds per pass of the engine, of each round."""
    plain = load_plain_model(EMBEDDED_MODEL, device="cpu")
    prompts = question_prompts(str(EMBEDDED_MODEL), None, BATCHES[slots])
    requests = [Request(prompt) for prompt in prompts]
    policy = default_policy(DecodingSettings(max_new_tokens=96), plain.config.num_layers)
    recorded = Recorded(plain)
    steps = list(decode(recorded, requests, policy, slots=slots))
    replayed = Replayed(plain, recorded.kept)
    assert list(decode(replayed, requests, policy, slots=slots)) == steps  # and warms up
    return [_replay(replayed, requests, policy, slots) for _ in range(rounds)]


def _replay(model: Replayed, requests: Sequence[Request], policy: Policy, slots: int) -> float:
    model.rewind()
    started = time.process_time()
    for _ in decode(model, requests, policy, slots=slots):
        pass
    return (time.process_time() - started - model.copying_s) / model.passes * 1000


if __name__ == "__main__":
    main()
