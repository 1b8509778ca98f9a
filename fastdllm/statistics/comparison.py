"""Runs against a baseline: accuracy paired by item, speed where it is comparable, and a verdict.

Reads only summaries. What cannot be compared carries the reason. Formulas: docs/statistics.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fastdllm.records import bits
from fastdllm.records.summary import Items, Summary, Throughput
from fastdllm.statistics import verdicts
from fastdllm.statistics.busy import busy_words, was_busy
from fastdllm.statistics.costs import layer_forwards_per_answer, speed_conditions
from fastdllm.statistics.intervals import (
    clustered_stderr,
    difference_interval,
    holm,
    items_needed,
    mcnemar_p,
    ratio_interval,
)
from fastdllm.statistics.truncation import truncated_answers

# The keys of `decides` that determine what a model is asked, and which requests form which chunk.
MODEL_KEYS = ("model", "model_digest")
REQUEST_KEYS = (*MODEL_KEYS, "task_digest", "limit", "num_fewshot", "apply_chat_template")
PLAN_KEYS = (*REQUEST_KEYS, "chunk_size")


@dataclass(frozen=True, slots=True)
class Paired:
    """Two runs on the same items; b against the baseline a.

    only_a, only_b: items that are right in one of both runs only. difference: b - a, like its 95 %
    interval in -1..1. p_value: exact McNemar. p_holm: the same, corrected for the comparisons made
    with it. clustered_stderr: of the difference, where the task has groups. n_needed: items that
    show the observed difference (80 % power at 5 %).
    """

    n: int
    only_a: int
    only_b: int
    difference: float
    interval: tuple[float, float]
    p_value: float
    p_holm: float | None = None
    clustered_stderr: float | None = None
    n_needed: int | None = None

    @property
    def deciding_p(self) -> float:
        """The corrected p, or the uncorrected one where there is no correction."""
        return self.p_value if self.p_holm is None else self.p_holm


@dataclass(frozen=True, slots=True)
class Ratio:
    """A rate of b over that of a, with its 95 % interval if both have at least two chunks."""

    value: float
    interval: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """One run against the baseline.

    layer_forwards: ratio per answer, of the same items. truncated: answers of each that reached
    their length limit.
    """

    baseline: Summary
    other: Summary
    paired: Paired | None
    why_not_paired: str | None
    speed: Ratio | None
    why_no_speed: str | None
    layer_forwards: float | None
    truncated: tuple[int, int] | None
    verdict: str

    @property
    def is_refused(self) -> bool:
        """Whether accuracies are not compared, though the runs are not the same."""
        return self.paired is None and self.verdict != verdicts.SAME


def compare(baseline: Summary, other: Summary) -> Comparison:
    """Compare one run with the baseline."""
    why_not = why_not_paired(baseline, other)
    paired = None if why_not else pair_items(baseline, other)
    is_same = is_same_computation(baseline, other)
    if paired is None:
        is_one = is_same and _is_one_measurement(baseline, other)
        is_known = is_one and baseline.primary == other.primary
        verdict = verdicts.SAME if is_known else verdicts.of_none(str(why_not))
    elif is_same:
        differing = paired.only_a + paired.only_b
        verdict = verdicts.of_the_same(differing)
        if not differing:
            paired, why_not = None, verdicts.SAME
    else:
        verdict = _verdict(paired)
    why_no_speed = _why_no_speed(baseline, other)
    ours, theirs = layer_forwards_per_answer(other), layer_forwards_per_answer(baseline)
    if why_other_items(baseline, other):
        ours = None
    a, b = truncated_answers(baseline), truncated_answers(other)
    return Comparison(
        baseline=baseline,
        other=other,
        paired=paired,
        why_not_paired=why_not,
        speed=None if why_no_speed else _speed(baseline, other),
        why_no_speed=why_no_speed,
        layer_forwards=ours / theirs if ours is not None and theirs else None,
        truncated=None if a is None or b is None else (a, b),
        verdict=verdict,
    )


def compare_all(baseline: Summary, others: Sequence[Summary]) -> list[Comparison]:
    """Compare each of `others` with the baseline, as one family of tests."""
    return corrected([compare(baseline, other) for other in others])


def corrected(family: Sequence[Comparison]) -> list[Comparison]:
    """Return the comparisons with p-values and verdicts corrected for how many there are (Holm).

    Runs that are the same computation are one question, so they count once; a single question
    needs no correction.
    """
    p_values: dict[str, float] = {}
    for comparison in family:
        if comparison.paired is not None and not _is_within_one_computation(comparison):
            question = _question(comparison.other)
            p_values[question] = max(comparison.paired.p_value, p_values.get(question, 0.0))
    if len(p_values) < 2:
        return list(family)
    p_holm = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    return [_with_holm(test, p_holm.get(_question(test.other))) for test in family]


def is_same_computation(a: Summary, b: Summary) -> bool:
    """Whether both runs must give the same answers, decoded once or twice."""
    is_same = a.computation is not None and a.computation == b.computation
    return (is_same or _decoded_run(a) == _decoded_run(b)) and not _has_moved(a, b)


def why_other_items(a: Summary, b: Summary) -> str | None:
    """Return why two runs did not answer the same items of the same model; None if they did.

    Neither accuracy nor any cost of such runs can be compared. Other models that are named are no
    reason.
    """
    for what, of_a, of_b in (
        ("tasks", a.task, b.task),
        ("limits", a.eval_params.get("limit"), b.eval_params.get("limit")),
    ):
        if of_a != of_b:
            return f"different {what}: {_shown(of_a)} and {_shown(of_b)}"
    if a.decides.get("task_digest") != b.decides.get("task_digest"):
        return "different versions of the task"
    if _has_moved(a, b):
        return "data or model of the hub have changed in between; decode the older run again"
    return None


def why_not_paired(a: Summary, b: Summary) -> str | None:
    """Return why two runs cannot be compared item by item; None if they can."""
    if why := why_other_items(a, b):
        return why
    metrics = [f"{run.primary.metric},{run.primary.filter}" for run in (a, b)]
    if metrics[0] != metrics[1]:
        return f"different metrics: {' and '.join(metrics)}"
    if a.primary.higher_is_better is False:
        return f"less is better in {a.primary.metric}, so items are not right or wrong"
    if a.items is None or b.items is None:
        return "the summaries do not say which items are right"
    return _why_other_bits(a.items, b.items)


def _why_other_bits(a: Items, b: Items) -> str | None:
    if a.n != b.n:
        return f"{a.n} and {b.n} items"
    if None not in (a.groups, b.groups) and a.groups != b.groups:
        return "their subtasks have other names or another order; score the older run again"
    return None


def _has_moved(a: Summary, b: Summary) -> bool:
    """Whether the hub's model, or the items of the task, are others now under the same name."""
    for name, keys in (("model_commit", MODEL_KEYS), ("items_digest", REQUEST_KEYS)):
        values = [run.eval_params.get(name) for run in (a, b)]
        is_same = all(a.decides.get(key) == b.decides.get(key) for key in keys)
        if is_same and None not in values and values[0] != values[1]:
            return True
    return False


