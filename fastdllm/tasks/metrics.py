"""What lm-eval's result says of a task: its metrics, and of an item the option that was chosen."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any, SupportsFloat, TypeGuard

from lm_eval.api.metrics import mean
from lm_eval.api.task import Task

from fastdllm.common.errors import UserError, unknown_name
from fastdllm.records.summary import Metric
from fastdllm.statistics.intervals import normal_interval, wilson_interval
from fastdllm.tasks.checks.inspection import scores_itself
from fastdllm.tasks.lm_eval_tasks import LoadedTask

# Aggregations of lm-eval whose values may be beyond 1, or below 0.
_NO_SHARES = {"perplexity", "weighted_perplexity", "bits_per_byte", "matthews_corrcoef"}
_NO_SHARES |= {"bleu", "chrf", "chrfpp", "ter"}
# What the likelihood of an option is divided by.
_SIZES = {"acc_norm": len, "acc_bytes": lambda option: len(option.encode())}
# By how much an option is put before its equals: more than rounding, less than real differences.
_NUDGE = 1e-9


def metrics_of(
    result: Mapping[str, Any], samples: Mapping[str, list[dict[str, Any]]], task: LoadedTask
) -> list[Metric]:
    """Return every score that lm-eval computes for the task, with interval and direction.

    Raises:
        UserError: the primary metric is not among them, or one is no finite number.
    """
    scores = scores_of(result, samples, task)
    aggregated = _aggregated(result, task)
    directions = result["higher_is_better"].get(task.name, {})
    metrics = []
    for (metric, filter_name), score in scores.items():
        value = finite(score, f"{metric},{filter_name}", task.name)
        stderr = aggregated.get(f"{metric}_stderr,{filter_name}")
        stderr = float(stderr) if is_number(stderr) and math.isfinite(stderr) else None
        # Metrics of a task's own may leave out items; nanmean leaves out those that are NaN.
        values = [
            sample[metric]
            for name in task.leaves
            for sample in samples[name]
            if sample["filter"] == filter_name and metric in sample and not _is_nan(sample[metric])
        ]
        right = right_or_wrong(values)
        interval, method = None, None
        if right and is_share(right, value):
            interval, method = wilson_interval(sum(right), len(right)), "wilson"
        elif stderr is not None:
            interval, method = normal_interval(value, stderr), "normal"
        metrics.append(
            Metric(
                metric=metric,
                filter=filter_name,
                value=round(value, 6),
                stderr=None if stderr is None else round(stderr, 6),
                interval=interval and (round(interval[0], 6), round(interval[1], 6)),
                interval_method=method,
                n=len(values),
                higher_is_better=directions.get(metric),
                primary=(metric, filter_name) == task.primary,
            )
        )
    return metrics


def scores_of(
    result: Mapping[str, Any], samples: Mapping[str, list[dict[str, Any]]], task: LoadedTask
) -> dict[tuple[str, str], float]:
    """Return what lm-eval computes for the task by metric and filter, finite or not.

    Raises:
        UserError: the primary metric is not among them, no share, better the less it is, or a
            subtask lacks it.
    """
    scores: dict[tuple[str, str], float] = {}
    for key, value in _aggregated(result, task).items():
        metric, comma, filter_name = key.partition(",")
        if comma and not metric.endswith("_stderr") and is_number(value):
            scores[metric, filter_name] = float(value)
    if task.primary not in scores:
        raise unknown_name(
            "primary metric",
            ",".join(task.primary),
            map(",".join, scores),
            where=f"task {task.name!r}: metadata.primary_metric",
        )
    key = ",".join(task.primary)
    for leaf in task.leaves:
        if key not in result["results"][leaf]:
            raise UserError(
                f"task {task.name!r}: its metric {key!r} is none of its subtask {leaf!r}, which "
                "would not count; let all subtasks have it (metric_list, filter_list)"
            )
    aggregations = [leaf.aggregation().get(task.primary[0]) for leaf in task.leaves.values()]
    is_known = any(getattr(made_by, "__name__", "") in _NO_SHARES for made_by in aggregations)
    if is_known or 1 < abs(scores[task.primary]) < math.inf:
        raise _no_share(task.name, key)
    for name, leaf in task.leaves.items():
        for sample in samples[name]:
            if sample["filter"] == task.primary[1]:
                check_share(leaf, sample["doc_id"], task.primary[0], sample.get(task.primary[0]))
    if result["higher_is_better"].get(task.name, {}).get(task.primary[0]) is False:
        raise UserError(
            f"task {task.name!r}: of its primary metric {key!r} less is better, but tables, plots "
            "and comparisons take more for better; name another one in metadata.primary_metric, "
            "or turn it round (1 - score)"
        )
    return scores


def check_share(task: Task, index: int, metric: str, value: Any) -> None:
    """Refuse the score of an item that alone would be beyond 1 or below 0, as the mean may not be.

    Raises:
        UserError: naming the item.
    """
    if not isinstance(value, Real) or _is_nan(value):
        return
    try:
        # lm-eval takes the mean of scores of a name that it does not know.
        alone = float(task.aggregation().get(metric, mean)([value]))
    except Exception:  # a function of the task, which may need several items
        return
    # A number that is none is refused with the score of all items.
    if math.isfinite(alone) and abs(alone - 0.5) > 0.5 + 1e-9:
        raise _no_share(task.task_name, metric, f" (item {index} has {float(value):g})")


def _no_share(task_name: str, metric: str, why: str = "") -> UserError:
    return UserError(
        f"task {task_name!r}: its primary metric {metric!r} is no share of 1{why}, which tables, "
        "plots and comparisons show in %; name another one in metadata.primary_metric, or divide it"
    )


def finite(score: float, metric: str, task_name: str) -> float:
    """Return a score.

    Raises:
        UserError: it is NaN or infinite, such as the mean of a subset that is empty.
    """
    if not math.isfinite(score):
        raise UserError(
            f"task {task_name!r}: its metric {metric!r} is {score}, no finite number (is it the "
            "mean of no items?); correct metric and aggregation in the file of the task"
        )
    return float(score)


def _aggregated(result: Mapping[str, Any], task: LoadedTask) -> Mapping[str, Any]:
    """Return lm-eval's values of the task, or of the group, as a whole."""
    return result.get("groups", {}).get(task.name) or result["results"].get(task.name, {})


