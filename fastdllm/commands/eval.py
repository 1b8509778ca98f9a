"""`fastdllm eval`: decode and score one run, from its spec.json, or a shard of it.

Resumable: after a kill, the same command continues after the last finished chunk. A run that has a
result for its settings is left as it is, unless --again is given or its spec is dated after the
result (the workflow asks for a repetition this way); then it is decoded again, and the old answers
are kept aside. SIGTERM and SIGUSR1 stop it with exit code 75: the same command resumes.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fastdllm.commands.options import add_threads_option

if TYPE_CHECKING:
    from fastdllm.runs.stopping import Stop


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("spec", type=Path, help="results/<experiment>/<task>/<config>/spec.json")
    parser.add_argument("--device", help="auto, cpu, cuda or cuda:N (default: the spec's)")
    add_threads_option(parser)
    parser.add_argument(
        "--shard", metavar="I/N", help="decode part I of N; the last one to end scores the run"
    )
    parser.add_argument(
        "--wait", action="store_true", help="wait while another process works on this run"
    )
    parser.add_argument(
        "--again", action="store_true", help="decode a finished run once more, from the start"
    )


def run(args: argparse.Namespace) -> int:
    """Evaluate until done, failed, or stopped by a signal."""
    from fastdllm.runs.stopping import until_stopped

    return until_stopped(partial(_evaluate, args))


def _evaluate(args: argparse.Namespace, stop: Stop) -> int:
    from fastdllm.common.console import open_display
    from fastdllm.machine.gpus import card_for
    from fastdllm.runs.decoder_code import imported_as_digested
    from fastdllm.runs.needs import check_needs, stamped_without_chunks
    from fastdllm.runs.shards import parse_shard
    from fastdllm.runs.spec import read_spec
    from fastdllm.tasks.lm_eval_setup import lm_eval_environment, runs_code
    from fastdllm.workflow.project.config_files import allows_code

    shard = parse_shard(args.shard) if args.shard else None
    spec = read_spec(args.spec)
    folder = args.spec.parent
    if shard is not None and stamped_without_chunks(spec, folder, shard, wait=args.wait):
        sys.stdout.write(f"{shard.words}: no chunks\n")
        return 0
    check_needs(spec, folder, shard, allows_code=allows_code, again=args.again)
    with (
        card_for(args.device or spec.run.device),
        lm_eval_environment(
            offline=True,
            allows_code=runs_code(spec.run.task) and allows_code(),
        ),
    ):
        # Nothing before this may import torch: it sees only the cards visible when it is imported.
        with imported_as_digested():
            from fastdllm.machine.threads import use_threads
            from fastdllm.model.loading import model_config
            from fastdllm.runs.evaluation import Evaluation
            from fastdllm.workflow.project.digests import FileDigests, check_sources

        config = model_config(spec.run.model_path, spec.run.model_revision)
        use_threads(args.threads, product=config.largest_product)
        evaluation = Evaluation(
            spec,
            folder,
            display=open_display(spec.label if shard is None else f"{spec.label} {shard}"),
            check_sources=partial(check_sources, digests=FileDigests.load()),
            device=args.device,
            stop=stop,
            allows_code=allows_code,
        )
        options = {"wait": args.wait, "again": args.again}
        if shard is None:
            lines = evaluation.evaluate(**options).lines(folder)
        else:
            lines = evaluation.evaluate_shard(shard, **options).lines(folder)
    sys.stdout.write("\n".join(lines) + "\n")
    return 0
