"""How many items claims need, in lines: from shares that are assumed, or from results seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from fastdllm.common.errors import UserError
from fastdllm.records import bits
from fastdllm.records.claim_kinds import Better, Claim, Equivalent, Faster, Frontier
from fastdllm.records.summary import Summary
from fastdllm.statistics.claims_text import claim_words
from fastdllm.statistics.comparison import why_not_paired
from fastdllm.statistics.power import (
    Kind,
    Pattern,
    frontier_power,
    items_for,
    paired_power,
    with_differences,
)
from fastdllm.statistics.verdicts import signed

DIGITS = 2


@dataclass(frozen=True, slots=True)
class Assumed:
    """Shares that are assumed of every pair: items that differ, and the true difference."""

    discordance: float
    difference: float


# Results of the configs by the names that claims use.
Seen = Mapping[str, Summary]
# What is assumed in words, and the power with n items.
Scenario = tuple[str, Callable[[int], float]]


def needed_lines(
    claims: Sequence[Claim], assumed: Assumed | Seen, *, power: float, planned_n: int | None
) -> list[str]:
    """Return for each claim how many items it needs, and the power of the planned number.

    Raises:
        UserError: a claim needs a difference that is not given, or results that are not there.
    """
    lines = []
    for claim in claims:
        lines.append(f"  {claim.id} {claim_words(claim)}")
        if isinstance(claim, Faster):
            lines.append("     its rounds are planned when it is measured (docs/speed.md)")
            continue
        if isinstance(claim, Better) and isinstance(assumed, Assumed) and assumed.difference <= 0:
            lines.append("     depends on the true difference: --difference 0.005 is half a point")
            continue
        for words, power_of in _scenarios(claim, assumed):
            n = items_for(power_of, power)
            needed = "more than ten million items" if n is None else f"{n:,} items"
            with_planned = (
                f"; with {planned_n:,} the power is {100 * power_of(planned_n):.0f} %"
                if planned_n is not None
                else ""
            )
            lines.append(f"     {needed} if {words}{with_planned}")
    return lines


def _scenarios(claim: Claim, assumed: Assumed | Seen) -> list[Scenario]:
    if isinstance(assumed, Assumed):
        return [_as_assumed(claim, assumed)]
    counts = _patterns(claim, assumed)
    n = sum(counts.values())
    observed = [
        sum(number * pattern[place] for pattern, number in counts.items()) / n
        for place in range(len(claim.controls))
    ]
    shares = [0.5, 1.0] if isinstance(claim, Better) else [0.0, 0.5]
    scenarios: list[Scenario] = []
    for share in shares:
        differences = [share * difference for difference in observed]
        try:
            tilted = with_differences(counts, differences)
        except ValueError:
            continue  # all items that differ fall to one of both
        shown = ", ".join(f"{signed(difference, DIGITS)}" for difference in differences)
        words = f"the true difference is {shown} points"
        if share:
            words += " (as observed)" if share == 1 else " (half of the observed)"
        scenarios.append((words, partial(_power, claim, tilted)))
    return scenarios


def _as_assumed(claim: Claim, assumed: Assumed) -> Scenario:
    if abs(assumed.difference) > assumed.discordance or not 0 < assumed.discordance <= 1:
        raise UserError(
            f"--discordance {assumed.discordance}: must be at most 1, and at least the difference "
            f"({abs(assumed.difference)})"
        )
    words = f"the true difference is {signed(assumed.difference, DIGITS)} points"
    several = len(claim.controls)

    def power_of(n: int) -> float:
        one = paired_power(
            _kind(claim),
            n,
            discordance=assumed.discordance,
            difference=assumed.difference,
            margin=_margin(claim),
        )
        # However the configs hang together, the probabilities to miss add up at most.
        return max(0.0, 1 - several * (1 - one))

    if several > 1:
        words += f" to each of {several} (at most so many)"
    return words, power_of


def _power(claim: Claim, shares: Mapping[Pattern, float], n: int) -> float:
    if isinstance(claim, Frontier) and len(claim.controls) > 1:
        return frontier_power(n, shares, margin=claim.margin)
    discordance = sum(share for pattern, share in shares.items() if pattern[0])
    difference = sum(share * pattern[0] for pattern, share in shares.items())
    return paired_power(
        _kind(claim), n, discordance=discordance, difference=difference, margin=_margin(claim)
    )


def _patterns(claim: Claim, seen: Seen) -> Counter[Pattern]:
    """Count the items by how the config came out against each control.

    Raises:
        UserError: a result is missing, or two are not of the same items.
    """
    for name in (claim.config, *claim.controls):
        if name not in seen:
            raise UserError(f"{claim.id}: no experiment has a result of {name} on that task")
    run, controls = seen[claim.config], [seen[name] for name in claim.controls]
    for name, control in zip(claim.controls, controls, strict=True):
        if why := why_not_paired(control, run):
            raise UserError(f"{claim.id}: {claim.config} and {name}: {why}")
    columns = [bits.unpacked(s.items.n, s.items.correct_bits) for s in (run, *controls) if s.items]
    return Counter(
        tuple(int(ours) - int(theirs) for theirs in others)
        for ours, *others in zip(*columns, strict=True)
    )


def _kind(claim: Claim) -> Kind:
    if isinstance(claim, Better):
        return "better"
    return "equivalent" if isinstance(claim, Equivalent) else "noninferior"


def _margin(claim: Claim) -> float:
    return 0.0 if isinstance(claim, Better | Faster) else claim.margin
