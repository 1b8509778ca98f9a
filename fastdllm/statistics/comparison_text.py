"""A comparison as lines of a terminal: figures of both runs, the verdict, the items that differ.

The baseline is `a`, the other run `b`. What was not measured is left blank.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from fastdllm.records.summary import Summary
from fastdllm.statistics.comparison import (
    Comparison,
    accuracy_clustered_stderr,
    right_only_in,
)
from fastdllm.statistics.costs import COSTS, OF_THE_MACHINE
from fastdllm.statistics.disagreements import items_text, origin_sentences
from fastdllm.statistics.notices import notice_sentences
from fastdllm.statistics.ties import is_tied, tie_words
from fastdllm.statistics.truncation import is_marked, truncation_words
from fastdllm.statistics.verdicts import decimals, detection_words, p_words, signed

WIDTH, LABEL, NUMBER = 80, 28, 12
# Values this long are digests; to people they only show that something changed.
DIGEST_LETTERS = 32
INDENT = 10


def comparison_text(comparison: Comparison, speed: str) -> str:
    """Return one comparison in lines of at most 80 characters; ends with a line break.

    speed: what is known of the ratio of their seconds, or why it is not.
    """
    a, b = comparison.baseline, comparison.other
    lines = [
        f"a  {_name(a)}",
        f"b  {_name(b)}",
        "",
        f"{'':<{LABEL}}{'a':>{NUMBER}}{'b':>{NUMBER}}   b against a",
        *_rows(comparison),
        "",
        *_paragraph("accuracy", comparison.verdict),
        *_evidence(comparison),
        *_paragraph("speed", speed),
        *_notes(a, b),
    ]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _paragraph(label: str, text: str) -> list[str]:
    """Return the lines of a text beside its label; none for an empty text."""
    wide = WIDTH - len(f"{label:<{INDENT}}")
    lines = textwrap.wrap(text, wide, break_on_hyphens=False)
    return [f"{label if not i else '':<{INDENT}}{line}" for i, line in enumerate(lines)]


def _name(summary: Summary) -> str:
    return f"{summary.experiment}  {summary.task_title}  {summary.config}"


def _rows(comparison: Comparison) -> Iterator[str]:
    pair, paired = (comparison.baseline, comparison.other), comparison.paired
    change = ""
    if paired is not None:
        digits = decimals(paired.difference)
        difference, low, high = (signed(x, digits) for x in (paired.difference, *paired.interval))
        change = f"{difference} ({low} to {high})"
    yield _row("accuracy %", [f"{100 * summary.accuracy:.1f}" for summary in pair], change)
    intervals = [summary.primary.interval for summary in pair]
    yield _row("  95 % interval", [_percents(interval) for interval in intervals])
    errors = [accuracy_clustered_stderr(summary) for summary in pair]
    if any(error is not None for error in errors):
        yield _row(
            "  clustered standard error",
            ["" if error is None else f"{100 * error:.2f}" for error in errors],
            f"{100 * paired.clustered_stderr:.2f}"
            if paired is not None and paired.clustered_stderr is not None
            else "",
        )
    if comparison.truncated is not None:
        yield _row("truncated answers", [str(n) for n in comparison.truncated])
    if comparison.baseline.passes is None and comparison.other.passes is None:
        return
    for name, (label, cost) in COSTS.items():
        values = cost(comparison.baseline), cost(comparison.other)
        shown = ["" if value is None else f"{value:,.4g}" for value in values]
        if any(shown):
            yield _row(label, shown, _change_of_cost(comparison, name, values))


def _row(label: str, values: list[str], change: str = "") -> str:
    numbers = "".join(f"{value:>{NUMBER}}" for value in values)
    return f"{label:<{LABEL}}{numbers}   {change}"


def _change_of_cost(
    comparison: Comparison, name: str, values: tuple[float | None, float | None]
) -> str:
    """Return the ratio of a cost; none of the machine's, as the runs were timed apart."""
    old, new = values
    is_comparable = name not in OF_THE_MACHINE and comparison.layer_forwards is not None
    return f"{new / old:.2f} x" if is_comparable and old and new is not None else ""


def _percents(interval: tuple[float, float] | None) -> str:
    return f"{100 * interval[0]:.1f}-{100 * interval[1]:.1f}" if interval else ""


def _evidence(comparison: Comparison) -> Iterator[str]:
    """The evidence for the verdict: counts, p-values, items needed, and the items that flipped."""
    paired = comparison.paired
    if paired is None or not paired.only_a + paired.only_b:
        return
    p = f"p {p_words(paired.p_value)} (exact McNemar)"
    if paired.p_corrected is not None:
        p += f", {p_words(paired.p_corrected)} corrected for all comparisons (max-T)"
    text = (
        f"of {paired.n} items {paired.only_a} are right in a only, {paired.only_b} in b only; {p}"
    )
    if paired.n_needed is not None:
        text += f"; {detection_words(paired.n_needed)}"
    yield from _paragraph("", text)
    a, b = comparison.baseline, comparison.other
    groups = (a.items.groups if a.items else None) or ()
    for label, items in (("lost", right_only_in(a, b)), ("gained", right_only_in(b, a))):
        yield from _paragraph(label, items_text(items, groups))


def _notes(a: Summary, b: Summary) -> Iterator[str]:
    """Where the runs come from, and which settings differ."""
    for letter, summary in (("a", a), ("b", b)):
        if summary.same_as is not None:
            origin = f"{summary.same_as.experiment}/{summary.same_as.config}"
            yield from _paragraph(letter, f"decoded as {origin}, the same computation")
        if summary.git is not None and summary.git.dirty:
            yield from _paragraph(letter, "made with uncommitted changes in the project")
        if summary.git_unknown is not None:
            yield from _paragraph(letter, f"commit unknown: {summary.git_unknown}")
        if is_marked(summary.truncation_rate):
            text = f"truncated: {truncation_words(summary)}, which may be wrong for that alone"
            yield from _paragraph(letter, text)
        if is_tied(summary):
            text = f"ties: the order of equally likely options decided {tie_words(summary)}"
            yield from _paragraph(letter, text)
    for text in origin_sentences([a, b]):
        yield from _paragraph("origin", text)
    for text in notice_sentences([a, b]):
        yield from _paragraph("data", text)
    changes = [
        _change(key, a.decides.get(key), b.decides.get(key))
        for key in sorted(a.decides.keys() | b.decides.keys())
        if a.decides.get(key) != b.decides.get(key)
    ]
    yield from _paragraph("settings", ", ".join(changes))


def _change(key: str, old: object, new: object) -> str:
    name = key.removeprefix("decoding.").removeprefix("policy_parameters.")
    if any(isinstance(value, str) and len(value) >= DIGEST_LETTERS for value in (old, new)):
        return f"{name} changed"
    return f"{name} {_setting(old)} -> {_setting(new)}"


def _setting(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "none" if value is None else str(value)
