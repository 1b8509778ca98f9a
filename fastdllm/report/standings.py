"""Where each run of a task stands beside the controls, at equal layer-forwards.

A computation is compared item by item with the most accurate control that costs no more. What a
comparison does not show is named as that: the words here are estimates, not verdicts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from fastdllm.records.summary import Summary
from fastdllm.report.controls import (
    CONTROL_EXPERIMENT,
    by_computation,
    controls_of,
    cost_in_layers,
)
from fastdllm.report.groups import Group, RunKey, deviations, key_of
from fastdllm.statistics.comparison import (
    Comparison,
    Computations,
    is_same_computation,
    why_other_items,
)


class Standing(StrEnum):
    """Where a run lies in relation to the controls."""

    ABOVE = "above its control (shown)"
    WITHIN_NOISE = "above its control, not shown"
    UNKNOWN = "cheaper than every control, not more accurate"
    NO_GAIN = "no gain over its control seen"
    DOMINATED = "dominated by its control (shown)"
    CONTROL = "control"
    NO_CONTROL = "no control to compare with"


@dataclass(frozen=True, slots=True)
class ExperimentFinding:
    """One computation of an experiment beside plain decoding and the controls.

    runs: all of the experiment that are this computation; the first is the one compared. cost:
    layer-forwards per answer. to_control: to the most accurate control that costs no more, or if
    every control costs more (`is_cheapest`), to the cheapest one; None without controls.
    n_tests: comparisons of the experiment that were corrected together.
    """

    runs: tuple[Summary, ...]
    cost: float
    to_baseline: Comparison
    to_control: Comparison | None
    n_tests: int

    @property
    def summary(self) -> Summary:
        return self.runs[0]

    @property
    def is_control(self) -> bool:
        return self.summary.experiment == CONTROL_EXPERIMENT

    @property
    def control_costs_more(self) -> float:
        """By which share its control costs more layer-forwards; negative if it costs less."""
        assert self.to_control is not None
        return cost_in_layers(self.to_control.baseline) / self.cost - 1.0

    @property
    def is_cheapest(self) -> bool:
        """Whether every control costs more."""
        return self.to_control is not None and self.control_costs_more > 0

    @property
    def saved(self) -> float:
        """Share of plain decoding's layer-forwards that is saved; negative if it costs more."""
        return 1.0 - (self.to_baseline.layer_forwards or 1.0)

    @property
    def loss(self) -> float:
        """Accuracy below that of plain decoding, in -1..1; also of a score without right items."""
        paired = self.to_baseline.paired
        baseline = self.to_baseline.baseline
        return -paired.difference if paired else baseline.accuracy - self.summary.accuracy

    @property
    def is_lossless(self) -> bool:
        """Whether no loss is seen, even without a correction, which would hide small losses."""
        paired = self.to_baseline.paired
        return paired is not None and paired.interval[1] >= 0

    @property
    def gain(self) -> float | None:
        """Accuracy above that of the control, in -1..1."""
        paired = self.to_control.paired if self.to_control else None
        return paired.difference if paired else None

    @property
    def standing(self) -> Standing:
        """The standing at equal layer-forwards."""
        if self.is_control:
            return Standing.CONTROL
        paired = self.to_control.paired if self.to_control else None
        if paired is None:
            return Standing.NO_CONTROL
        if paired.difference > 0:
            return Standing.ABOVE if paired.is_shown else Standing.WITHIN_NOISE
        if self.is_cheapest:
            return Standing.UNKNOWN
        is_shown = paired.is_shown and paired.difference < 0
        return Standing.DOMINATED if is_shown else Standing.NO_GAIN


def findings_of(groups: Sequence[Group]) -> dict[str, list[ExperimentFinding]]:
    """Return by experiment the findings on one task by rising cost.

    groups: those of all experiments on the task; one that decodes nothing has no findings. Plain
    decoding is not a finding, nor is a run on other items than the baseline's (a hub that moved),
    and a control is one of its own experiment only.
    """
    controls = controls_of([run for group in groups for run in group.summaries])
    return {group.experiment: _findings(group, controls) for group in groups if _decoded([group])}


def findings_by_run(groups: Sequence[Group]) -> dict[RunKey, ExperimentFinding]:
    """Return the finding of each run of one task; plain decoding has none.

    A computation of several experiments has the finding of the first of them.
    """
    findings = [finding for some in findings_of(groups).values() for finding in some]
    computations = Computations(finding.summary for finding in findings)
    places = {key_of(run): computations.place_of(run) for run in _decoded(groups)}
    return {key: findings[place] for key, place in places.items() if place is not None}


def standing_of(
    run: Summary, finding: ExperimentFinding | None, controls: Sequence[Summary]
) -> Standing:
    """Return the standing of a run; controls: those of its task (`controls_of`)."""
    if not deviations(run) or any(is_same_computation(run, control) for control in controls):
        return Standing.CONTROL
    return finding.standing if finding else Standing.NO_CONTROL


def _findings(group: Group, controls: Sequence[Summary]) -> list[ExperimentFinding]:
    left_out = [group.baseline]
    if group.experiment != CONTROL_EXPERIMENT:
        left_out += controls
    others = Computations(left_out)
    runs = [
        run
        for run in _decoded([group])
        if not why_other_items(group.baseline, run) and others.place_of(run) is None
    ]
    to_baseline = {key_of(run): comparison for run, comparison in group.compared}
    to_control = dict(zip(map(key_of, group.summaries), group.to_controls, strict=True))
    findings = [
        _finding(same, to_baseline, to_control, group.n_tests) for same in by_computation(runs)
    ]
    return sorted(findings, key=lambda finding: finding.cost)


def _finding(
    runs: Sequence[Summary],
    to_baseline: dict[RunKey, Comparison | None],
    to_control: dict[RunKey, Comparison | None],
    n_tests: int,
) -> ExperimentFinding:
    run = runs[0]
    comparison = to_baseline[key_of(run)]
    assert comparison is not None, "only the baseline has no comparison"
    return ExperimentFinding(
        runs=tuple(runs),
        cost=cost_in_layers(run),
        to_baseline=comparison,
        to_control=to_control[key_of(run)],
        n_tests=n_tests,
    )


def _decoded(groups: Sequence[Group]) -> list[Summary]:
    return [run for group in groups for run in group.summaries if run.passes is not None]
