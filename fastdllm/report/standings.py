"""What each run of a task is worth beside the controls: the rule of worth.py, run by run.

By layer-forwards a run is held against the most accurate control that costs no more, paired item by
item and corrected, as in the READMEs of the experiments. By a cost of the machine, which is noisy,
it is only told whether some control is as good in both. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from fastdllm.report.comparisons import CONTROL_EXPERIMENT, Key, baseline_of, deviations, key_of
from fastdllm.report.pareto import MORE_IS_BETTER, OF_THE_MACHINE, PLOTTED, cost_of
from fastdllm.results.summary import Summary
from fastdllm.statistics.comparison import Comparison, compare, compare_all, is_same_computation
from fastdllm.statistics.costs import layer_forwards_per_answer, speed_conditions
from fastdllm.statistics.intervals import holm
from fastdllm.statistics.verdicts import SIGNIFICANT


class Standing(StrEnum):
    """Where a run lies, seen from the controls."""

    ABOVE = "beats the controls"
    WITHIN_NOISE = "above, within noise"
    UNDOMINATED = "not dominated by a control"
    UNKNOWN = "cheaper than every control, less accurate"
    BELOW = "not worth it"
    CONTROL = "control"
    NO_CONTROL = "no control to compare with"


@dataclass(frozen=True, slots=True)
class Place:
    """Standings of a run by name of the cost.

    found: its comparisons, shared by all runs of one computation; None for plain decoding.
    """

    standings: dict[str, Standing]
    found: Found | None


def standings_of(cost: str) -> tuple[Standing, ...]:
    """Those that can occur at a cost, best first."""
    without = {Standing.UNDOMINATED}
    if cost in OF_THE_MACHINE:
        without = {Standing.ABOVE, Standing.WITHIN_NOISE, Standing.UNKNOWN}
    return tuple(standing for standing in Standing if standing not in without)


def places_of(runs: Sequence[Summary]) -> dict[Key, Place]:
    """The place of every run of one task (and limit).

    Experiments are the families of the correction. A computation that several of them have stands
    as in the first one.
    """
    decoded = [run for run in runs if run.passes is not None]
    controls = [run for run in decoded if run.experiment == CONTROL_EXPERIMENT]
    found = _found(decoded, runs)
    places = {}
    for run in runs:
        own = found.get(key_of(run))
        if _is_control(run, controls):
            standings = dict.fromkeys(PLOTTED, Standing.CONTROL)
        else:
            standings = {
                cost: _by_machine(run, controls, cost)
                if cost in OF_THE_MACHINE
                else _by_layer_forwards(own)
                for cost in PLOTTED
            }
        places[key_of(run)] = Place(standings, own)
    return places


def is_no_loss(found: Found) -> bool:
    """No loss to plain decoding seen, even without a correction, which would hide small ones."""
    paired = found.against_plain.paired
    return paired is not None and (paired.p_value >= SIGNIFICANT or paired.difference >= 0)


def _found(decoded: Sequence[Summary], runs: Sequence[Summary]) -> dict[Key, Found]:
    found: dict[Key, Found] = {}
    for experiment in dict.fromkeys(run.experiment for run in decoded):
        own = [run for run in decoded if run.experiment == experiment]
        for one in found_in(own, runs)[1]:
            for run in decoded:
                if key_of(run) not in found and is_same_computation(run, one.summary):
                    found[key_of(run)] = one
    return found


def _is_control(run: Summary, controls: Sequence[Summary]) -> bool:
    return not deviations(run) or any(is_same_computation(run, control) for control in controls)


def _by_layer_forwards(found: Found | None) -> Standing:
    if found is None or found.gain is None:
        return Standing.NO_CONTROL
    if found.is_proved:
        return Standing.ABOVE
    if found.gain > 0:
        return Standing.WITHIN_NOISE
    return Standing.UNKNOWN if found.is_cheapest else Standing.BELOW


def _by_machine(run: Summary, controls: Sequence[Summary], cost: str) -> Standing:
    """Against controls of the same hardware, dtype and batch size; points count, not intervals."""
    value = cost_of(run, cost)
    rivals = [
        (own, control.accuracy)
        for control in controls
        if speed_conditions(control) == speed_conditions(run)
        and (own := cost_of(control, cost)) is not None
    ]
    if value is None or not rivals:
        return Standing.NO_CONTROL
    sign = -1 if cost in MORE_IS_BETTER else 1
    dominated = any(
        sign * own <= sign * value and accuracy >= run.accuracy for own, accuracy in rivals
    )
    return Standing.BELOW if dominated else Standing.UNDOMINATED


# Each computation of an experiment against plain decoding, and against the controls at equal cost.
# Imports no torch.


@dataclass(frozen=True, slots=True)
class Found:
    """One computation of an experiment.

    names: of all configurations that are it. control: against the most accurate control that costs
    no more, or where every control costs more (`is_cheapest`), against the cheapest one. None
    without controls.
    """

    summary: Summary
    names: tuple[str, ...]
    cost: float
    against_plain: Comparison
    control: Comparison | None
    is_cheapest: bool

    @property
    def saved(self) -> float:
        """Share of the layer-forwards of plain decoding that were saved; below 0 for more."""
        return 1.0 - (self.against_plain.layer_forwards or 1.0)

    @property
    def loss(self) -> float:
        """Accuracy below that of plain decoding, in -1..1; 0 where items are not comparable."""
        paired = self.against_plain.paired
        return -paired.difference if paired else 0.0

    @property
    def gain(self) -> float | None:
        """Accuracy over that of the control, in -1..1."""
        paired = self.control.paired if self.control else None
        return paired.difference if paired else None

    @property
    def is_faster(self) -> bool:
        """Whether it decoded measurably faster than plain decoding, under the same conditions."""
        speed = self.against_plain.speed
        return speed is not None and speed.interval is not None and speed.interval[0] > 1

    @property
    def is_proved(self) -> bool:
        """Whether the gain over the control is more than noise."""
        paired = self.control.paired if self.control else None
        return paired is not None and paired.difference > 0 and paired.deciding_p < SIGNIFICANT


def found_in(own: Sequence[Summary], runs: Sequence[Summary]) -> tuple[Summary, list[Found]]:
    """Plain decoding, and the other computations of an experiment by rising cost.

    own: the runs of the experiment on one task. runs: those of all experiments on that task.
    """
    plain = baseline_of(runs)
    controls = _distinct(run for run in runs if run.experiment == CONTROL_EXPERIMENT)
    computations: list[list[Summary]] = []
    for run in own:
        known = next((c for c in computations if is_same_computation(c[0], run)), None)
        if known is None:
            computations.append([run])
        else:
            known.append(run)
    # Plain decoding is what all are compared with, and a control is no idea of another experiment.
    known_ones = [plain] if own[0].experiment == CONTROL_EXPERIMENT else [plain, *controls]
    others = [
        same
        for same in computations
        if not any(is_same_computation(same[0], other) for other in known_ones)
    ]
    against_plain = compare_all(plain, [same[0] for same in others])
    found = []
    for same, comparison in zip(others, against_plain, strict=True):
        cost = layer_forwards_per_answer(same[0])
        assert cost is not None
        control, is_cheapest = _best(controls, same[0], cost)
        found.append(
            Found(
                same[0], tuple(run.config for run in same), cost, comparison, control, is_cheapest
            )
        )
    return plain, sorted(_corrected(found), key=lambda one: one.cost)


def _distinct(runs: Iterable[Summary]) -> list[Summary]:
    kept: list[Summary] = []
    for run in runs:
        if not any(is_same_computation(run, other) for other in kept):
            kept.append(run)
    return kept


def _best(controls: Sequence[Summary], run: Summary, cost: float) -> tuple[Comparison | None, bool]:
    """The run against its control (see `Found`), and whether every control costs more."""
    others = [
        (own_cost, control)
        for control in controls
        if (own_cost := layer_forwards_per_answer(control)) is not None
        and not is_same_computation(control, run)
    ]
    if not others:
        return None, False
    affordable = [(own_cost, control) for own_cost, control in others if own_cost <= cost]
    if not affordable:
        return compare(min(others, key=lambda pair: pair[0])[1], run), True
    # Of two that are as accurate the cheaper one.
    _, best = max(affordable, key=lambda pair: (pair[1].accuracy, -pair[0]))
    return compare(best, run), False


def _corrected(found: Sequence[Found]) -> list[Found]:
    """The same with p-values against the controls corrected for how many there are (Holm)."""
    tested = [one for one in found if one.control is not None and one.control.paired is not None]
    p_values = [one.control.paired.p_value for one in tested if one.control and one.control.paired]
    by_run = dict(zip((id(one.summary) for one in tested), holm(p_values), strict=True))

    def with_holm(one: Found) -> Found:
        if one.control is None or one.control.paired is None:
            return one
        paired = replace(one.control.paired, p_holm=by_run[id(one.summary)])
        return replace(one, control=replace(one.control, paired=paired))

    return [with_holm(one) for one in found]
