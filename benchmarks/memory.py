"""Peak memory of decoding on a CPU over what it cannot do without: weights, cache, logits.

`python -m benchmarks.memory` counts tensors as torch allocates them, which is what a GPU reports as
its peak. The resident memory of a process is larger: code, kernels that were made for each number
of rows, pages that the C library keeps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch._C._profiler import _EventType
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.record import record
from fastdllm.decoding.loop import generate
from fastdllm.decoding.sequence import Request
from fastdllm.settings import DecodingSettings
from fastdllm.tools.bench.random_models import random_model
from fastdllm.tools.bench.workload import random_prompts

COMMAND = "python -m benchmarks.memory"
SLOTS = (8, 32)
DECODE = "benchmark: decode"


def peak_over_needed(slots: int) -> float:
    """Most bytes of tensors while decoding, over those of weights, cache and logits."""
    settings = DecodingSettings(max_new_tokens=24)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        model = random_model("random:42m", device="cpu")
        requests = [Request(p) for p in random_prompts(model.config, [128] * 2 * slots)]
        with record_function(DECODE):
            generate(model, requests, settings, slots=slots)
    events = list(_walk(recorded.profiler.kineto_results.experimental_event_tree()))
    started = min(event.start_time_ns for event in events if event.name == DECODE)
    allocations = sorted(
        (event.start_time_ns, event.extra_fields.total_allocated)
        for event in events
        if event.tag == _EventType.Allocation
    )
    weights = [total for moment, total in allocations if moment < started][-1]
    peak = max(total for moment, total in allocations if moment >= started)
    cache = sum(engine.cache.bytes for engine in model.idle_engines)
    # One sub-block of each sequence, as logits and as their softmax.
    logits = 2 * slots * settings.small_block_size * model.config.vocab_size * 4
    return peak / (weights + cache + logits)


def _walk(events: Iterable[Any]) -> Iterator[Any]:
    for event in events:
        yield event
        yield from _walk(event.children)


def main() -> None:
    """Measure and keep the ratio for a few batch sizes."""
    figures = {
        f"peak memory, random:42m, batch {slots}": f"{peak_over_needed(slots):.2f} times weights, "
        "cache and logits"
        for slots in SLOTS
    }
    record("memory", command=COMMAND, figures=figures)


if __name__ == "__main__":
    main()
