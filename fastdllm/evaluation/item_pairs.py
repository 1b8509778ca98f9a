"""Two runs item by item: which items flipped, and what follows from their numbers.

Needs nothing but summaries. Formulas: paired.py, docs/statistics.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from fastdllm.evaluation import bits
from fastdllm.evaluation.paired import difference_interval, items_needed, mcnemar_p
from fastdllm.evaluation.stats import clustered_stderr
from fastdllm.evaluation.summary import Summary


@dataclass(frozen=True, slots=True)
class Paired:
    """Two runs on the same items; b against the baseline a.

    difference: b - a, like its 95 % interval in -1..1. p_value: exact McNemar. p_holm: the same,
    corrected for the comparisons made with it. clustered_stderr: of the difference, where the task
    has groups. n_needed: items that show the observed difference (80 % power at 5 %).
    """

    n: int
    both_right: int
    only_a: int
    only_b: int
    both_wrong: int
    difference: float
    interval: tuple[float, float]
    p_value: float
    p_holm: float | None = None
    clustered_stderr: float | None = None
    n_needed: int | None = None

    @property
    def deciding_p(self) -> float:
        """The corrected p where there is one."""
        return self.p_value if self.p_holm is None else self.p_holm


def why_not_paired(a: Summary, b: Summary) -> str | None:
    """Why items cannot be set against each other one by one; None when they can."""
    for what, one, two in (
        ("tasks", a.task, b.task),
        ("limits", a.eval_params.get("limit"), b.eval_params.get("limit")),
        ("versions of the task", a.decides.get("task_digest"), b.decides.get("task_digest")),
        ("metrics", (a.primary.metric, a.primary.filter), (b.primary.metric, b.primary.filter)),
    ):
        if one != two:
            shown = "" if what.startswith("versions") else f": {_shown(one)} and {_shown(two)}"
            return f"other {what}{shown}"
    if a.primary.higher_is_better is False:
        return f"less is better in {a.primary.metric}, which is no right or wrong"
    if a.items is None or b.items is None:
        return "the summaries do not tell which items are right"
    return None if a.items.n == b.items.n else f"{a.items.n} and {b.items.n} items"


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return "none" if value is None else str(value)


def pair_items(a: Summary, b: Summary) -> Paired:
    """Set the items of two runs against each other; only where nothing speaks against it."""
    assert a.items is not None and b.items is not None
    n = a.items.n
    right_a, right_b = (bits.as_number(n, items.correct_bits) for items in (a.items, b.items))
    both, only_a, only_b = right_a & right_b, right_a & ~right_b, right_b & ~right_a
    counts = only_a.bit_count(), only_b.bit_count()
    return Paired(
        n=n,
        both_right=both.bit_count(),
        only_a=counts[0],
        only_b=counts[1],
        both_wrong=n - both.bit_count() - sum(counts),
        difference=(counts[1] - counts[0]) / n,
        interval=difference_interval(n, *counts),
        p_value=mcnemar_p(*counts),
        clustered_stderr=_clustered(a, only_a, only_b),
        n_needed=items_needed(n, *counts),
    )


def _clustered(summary: Summary, only_a: int, only_b: int) -> float | None:
    if summary.items is None or summary.items.groups is None:
        return None
    sizes = [group.n for group in summary.items.groups]
    parts = zip(bits.in_groups(only_a, sizes), bits.in_groups(only_b, sizes), sizes, strict=True)
    return clustered_stderr([(gained - lost, size) for lost, gained, size in parts])


def accuracy_clustered_stderr(summary: Summary) -> float | None:
    """Clustered standard error of the share of right items; None for a task without groups."""
    if summary.items is None:
        return None
    return _clustered(summary, 0, bits.as_number(summary.items.n, summary.items.correct_bits))
