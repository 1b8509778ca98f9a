"""Every run of a task against the task's baseline, experiment by experiment.

One experiment is one question, so its configurations are one family for Holm's correction; tables
in files, on the page and in a terminal therefore show the same figures. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastdllm.report.groups import grouped
from fastdllm.results.summary import DECODING, PARAMETERS, Summary
from fastdllm.settings import DecodingSettings
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


# What a configuration changes, and which run the others of a task are measured against. Imports no
# torch.

CONTROL_EXPERIMENT = "03_controls"
# Lengths, names of tokens and seeds are no idea of an experiment; a task or a model decides them.
NO_IDEA = frozenset(["max_new_tokens", "seed", "mask_id", "stop_token"])


def given(summary: Summary, prefix: str) -> dict[str, Any]:
    """What decides a run, of one kind (`DECODING`, `PARAMETERS` of evaluation/spec.py), by name."""
    return {
        key.removeprefix(prefix): value
        for key, value in summary.decides.items()
        if key.startswith(prefix)
    }


def deviations(summary: Summary) -> dict[str, Any]:
    """The settings that take effect in a run and are not the default; {} for plain decoding.

    Parameters of a policy count as they are: a policy without any has nothing to change.
    """
    settings = given(summary, DECODING)
    without_effect = set(NO_IDEA)
    if settings.get("reuse_k", 1) == 1:
        without_effect.add("layer_subset")
    if not settings.get("lookahead_depth", 0):
        without_effect.add("lookahead_threshold")
    if not settings.get("temperature", 0.0):
        without_effect.add("top_p")
    fields = DecodingSettings.model_fields
    found = {
        name: value
        for name, value in settings.items()
        if name in fields and name not in without_effect and value != fields[name].default
    }
    return found | given(summary, PARAMETERS)


def is_threshold_only(summary: Summary) -> bool:
    """Whether nothing but the threshold differs from plain decoding (or not even that)."""
    return deviations(summary).keys() <= {"threshold"}


def baseline_of(summaries: Sequence[Summary]) -> Summary:
    """The run of one task that the others are compared with: plain decoding, as published.

    Of several the first that was decoded itself, controls first; without any, the first run.
    """
    plain = [summary for summary in summaries if not deviations(summary)]
    if not plain:
        return summaries[0]
    return min(plain, key=lambda s: (s.same_as is not None, s.experiment != CONTROL_EXPERIMENT))
