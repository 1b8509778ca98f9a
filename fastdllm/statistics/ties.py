"""Runs of which the order of equally likely options decided many items.

Of equal options lm-eval takes the first, so the accuracy of such a run says as much about where the
right ones stand as about the model.
"""

from __future__ import annotations

from collections.abc import Sequence

from fastdllm.records.summary import Summary

# A run is marked if a larger share of its items was decided so.
MOST_TIED = 0.02


def is_tied(summary: Summary) -> bool:
    """Whether ties decided too many of a run's items."""
    return (summary.tied_items or 0) > MOST_TIED * summary.primary.n


def tie_words(summary: Summary) -> str:
    """Such as `16 of 400 items`."""
    return f"{summary.tied_items} of {summary.primary.n} items"


def tie_sentences(summaries: Sequence[Summary]) -> list[str]:
    """Say how many of the runs of a task are marked, and what that means; empty if none is."""
    marked = [summary for summary in summaries if is_tied(summary)]
    if not marked:
        return []
    most = max(marked, key=lambda summary: summary.tied_items or 0)
    is_published = most.eval_params.get("likelihood_mode") == "published"
    return [
        f"{len(marked)} of {len(summaries)} runs with more than {100 * MOST_TIED:g} % of the items "
        f"decided by the order of equally likely options, most in `{most.config}` "
        f"({tie_words(most)}): the first option counts as chosen"
        + ("; likelihood_mode: chain tells longer options apart." if is_published else ".")
    ]
