"""`fastdllm status`: which runs are done, missing, stale, running or failed, and what to type next.

Reads files only: no torch, no Snakemake, nothing written. The grid is config by task, one block per
experiment; runs that need attention follow with their reason.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

from fastdllm.evaluation.results import disagreements
from fastdllm.workflow.artifacts import origin_of
from fastdllm.workflow.leaders import share_out
from fastdllm.workflow.preview import copies_in_words, counted
from fastdllm.workflow.runs import ARTIFACTS, LOGS, RESULTS, load_project
from fastdllm.workflow.selection import Selection
from fastdllm.workflow.status import RunStatus, State, inspect

STYLES = {
    State.DONE: "32",
    State.UNPUBLISHED: "36",
    State.RUNNING: "34",
    State.QUEUED: "36",
    State.FAILED: "31",
    State.INTERRUPTED: "35",
    State.STALE: "33",
    State.MISSING: "2",
}
# More reasons than fit on a screen help nobody; --json has them all.
MOST_REASONS = 30


def configure(parser: argparse.ArgumentParser) -> None:
    """Options: the words of Snakemake's `--config`, and --json."""
    for kind in ("experiment", "task", "config"):
        parser.add_argument(f"--{kind}", metavar="NAME[,NAME]", help=f"show only this {kind}")
    parser.add_argument("--limit", metavar="N", help="show the trial runs over the first N items")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Print the status of the selected runs."""
    options = {key: getattr(args, key) for key in ("experiment", "task", "config", "limit")}
    selection = Selection.from_options({k: v for k, v in options.items() if v is not None})
    project = load_project(selection)
    seen = {run.name: inspect(run) for run in project.all_runs}
    selected = [seen[run.name] for run in project.runs]
    statuses = share_out(selected, project, look=lambda run: seen[run.name])
    next_command = suggest(statuses, options)
    # A selected run may contradict one that is not.
    found = alarms(list(seen.values()))
    if args.json:
        text = json.dumps(as_record(statuses, next_command, found), indent=2) + "\n"
    else:
        text = as_text(statuses, next_command, found, color=sys.stdout.isatty())
    sys.stdout.write(text)
    return 0


def suggest(statuses: Sequence[RunStatus], options: dict[str, Any]) -> str:
    """The next command to type."""
    words = " ".join(f"{key}={value}" for key, value in options.items() if value is not None)
    counts = Counter(status.state for status in statuses)
    if counts[State.DONE] == len(statuses):
        return "fastdllm table"
    if counts[State.RUNNING] and counts[State.RUNNING] + counts[State.DONE] == len(statuses):
        return "fastdllm status"
    failed = [status for status in statuses if status.state is State.FAILED]
    if failed and counts[State.FAILED] + counts[State.DONE] == len(statuses):
        run = failed[0].run
        has_log = run.log_path.exists()
        return f"less {run.log_path}" if has_log else f"fastdllm eval {run.spec_path}"
    return "snakemake" + (f" --config {words}" if words else "")


def as_record(
    statuses: Sequence[RunStatus], next_command: str, found: Sequence[str]
) -> dict[str, Any]:
    """What --json prints; found: the alarms."""
    counts = Counter(status.state for status in statuses)
    return {
        "schema_version": 1,
        "totals": {"runs": len(statuses), **{str(state): counts[state] for state in State}},
        "to_make": dict(zip(("gpu_jobs", "copies"), to_make(statuses), strict=True)),
        "next_command": next_command,
        "alarms": list(found),
        "runs": [_run_record(status) for status in statuses],
    }


def to_make(statuses: Sequence[RunStatus]) -> tuple[int, int]:
    """How many runs are to be decoded, and how many to be made from another's result."""
    made = [status for status in statuses if status.is_to_be_made]
    copies = sum(status.leader is not None for status in made)
    return len(made) - copies, copies


def alarms(statuses: Sequence[RunStatus]) -> list[str]:
    """Results of the current settings that contradict each other."""
    return disagreements([status.record for status in statuses if status.record is not None])


