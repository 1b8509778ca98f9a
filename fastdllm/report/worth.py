"""Each computation of an experiment against plain decoding, and against the controls at equal cost.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from fastdllm.report.baseline import CONTROL_EXPERIMENT, baseline_of
from fastdllm.results.summary import Summary
from fastdllm.statistics.comparison import Comparison, compare, compare_all, is_same_computation
from fastdllm.statistics.costs import layer_forwards_per_answer
from fastdllm.statistics.intervals import holm
from fastdllm.statistics.verdicts import SIGNIFICANT


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
