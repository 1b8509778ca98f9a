"""`fastdllm compare A B`: whether run B differs from run A in accuracy and speed, in words.

A run is named experiment/task/config, with the task's folder for a limited one
(00_baseline/word_problems_limit_20/k1_first), or by the path of its summary.json. The result of the
current settings is compared, from results/ or else from artifacts/. Several runs may follow the
baseline; then the p-values are corrected for how many there are.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastdllm.records.speed_record import SpeedRecord
    from fastdllm.records.summary import Summary

FORM = "experiment/task/config"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "baseline", metavar="A", help=f"{FORM}, or the path of a summary.json: the baseline"
    )
    parser.add_argument("others", metavar="B", nargs="+", help="what to compare with it")


def run(args: argparse.Namespace) -> int:
    from fastdllm.statistics.comparison import compare_all
    from fastdllm.statistics.comparison_text import comparison_text
    from fastdllm.statistics.speed_between import speed_sentence

    baseline, *others = [_summary(name) for name in (args.baseline, *args.others)]
    records = _speeds()
    sys.stdout.write(
        "\n".join(
            comparison_text(comparison, speed_sentence(comparison, records))
            for comparison in compare_all(baseline, others)
        )
    )
    return 0


def _speeds() -> list[SpeedRecord]:
    """The speeds that are measured here or published; none outside of a project."""
    from fastdllm.workflow.project.config_files import WORKFLOW_CONFIG
    from fastdllm.workflow.project.runs import load_project
    from fastdllm.workflow.speed_states import measured_speeds

    return measured_speeds(load_project()) if WORKFLOW_CONFIG.is_file() else []


def _summary(name: str) -> Summary:
    from fastdllm.records.summary import read_summary

    return read_summary(name) if name.endswith(".json") else _current(name)


def _current(name: str) -> Summary:
    """Return the current summary of a named run.

    Raises:
        UserError: no such run, or one without a result of the current settings.
    """
    from fastdllm.common.errors import UserError, unknown_name
    from fastdllm.common.paths import split_task_folder
    from fastdllm.workflow.claim_results import current_results, withheld
    from fastdllm.workflow.project.artifacts import SummaryReader, current_summary
    from fastdllm.workflow.project.runs import load_project
    from fastdllm.workflow.project.selection import Selection

    parts = name.split("/")
    if len(parts) != 3:
        raise UserError(f"{name!r} is not a run; write {FORM}, or the path of a summary.json")
    project = load_project(Selection(limit=split_task_folder(parts[1])[1]))
    runs = {run.name: run for run in project.all_runs}
    names_of_runs = [key.split("/") for key in runs]
    for level, kind in enumerate(("experiment", "task", "config")):
        names = {other[level] for other in names_of_runs if other[:level] == parts[:level]}
        if parts[level] not in names:
            raise unknown_name(kind, parts[level], names, where=name)
    if line := withheld(project, current_results(project)).get(runs[name].task):
        raise UserError(f"{name}: {line}")
    stored = current_summary(runs[name], runs, SummaryReader())
    if stored is None:
        raise UserError(
            f"{name}: has no result of the current settings; `fastdllm status` says why, and an "
            "older one can be given as the path of its summary.json"
        )
    return stored.summary
