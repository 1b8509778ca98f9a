"""What a Snakemake call is going to do with the runs, told before it starts.

A dry run lists every run that would run, and why; a real one says only how many. Snakemake itself
tells counts and file dates, which do not say what changed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from fastdllm.workflow.status import RunStatus, State
from fastdllm.workflow.targets import Request

MOST_LINES = 40


def is_planned(status: RunStatus, request: Request) -> bool:
    """Whether the run would be made, if it is among the targets."""
    if status.state is State.RUNNING:
        return False
    return request.forces(status.run) or not status.state.has_result


def preview(statuses: Sequence[RunStatus], request: Request, *, is_dry_run: bool) -> str:
    """The text to print: one line of counts, and in a dry run the table of runs."""
    wanted = [status for status in statuses if request.wants(status.run)]
    if not wanted:
        return ""
    planned = [status for status in wanted if is_planned(status, request)]
    unpublished = sum(status.state is State.UNPUBLISHED for status in wanted)
    running = sum(status.state is State.RUNNING for status in wanted)
    counts = Counter(_word(status, request) for status in planned)
    details = ", ".join(f"{count} {word}" for word, count in sorted(counts.items()))
    line = f"fastdllm: {len(wanted)} runs selected, {len(planned)} to run"
    line += f" ({details})" if details else ""
    line += f", {unpublished} to publish" if unpublished else ""
    line += f", {running} left out: another process is making them" if running else ""
    return "\n".join([line, *(_table(planned, request) if is_dry_run else [])]) + "\n"


def _table(planned: Sequence[RunStatus], request: Request) -> list[str]:
    rows = [
        (status.run.experiment, status.run.task_folder, status.run.config, _reason(status, request))
        for status in planned[:MOST_LINES]
    ]
    if not rows:
        return []
    rows.insert(0, ("experiment", "task", "config", "why it runs"))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [
        "  "
        + "  ".join(
            [*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]
        )
        for row in rows
    ]
    if len(planned) > MOST_LINES:
        lines.append(f"  ... and {len(planned) - MOST_LINES} more; `fastdllm status` lists them")
    return lines


def _word(status: RunStatus, request: Request) -> str:
    return "forced" if status.state.has_result and request.forces(status.run) else status.state


def _reason(status: RunStatus, request: Request) -> str:
    word, why = _word(status, request), status.why
    return f"{word}: {why}" if why and word != "forced" else word
