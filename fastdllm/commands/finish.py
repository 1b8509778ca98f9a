"""`fastdllm finish`: make the result of a run that was decoded in shards or in a pack.

Decodes nothing. Usually the last shard, or the pack, has done it already; then this only reports
the result and dates summary.json after the files that the workflow compares it with.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastdllm.runs.spec import RunSpec


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("spec", type=Path, help="results/<experiment>/<task>/<config>/spec.json")


def run(args: argparse.Namespace) -> int:
    """Finish a run, or report what it lacks."""
    from fastdllm.runs.answers import mark_as_scored
    from fastdllm.runs.lock import FINISHING, run_lock
    from fastdllm.runs.result import result_dated_after
    from fastdllm.runs.spec import read_spec

    spec = read_spec(args.spec)
    folder = args.spec.parent
    with run_lock(folder, work=FINISHING):
        summary = result_dated_after(args.spec, spec)
        if summary is not None:
            mark_as_scored(folder / "answers.jsonl", summary)
            value = f"{summary.primary.metric} {summary.accuracy:.4f}"
            sys.stdout.write(f"{value} -> {folder / 'summary.json'} (already done)\n")
            return 0
        lines = _finish(spec, folder)
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def _finish(spec: RunSpec, folder: Path) -> list[str]:
    from fastdllm.common.console import open_display
    from fastdllm.tasks.lm_eval_setup import lm_eval_environment, runs_code
    from fastdllm.workflow.project.config_files import allows_code

    with lm_eval_environment(
        offline=True,
        allows_code=runs_code(spec.run.task) and allows_code(),
    ):
        from fastdllm.runs.evaluation import Evaluation
        from fastdllm.workflow.project.digests import FileDigests, check_sources

        evaluation = Evaluation(
            spec,
            folder,
            display=open_display(spec.label),
            check_sources=partial(check_sources, digests=FileDigests.load()),
            allows_code=allows_code,
        )
        return evaluation.finish().lines(folder)