def pair_items(a: Summary, b: Summary) -> Paired:
    """Compare two runs item by item; only if `why_not_paired` is None."""
    assert a.items is not None and b.items is not None
    n = a.items.n
    right_a, right_b = (bits.as_number(n, items.correct_bits) for items in (a.items, b.items))
    only_a, only_b = right_a & ~right_b, right_b & ~right_a
    counts = only_a.bit_count(), only_b.bit_count()
    return Paired(
        n=n,
        only_a=counts[0],
        only_b=counts[1],
        difference=(counts[1] - counts[0]) / n,
        interval=difference_interval(n, *counts),
        p_value=mcnemar_p(*counts),
        clustered_stderr=_clustered(a, only_a, only_b),
        n_needed=items_needed(n, *counts),
    )


def right_only_in(run: Summary, other: Summary) -> list[int]:
    """Return the items, by their number in the data, that are right in `run` and not in `other`."""
    assert run.items is not None and other.items is not None
    n = run.items.n
    right, right_too = (bits.as_number(n, s.items.correct_bits) for s in (run, other) if s.items)
    return bits.ones(n, right & ~right_too)


def accuracy_clustered_stderr(summary: Summary) -> float | None:
    """Return the clustered standard error of the accuracy; None for a task without groups."""
    if summary.items is None:
        return None
    return _clustered(summary, 0, bits.as_number(summary.items.n, summary.items.correct_bits))


