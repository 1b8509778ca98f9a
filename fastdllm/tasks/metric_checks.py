"""Metrics of a task that lm-eval does not find, leaves out, or computes otherwise than is meant."""

from __future__ import annotations

from inspect import signature
from typing import Any

from lm_eval.api.metrics import exact_match_fn, exact_match_hf_evaluate
from lm_eval.api.registry import aggregation_registry, metric_registry
from lm_eval.api.task import Task

from fastdllm.common.errors import UserError, unknown_name


def check_metrics(task: Task) -> None:
    """Refuse metrics that lm-eval did not find and only logged, or that replace one another."""
    for key, kind in (("metric_list", "metric"), ("filter_list", "name")):
        names = [entry.get(kind) for entry in getattr(task.config, key) or ()]
        for name in names:
            if names.count(name) > 1:
                raise UserError(
                    f"task {task.task_name!r}: {key}: {name!r} is there twice, of which lm-eval "
                    "uses only the last; remove one"
                )
    has_own_metrics = task.config.process_results is not None
    if task.OUTPUT_TYPE == "generate_until" and not has_own_metrics:
        _check_metrics_of_lists(task)
        _check_options(task)
    functions = {} if has_own_metrics else getattr(task, "_metric_fn_list", {})
    if None in functions.values() or None in task.aggregation().values():
        complain_about_metrics(
            task.config.metric_list,
            where=f"task {task.task_name!r}",
            has_own_metrics=has_own_metrics,
        )


def _check_options(task: Task) -> None:
    """Refuse options that exact_match does not have, or values that it would take for others."""
    if getattr(task, "_metric_fn_list", {}).get("exact_match") is not exact_match_fn:
        return
    where = f"task {task.task_name!r}: metric_list: exact_match"
    known = list(signature(exact_match_hf_evaluate).parameters)[2:]
    for name, value in task._metric_fn_kwargs["exact_match"].items():
        if name not in known:
            raise unknown_name("option", name, [*known, "aggregation", "higher_is_better"], where)
        if name == "regexes_to_ignore" and isinstance(value, str):
            raise UserError(f"{where}: {name}: {value!r} is one text; write a list of patterns")
        if isinstance(value, str) and value.lower() in ("no", "false", "off"):
            raise UserError(
                f"{where}: {name}: {value!r} is a text, which counts as true; write false"
            )


def _check_metrics_of_lists(task: Task) -> None:
    """Refuse metrics that lm-eval computes wrongly where a target is a list of right answers."""
    if not getattr(task, "multiple_target", 0):
        return
    where = f"task {task.task_name!r}: metric_list: its targets are lists of right answers"
    entries = task.config.metric_list or ()
    names = [entry.get("metric") for entry in entries if not entry.get("hf_evaluate")]
    for name in names:
        if isinstance(name, str) and name in metric_registry and name != "exact_match":
            raise UserError(
                f"{where}, for which lm-eval has no {name!r} (acc would count all as right); use "
                "exact_match, or a function of your own"
            )
    if "exact_match" in names[:-1]:
        raise UserError(
            f"{where}, and metrics after exact_match would see another answer; write it last "
            "(metadata.primary_metric names the one that counts)"
        )


def complain_about_metrics(metric_list: Any, *, where: str, has_own_metrics: bool) -> None:
    """Raise an error that names the entry of a metric_list unknown to lm-eval, if there is one."""
    where = f"{where}: metric_list"
    for entry in metric_list or ():
        metric, aggregation = entry.get("metric"), entry.get("aggregation")
        if has_own_metrics and aggregation is None and metric not in metric_registry:
            raise UserError(f"{where}: metric {metric!r} needs an aggregation, such as mean")
        if isinstance(metric, str) and not has_own_metrics and metric not in metric_registry:
            raise unknown_name("metric", metric, metric_registry, where=where)
        if isinstance(aggregation, str) and aggregation not in aggregation_registry:
            raise unknown_name("aggregation", aggregation, aggregation_registry, where=where)
