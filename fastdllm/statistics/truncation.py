"""Runs of which many answers ended at their budget (max_gen_toks), not at a stop token.

Such an answer lacks its end, so the accuracy of such a run says as much about the budget as about
the model. Imports no pydantic, as `fastdllm status` marks these runs too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastdllm.records.summary import Summary

# A run is marked if a larger share of its answers was truncated.
MOST_TRUNCATED = 0.02
MOST_IN_WORDS = f"more than {100 * MOST_TRUNCATED:g} % of the answers truncated at their budget"


def is_marked(rate: float | None) -> bool:
    """Whether a run's share of truncated answers is too large; None: it generated none."""
    return rate is not None and rate > MOST_TRUNCATED


def truncated_answers(summary: Summary) -> int | None:
    """Answers truncated at their budget; None for a run that generated none."""
    rate = summary.truncation_rate
    return None if rate is None else round(rate * summary.n_answers)


def truncation_words(summary: Summary) -> str:
    """Such as `12 of 128 answers at max_gen_toks 96`; older summaries lack the budget."""
    budget = summary.eval_params.get("max_gen_toks")
    words = f"{truncated_answers(summary)} of {summary.n_answers} answers"
    return words if budget is None else f"{words} at max_gen_toks {budget}"


def truncation_sentences(summaries: Sequence[Summary]) -> list[str]:
    """Say how many of the runs of a task are marked, and what that means; empty if none is."""
    marked = [summary for summary in summaries if is_marked(summary.truncation_rate)]
    if not marked:
        return []
    most = max(marked, key=lambda summary: summary.truncation_rate or 0.0)
    return [
        f"{len(marked)} of {len(summaries)} runs with {MOST_IN_WORDS}, most in `{most.config}` "
        f"({truncation_words(most)}): these answers lack their end, and may be wrong for that "
        "alone; a larger max_gen_toks in the file of the task shows whether they are."
    ]
