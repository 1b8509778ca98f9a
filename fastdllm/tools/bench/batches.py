"""The runs of the tables: batch sizes, each with its floor; continuous against fixed batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import numpy as np

from fastdllm.common.errors import UserError
from fastdllm.decoding.sequence import Request
from fastdllm.engine.engines import drop_idle
from fastdllm.machine.device import peak_memory_gib, reset_peak_memory
from fastdllm.model.fused import FusedModel
from fastdllm.policy import PassKind, Policy
from fastdllm.settings import DecodingSettings
from fastdllm.tools.bench.floor import Floor, RunFloor, floor_of
from fastdllm.tools.bench.timing import (
    TimedRun,
    interleaved,
    median_run,
    share_differing,
    timed_run,
)
from fastdllm.tools.bench.workload import Prompts, requests_for

# A batch size; None means as many sequences as memory allows.
Batch = int | None


@dataclass(frozen=True, slots=True)
class Bench:
    """What all runs of one benchmark share; tick is called after each run."""

    model: FusedModel
    settings: DecodingSettings
    policy: Policy
    repeats: int
    tick: Callable[[], None]

    @property
    def warm_up_rounds(self) -> int:
        """Untimed rounds after the first run of each batch size.

        The first run makes its own cache; a GPU keeps its recordings with the cache, and all
        batch sizes end up on the largest.
        """
        return 1 if self.model.device.type == "cuda" else 0

    def run_batch(self, prompts: Prompts, batch: Batch, least: int) -> TimedRun:
        """Decode the first prompts at one batch size."""
        requests = [Request(prompt) for prompt in prompts[: requests_for(batch, least)]]
        return timed_run(self.model, [requests], self.policy, slots=batch)


@dataclass(frozen=True, slots=True)
class BatchResult:
    """All timed runs at one batch size, the floor of each, and the memory of an untimed one."""

    batch: Batch
    runs: list[TimedRun]
    floors: list[RunFloor]
    peak_memory_gib: float


def bench_batches(
    bench: Bench,
    batches: Sequence[Batch],
    prompts: Prompts,
    *,
    least: int,
    floor: Floor,
) -> list[BatchResult]:
    """Warm up, measure memory, then time all batch sizes in turn; floors follow their runs.

    least: fewest requests of a run.
    """
    device, peaks = bench.model.device, {}
    for batch in sorted(batches, key=lambda batch: requests_for(batch, 1)):
        drop_idle(bench.model)
        reset_peak_memory(device)
        bench.run_batch(prompts, batch, least)
        peaks[batch] = peak_memory_gib(device)
        bench.tick()

    def untimed(batch: Batch) -> TimedRun:
        return bench.run_batch(prompts, batch, least)

    def timed(batch: Batch) -> tuple[TimedRun, RunFloor]:
        run = bench.run_batch(prompts, batch, least)
        return run, floor_of(run.passes, floor)

    interleaved({b: partial(untimed, b) for b in batches}, bench.warm_up_rounds, bench.tick)
    results = interleaved({b: partial(timed, b) for b in batches}, bench.repeats, bench.tick)
    return [
        BatchResult(
            batch,
            runs=[run for run, _ in timings],
            floors=[run_floor for _, run_floor in timings],
            peak_memory_gib=peaks[batch],
        )
        for batch, timings in results.items()
    ]


def batch_figures(result: BatchResult, alone: BatchResult | None) -> dict[str, Any]:
    """Return the figures of one batch size, as in the JSON line.

    Speeds are those of the run of median speed; times of answers are over all runs. alone: the
    result of batch 1, to count the answers that differ.
    """
    runs = result.runs
    run = median_run(runs)
    count = len(run.passes)
    speeds = [other.tokens_per_s for other in runs]
    floor = result.floors[runs.index(run)]
    waits = [s for r in runs for s in r.time_to_first_token_s]
    latencies = [s for r in runs for s in r.latency_s]
    figures = {
        "batch": "auto" if result.batch is None else result.batch,
        "slots": run.slots,
        "requests": len(run.answers),
        "tokens": run.tokens,
        "tokens_per_s": run.tokens_per_s,
        "tokens_per_s_lowest": min(speeds),
        "tokens_per_s_highest": max(speeds),
        "tokens_per_forward": run.tokens_per_forward,
        "passes_per_s": count / run.elapsed_s,
        "ms_per_pass": 1000 * run.elapsed_s / count,
        "share_of_time_in_passes": sum(p.seconds for p in run.passes) / run.elapsed_s,
        "sequence_passes_per_s": {
            kind.value: run.sequence_passes[kind] / run.elapsed_s
            for kind in PassKind
            if run.sequence_passes[kind]
        },
        "time_to_first_token_p50_s": median(waits),
        "latency_p50_s": median(latencies),
        "latency_p95_s": float(np.percentile(latencies, 95)),
        "peak_memory_gib": result.peak_memory_gib,
        "share_of_floor": median(
            floor.seconds / run.elapsed_s for run, floor in zip(runs, result.floors, strict=True)
        ),
        "floor_bound": floor.bound,
        "floor_passes_timed": floor.passes_timed,
    }
    # Zero after a warm-up; else the run's speed is worse than that of the next one.
    if recording_s := sum(record.recording_s for record in run.passes):
        figures["recording_s"] = recording_s
    if alone is not None and result is not alone:
        others = alone.runs[0].answers
        figures["answers_compared_with_batch_1"] = min(len(run.answers), len(others))
        figures["share_differing_from_batch_1"] = share_differing(run.answers, others)
    return figures


def compare_mixed(
    bench: Bench, requests: Sequence[Request], batch: int, floor: Floor
) -> dict[str, Any]:
    """Continuous batching over fixed batches, for requests of mixed length.

    Fixed batches start together and wait for their slowest answer; both run `batch` slots, and no
    rows of answers that are finished. So continuous batching makes fewer passes with more rows.
    The ratio of their floors is what the hardware allows to gain.

    Raises:
        UserError: that many do not fit the memory at once.
    """
    fixed = [requests[start : start + batch] for start in range(0, len(requests), batch)]

    def run(groups: Sequence[Sequence[Request]]) -> TimedRun:
        return timed_run(bench.model, groups, bench.policy, slots=batch)

    continuous, waiting = _timed(bench, lambda: run([requests]), lambda: run(fixed))
    slots = min(timed.slots for timed in (*continuous, *waiting))
    if slots < min(batch, len(requests)):
        raise UserError(f"--mixed: {slots} of {batch} sequences at once fit the memory; give fewer")
    return {
        "batch": batch,
        "requests": len(requests),
        "tokens": continuous[0].tokens,
        "passes_continuous": len(continuous[0].passes),
        "passes_fixed": len(waiting[0].passes),
        "tokens_per_s_continuous": _speed(continuous),
        "tokens_per_s_fixed": _speed(waiting),
        "ratio": _speed(continuous) / _speed(waiting),
        "ratio_of_floors": (
            floor_of(waiting[0].passes, floor).seconds
            / floor_of(continuous[0].passes, floor).seconds
        ),
    }


def _timed(
    bench: Bench, first: Callable[[], TimedRun], second: Callable[[], TimedRun]
) -> tuple[list[TimedRun], list[TimedRun]]:
    """Timed runs of both, in turn, after an untimed one of each."""
    variants = {"first": first, "second": second}
    interleaved(variants, 1, bench.tick)
    timed = interleaved(variants, bench.repeats, bench.tick)
    return timed["first"], timed["second"]


def _speed(runs: Sequence[TimedRun]) -> float:
    return median(run.tokens_per_s for run in runs)
