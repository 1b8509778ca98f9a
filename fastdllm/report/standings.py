"""What each run of a task is worth beside the controls: the rule of worth.py, run by run.

By layer-forwards a run is held against the most accurate control that costs no more, paired item by
item and corrected, as in the READMEs of the experiments. By a cost of the machine, which is noisy,
it is only told whether some control is as good in both. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from fastdllm.report.baseline import CONTROL_EXPERIMENT, deviations
from fastdllm.report.comparisons import Key, key_of
from fastdllm.report.pareto import MORE_IS_BETTER, OF_THE_MACHINE, PLOTTED, cost_of
from fastdllm.report.worth import Found, found_in
from fastdllm.results.summary import Summary
from fastdllm.statistics.comparison import is_same_computation
from fastdllm.statistics.costs import speed_conditions
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
