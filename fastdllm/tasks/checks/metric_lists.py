"""Metrics of a task that lm-eval does not find, leaves out, or computes otherwise than is meant."""

from __future__ import annotations

from collections.abc import Mapping
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
    where, has_own = f"task {task.task_name!r}", task.config.process_results is not None
    functions = {} if has_own else getattr(task, "_metric_fn_list", {})
    if None in functions.values() or None in task.aggregation().values():
        complain_about_metrics(task.config.metric_list, where=where, has_own_metrics=has_own)
    calls_metrics = task.OUTPUT_TYPE == "generate_until" and not has_own
    if calls_metrics and functions.get("exact_match") is exact_match_fn:
        _check_options(task._metric_fn_kwargs["exact_match"], f"{where}: metric_list: exact_match")
    for entry in task.config.metric_list or ():
        name, is_of_lists = _name(entry["metric"]), bool(getattr(task, "multiple_target", 0))
        if calls_metrics and is_of_lists and entry["metric"] != "exact_match":
            raise UserError(
                f"{where}: metric_list: its targets are lists of right answers, for which lm-eval "
                f"counts any score of {name!r} above 0 as 1; use exact_match, or score items in a "
                "function of your own (process_results)"
            )
        if (option := _ignored_option(task, entry, calls_metrics=calls_metrics)) is not None:
            raise UserError(
                f"{where}: metric_list: {name}: lm-eval would ignore its {option}: "
                f"{entry[option]!r}; take it out, or name a function of your own as aggregation, "
                "which computes it so"
            )


def _name(metric: Any) -> Any:
    """Return the name of a metric in lm-eval's results."""
    return metric.__name__ if callable(metric) else metric


def _check_options(options: Mapping[str, Any], where: str) -> None:
    """Refuse options that exact_match does not have, or values that it would take for others."""
    for name, value in options.items():
        if name not in _OF_EXACT_MATCH:
            known = [*_OF_EXACT_MATCH, "aggregation", "higher_is_better"]
            raise unknown_name("option", name, known, where)
        if name == "regexes_to_ignore" and isinstance(value, str):
            raise UserError(f"{where}: {name}: {value!r} is one text; write a list of patterns")
        if isinstance(value, str) and value.lower() in ("no", "false", "off"):
            raise UserError(
                f"{where}: {name}: {value!r} is a text, which counts as true; write false"
            )


def _ignored_option(task: Task, entry: Mapping[str, Any], *, calls_metrics: bool) -> str | None:
    """Return an option that lm-eval hands to no function, as the average of f1."""
    metric, name = entry["metric"], _name(entry["metric"])
    is_of_lm_eval = metric in metric_registry and entry.get("hf_evaluate") is not True
    if calls_metrics and (metric == "exact_match" or not is_of_lm_eval):
        return None
    made_by, has_own = task.aggregation().get(name), task.config.process_results is not None
    if made_by not in aggregation_registry.values() or (has_own and made_by is mean):
        return None  # a function of the task's own knows what is meant
    # To accuracy among options, it makes no difference how texts are compared.
    harmless = (*_OF_ANY, *(_OF_EXACT_MATCH if str(name).startswith("acc") else ()))
    return next((option for option in entry if option not in harmless), None)


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
