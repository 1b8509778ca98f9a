"""Runs that were timed while other work kept the decoding thread from its processor.

Their seconds say as much about that work as about the run. A thread that is never kept waiting can
still be slowed: processes beside it share caches, memory and clock rate, which `TIMED_APART` says.
"""

from __future__ import annotations

from collections.abc import Sequence

from fastdllm.records.summary import Summary

# Measured on two cores, with models of 0.8 and 42 million weights at batch 1 and 32. Quiet cores:
# 0.96 to 1.00, with one thread and with two. Beside one busy process: 0.97 to 1.00 with one thread,
# at the quiet speed; 0.50 to 0.58 with two, at a fifth to a half of it. Beside more, the speed
# falls as the share does. More threads were not measured: each product waits for the slowest.
LEAST_SHARE = 0.9
# What is said wherever speeds of runs stand beside each other.
TIMED_APART = (
    "each run was timed on its own, not in turn with the others, and on a shared machine speeds of "
    "nearly equal work then differ by 10 to 20 %"
)


def processor_share(summary: Summary) -> float | None:
    """Return the share of the timed seconds on a processor; None: no speed, or not recorded."""
    return summary.throughput.processor_share if summary.throughput else None


def was_busy(summary: Summary) -> bool:
    """Whether other work slowed a run too much for its speed to be compared."""
    share = processor_share(summary)
    return share is not None and share < LEAST_SHARE


def busy_words(summary: Summary) -> str:
    """Such as `on a processor for 62 % of the time`."""
    return f"on a processor for {100 * (processor_share(summary) or 0.0):.0f} % of the time"


def busy_sentences(summaries: Sequence[Summary]) -> list[str]:
    """Say how many of the runs of a task are marked, and what that means; empty if none is."""
    marked = [summary for summary in summaries if was_busy(summary)]
    if not marked:
        return []
    most = min(marked, key=lambda summary: processor_share(summary) or 0.0)
    return [
        f"{len(marked)} of {len(summaries)} runs timed on a busy machine, `{most.config}` most "
        f"({busy_words(most)}): their tokens/s say little; `fastdllm eval <spec> --again` "
        "measures them anew."
    ]
