"""`fastdllm speed`: show the ratios of speeds that were measured in turn, or measure a sitting.

Without arguments: a table per experiment and task, from results/ or else artifacts/. With a spec:
what the workflow's rules run. `snakemake speed` measures what is missing.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fastdllm.common.errors import UserError

if TYPE_CHECKING:
    from fastdllm.runs.stopping import Stop


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "spec", type=Path, nargs="?", help="results/<experiment>/<task>/_speed/spec.json"
    )
    parser.add_argument("--sitting", type=int, metavar="N", help="measure sitting N of the spec")
    parser.add_argument(
        "--combine", action="store_true", help="write speed.json from all sittings of the spec"
    )
    parser.add_argument("--device", help="auto, cpu, cuda or cuda:N (default: the spec's)")


def run(args: argparse.Namespace) -> int:
    """Show, measure or combine."""
    if args.spec is None:
        if args.sitting is not None or args.combine:
            raise UserError("--sitting and --combine need a spec (snakemake speed runs both)")
        return _show()
    if (args.sitting is not None) == args.combine:
        raise UserError(f"{args.spec}: give either --sitting N or --combine")
    if args.combine:
        return _combine(args.spec)
    from fastdllm.runs.stopping import until_stopped

    return until_stopped(partial(_measure, args))


def _show() -> int:
    from fastdllm.records.speed_record import read_speed
    from fastdllm.statistics.speed_text import speed_table
    from fastdllm.workflow.project.runs import load_project
    from fastdllm.workflow.project.speeds import speed_measurements
    from fastdllm.workflow.speed_states import speed_status

    measurements = speed_measurements(load_project(), is_asked=True)
    if not measurements:
        raise UserError(
            "no enabled experiment has `speed:` in its experiment.yaml; docs/speed.md shows "
            "what to write there"
        )
    parts = []
    for measurement in measurements:
        status = speed_status(measurement)
        if status.is_to_be_made:
            parts.append(f"{status.line}; measure it: snakemake --profile profiles/local speed\n")
            continue
        path = measurement.record_path if not status.is_only_published else None
        parts.append(speed_table(read_speed(path or measurement.artifact_path)))
    sys.stdout.write("\n".join(parts))
    return 0


def _combine(path: Path) -> int:
    from fastdllm.speed.combining import combine
    from fastdllm.speed.speed_spec import read_speed_spec
    from fastdllm.statistics.speed_text import speed_table

    sys.stdout.write(speed_table(combine(read_speed_spec(path), path.parent)))
    return 0


def _measure(args: argparse.Namespace, stop: Stop) -> int:
    from fastdllm.common.console import open_display
    from fastdllm.machine.gpus import card_for
    from fastdllm.runs.decoder_code import imported_as_digested
    from fastdllm.speed.speed_spec import read_speed_spec

    spec = read_speed_spec(args.spec)
    if not 1 <= args.sitting <= spec.sittings:
        raise UserError(f"--sitting {args.sitting}: {args.spec} has sittings 1 to {spec.sittings}")
    one = spec.runs[spec.baseline].run
    with card_for(args.device or one.device):
        # Nothing before this may import torch: it sees only the cards visible when it is imported.
        with imported_as_digested():
            from fastdllm.machine.process import git_state
            from fastdllm.machine.threads import use_threads
            from fastdllm.model.loading import model_config
            from fastdllm.speed.sitting import SittingRun
            from fastdllm.workflow.project.digests import FileDigests, check_sources

        use_threads(product=model_config(one.model_path, one.model_revision).largest_product)
        sitting = SittingRun(
            spec,
            args.spec.parent,
            args.sitting,
            display=open_display(f"{spec.label} sitting {args.sitting}"),
            check_sources=partial(check_sources, digests=FileDigests.load()),
            git=git_state(),
            device=args.device,
            stop=stop,
        ).measure()
    rounds = ", ".join(f"{b.rounds} rounds at batch {b.batch_size}" for b in sitting.batches)
    sys.stdout.write(f"sitting {sitting.number} of {spec.sittings}: {rounds}\n")
    return 0
