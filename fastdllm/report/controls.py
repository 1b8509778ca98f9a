"""The controls of a task, and the one that a run is compared with.

An idea is only worth its trouble if it is more accurate than plain decoding with other thresholds
and sub-blocks that costs no more layer-forwards.
"""

from __future__ import annotations

from collections.abc import Sequence

from fastdllm.records.summary import Summary
from fastdllm.statistics.comparison import Computations, is_same_computation
from fastdllm.statistics.costs import layer_forwards_per_answer

CONTROL_EXPERIMENT = "03_controls"


def controls_of(summaries: Sequence[Summary]) -> list[Summary]:
    """Return one run of each computation among the controls of a task."""
    runs = [run for run in summaries if run.passes and run.experiment == CONTROL_EXPERIMENT]
    return [same[0] for same in by_computation(runs)]


def control_for(run: Summary, controls: Sequence[Summary]) -> Summary | None:
    """Return the most accurate control that costs no more than a run, else the cheapest one.

    Of equally accurate ones the cheapest; none of its own computation.
    """
    others = [control for control in controls if not is_same_computation(control, run)]
    affordable = [control for control in others if cost_in_layers(control) <= cost_in_layers(run)]
    best = max(affordable, key=lambda c: (c.accuracy, -cost_in_layers(c)), default=None)
    return best or min(others, key=cost_in_layers, default=None)


def cost_in_layers(run: Summary) -> float:
    """Return the layer-forwards per answer of a run that generates."""
    cost = layer_forwards_per_answer(run)
    assert cost is not None, "a run that generates has passes"
    return cost


def by_computation(runs: Sequence[Summary]) -> list[list[Summary]]:
    """Group runs that are the same computation, in the order given."""
    computations: list[list[Summary]] = []
    first_of_each = Computations()
    for run in runs:
        place = first_of_each.place_of(run)
        if place is None:
            computations.append([run])
            first_of_each.add(run)
        else:
            computations[place].append(run)
    return computations
