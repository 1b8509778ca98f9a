"""The words for a comparison: the same in the terminal, in tables and in the report."""

from __future__ import annotations

import math

SAME = "the same computation"
SIGNIFICANT = 0.05


def of_difference(
    difference: float,
    interval: tuple[float, float],
    *,
    p_value: float,
    p_holm: float | None,
    differing: int,
) -> str:
    """Put a paired difference into words; shares in -1..1.

    p_holm, if given, decides. differing: items that are right in one of both runs only.
    """
    low, high = interval
    if (p_value if p_holm is None else p_holm) < SIGNIFICANT:
        word, digits = "worse" if difference < 0 else "better", decimals(difference)
        limits = f"{signed(low, digits)} to {signed(high, digits)}"
        return f"{points(abs(difference), digits)} {word} (95 % interval {limits})"
    if not differing:
        finding = "no item differs"
    elif p_value < SIGNIFICANT:
        finding = "no difference seen after correction"
    else:
        finding = "no difference seen"
    # Rounded up, so that the loss named really is excluded.
    loss = math.ceil(max(0.0, -low) * 1000 - 1e-6) / 1000
    most = f" of more than {points(loss)}" if loss else ""
    return f"{finding}; a loss{most} is excluded"


def of_the_same(differing: int) -> str:
    """The verdict on two runs that must give the same answers."""
    if not differing:
        return SAME
    items = "1 item differs" if differing == 1 else f"{differing} items differ"
    return f"{SAME}, but {items}"


def of_none(why: str) -> str:
    """The verdict on runs whose accuracy cannot be compared."""
    return f"not compared: {why}"


def decimals(difference: float) -> int:
    """Decimals for a difference in points and its interval: two if one would show 0.0."""
    return 2 if difference and not float(f"{100 * difference:.1f}") else 1


def points(share: float, digits: int = 1) -> str:
    """A share of items as percentage points."""
    return f"{100 * share:.{digits}f} points"


def signed(share: float, digits: int = 1) -> str:
    """A change as a number of points with its sign; without one if it rounds to zero."""
    text = f"{100 * share:+.{digits}f}"
    return text[1:] if float(text) == 0 else text


def p_words(p: float) -> str:
    """A p value as papers print it."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
