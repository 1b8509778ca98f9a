"""What the Snakefile calls: load, reconcile, tell what is going to happen.

The main Snakemake process reconciles; the processes of single jobs, which read the Snakefile again,
get an empty project and touch nothing. A user's mistake ends Snakemake with one line and code 2.
"""

from __future__ import annotations

import atexit
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastdllm.errors import USER_ERROR_EXIT_CODE, UserError
from fastdllm.workflow.locks import held_outputs
from fastdllm.workflow.preview import is_planned, preview
from fastdllm.workflow.reconcile import reconcile
from fastdllm.workflow.runs import Run, load_project
from fastdllm.workflow.selection import Selection
from fastdllm.workflow.status import State
from fastdllm.workflow.targets import Request, check_targets


@dataclass(frozen=True, slots=True)
class Call:
    """One Snakemake call: its runs, and the summaries that it is going to make.

    A run that somebody else is making right now is not among them. planned is None in the process
    of a single job, which makes whatever it was told to make.
    """

    runs: tuple[Run, ...] = ()
    planned: frozenset[str] | None = frozenset()

    def is_planned(self, summary: str) -> bool:
        """Whether a summary is going to be made, and so needs the plan of its task."""
        return self.planned is None or summary in self.planned


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
    planned = (str(status.run.summary_path) for status in free if is_planned(status, request))
    return Call(runs=tuple(status.run for status in free), planned=frozenset(planned))


def _request() -> Request:
    # Started through Snakemake's Python interface there is no command line to read.
    if Path(sys.argv[0]).name not in ("snakemake", "__main__.py"):
        return Request()
    return Request.from_command_line(sys.argv[1:])
