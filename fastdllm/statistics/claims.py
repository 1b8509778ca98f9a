"""From summaries and measured speeds to what is said of each claim, in a fixed sequence.

Each claim is tested at one-sided 0.025 until one is not confirmed; what comes after it is reported
and not tested. So the probability that any false claim is confirmed is 2.5 % at most. What each
verdict means: docs/claims.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from fastdllm.records.claim_kinds import Better, Claim, Equivalent, Faster, Frontier, NonInferior
from fastdllm.records.claims_record import ClaimResult, ControlFigures, Verdict
from fastdllm.records.speed_record import SpeedRecord
from fastdllm.records.summary import Summary
from fastdllm.statistics.claim_tests import (
    LEVEL,
    PairedCounts,
    Tested,
    against_all,
    better,
    equivalent,
    noninferior,
    ratio_below,
)
from fastdllm.statistics.comparison import pair_items, why_not_paired
from fastdllm.statistics.costs import COSTS, cost_of
from fastdllm.statistics.measured_speed import DIGITS, at_batch_size, log_ratios
from fastdllm.statistics.paired_speed import FEWEST_SITTINGS, hodges_lehmann
from fastdllm.statistics.power import Kind, paired_power


@dataclass(frozen=True, slots=True)
class Evidence:
    """The results of one task: summaries by the names that claims use, and the measured speeds."""

    summaries: Mapping[str, Summary]
    speed: SpeedRecord | None = None


@dataclass(frozen=True, slots=True)
class ClaimFigures:
    """What a claim's test found.

    lacks: why it does not hold whatever its p. is_refuted: why its opposite does, likewise.
    """

    n: int
    p: float
    p_opposite: float
    controls: list[ControlFigures]
    power: float | None = None
    lacks: str | None = None
    is_refuted: bool = field(default=False)


def results_of(
    claims: Sequence[Claim],
    evidence: Callable[[Claim], Evidence],
    problems: Mapping[str, str],
) -> list[ClaimResult]:
    """Test the claims of an experiment in their order.

    Args:
        evidence: of the claim's task.
        problems: by the id of a claim, why its result can only be exploratory.
    """
    results: list[ClaimResult] = []
    stopped_by: str | None = None
    for claim in claims:
        figures = _figures(claim, evidence(claim))
        verdict, reason = _verdict(figures, problems.get(claim.id), stopped_by)
        if verdict != "confirmed" and stopped_by is None:
            stopped_by = claim.id
        if isinstance(figures, str):
            results.append(ClaimResult(claim=claim, verdict=verdict, reason=reason, controls=[]))
            continue
        results.append(
            ClaimResult(
                claim=claim,
                verdict=verdict,
                reason=reason,
                n=figures.n,
                p=_rounded(figures.p),
                p_opposite=_rounded(figures.p_opposite),
                power=None if figures.power is None else round(figures.power, 4),
                controls=figures.controls,
            )
        )
    return results


def _verdict(
    figures: ClaimFigures | str, problem: str | None, stopped_by: str | None
) -> tuple[Verdict, str | None]:
    """Return what is said of a claim, and why; a text in place of figures: why there are none."""
    if isinstance(figures, str):
        return "not measured", figures
    if problem is not None:
        return "exploratory", problem
    if stopped_by is not None:
        return "not tested", f"{stopped_by} before it was not confirmed"
    if figures.p < LEVEL and figures.lacks is None:
        return "confirmed", None
    is_contradicted = figures.p_opposite < LEVEL or figures.is_refuted
    return "contradicted" if is_contradicted else "not confirmed", figures.lacks


def _figures(claim: Claim, evidence: Evidence) -> ClaimFigures | str:
    if isinstance(claim, Faster):
        return _of_seconds(claim, evidence.speed)
    for name in (claim.config, *claim.controls):
        if name not in evidence.summaries:
            return f"{name} has no result yet"
    run = evidence.summaries[claim.config]
    tested: list[Tested] = []
    pairs: list[PairedCounts] = []
    for name in claim.controls:
        control = evidence.summaries[name]
        if why := why_not_paired(control, run):
            return f"cannot be compared with {name}: {why}"
        pairs.append(_counts(control, run))
        tested.append(_tested(claim, pairs[-1]))
    p, p_opposite = against_all(tested)
    controls = [
        _control_figures(name, test, pair)
        for name, test, pair in zip(claim.controls, tested, pairs, strict=True)
    ]
    figures = ClaimFigures(
        n=pairs[0].n, p=p, p_opposite=p_opposite, controls=controls, power=_power(claim, pairs)
    )
    return _with_costs(claim, run, evidence, figures) if isinstance(claim, Frontier) else figures


def _tested(claim: NonInferior | Equivalent | Better | Frontier, pair: PairedCounts) -> Tested:
    if isinstance(claim, Better):
        return better(pair)
    test = equivalent if isinstance(claim, Equivalent) else noninferior
    return test(pair, claim.margin)


def _counts(control: Summary, run: Summary) -> PairedCounts:
    paired = pair_items(control, run)
    groups = run.items.groups if run.items is not None else None
    if groups is None or paired.clustered_stderr is None:
        return PairedCounts(paired.n, paired.only_a, paired.only_b)
    return PairedCounts(
        paired.n, paired.only_a, paired.only_b, paired.clustered_stderr, len(groups)
    )


def _power(claim: Claim, pairs: Sequence[PairedCounts]) -> float | None:
    """Return the power at a true difference of 0; against several, a lower bound.

    The probabilities to miss add up at most (Bonferroni), however the configs hang together.
    """
    if not isinstance(claim, NonInferior | Equivalent | Frontier):
        return None
    kind: Kind = "equivalent" if isinstance(claim, Equivalent) else "noninferior"
    missed = 0.0
    for pair in pairs:
        differing = (pair.only_config + pair.only_control) / pair.n
        missed += 1 - paired_power(kind, pair.n, discordance=differing, margin=claim.margin)
    return max(0.0, 1 - missed)


def _with_costs(
    claim: Frontier, run: Summary, evidence: Evidence, figures: ClaimFigures
) -> ClaimFigures:
    """Add what the config costs over each control; a count of the same items, so without a p."""
    what = COSTS[claim.cost][0].removesuffix(" per answer")
    ours, controls, short, dearer = cost_of(run, claim.cost), [], [], False
    for control in figures.controls:
        theirs = cost_of(evidence.summaries[control.against], claim.cost)
        if ours is None or not theirs:
            return ClaimFigures(
                n=figures.n,
                p=figures.p,
                p_opposite=figures.p_opposite,
                controls=figures.controls,
                lacks=f"{what} were not counted",
            )
        ratio = ours / theirs
        controls.append(control.model_copy(update={"cost_ratio": _rounded(ratio)}))
        dearer = dearer or ratio >= 1
        if ratio > 1 - claim.saves:
            saved = "saves only" if ratio < 1 else "does not save, but costs"
            short.append(
                f"{saved} {100 * abs(1 - ratio):.1f} % of {what} against {control.against}"
            )
    return ClaimFigures(
        n=figures.n,
        p=figures.p,
        p_opposite=figures.p_opposite,
        controls=controls,
        power=figures.power,
        lacks="; ".join(short) or None,
        is_refuted=dearer,
    )


def _of_seconds(claim: Faster, record: SpeedRecord | None) -> ClaimFigures | str:
    if record is None:
        return "its speed is not measured yet (snakemake speed)"
    if len(record.sittings) < FEWEST_SITTINGS:
        return f"{len(record.sittings)} sittings are too few"
    sizes = {rounds.batch_size for rounds in record.sittings[0].batches}
    timed = record.sittings[0].batches[0].seconds
    for name in (claim.config, *claim.controls):
        if name not in timed or claim.batch not in sizes:
            return f"{name} was not timed at batch size {claim.batch}"
    batches = [at_batch_size(sitting, claim.batch) for sitting in record.sittings]
    tested: list[Tested] = []
    for name in claim.controls:
        logs = [hodges_lehmann(log_ratios(rounds, claim.config, name)) for rounds in batches]
        tested.append(ratio_below(logs, claim.ratio))
    p, p_opposite = against_all(tested)
    return ClaimFigures(
        n=len(batches),
        p=p,
        p_opposite=p_opposite,
        controls=[_control_figures(n, t) for n, t in zip(claim.controls, tested, strict=True)],
        lacks=f"a check failed: {record.failed_checks[0]}" if record.failed_checks else None,
    )


def _control_figures(name: str, tested: Tested, pair: PairedCounts | None = None) -> ControlFigures:
    low, high = tested.interval
    return ControlFigures(
        against=name,
        estimate=_rounded(tested.estimate),
        interval=(_rounded(low), _rounded(high)),
        p=_rounded(tested.p),
        only_config=pair.only_config if pair else None,
        only_control=pair.only_control if pair else None,
        clustered_stderr=_rounded(pair.stderr) if pair and pair.stderr is not None else None,
    )


def _rounded(value: float) -> float:
    # As in speed.json, so that a ratio is the same in both.
    return float(f"{value:.{DIGITS}g}")