def is_number(value: Any) -> TypeGuard[SupportsFloat]:
    """Whether lm-eval computed a number, finite or not; it writes N/A for what it did not."""
    return isinstance(value, SupportsFloat) and not isinstance(value, bool)


def _is_nan(value: Any) -> bool:
    return isinstance(value, Real) and math.isnan(value)


def is_share(right: list[bool], value: float) -> bool:
    """Whether a score is the share of items that are right, as no mean over subtasks is."""
    return math.isclose(sum(right) / len(right), value, abs_tol=1e-9)


def right_or_wrong(values: Iterable[Any]) -> list[bool] | None:
    """Return the values as booleans, None if one of them is neither 0 nor 1."""
    right = []
    for value in values:
        if isinstance(value, str | list | tuple | dict | type(None)) or value not in (0, 1):
            return None
        right.append(bool(value))
    return right


def chosen_option(task: Task, sample: Mapping[str, Any], metric: str) -> int:
    """Return the number of the option that a metric of lm-eval takes for the answer.

    lm-eval keeps the scores of an item, not what it chose; of equal options it takes the first.
    """
    scores = [resps[0][0] for resps in sample["resps"]]
    if metric in _SIZES and not scores_itself(task):
        sizes = map(_SIZES[metric], task.doc_to_choice(sample["doc"]))
        scores = [score / size for score, size in zip(scores, sizes, strict=True)]
    return scores.index(max(scores))


def is_tied(task: Task, sample: Mapping[str, Any], metric: str) -> bool:
    """Whether an item is right or wrong by the order of its options, of which some are equal.

    Scored again with each of the equal ones a little likelier. Options of the same text are one.
    """
    if task.OUTPUT_TYPE != "multiple_choice":
        return False
    asked, results = sample["arguments"], sample["filtered_resps"]
    logprobs = [logprob for logprob, _ in results]
    for option in {
        args for args, logprob in zip(asked, logprobs, strict=True) if logprobs.count(logprob) > 1
    }:
        nudged = [
            (logprob + _NUDGE * (args == option), is_greedy)
            for args, (logprob, is_greedy) in zip(asked, results, strict=True)
        ]
        score = task.process_results(sample["doc"], nudged).get(metric)
        if right_or_wrong([score]) != right_or_wrong([sample.get(metric)]):
            return True
    return False
