"""`fastdllm pack`: decode and score several runs in one process, loading the model once.

The workflow's rule `pack` runs it. Each run has its own log, as with `fastdllm eval`; report.json
beside the members records the outcome of each. A run that fails does not stop the others, unless it
breaks the GPU: then the pack fails without a report, and another job resumes it.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fastdllm.commands.options import add_threads_option, print_now

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastdllm.runs.spec import RunSpec
    from fastdllm.runs.stopping import Stop


FAILED_EXIT_CODE = 1


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("members", type=Path, help="results/_packs/<id>/members.json")
    parser.add_argument("--device", help="auto, cpu, cuda or cuda:N (default: each spec's)")
    add_threads_option(parser)


def run(args: argparse.Namespace) -> int:
    """Evaluate all runs, or until stopped by a signal."""
    from fastdllm.runs.stopping import until_stopped

    return until_stopped(partial(_evaluate, args))


def _evaluate(args: argparse.Namespace, stop: Stop) -> int:
    from fastdllm.machine.gpus import card_for
    from fastdllm.runs.decoder_code import imported_as_digested
    from fastdllm.runs.needs import check_needs
    from fastdllm.runs.packs import (
        REPORT,
        BrokenDevice,
        evaluate_pack,
        in_order,
        read_members,
        write_report,
    )
    from fastdllm.tasks.lm_eval_setup import lm_eval_environment, runs_code
    from fastdllm.workflow.project.config_files import allows_code

    specs = in_order(read_members(args.members))
    with (
        card_for(args.device or _device_of(specs)),
        lm_eval_environment(
            offline=True,
            allows_code=any(runs_code(s.run.task) for s in _readable(specs)) and allows_code(),
        ),
    ):
        with imported_as_digested():
            from fastdllm.common.console import open_display
            from fastdllm.machine.threads import use_threads
            from fastdllm.model.loading import model_config
            from fastdllm.runs.evaluation import Evaluation
            from fastdllm.runs.loaded_model import KeptModel
            from fastdllm.workflow.project.digests import FileDigests, check_sources

        models, digests = KeptModel(), FileDigests.load()

        def evaluate(spec: RunSpec, folder: Path) -> Sequence[str]:
            check_needs(spec, folder, allows_code=allows_code)
            config = model_config(spec.run.model_path, spec.run.model_revision)
            use_threads(args.threads, product=config.largest_product)
            evaluation = Evaluation(
                spec,
                folder,
                display=open_display(spec.label),
                check_sources=partial(check_sources, digests=digests),
                device=args.device,
                stop=stop,
                models=models,
                pack=args.members.parent.name,
                allows_code=allows_code,
            )
            return evaluation.evaluate().lines(folder)

        try:
            members = evaluate_pack(
                specs, evaluate, stop=stop, say=print_now, forget_model=models.drop
            )
        except BrokenDevice as broken:
            sys.stderr.write(
                f"fastdllm: {broken}; this process can no longer use the GPU: the same "
                "command resumes, with the failed run last\n"
            )
            return FAILED_EXIT_CODE
    write_report(args.members.with_name(REPORT), members)
    return 0


def _device_of(specs: Sequence[Path]) -> str:
    """The device of the runs, which they share."""
    devices = {spec.run.device for spec in _readable(specs)}
    return devices.pop() if len(devices) == 1 else "auto"


def _readable(specs: Sequence[Path]) -> list[RunSpec]:
    """The specs that can be read; the others fail when it is their turn."""
    from fastdllm.common.errors import UserError
    from fastdllm.runs.spec import read_spec

    readable = []
    for path in specs:
        try:
            readable.append(read_spec(path))
        except UserError:
            continue
    return readable
