"""What planning and loading named about the runs of a task, and did not refuse."""

from __future__ import annotations

from collections.abc import Sequence

from fastdllm.records.summary import Summary

# A sentence names this many files, and counts the others.
MOST_FILES = 3


def notice_sentences(summaries: Sequence[Summary]) -> list[str]:
    """Say what is odd about the items or the model of runs, each once; empty if nothing is."""
    lines: dict[str, None] = {}
    for summary in summaries:
        lines |= dict.fromkeys(summary.notices or ())
        if left := summary.weights_left_alone:
            more = f" and {len(left) - MOST_FILES} more" if len(left) > MOST_FILES else ""
            files = f"{', '.join(left[:MOST_FILES])}{more}"
            lines[f"files beside the weights that were not read: {files}"] = None
    return [f"Named, not refused: {line}." for line in lines]
