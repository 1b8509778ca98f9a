"""What the Snakefile calls: load, reconcile, tell what is going to happen.

The main Snakemake process reconciles; the processes of single jobs, which read the Snakefile again,
get an empty project and touch nothing. A user's mistake ends Snakemake with one line and code 2.
"""

from __future__ import annotations

import atexit
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastdllm.errors import USER_ERROR_EXIT_CODE, UserError
from fastdllm.workflow.locks import held_outputs
from fastdllm.workflow.preview import preview
from fastdllm.workflow.reconcile import reconcile
from fastdllm.workflow.runs import RESULTS, Run, load_project
from fastdllm.workflow.selection import Selection
from fastdllm.workflow.status import State
from fastdllm.workflow.targets import Request, check_targets

# A regular expression that nothing matches.
NEVER = "(?!)"


@dataclass(frozen=True, slots=True)
class Call:
    """One Snakemake call: its runs, and the summaries that it is going to make.

    A run that somebody else is making right now is not among them. planned is None in the process
    of a single job, which makes whatever it was told to make. leaders: for the summary of each run
    that is made from another's, the folder of that one.
    """

    runs: tuple[Run, ...] = ()
    planned: frozenset[str] | None = frozenset()
    leaders: Mapping[str, Path] = field(default_factory=dict)

    def is_planned(self, summary: str) -> bool:
        """Whether a summary is going to be made, and so needs the plan of its task."""
        return self.planned is None or summary in self.planned

    def leader(self, summary: str) -> str:
        """The folder of the run that a summary is made from."""
        return str(self.leaders[summary])

    def awaited(self, summary: str) -> list[str]:
        """The leader's summary, where it has to be made first."""
        leader = str(self.leaders[summary] / "summary.json")
        return [leader] if self.planned and {leader, summary} <= self.planned else []

    def copies_pattern(self) -> str:
        """A regular expression of the runs (experiment/task/config) that are made from another."""
        folders = sorted(Path(summary).parent.relative_to(RESULTS) for summary in self.leaders)
        by_task: dict[Path, list[str]] = {}
        for folder in folders:
            by_task.setdefault(folder.parent, []).append(re.escape(folder.name))
        parts = [
            f"{re.escape(str(task))}/(?:{'|'.join(configs)})" for task, configs in by_task.items()
        ]
        return "|".join(parts) or NEVER


def open_call(options: Mapping[str, Any], *, is_main_process: bool, is_dry_run: bool) -> Call:
    """Select and reconcile the runs of this Snakemake call.

    Args:
        options: the words of `--config`.
    """
    if not is_main_process:
        return Call(planned=None)
    try:
        request = _request()
        if request.is_training_only:
            return Call()
        selection = Selection.from_options(options)
        project = load_project(selection)
        check_targets(request, project)
        statuses = reconcile(
            project,
            restore=selection.restore,
            is_repeated=request.forces,
            is_wanted=request.wants,
            held=held_outputs(),
            is_dry_run=is_dry_run,
        )
    except UserError as error:
        sys.stderr.write(f"fastdllm: {error}\n")
        sys.exit(USER_ERROR_EXIT_CODE)
    text = preview(statuses, request, is_dry_run=is_dry_run)
    if is_dry_run:
        # Snakemake lists every job; what people want to read comes after that.
        atexit.register(sys.stderr.write, text)
    else:
        sys.stderr.write(text)
    free = [status for status in statuses if status.state is not State.RUNNING]
    return Call(
        runs=tuple(status.run for status in free),
        planned=frozenset(str(s.run.summary_path) for s in free if s.is_to_be_made),
        leaders={str(s.run.summary_path): s.leader.folder for s in free if s.leader is not None},
    )


def _request() -> Request:
    # Started through Snakemake's Python interface there is no command line to read.
    if Path(sys.argv[0]).name not in ("snakemake", "__main__.py"):
        return Request()
    return Request.from_command_line(sys.argv[1:])
