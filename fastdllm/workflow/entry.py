"""What the Snakefile calls: load, reconcile, tell what is going to happen.

The main Snakemake process reconciles; the processes of single jobs, which read the Snakefile again,
get an empty project and touch nothing. A user's mistake ends Snakemake with one line and code 2.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastdllm.errors import USER_ERROR_EXIT_CODE, UserError
from fastdllm.workflow.preview import preview
from fastdllm.workflow.reconcile import reconcile
from fastdllm.workflow.runs import Run, load_project
from fastdllm.workflow.selection import Selection
from fastdllm.workflow.targets import Request, check_targets


def selected_runs(
    options: Mapping[str, Any], *, is_main_process: bool, is_dry_run: bool
) -> list[Run]:
    """The runs of this Snakemake call, reconciled; empty in the process of a single job.

    Args:
        options: the words of `--config`.
    """
    if not is_main_process:
        return []
    try:
        request = _request()
        if request.is_training_only:
            return []
        project = load_project(Selection.from_options(options))
        check_targets(request, project)
        statuses = reconcile(project)
    except UserError as error:
        sys.stderr.write(f"fastdllm: {error}\n")
        sys.exit(USER_ERROR_EXIT_CODE)
    sys.stderr.write(preview(statuses, request, is_dry_run=is_dry_run))
    return list(project.runs)


def _request() -> Request:
    # Started through Snakemake's Python interface there is no command line to read.
    if Path(sys.argv[0]).name not in ("snakemake", "__main__.py"):
        return Request()
    return Request.from_command_line(sys.argv[1:])
