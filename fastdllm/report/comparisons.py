"""Every run of a task against the task's baseline, experiment by experiment.

One experiment is one question, so its configurations are one family for Holm's correction; tables
in files, on the page and in a terminal therefore show the same figures. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence

from fastdllm.report.baseline import baseline_of
from fastdllm.report.figures import grouped
from fastdllm.results.summary import Summary
from fastdllm.statistics.comparison import Comparison, compare_all

# Of a run: experiment, task, limit, config.
Key = tuple[str, str, int | None, str]


def key_of(summary: Summary) -> Key:
    """What tells a run from every other one of a project."""
    limit = summary.eval_params.get("limit")
    as_number = limit if isinstance(limit, int) else None
    return summary.experiment, summary.task, as_number, summary.config


def run_name(summary: Summary) -> str:
    """A run for people, where the task is known."""
    return f"{summary.experiment} / {summary.config}"


def of_one_task(summaries: Sequence[Summary]) -> dict[tuple[str, int | None], list[Summary]]:
    """Runs of all experiments by task and limit, in their order."""
    tasks: dict[tuple[str, int | None], list[Summary]] = {}
    for summary in summaries:
        _, task, limit, _ = key_of(summary)
        tasks.setdefault((task, limit), []).append(summary)
    return tasks


def comparisons_of(summaries: Sequence[Summary]) -> dict[Key, Comparison]:
    """The comparison of each run with its task's baseline, which itself has none."""
    baselines = {task: baseline_of(runs) for task, runs in of_one_task(summaries).items()}
    found: dict[Key, Comparison] = {}
    for group in grouped(summaries):
        baseline = baselines[group.task, group.limit]
        others = [summary for summary in group.summaries if summary is not baseline]
        for summary, comparison in zip(others, compare_all(baseline, others), strict=True):
            found[key_of(summary)] = comparison
    return found
