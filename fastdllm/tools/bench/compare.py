"""Two ways to decode the same requests, timed in turn: their tokens/s as a ratio."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from fastdllm.decoding.loop import decode
from fastdllm.decoding.sequence import Request
from fastdllm.policy import default_policy
from fastdllm.settings import DecodingSettings
from fastdllm.tools.bench.batches import Batch, Bench
from fastdllm.tools.bench.floor import Floor, floor_of
from fastdllm.tools.bench.measure import Run, interleaved, measure
from fastdllm.tools.bench.replay import EveryPassRun
from fastdllm.tools.bench.workload import Prompts, requests_for
from fastdllm.validation import validated

REUSE_KS = (2, 3)


def compare_mixed(
    bench: Bench, requests: Sequence[Request], batch: int, floor: Floor
) -> dict[str, Any]:
    """Continuous batching over fixed batches, for requests of mixed length.

    Fixed batches start together and wait for their slowest answer; both run `batch` slots, and no
    rows of answers that are finished. So continuous batching makes fewer passes with more rows.
    The ratio of their floors is what the hardware allows to gain.
    """
    fixed = [requests[start : start + batch] for start in range(0, len(requests), batch)]

    def run(groups: Sequence[Sequence[Request]]) -> Run:
        return measure(bench.model, groups, bench.policy, slots=batch)

    continuous, waiting = _timed(bench, lambda: run([requests]), lambda: run(fixed))
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


def compare_reuse(
    bench: Bench, prompts: Prompts, batch: Batch, k: int, *, least: int
) -> dict[str, Any]:
    """Output-mode reuse of every k-th denoising step over the same passes, all of them run."""
    settings = reuse_settings(bench.settings, k)
    requests = [Request(prompt) for prompt in prompts[: requests_for(batch, least)]]
    reusing = default_policy(settings, bench.model.config.num_layers)
    steps = list(decode(bench.model, requests, reusing, slots=batch))
    running_all = EveryPassRun(settings, bench.model.config.num_layers, steps)
    reused, computed = _timed(
        bench,
        lambda: measure(bench.model, [requests], reusing, slots=batch),
        lambda: measure(bench.model, [requests], running_all, slots=batch),
    )
    counts = [answer.passes for answer in reused[0].answers]
    return {
        "batch": "auto" if batch is None else batch,
        "slots": reused[0].slots,
        "reuse_k": k,
        "requests": len(requests),
        "share_of_steps_reused": sum(c.reused for c in counts) / sum(c.denoising for c in counts),
        "tokens_per_s_reuse": _speed(reused),
        "tokens_per_s_every_pass": _speed(computed),
        "ratio": _speed(reused) / _speed(computed),
    }


def reuse_settings(settings: DecodingSettings, k: int) -> DecodingSettings:
    """The same settings with output-mode reuse; the subset of layers does not matter there.

    Raises:
        UserError: they do not allow reuse.
    """
    given = settings.model_dump(exclude_unset=True) | {"reuse_k": k, "layer_subset": "last"}
    return validated(DecodingSettings, given, "options")


def _timed(
    bench: Bench, one: Callable[[], Run], other: Callable[[], Run]
) -> tuple[list[Run], list[Run]]:
    """Timed runs of both, in turn, after an untimed one of each."""
    variants = {"one": one, "other": other}
    interleaved(variants, 1, bench.tick)
    timed = interleaved(variants, bench.repeats, bench.tick)
    return timed["one"], timed["other"]


def _speed(runs: Sequence[Run]) -> float:
    return median(run.tokens_per_s for run in runs)
