"""What an answer cost in one run, and under which conditions its speed was measured.

Shared by comparisons, tables and plots, so that a number means the same everywhere. None if it was
not measured, or if the task has no such cost.
"""

from __future__ import annotations

from collections.abc import Callable

from fastdllm.records.summary import Summary
from fastdllm.statistics.busy import was_busy


def layer_forwards_per_answer(summary: Summary) -> float | None:
    """Layers run per answer, including the prefill; skipped layers do not count."""
    passes = summary.passes
    return passes.layer_forwards_computed / summary.n_answers if passes else None


def position_forwards_per_answer(summary: Summary) -> float | None:
    """Layers run times the positions in them, per answer; None of results before it was counted."""
    count = summary.position_forwards
    return None if count is None else count / summary.n_answers


def forwards_per_answer(summary: Summary) -> float | None:
    """Forward evaluations per answer after the prefill; a reused pass evaluates nothing."""
    passes = summary.passes
    if passes is None:
        return None
    return (passes.full_block + passes.sub_block + passes.commit) / summary.n_answers


def seconds_per_answer(summary: Summary) -> float | None:
    """Seconds of decoding over answers; many are decoded at once, so one answer takes longer."""
    speed = summary.throughput
    return speed.total_time_s / summary.n_answers if speed else None


def tokens_per_s(summary: Summary) -> float | None:
    """Generated tokens per second."""
    return summary.throughput.tokens_per_s if summary.throughput else None


# By name: what it is called, and the function that returns it.
COSTS: dict[str, tuple[str, Callable[[Summary], float | None]]] = {
    "layer_forwards": ("layer-forwards per answer", layer_forwards_per_answer),
    "position_forwards": ("position-forwards per answer", position_forwards_per_answer),
    "forwards": ("forwards per answer", forwards_per_answer),
    "seconds": ("seconds per answer", seconds_per_answer),
    "tokens_per_s": ("tokens per second", tokens_per_s),
}
# Costs of which more is better; of the others less is.
MORE_IS_BETTER = frozenset(["tokens_per_s"])
# Costs that depend on the machine; the rest can be compared between machines.
OF_THE_MACHINE = frozenset(["seconds", "tokens_per_s"])


def cost_of(summary: Summary, cost: str) -> float | None:
    """Return the cost named `cost` in `COSTS`."""
    _, function = COSTS[cost]
    return function(summary)


def comparable_cost(summary: Summary, cost: str) -> float | None:
    """Return the cost; None for one of the machine that was measured while it was busy."""
    return None if cost in OF_THE_MACHINE and was_busy(summary) else cost_of(summary, cost)


def speed_conditions(summary: Summary) -> tuple[str, ...]:
    """What two throughputs must share to be compared: hardware, dtype and batch size.

    A run that decoded parts with fewer sequences, for lack of memory, differs in its batch size.
    """
    hardware = "; ".join(
        f"{device.name}, {device.threads} CPU thread(s)" if device.threads else device.name
        for device in summary.hardware
    )
    smallest = summary.eval_params.get("smallest_batch_size")
    batch_size = f"batch size {summary.eval_params['batch_size']}"
    if smallest is not None:
        batch_size += f", in parts {smallest}"
    return hardware, summary.dtype, batch_size
