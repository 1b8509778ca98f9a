"""The figures of one run as a row, and what may be compared with what.

Shared by every table and plot, so that a number means the same everywhere. Imports no torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from fastdllm.results.summary import Summary
from fastdllm.statistics.costs import speed_conditions

PASS_KINDS = ("prefill", "full_block", "sub_block", "commit", "reused")


@dataclass(frozen=True, slots=True)
class Group:
    """Runs of one task (and limit) of one experiment, in the order given."""

    experiment: str
    task: str
    limit: int | None
    summaries: tuple[Summary, ...]

    @property
    def title(self) -> str:
        return self.task if self.limit is None else f"{self.task} (first {self.limit} items)"

    @property
    def is_generation(self) -> bool:
        """Whether answers were generated; otherwise only likelihoods of options were compared."""
        return any(summary.passes is not None for summary in self.summaries)

    @property
    def usual_conditions(self) -> tuple[str, ...]:
        """The speed conditions that most of the runs share."""
        return Counter(speed_conditions(s) for s in self.summaries).most_common(1)[0][0]


def grouped(summaries: Sequence[Summary]) -> list[Group]:
    """Summaries by experiment, task and limit; groups and rows in the order of first appearance."""
    groups: dict[tuple[str, str, int | None], list[Summary]] = {}
    for summary in summaries:
        limit = summary.eval_params.get("limit")
        key = (summary.experiment, summary.task, limit if isinstance(limit, int) else None)
        groups.setdefault(key, []).append(summary)
    return [Group(*key, summaries=tuple(rows)) for key, rows in groups.items()]


def passes_per_answer(summary: Summary) -> dict[str, float]:
    """Mean passes of each kind per answer; empty for log-likelihood runs."""
    if summary.passes is None:
        return {}
    return {kind: getattr(summary.passes, kind) / summary.n_answers for kind in PASS_KINDS}


def layer_forwards_saved(summary: Summary) -> float | None:
    """Share of layer-forwards that the policy left out, in 0..1."""
    if summary.passes is None:
        return None
    skipped = summary.passes.layer_forwards_skipped
    every = skipped + summary.passes.layer_forwards_computed
    return skipped / every if every else None


def is_dirty(summary: Summary) -> bool:
    """Whether the run was made with uncommitted changes in the project."""
    return summary.git is not None and summary.git.dirty
