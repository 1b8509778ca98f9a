"""Runs against a baseline: accuracy paired by item, layer-forwards, and what can be said.

Reads only summaries, whose speeds were timed apart and are compared by nobody (docs/speed.md). What
cannot be compared carries the reason. Formulas: docs/statistics.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from fastdllm.records import bits
from fastdllm.records.summary import Items, Summary
from fastdllm.statistics import verdicts
from fastdllm.statistics.costs import layer_forwards_per_answer
from fastdllm.statistics.family import max_t
from fastdllm.statistics.intervals import (
    clustered_stderr,
    difference_interval,
    items_needed,
    mcnemar_p,
)
from fastdllm.statistics.truncation import truncated_answers

# The keys of `decides` that determine what a model is asked.
MODEL_KEYS = ("model", "model_digest")
REQUEST_KEYS = (*MODEL_KEYS, "task_digest", "limit", "num_fewshot", "apply_chat_template")


@dataclass(frozen=True, slots=True)
class Paired:
    """Two runs on the same items; b against the baseline a.

    lost, gained: the items that are right in a only and in b only, as bits (`records.bits`).
    difference: b - a, like its 95 % interval in -1..1. p_value: exact McNemar. p_corrected: the
    same, corrected for the comparisons made with it. clustered_stderr: of the difference, where the
    task has groups. n_needed: items that would show a difference as large as the observed one (80 %
    power at 5 %), were it the true one.
    """

    n: int
    lost: int
    gained: int
    interval: tuple[float, float]
    p_value: float
    p_corrected: float | None = None
    clustered_stderr: float | None = None
    n_needed: int | None = None

    @property
    def only_a(self) -> int:
        """How many items are right in the baseline only."""
        return self.lost.bit_count()

    @property
    def only_b(self) -> int:
        """How many items are right in the other run only."""
        return self.gained.bit_count()

    @property
    def difference(self) -> float:
        return (self.only_b - self.only_a) / self.n

    @property
    def deciding_p(self) -> float:
        """The corrected p, or the uncorrected one where there is no correction."""
        return self.p_value if self.p_corrected is None else self.p_corrected

    @property
    def is_shown(self) -> bool:
        """Whether the difference is more than chance, also beside those compared with it."""
        return self.deciding_p < verdicts.SIGNIFICANT

    @property
    def excluded_gain(self) -> float:
        """A gain that the interval excludes: any larger one is as well."""
        return max(0.0, self.interval[1])


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
    ours, theirs = layer_forwards_per_answer(other), layer_forwards_per_answer(baseline)
    if why_other_items(baseline, other):
        ours = None
    a, b = truncated_answers(baseline), truncated_answers(other)
    return Comparison(
        baseline=baseline,
        other=other,
        paired=paired,
        why_not_paired=why_not,
        layer_forwards=ours / theirs if ours is not None and theirs else None,
        truncated=None if a is None or b is None else (a, b),
        verdict=verdict,
    )


def compare_all(baseline: Summary, others: Sequence[Summary]) -> list[Comparison]:
    """Compare each of `others` with the baseline, as one family of tests."""
    return corrected([compare(baseline, other) for other in others])


def corrected(family: Sequence[Comparison]) -> list[Comparison]:
    """Return the comparisons with p-values and verdicts corrected for all of them (max-T).

    Runs that are the same computation are one question, so they count once; a single question
    needs no correction. All are on the same items.
    """
    asked: dict[tuple[str, str], Paired] = {}
    for comparison in family:
        paired = comparison.paired
        if paired is None or _is_within_one_computation(comparison):
            continue
        known = asked.get(_question(comparison))
        # Runs of one computation that differ, which raises an alarm, stand by the weaker one.
        if known is None or known.p_value < paired.p_value:
            asked[_question(comparison)] = paired
    if len(asked) < 2:
        return list(family)
    n = max(paired.n for paired in asked.values())
    p_values = max_t(n, [(paired.lost, paired.gained) for paired in asked.values()])
    corrected_p = dict(zip(asked, p_values, strict=True))
    return [_with_p(test, corrected_p.get(_question(test))) for test in family]


def is_same_computation(a: Summary, b: Summary) -> bool:
    """Whether both runs must give the same answers, decoded once or twice."""
    is_same = a.computation is not None and a.computation == b.computation
    return (is_same or _decoded_run(a) == _decoded_run(b)) and not _has_moved(a, b)


class Computations:
    """Finds among many runs the first that is the same computation as another, without a search."""

    def __init__(self, runs: Iterable[Summary] = ()) -> None:
        self._runs: list[Summary] = []
        self._places: dict[str, list[int]] = {}
        for run in runs:
            self.add(run)

    def add(self, run: Summary) -> None:
        """Add a run; its place is the number of those before it."""
        for key in _computation_keys(run):
            self._places.setdefault(key, []).append(len(self._runs))
        self._runs.append(run)

    def place_of(self, run: Summary) -> int | None:
        """Return the place of the first that is the same computation as `run`, None without one."""
        places = {place for key in _computation_keys(run) for place in self._places.get(key, ())}
        return min((p for p in places if is_same_computation(self._runs[p], run)), default=None)


def _computation_keys(run: Summary) -> list[str]:
    """Return keys of which two runs that are the same computation share at least one."""
    computation = [f"computation {run.computation}"] if run.computation is not None else []
    return [*computation, f"decoded {_decoded_run(run)}"]


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
    lost, gained = right_a & ~right_b, right_b & ~right_a
    counts = lost.bit_count(), gained.bit_count()
    return Paired(
        n=n,
        lost=lost,
        gained=gained,
        interval=difference_interval(n, *counts),
        p_value=mcnemar_p(*counts),
        clustered_stderr=_clustered(a, lost, gained),
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


def _with_p(comparison: Comparison, p_corrected: float | None) -> Comparison:
    if comparison.paired is None or p_corrected is None or _is_within_one_computation(comparison):
        return comparison
    paired = replace(comparison.paired, p_corrected=p_corrected)
    return replace(comparison, paired=paired, verdict=_verdict(paired))


def _is_within_one_computation(comparison: Comparison) -> bool:
    return is_same_computation(comparison.baseline, comparison.other)


def _question(comparison: Comparison) -> tuple[str, str]:
    baseline, other = comparison.baseline, comparison.other
    return baseline.computation or _decoded_run(baseline), other.computation or _decoded_run(other)


def _decoded_run(summary: Summary) -> str:
    return summary.same_as.fingerprint if summary.same_as else summary.fingerprint


def _verdict(paired: Paired) -> str:
    return verdicts.of_difference(
        paired.difference,
        paired.interval,
        is_shown=paired.is_shown,
        differing=paired.only_a + paired.only_b,
    )


def _is_one_measurement(a: Summary, b: Summary) -> bool:
    made_from_one = a.same_as is not None or b.same_as is not None or a.timestamp == b.timestamp
    return _decoded_run(a) == _decoded_run(b) and made_from_one


def _shown(value: object) -> str:
    return "none" if value is None else str(value)


def _clustered(summary: Summary, only_a: int, only_b: int) -> float | None:
    if summary.items is None or summary.items.groups is None:
        return None
    sizes = [group.n for group in summary.items.groups]
    parts = zip(bits.in_groups(only_a, sizes), bits.in_groups(only_b, sizes), sizes, strict=True)
    return clustered_stderr([(gained - lost, size) for lost, gained, size in parts])