def _with_holm(comparison: Comparison, p_holm: float | None) -> Comparison:
    if comparison.paired is None or p_holm is None or _is_within_one_computation(comparison):
        return comparison
    paired = replace(comparison.paired, p_holm=p_holm)
    return replace(comparison, paired=paired, verdict=_verdict(paired))


def _is_within_one_computation(comparison: Comparison) -> bool:
    return is_same_computation(comparison.baseline, comparison.other)


def _question(summary: Summary) -> str:
    return summary.computation or _decoded_run(summary)


def _decoded_run(summary: Summary) -> str:
    return summary.same_as.fingerprint if summary.same_as else summary.fingerprint


def _verdict(paired: Paired) -> str:
    return verdicts.of_difference(
        paired.difference,
        paired.interval,
        p_value=paired.p_value,
        p_holm=paired.p_holm,
        differing=paired.only_a + paired.only_b,
    )


def _why_no_speed(a: Summary, b: Summary) -> str | None:
    """Return why two throughputs cannot be compared; None if they can."""
    if a.passes is None or b.passes is None:
        return "nothing is generated in a log-likelihood task"
    unmeasured = next((run for run in (a, b) if run.throughput is None), None)
    if unmeasured is not None:
        return _why_unmeasured(unmeasured)
    if why := why_other_items(a, b):
        return why
    if _is_one_measurement(a, b):
        return "both have the speed of one measurement"
    differing = [
        f"{of_a} and {of_b}"
        for of_a, of_b in zip(speed_conditions(a), speed_conditions(b), strict=True)
        if of_a != of_b
    ]
    if differing:
        return f"different conditions: {'; '.join(differing)}"
    busy = [f"{run.config} {busy_words(run)}" for run in (a, b) if was_busy(run)]
    return f"timed on a busy machine ({', '.join(busy)})" if busy else None


def _why_unmeasured(run: Summary) -> str:
    if len({device.name for device in run.hardware}) > 1:
        return "answers were decoded on several devices"
    if len(run.hardware) > 1:
        return "answers were decoded with several numbers of CPU threads"
    return "a process was paused (Ctrl-Z, a suspended job) while it decoded"


def _is_one_measurement(a: Summary, b: Summary) -> bool:
    made_from_one = a.same_as is not None or b.same_as is not None or a.timestamp == b.timestamp
    return _decoded_run(a) == _decoded_run(b) and made_from_one


def _speed(a: Summary, b: Summary) -> Ratio:
    ours, theirs = _throughput(b), _throughput(a)
    value = ours.tokens_per_s / theirs.tokens_per_s
    if not ours.chunks or not theirs.chunks:
        return Ratio(value)
    same_plan = all(a.decides.get(key) == b.decides.get(key) for key in PLAN_KEYS)
    same = same_plan and len(ours.chunks) == len(theirs.chunks)
    return Ratio(value, ratio_interval(theirs.chunks, ours.chunks, same_requests=same))


def _throughput(summary: Summary) -> Throughput:
    assert summary.throughput is not None
    return summary.throughput


def _shown(value: object) -> str:
    return "none" if value is None else str(value)


def _clustered(summary: Summary, only_a: int, only_b: int) -> float | None:
    if summary.items is None or summary.items.groups is None:
        return None
    sizes = [group.n for group in summary.items.groups]
    parts = zip(bits.in_groups(only_a, sizes), bits.in_groups(only_b, sizes), sizes, strict=True)
    return clustered_stderr([(gained - lost, size) for lost, gained, size in parts])
