"""The text printed before a Snakemake call starts: what it is going to do with the runs.

A dry run lists every run that would be made, and why; a real call prints only their number.
Snakemake itself prints counts and file dates, which do not show what changed (snakemake_log.py
leaves them out of a dry run).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

from fastdllm.common.console import counted
from fastdllm.workflow.reconcile import EARLIER_SETTINGS
from fastdllm.workflow.splitting import JobSplit
from fastdllm.workflow.status.run_status import RunStatus, State
from fastdllm.workflow.targets import Targets

MOST_LINES = 40


def made_by(statuses: Sequence[RunStatus], targets: Targets) -> list[RunStatus]:
    """Return the runs that a call makes: its targets, and the leaders that they need."""
    wanted = [status for status in statuses if targets.wants(status.run)]
    needed = {s.leader.name for s in wanted if s.leader is not None and s.is_to_be_made}
    return [
        status
        for status in statuses
        if status.is_to_be_made and (targets.wants(status.run) or status.run.name in needed)
    ]


def preview(
    statuses: Sequence[RunStatus],
    made: Sequence[RunStatus],
    targets: Targets,
    split: JobSplit,
    left_out: Collection[str],
    *,
    is_dry_run: bool,
) -> str:
    """Return the text: one line of counts, and in a dry run the table of runs.

    Args:
        made: the runs that this call makes (`made_by`).
        left_out: names of the runs that another process is making.
    """
    wanted = [status for status in statuses if targets.wants(status.run)]
    if not wanted:
        return ""
    decoded = [status for status in made if status.leader is None]
    submitted = [status for status in decoded if not status.is_adopted]
    jobs = split.jobs(status.run for status in submitted)
    counts = Counter(_word(status) for status in submitted)
    details = ", ".join(f"{count} {word}" for word, count in sorted(counts.items()))
    line = f"fastdllm: {counted(len(wanted), 'target')}, {counted(jobs, 'GPU job')}"
    line += f" ({details})" if details else ""
    line += f" for {counted(len(submitted), 'run')}" if jobs != len(submitted) else ""
    adopted = len(decoded) - len(submitted)
    copies = len(made) - len(decoded)
    unpublished = sum(status.state is State.UNPUBLISHED for status in wanted)
    running = sum(status.run.name in left_out for status in wanted)
    line += f", {counted(adopted, 'run')} in the queue already" if adopted else ""
    line += f", {copies_in_words(copies)}" if copies else ""
    line += f", {unpublished} to publish" if unpublished else ""
    line += f", {running} left out: another process is making them" if running else ""
    outdated = [s for s in wanted if EARLIER_SETTINGS in s.reason]
    notes = [f"fastdllm: {s.run.name}: {s.reason}" for s in outdated[:MOST_LINES]]
    return "\n".join([line, *notes, *(_table(made) if is_dry_run else [])]) + "\n"


def copies_in_words(number: int) -> str:
    """Return how many runs are copied from another's result."""
    return f"{number} the same as another"


def _table(made: Sequence[RunStatus]) -> list[str]:
    rows = [
        (status.run.experiment, status.run.task_folder, status.run.config, _reason(status))
        for status in made[:MOST_LINES]
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
    if len(made) > MOST_LINES:
        lines.append(f"  ... and {len(made) - MOST_LINES} more; `fastdllm status` lists them")
    return lines


def _is_forced(status: RunStatus) -> bool:
    return status.state.has_result and status.is_repeated


def _word(status: RunStatus) -> str:
    return "forced" if _is_forced(status) else str(status.state)


def _reason(status: RunStatus) -> str:
    same = f"same as {status.leader.name}" if status.leader is not None else ""
    if _is_forced(status):
        return same or "forced"
    if status.why == same and status.state is State.MISSING:
        return same or "missing"
    return f"{status.title}: {status.why}" if status.why else status.title
