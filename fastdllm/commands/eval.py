"""`fastdllm eval`: decode and score one run, from its spec.json.

Resumable: typed again after a kill, it goes on where the last finished chunk ended. A run with a
result of its settings is left as it is, unless --again is given or its spec is dated after the
result (so the workflow asks for a repeat); then it is decoded anew, the old answers are kept aside.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("spec", type=Path, help="results/<experiment>/<task>/<config>/spec.json")
    parser.add_argument("--device", help="auto, cpu, cuda or cuda:N (default: the spec's)")
    parser.add_argument(
        "--threads", type=int, help="CPU threads (default, and most: what it may use)"
    )
    parser.add_argument(
        "--wait", action="store_true", help="wait while another process works on this run"
    )
    parser.add_argument(
        "--again", action="store_true", help="decode a finished run once more, from the start"
    )


def run(args: argparse.Namespace) -> int:
    from fastdllm.console import open_display
    from fastdllm.errors import UserError
    from fastdllm.evaluation.environment import data_is_local, prepare
    from fastdllm.evaluation.spec import read_spec
    from fastdllm.threads import use_allowed_threads

    if args.threads is not None and args.threads < 1:
        raise UserError(f"--threads {args.threads}: must be at least 1")
    spec = read_spec(args.spec)
    task_file = Path(spec.run.task_file)
    private_cache = data_is_local(spec.task, task_file.parent)
    with prepare(offline=True, private_cache=private_cache):
        from fastdllm.evaluation.job import evaluate_run
        from fastdllm.workflow.digests import FileDigests
        from fastdllm.workflow.sources import check_sources

        use_allowed_threads(args.threads)
        outcome = evaluate_run(
            spec,
            args.spec.parent,
            display=open_display(f"{spec.experiment}/{spec.task}/{spec.config}"),
            check_sources=partial(check_sources, digests=FileDigests.load()),
            device=args.device,
            wait=args.wait,
            again=args.again,
        )
    primary = outcome.summary.primary
    lines = [
        f"{primary.metric} {outcome.summary.accuracy:.4f} -> {args.spec.parent / 'summary.json'}"
    ]
    if not outcome.is_new:
        lines[0] += " (was done already; --again repeats it)"
    if outcome.answers_kept_aside:
        lines.append(f"earlier answers are kept in {outcome.answers_kept_aside}")
    if outcome.answers_taken_up:
        lines.append(f"answers that were kept in {outcome.answers_taken_up} were used again")
    if outcome.unused_answers:
        lines.append(f"warning: {outcome.unused_answers} answers belong to no item of the task")
    sys.stdout.write("\n".join(lines) + "\n")
    return 0
