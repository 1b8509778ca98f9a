"""`fastdllm aggregate`: publish finished summaries into artifacts/ and write the tables.

All enabled experiments and tasks are covered, so that no table shows only the last selection.
Limited and stale runs are left out.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from fastdllm.common.errors import UserError
from fastdllm.common.garbage import no_search_for_garbage

if TYPE_CHECKING:
    from fastdllm.workflow.project.artifacts import StoredSummary
    from fastdllm.workflow.project.runs import Run


def configure(parser: argparse.ArgumentParser) -> None:
    """Add no options: what is published follows from workflow_config.yaml."""


@no_search_for_garbage()
def run(_args: argparse.Namespace) -> int:
    """Publish, write the tables, and print what changed."""
    from fastdllm.common.paths import ARTIFACTS
    from fastdllm.report.text_tables import write_tables
    from fastdllm.workflow.claim_results import published_results, withheld, write_claims
    from fastdllm.workflow.project.artifacts import SummaryReader, left_over, publish, published
    from fastdllm.workflow.project.runs import load_project
    from fastdllm.workflow.project.speeds import speed_measurements
    from fastdllm.workflow.speed_states import publish_speeds

    project, read = load_project(), SummaryReader()
    runs = project.runs
    problems = [_problem(run, read(run.summary_path)) for run in runs]
    changed = publish([run for run, bad in zip(runs, problems, strict=True) if bad is None], read)
    speeds = publish_speeds(speed_measurements(project, gpu=project.config.cluster.gpu))
    current = published(runs, read)
    lines = [f"published {len(changed)} of {len(runs)} runs; {len(runs) - len(changed)} unchanged"]
    if len(current) < len(runs):
        lines[0] = (
            f"published {len(changed)} runs; {len(current)} of {len(runs)} are in artifacts/, the "
            "others have no valid result yet (`fastdllm status`)"
        )
    summaries = [read(run.artifact_path).summary for run in current]
    done = published_results(project, read)
    waiting = withheld(project, done)
    tables = write_tables(list(project.experiments), summaries, ARTIFACTS, withheld=waiting)
    lines += [f"{task}: {line}" for task, line in waiting.items()]
    lines += [f"wrote {path}" for path in write_claims(project, done)]
    lines += [f"published {speed.artifact_path}" for speed in speeds]
    lines += [f"not published: {problem}" for problem in problems if problem is not None]
    lines += [f"wrote {path}" for path in tables]
    lines += [f"{path.parent}: belongs to no enabled run" for path in left_over(runs)]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def _problem(run: Run, stored: StoredSummary) -> str | None:
    """Return why a run's current summary cannot be read, and so not published; None if it can."""
    try:
        if stored.belongs_to(run):
            _ = stored.summary
    except UserError as error:
        return str(error)
    return None
