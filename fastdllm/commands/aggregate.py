"""`fastdllm aggregate`: publish finished summaries into artifacts/ and write the tables.

Always covers all enabled experiments and tasks, so that a table never shows only the last
selection. Limited and stale runs are left out.
"""

from __future__ import annotations

import argparse
import sys


def configure(parser: argparse.ArgumentParser) -> None:
    """Takes no options: what is published follows from workflow_config.yaml."""


def run(_args: argparse.Namespace) -> int:
    """Publish, write the tables, say what changed."""
    from fastdllm.evaluation.summary import read_summary
    from fastdllm.report.tables import write_tables
    from fastdllm.workflow.artifacts import left_over, publish, published
    from fastdllm.workflow.runs import ARTIFACTS, load_project

    runs = load_project().runs
    changed = publish(runs)
    current = published(runs)
    lines = [f"published {len(changed)} of {len(runs)} runs; {len(runs) - len(changed)} unchanged"]
    if len(current) < len(runs):
        lines[0] = (
            f"published {len(changed)} runs; {len(current)} of {len(runs)} are in artifacts/, the "
            "others have no valid result yet (`fastdllm status`)"
        )
    tables = write_tables([read_summary(run.artifact_path) for run in current], ARTIFACTS)
    lines += [f"wrote {path}" for path in tables]
    lines += [f"{path.parent}: belongs to no enabled run" for path in left_over(runs)]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0
