"""The words for a comparison: the same in the terminal, in tables and in the report."""

from __future__ import annotations

import math

SAME = "the same computation"
SIGNIFICANT = 0.05


def of_difference(
    difference: float, interval: tuple[float, float], *, is_shown: bool, differing: int
) -> str:
    """Put a paired difference into words; shares in -1..1.

    is_shown: more than chance, also beside the comparisons made with it. differing: items that are
    right in one of both runs only.
    """
    low, high = interval
    if is_shown:
        word, digits = "loss" if difference < 0 else "gain", decimals(difference)
        limits = f"{signed(low, digits)} to {signed(high, digits)}"
        return f"{word} of {points(abs(difference), digits)} (95 % interval {limits}), shown"
    if high < 0 or low > 0:
        word, ends = ("loss", (-high, -low)) if high < 0 else ("gain", (low, high))
        digits = decimals(ends[0])
        limits = f"{100 * ends[0]:.{digits}f} to {points(ends[1], digits)}"
        return f"{word} of {limits} (95 %, this row alone)"
    finding = "no difference seen" if differing else "no item differs"
    most = f" of more than {points(excluded(-low))}" if low < 0 else ""
    return f"{finding}; a loss{most} is excluded"


def excluded(share: float) -> float:
    """Return the end of an interval rounded up, so that what is named really is excluded."""
    return math.ceil(max(0.0, share) * 1000 - 1e-6) / 1000


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


def detection_words(n: int) -> str:
    """Say how many items would detect a difference, if it were as large as the one observed."""
    return f"{n:,} items would detect it in 80 % of samples if the observed difference were true"


def p_words(p: float) -> str:
    """A p value as papers print it."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
