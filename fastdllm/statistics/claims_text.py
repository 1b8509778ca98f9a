"""Claims and what came out of them, as lines of a terminal or a page."""

from __future__ import annotations

from fastdllm.records.claim_kinds import Claim, Equivalent, Faster, Frontier, NonInferior
from fastdllm.records.claims_record import ClaimResult, ClaimsRecord, ControlFigures
from fastdllm.statistics.costs import COSTS
from fastdllm.statistics.speed_text import ratio_words
from fastdllm.statistics.verdicts import p_words, points, signed

# The letters of a commit that are shown.
SHORT = 10
# Decimals of a difference in points.
DIGITS = 2


def claims_lines(record: ClaimsRecord) -> list[str]:
    """Return the claims of an experiment with their results, a line each and one per config."""
    lines = [f"{record.experiment}: {registration_words(record)}"]
    if record.planned is not None:
        planned = record.planned
        lines.append(
            f"  planned: {planned.n:,} items, power {100 * planned.power:.0f} % ({planned.source})"
        )
    if record.waits is not None:
        lines.append(f"  {record.waits}")
    for result in record.results:
        lines.append(f"  {result.claim.id} {claim_words(result.claim)}: {result_words(result)}")
        lines += [f"     {control_words(result.claim, control)}" for control in result.controls]
    return lines


def registration_words(record: ClaimsRecord) -> str:
    """Say when the claims were registered."""
    if record.registered is None:
        text = "claims that no commit registers"
    else:
        text = f"claims registered in {record.registered[:SHORT]}"
    return text + (f" ({record.problem})" if record.problem is not None else "")


def claim_words(claim: Claim) -> str:
    """Say what is claimed, such as `look loses less than 0.50 points to plain`."""
    others = " and ".join(claim.controls)
    if isinstance(claim, NonInferior):
        return f"{claim.config} loses less than {points(claim.margin, DIGITS)} to {others}"
    if isinstance(claim, Equivalent):
        return f"{claim.config} is within {points(claim.margin, DIGITS)} of {others}"
    if isinstance(claim, Frontier):
        return (
            f"{claim.config} saves {100 * claim.saves:g} % of {_cost(claim)} and loses less than "
            f"{points(claim.margin, DIGITS)} against each of {', '.join(claim.controls)}"
        )
    if isinstance(claim, Faster):
        return (
            f"{claim.config} takes less than {claim.ratio:g} of the seconds of {others} at batch "
            f"size {claim.batch}"
        )
    return f"{claim.config} is right more often than {others}"


def result_words(result: ClaimResult) -> str:
    """Say what came out, such as `confirmed (p 0.003, n 20,000, power 0.97)`."""
    figures = []
    if result.p is not None:
        figures.append(f"p {p_words(result.p)}")
    if result.n is not None:
        what = "sittings" if isinstance(result.claim, Faster) else "items"
        figures.append(f"{result.n:,} {what}")
    if result.power is not None:
        # Against several configs it is a lower bound, however they hang together.
        least = "at least " if len(result.controls) > 1 else ""
        figures.append(f"power {least}{100 * result.power:.0f} % at a difference of 0")
    text = result.verdict + (f" ({', '.join(figures)})" if figures else "")
    return text + (f": {result.reason}" if result.reason is not None else "")


def control_words(claim: Claim, control: ControlFigures) -> str:
    """Say how the config compares with one other; both ends are bounds at one-sided 2.5 %."""
    if isinstance(claim, Faster):
        ratio = ratio_words(control.estimate, control.interval)
        return f"{ratio} of the seconds of {control.against}, p {p_words(control.p)}"
    low, high = control.interval
    text = (
        f"{signed(control.estimate, DIGITS)} points ({signed(low, DIGITS)} to "
        f"{signed(high, DIGITS)}) to {control.against}, {control.only_config}:"
        f"{control.only_control} items, p {p_words(control.p)}"
    )
    if isinstance(claim, Frontier) and control.cost_ratio is not None:
        text += f", {control.cost_ratio:.3f} of its {_cost(claim)}"
    return text


def _cost(claim: Frontier) -> str:
    return COSTS[claim.cost][0].removesuffix(" per answer")
