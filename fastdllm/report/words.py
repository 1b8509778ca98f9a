"""Figures as text, the same everywhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from fastdllm.records.summary import Summary
from fastdllm.statistics.comparison import Comparison
from fastdllm.statistics.verdicts import decimals, signed

# A sentence or a table shows this many names, and counts the others.
MOST_NAMES = 3
KIND_WORDS = {
    "prefill": "prefill",
    "full_block": "whole block",
    "sub_block": "sub-block",
    "commit": "commit",
    "reused": "reused, no layer run",
}


def interval_of(summary: Summary) -> tuple[float, float]:
    """Return the interval of the accuracy, in 0..1; the accuracy twice if it has none."""
    return summary.primary.interval or (summary.accuracy, summary.accuracy)


def accuracy_words(summary: Summary) -> str:
    """Such as `95.7 % (93.7 to 97.0)`."""
    interval = summary.primary.interval
    text = f"{100 * summary.accuracy:.1f} %"
    return text + (f" ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})" if interval else "")


def items_words(summaries: Iterable[Summary]) -> str:
    """Such as `600 items`; of several numbers the range, as a score may leave out items."""
    numbers = sorted({summary.primary.n for summary in summaries})
    if len(numbers) == 1:
        return f"{numbers[0]} items"
    return f"{numbers[0]} to {numbers[-1]} items (those that the metric gave a score in each run)"


def difference_words(comparison: Comparison | None) -> str:
    """Such as `-38.2 points (-42.1 to -34.3)`; empty for the baseline."""
    if comparison is None:
        return ""
    if comparison.paired is None:
        return comparison.why_not_paired or "not paired"
    low, high = comparison.paired.interval
    digits = decimals(comparison.paired.difference)
    difference = signed(comparison.paired.difference, digits)
    return f"{difference} points ({signed(low, digits)} to {signed(high, digits)})"


def verdict_words(comparison: Comparison | None) -> str:
    """Return the verdict; empty for the baseline."""
    return "" if comparison is None else comparison.verdict


def names_words(names: Sequence[str]) -> str:
    """Such as `a`, `b`, `c` and 2 more."""
    text = ", ".join(f"`{name}`" for name in names[:MOST_NAMES])
    return text + (f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else "")


def not_compared_sentences(comparisons: Iterable[Comparison | None]) -> list[str]:
    """Name the runs that are not compared with the baseline, and say why, each reason once."""
    by_reason: dict[str, list[str]] = {}
    for comparison in comparisons:
        if comparison is not None and comparison.is_refused:
            names = by_reason.setdefault(str(comparison.why_not_paired), [])
            names.append(comparison.other.config)
    return [
        f"Not compared with the baseline, {names_words(names)}: {why}."
        for why, names in by_reason.items()
    ]


def cost_words(value: float | None) -> str:
    """Return three significant digits, thousands with commas."""
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 1000 else f"{value:#.3g}".rstrip(".")


def markdown_rows(headings: Mapping[str, str], rows: Iterable[Iterable[str]]) -> list[str]:
    """Return the lines of a Markdown table; `headings` maps each to its alignment."""
    lines = [f"| {' | '.join(headings)} |", f"|{'|'.join(headings.values())}|"]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows)]
