"""Where each run of a task stands beside the controls.

By layer-forwards, a computation is compared item by item with the most accurate control that costs
no more. By a cost of the machine, which is noisy, the only question is whether some control is at
least as cheap and as accurate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from fastdllm.records.summary import Summary
from fastdllm.report.groups import CONTROL_EXPERIMENT, Group, RunKey, deviations, key_of
from fastdllm.report.pareto import PLOTTED
from fastdllm.statistics.busy import MARGIN
from fastdllm.statistics.comparison import (
    Comparison,
    compare,
    corrected,
    is_same_computation,
    why_other_items,
)
from fastdllm.statistics.costs import (
    MORE_IS_BETTER,
    OF_THE_MACHINE,
    comparable_cost,
    layer_forwards_per_answer,
    speed_conditions,
)
from fastdllm.statistics.verdicts import SIGNIFICANT


class Standing(StrEnum):
    """Where a run lies in relation to the controls."""

    ABOVE = "beats the controls"
    WITHIN_NOISE = "above, within noise"
    UNDOMINATED = "not dominated by a control"
    UNKNOWN = "cheaper than every control, less accurate"
    BELOW = "not worth it"
    CONTROL = "control"
    NO_CONTROL = "no control to compare with"


def possible_standings(cost: str) -> tuple[Standing, ...]:
    """Return the standings that can occur at a cost, best first."""
    without = {Standing.UNDOMINATED}
    if cost in OF_THE_MACHINE:
        without = {Standing.ABOVE, Standing.WITHIN_NOISE, Standing.UNKNOWN}
    return tuple(standing for standing in Standing if standing not in without)


@dataclass(frozen=True, slots=True)
class ExperimentFinding:
    """One computation of an experiment beside plain decoding and the controls.

    runs: all of the experiment that are this computation; the first is the one compared. cost:
    layer-forwards per answer. to_control: to the most accurate control that costs no more, or if
    every control costs more (`is_cheapest`), to the cheapest one; None without controls.
    n_tests: comparisons with controls that were corrected together.
    """

    runs: tuple[Summary, ...]
    cost: float
    to_baseline: Comparison
    to_control: Comparison | None
    is_cheapest: bool
    n_tests: int

    @property
    def summary(self) -> Summary:
        return self.runs[0]

    @property
    def is_control(self) -> bool:
        return self.summary.experiment == CONTROL_EXPERIMENT

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
        return paired is not None and (paired.p_value >= SIGNIFICANT or paired.difference >= 0)

    @property
    def is_faster(self) -> bool:
        """Whether it was faster than plain decoding by more than runs timed apart may differ."""
        speed = self.to_baseline.speed
        return speed is not None and speed.interval is not None and speed.interval[0] > 1 + MARGIN

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
            is_proved = paired.deciding_p < SIGNIFICANT
            return Standing.ABOVE if is_proved else Standing.WITHIN_NOISE
        return Standing.UNKNOWN if self.is_cheapest else Standing.BELOW


def findings_of(groups: Sequence[Group]) -> dict[str, list[ExperimentFinding]]:
    """Return by experiment the findings on one task by rising cost.

    groups: those of all experiments on the task; one that decodes nothing has no findings. Plain
    decoding is not a finding, nor is a run on other items than the baseline's (a hub that moved),
    and a control is one of its own experiment only. Comparisons with controls are corrected over
    the experiment (Holm).
    """
    runs = [run for run in _decoded(groups) if run.experiment == CONTROL_EXPERIMENT]
    controls = [same[0] for same in _by_computation(runs)]
    return {group.experiment: _findings(group, controls) for group in groups if _decoded([group])}


def findings_by_run(groups: Sequence[Group]) -> dict[RunKey, ExperimentFinding]:
    """Return the finding of each run of one task; plain decoding has none.

    A computation of several experiments has the finding of the first of them.
    """
    by_run: dict[RunKey, ExperimentFinding] = {}
    for findings in findings_of(groups).values():
        for finding in findings:
            for run in _decoded(groups):
                if is_same_computation(run, finding.summary):
                    by_run.setdefault(key_of(run), finding)
    return by_run


def standings_of(
    run: Summary, finding: ExperimentFinding | None, runs: Sequence[Summary]
) -> dict[str, Standing]:
    """Return the standings of a run by name of the cost.

    runs: those of all experiments on its task.
    """
    controls = [other for other in runs if other.passes and other.experiment == CONTROL_EXPERIMENT]
    if not deviations(run) or any(is_same_computation(run, control) for control in controls):
        return dict.fromkeys(PLOTTED, Standing.CONTROL)
    at_equal_cost = finding.standing if finding else Standing.NO_CONTROL
    return {
        cost: _by_machine(run, controls, cost) if cost in OF_THE_MACHINE else at_equal_cost
        for cost in PLOTTED
    }


def _by_machine(run: Summary, controls: Sequence[Summary], cost: str) -> Standing:
    """Compare with controls of the same hardware, dtype and batch size, regardless of intervals."""
    value = comparable_cost(run, cost)
    rivals = [
        (control_cost, control.accuracy)
        for control in controls
        if speed_conditions(control) == speed_conditions(run)
        and not why_other_items(control, run)
        and (control_cost := comparable_cost(control, cost)) is not None
    ]
    if value is None or not rivals:
        return Standing.NO_CONTROL
    sign = -1 if cost in MORE_IS_BETTER else 1
    dominated = any(
        sign * control_cost <= sign * value and accuracy >= run.accuracy
        for control_cost, accuracy in rivals
    )
    return Standing.BELOW if dominated else Standing.UNDOMINATED


def _findings(group: Group, controls: Sequence[Summary]) -> list[ExperimentFinding]:
    left_out = [group.baseline]
    if group.experiment != CONTROL_EXPERIMENT:
        left_out += controls
    runs = [
        run
        for run in _decoded([group])
        if not why_other_items(group.baseline, run)
        and not any(is_same_computation(run, other) for other in left_out)
    ]
    to_baseline = {key_of(run): comparison for run, comparison in group.compared}
    uncorrected = [
        _finding(same, to_baseline[key_of(same[0])], controls) for same in _by_computation(runs)
    ]
    tests = [finding.to_control for finding in uncorrected if finding.to_control is not None]
    to_control = {key_of(test.other): test for test in corrected(tests)}
    findings = [
        replace(finding, to_control=to_control.get(key_of(finding.summary)), n_tests=len(tests))
        for finding in uncorrected
    ]
    return sorted(findings, key=lambda finding: finding.cost)


def _finding(
    runs: Sequence[Summary], to_baseline: Comparison | None, controls: Sequence[Summary]
) -> ExperimentFinding:
    """Return the finding of one computation, as if it were the only one."""
    assert to_baseline is not None, "only the baseline has no comparison"
    run = runs[0]
    others = [control for control in controls if not is_same_computation(control, run)]
    affordable = [control for control in others if _cost(control) <= _cost(run)]
    # Of equally accurate ones the cheapest.
    best = max(affordable, key=lambda control: (control.accuracy, -_cost(control)), default=None)
    control = best or min(others, key=_cost, default=None)
    return ExperimentFinding(
        runs=tuple(runs),
        cost=_cost(run),
        to_baseline=to_baseline,
        to_control=None if control is None else compare(control, run),
        is_cheapest=bool(others) and not affordable,
        n_tests=1,
    )


def _cost(run: Summary) -> float:
    cost = layer_forwards_per_answer(run)
    assert cost is not None
    return cost


def _decoded(groups: Sequence[Group]) -> list[Summary]:
    return [run for group in groups for run in group.summaries if run.passes is not None]


def _by_computation(runs: Sequence[Summary]) -> list[list[Summary]]:
    """Group runs that are the same computation, in the order given."""
    computations: list[list[Summary]] = []
    for run in runs:
        same = next((c for c in computations if is_same_computation(c[0], run)), None)
        if same is None:
            computations.append([run])
        else:
            same.append(run)
    return computations
