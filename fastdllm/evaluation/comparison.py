"""Runs against a baseline: accuracy paired by item, speed where it is comparable, and a verdict.

Needs nothing but summaries. What cannot be compared says why. Formulas: docs/statistics.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fastdllm.evaluation import verdicts
from fastdllm.evaluation.costs import (
    layer_forwards_per_answer,
    speed_conditions,
    truncated_answers,
)
from fastdllm.evaluation.item_pairs import Paired, pair_items, why_not_paired
from fastdllm.evaluation.speed import ratio_interval
from fastdllm.evaluation.stats import holm
from fastdllm.evaluation.summary import Summary, Throughput

# What decides which requests form which chunk, among `decides`.
PLAN_KEYS = (
    *("model_digest", "task_digest", "limit", "chunk_size"),
    *("num_fewshot", "apply_chat_template"),
)


@dataclass(frozen=True, slots=True)
class Ratio:
    """b over a, with its 95 % interval where both have at least two chunks."""

    value: float
    interval: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """One run against the baseline.

    layer_forwards: ratio of the layer-forwards per answer. truncated: cut answers of each.
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


def compare(baseline: Summary, other: Summary) -> Comparison:
    """Compare one run with the baseline."""
    return compare_all(baseline, [other])[0]


def compare_all(baseline: Summary, others: Sequence[Summary]) -> list[Comparison]:
    """Compare each of `others` with the baseline, p-values corrected for how many there are.

    Runs that are the same computation are one question, so they count once.
    """
    compared = [_compare(baseline, other) for other in others]
    p_values: dict[str, float] = {}
    for one in compared:
        if one.paired is not None and not is_same_computation(baseline, one.other):
            question = _question(one.other)
            p_values[question] = max(one.paired.p_value, p_values.get(question, 0.0))
    corrected = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    if len(corrected) < 2:
        return compared
    return [_corrected(one, corrected.get(_question(one.other))) for one in compared]


def is_same_computation(a: Summary, b: Summary) -> bool:
    """Whether both runs must give the same answers, decoded once or twice."""
    return _decoded_run(a) == _decoded_run(b) or (
        a.computation is not None and a.computation == b.computation
    )


def _question(summary: Summary) -> str:
    return summary.computation or _decoded_run(summary)


def _decoded_run(summary: Summary) -> str:
    return summary.same_as.fingerprint if summary.same_as else summary.fingerprint


def _is_one_measurement(a: Summary, b: Summary) -> bool:
    made_from_one = a.same_as is not None or b.same_as is not None or a.timestamp == b.timestamp
    return _decoded_run(a) == _decoded_run(b) and made_from_one


def _compare(baseline: Summary, other: Summary) -> Comparison:
    why_not = why_not_paired(baseline, other)
    paired = None if why_not else pair_items(baseline, other)
    if is_same_computation(baseline, other):
        if paired is not None and not paired.only_a and not paired.only_b:
            paired, why_not = None, verdicts.SAME
        verdict = verdicts.of_the_same(paired.only_a + paired.only_b if paired else 0)
    elif paired is None:
        verdict = verdicts.of_none(str(why_not))
    else:
        verdict = _verdict(paired)
    why_no_speed = _why_no_speed(baseline, other)
    ours, theirs = layer_forwards_per_answer(other), layer_forwards_per_answer(baseline)
    cut = truncated_answers(baseline), truncated_answers(other)
    return Comparison(
        baseline=baseline,
        other=other,
        paired=paired,
        why_not_paired=why_not,
        speed=None if why_no_speed else _speed(baseline, other),
        why_no_speed=why_no_speed,
        layer_forwards=ours / theirs if ours is not None and theirs else None,
        truncated=(cut[0], cut[1]) if cut[0] is not None and cut[1] is not None else None,
        verdict=verdict,
    )


def _corrected(one: Comparison, p_holm: float | None) -> Comparison:
    if one.paired is None or p_holm is None or is_same_computation(one.baseline, one.other):
        return one
    paired = replace(one.paired, p_holm=p_holm)
    return replace(one, paired=paired, verdict=_verdict(paired))


def _verdict(paired: Paired) -> str:
    return verdicts.of_difference(
        paired.difference,
        paired.interval,
        p_value=paired.p_value,
        p_holm=paired.p_holm,
        differing=paired.only_a + paired.only_b,
    )


def _why_no_speed(a: Summary, b: Summary) -> str | None:
    """Why two throughputs cannot be compared; None when they can."""
    if a.passes is None or b.passes is None:
        return "nothing is generated in a log-likelihood task"
    if a.throughput is None or b.throughput is None:
        return "answers were decoded on several devices"
    if _is_one_measurement(a, b):
        return "it was measured once for both"
    if a.task != b.task:
        return f"other tasks: {a.task} and {b.task}"
    differing = [
        f"{one} and {two}"
        for one, two in zip(speed_conditions(a), speed_conditions(b), strict=True)
        if one != two
    ]
    return f"other conditions: {'; '.join(differing)}" if differing else None


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
