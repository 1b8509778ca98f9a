"""The metrics of a task from what lm-eval aggregates: value, error, interval and direction."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from fastdllm.common.errors import unknown_name
from fastdllm.results.summary import Metric
from fastdllm.statistics.intervals import normal_interval, wilson_interval
from fastdllm.tasks.lm_eval_tasks import LoadedTask


def metrics_of(
    result: Mapping[str, Any], samples: Mapping[str, list[dict[str, Any]]], task: LoadedTask
) -> list[Metric]:
    """Return every score that lm-eval computes for the task, with interval and direction.

    Raises:
        UserError: the primary metric is not among them, or is no finite number.
    """
    scores = result.get("groups", {}).get(task.name) or result["results"].get(task.name, {})
    directions = result["higher_is_better"].get(task.name, {})
    n = sum(result["n-samples"][name]["effective"] for name in task.leaves)
    metrics = []
    for key, value in scores.items():
        metric, comma, filter_name = key.partition(",")
        if not comma or metric.endswith("_stderr") or not is_finite(value):
            continue
        stderr = scores.get(f"{metric}_stderr,{filter_name}")
        stderr = float(stderr) if is_finite(stderr) else None
        right = right_or_wrong(
            sample.get(metric)
            for name in task.leaves
            for sample in samples[name]
            if sample["filter"] == filter_name
        )
        method: Any = None
        interval = None
        if right and math.isclose(sum(right) / len(right), value, abs_tol=1e-9):
            interval, method = wilson_interval(sum(right), len(right)), "wilson"
        elif stderr is not None:
            interval, method = normal_interval(float(value), stderr), "normal"
        metrics.append(
            Metric(
                metric=metric,
                filter=filter_name,
                value=round(float(value), 6),
                stderr=None if stderr is None else round(stderr, 6),
                interval=None
                if interval is None
                else (round(interval[0], 6), round(interval[1], 6)),
                interval_method=method,
                n=n,
                higher_is_better=directions.get(metric),
                primary=(metric, filter_name) == task.primary,
            )
        )
    if not any(metric.primary for metric in metrics):
        raise unknown_name(
            "primary metric",
            ",".join(task.primary),
            [f"{metric.metric},{metric.filter}" for metric in metrics],
            where=f"task {task.name!r}: metadata.primary_metric",
        )
    return metrics


def is_finite(value: Any) -> bool:
    return not isinstance(value, str | bool | type(None)) and math.isfinite(value)


def right_or_wrong(values: Iterable[Any]) -> list[bool] | None:
    """Return the values as booleans, None if one of them is neither 0 nor 1."""
    right = []
    for value in values:
        if isinstance(value, str | list | tuple | dict | type(None)) or value not in (0, 1):
            return None
        right.append(bool(value))
    return right
