"""Metrics of a task that lm-eval does not find, leaves out, or computes otherwise than is meant."""

from __future__ import annotations

from inspect import signature
from typing import Any

from lm_eval.api.metrics import exact_match_fn, exact_match_hf_evaluate, mean
from lm_eval.api.registry import aggregation_registry, metric_registry
from lm_eval.api.task import Task

from fastdllm.common.errors import UserError, unknown_name

_OF_EXACT_MATCH = tuple(signature(exact_match_hf_evaluate).parameters)[2:]
# What is no option of the metric itself.
_OF_ANY = ("metric", "aggregation", "higher_is_better", "hf_evaluate")


def check_metrics(task: Task) -> None:
    """Refuse metrics that lm-eval did not find and only logged, replaces, or computes otherwise."""
    for key, kind in (("metric_list", "metric"), ("filter_list", "name")):
        names = [_name(entry.get(kind)) for entry in getattr(task.config, key) or ()]
        for name in names:
            if names.count(name) > 1:
                raise UserError(
                    f"task {task.task_name!r}: {key}: {name!r} is there twice, of which lm-eval "
                    "uses only the last; remove one"
                )
    has_own_metrics = task.config.process_results is not None
    functions = {} if has_own_metrics else getattr(task, "_metric_fn_list", {})
    if None in functions.values() or None in task.aggregation().values():
        complain_about_metrics(
            task.config.metric_list,
            where=f"task {task.task_name!r}",
            has_own_metrics=has_own_metrics,
        )
    if task.OUTPUT_TYPE == "generate_until" and not has_own_metrics:
        _check_metrics_of_lists(task)
        _check_options(task)
    _check_ignored_options(task)


def _name(metric: Any) -> Any:
    """Return the name of a metric in lm-eval's results."""
    return metric.__name__ if callable(metric) else metric


def _check_options(task: Task) -> None:
    """Refuse options that exact_match does not have, or values that it would take for others."""
    if getattr(task, "_metric_fn_list", {}).get("exact_match") is not exact_match_fn:
        return
    where = f"task {task.task_name!r}: metric_list: exact_match"
    for name, value in task._metric_fn_kwargs["exact_match"].items():
        if name not in _OF_EXACT_MATCH:
            known = [*_OF_EXACT_MATCH, "aggregation", "higher_is_better"]
            raise unknown_name("option", name, known, where)
        if name == "regexes_to_ignore" and isinstance(value, str):
            raise UserError(f"{where}: {name}: {value!r} is one text; write a list of patterns")
        if isinstance(value, str) and value.lower() in ("no", "false", "off"):
            raise UserError(
                f"{where}: {name}: {value!r} is a text, which counts as true; write false"
            )


def _check_ignored_options(task: Task) -> None:
    """Refuse options that lm-eval hands to no function, as the average of f1."""
    has_own_metrics = task.config.process_results is not None
    calls_metrics = task.OUTPUT_TYPE == "generate_until" and not has_own_metrics
    for entry in task.config.metric_list or ():
        metric, name = entry["metric"], _name(entry["metric"])
        is_of_lm_eval = metric in metric_registry and entry.get("hf_evaluate") is not True
        if calls_metrics and (metric == "exact_match" or not is_of_lm_eval):
            continue
        made_by = task.aggregation().get(name)
        if made_by not in aggregation_registry.values() or (has_own_metrics and made_by is mean):
            continue  # a function of the task's own knows what is meant
        # To accuracy among options, it makes no difference how texts are compared.
        harmless = _OF_EXACT_MATCH if str(name).startswith("acc") else ()
        for option in entry:
            if option not in (*_OF_ANY, *harmless):
                raise UserError(
                    f"task {task.task_name!r}: metric_list: {name}: lm-eval would ignore its "
                    f"{option}: {entry[option]!r}; take it out, or name a function of your own as "
                    "aggregation, which computes it so"
                )


def _check_metrics_of_lists(task: Task) -> None:
    """Refuse metrics that lm-eval computes wrongly where a target is a list of right answers."""
    if not getattr(task, "multiple_target", 0):
        return
    for entry in task.config.metric_list or ():
        if entry["metric"] != "exact_match":
            raise UserError(
                f"task {task.task_name!r}: metric_list: its targets are lists of right answers, "
                f"for which lm-eval counts any score of {_name(entry['metric'])!r} above 0 as 1; "
                "use exact_match, or score items in a function of your own (process_results)"
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