def _run_record(status: RunStatus) -> dict[str, Any]:
    run = status.run
    record: dict[str, Any] = {
        "experiment": run.experiment,
        "task": run.task,
        "config": run.config,
        "limit": run.limit,
        "state": str(status.state),
        "folder": str(run.folder),
        "log": str(run.log_path),
        "fingerprint": run.fingerprint,
    }
    if status.reason:
        record["reason"] = status.reason
    if same_as := _same_as(status):
        record["same_as"] = same_as
    if status.changes:
        record["changes"] = [{"key": c.key, "old": c.old, "new": c.new} for c in status.changes]
    if status.progress is not None:
        record["progress"] = dict(status.progress)
    return record


def _same_as(status: RunStatus) -> str | None:
    """The run whose result this one is made from; None for one that is decoded."""
    if status.leader is not None and status.is_to_be_made:
        return status.leader.name
    return origin_of(status.record, status.run)


def as_text(
    statuses: Sequence[RunStatus], next_command: str, found: Sequence[str], *, color: bool
) -> str:
    """What a person sees: grids, reasons, alarms (`found`), totals, places, next command."""
    lines: list[str] = []
    for experiment in dict.fromkeys(status.run.experiment for status in statuses):
        own = [status for status in statuses if status.run.experiment == experiment]
        lines += [*_grid(experiment, own, color=color), ""]
    reasons = _reasons(statuses, color=color)
    if reasons:
        lines += [*reasons, ""]
    if found:
        lines += [*(_styled(alarm, State.FAILED, color=color) for alarm in found), ""]
    counts = Counter(status.state for status in statuses)
    parts = [_styled(f"{counts[s]} {s}", s, color=color) for s in State if counts[s]]
    copies = sum(origin_of(status.record, status.run) is not None for status in statuses)
    told = f" ({copies} the same computation as another)" if copies else ""
    lines += [
        f"{len(statuses)} runs: {', '.join(parts)}{told}",
        *_work(statuses),
        f"results: {RESULTS}/  logs: {LOGS}/eval/  published: {ARTIFACTS}/",
        f"next:    {next_command}",
    ]
    return "\n".join(lines) + "\n"


def _work(statuses: Sequence[RunStatus]) -> list[str]:
    jobs, copies = to_make(statuses)
    words = [counted(jobs, "GPU job")] + ([copies_in_words(copies)] if copies else [])
    return [f"to make: {', '.join(words)}"] if jobs or copies else []


def _grid(experiment: str, own: Sequence[RunStatus], *, color: bool) -> list[str]:
    tasks = list(dict.fromkeys(status.run.task_folder for status in own))
    states = {(s.run.config, s.run.task_folder): s.state for s in own}
    configs = list(dict.fromkeys(status.run.config for status in own))
    first = max(len(name) for name in [experiment, *configs])
    widths = [max(len(task), len(State.UNPUBLISHED)) for task in tasks]
    header = [task.ljust(width) for task, width in zip(tasks, widths, strict=True)]
    lines = [f"{experiment.ljust(first)}  {'  '.join(header)}".rstrip()]
    for config in configs:
        cells = []
        for task, width in zip(tasks, widths, strict=True):
            state = states.get((config, task))
            # Padding before colour: the escape codes must not count as width.
            text = (state or "-").ljust(width)
            cells.append(_styled(text, state, color=color) if state else text)
        lines.append(f"{config.ljust(first)}  {'  '.join(cells)}".rstrip())
    return lines


def _reasons(statuses: Sequence[RunStatus], *, color: bool) -> list[str]:
    """One line per reason; runs that share it (a changed threshold) are counted, not repeated."""
    grouped: dict[tuple[State, str, str], list[RunStatus]] = {}
    for status in statuses:
        has_reason = status.why or status.title != status.state
        if has_reason and status.state is not State.UNPUBLISHED:
            grouped.setdefault((status.state, status.title, status.why), []).append(status)
    lines = []
    for (state, title, why), group in list(grouped.items())[:MOST_REASONS]:
        more = f" and {len(group) - 1} more" if len(group) > 1 else ""
        reason = f": {why}" if why else ""
        lines.append(f"{_styled(title, state, color=color)}  {group[0].run.name}{more}{reason}")
    if len(grouped) > MOST_REASONS:
        lines.append(f"... and {len(grouped) - MOST_REASONS} more reasons (--json has all)")
    return lines


def _styled(text: str, state: State, *, color: bool) -> str:
    return f"\033[{STYLES[state]}m{text}\033[0m" if color else text
