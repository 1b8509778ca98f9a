"""No command does more than twice the work for twice the runs, and none reads a summary twice.

Work is counted in lines of Python that are run, function by function, so that no clock matters.
"""

from __future__ import annotations

import io
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import chdir, redirect_stdout
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

import fastdllm
from benchmarks.scale import build_project, finish
from fastdllm.cli import main
from fastdllm.report.content import build_report
from fastdllm.report.csv_tables import csv_table
from fastdllm.report.page_tables import table_rows
from fastdllm.workflow.project import artifacts
from fastdllm.workflow.project.runs import load_project
from fastdllm.workflow.reconcile import reconcile

RUNS = 40
# A function may have a fixed part: reading the configuration, a text that lists at most 40 runs.
FIXED_LINES = 200
OWN_CODE = (str(Path(fastdllm.__file__).parent), __file__)


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Two projects with all runs published, one of twice as many runs."""
    folders = {}
    for runs in (RUNS, 2 * RUNS):
        folder = folders[runs] = tmp_path_factory.mktemp("project")
        build_project(folder, runs)
        with chdir(folder):
            reconcile(load_project())
            finish(folder)
            command("aggregate")()
    return folders


def command(*arguments: str) -> Callable[[], object]:
    def run() -> None:
        with redirect_stdout(io.StringIO()):
            assert main(list(arguments)) == 0

    return run


def report() -> None:
    project, read = load_project(), artifacts.SummaryReader()
    runs = artifacts.published(project.runs, read)
    report = build_report([read(run.artifact_path).summary for run in runs])
    csv_table(report.groups, report.runs)
    for task in report.tasks:
        table_rows(task)


def plan_of_a_call() -> None:
    reconcile(load_project(), is_dry_run=True)


COMMANDS: dict[str, Callable[[], object]] = {
    "status": command("status"),
    "table": command("table"),
    "aggregate": command("aggregate"),
    "report": report,
    "plan": plan_of_a_call,
}


def lines_run(action: Callable[[], object]) -> Counter[CodeType]:
    """Count the lines of this project that `action` runs, by function; so each turn of a loop."""
    counts: Counter[CodeType] = Counter()

    def trace(frame: FrameType, event: str, _arg: Any) -> Any:
        if not frame.f_code.co_filename.startswith(OWN_CODE):
            return None
        if event == "line":
            counts[frame.f_code] += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    finally:
        sys.settrace(before)
    return counts


@pytest.mark.parametrize("name", COMMANDS)
def test_twice_the_runs_are_twice_the_work(projects: dict[int, Path], name: str) -> None:
    lines = {}
    for runs, folder in projects.items():
        with chdir(folder):
            COMMANDS[name]()  # imports, and what is read once a process
            lines[runs] = lines_run(COMMANDS[name])
    few, many = lines[RUNS], lines[2 * RUNS]
    assert sum(many.values()) > 1.3 * sum(few.values()), "the runs are no part of the work"
    grown = {
        f"{code.co_filename}:{code.co_firstlineno} {code.co_name}": (few[code], count)
        for code, count in many.items()
        if count > 2.2 * few[code] + FIXED_LINES
    }
    assert not grown


@pytest.mark.parametrize("name", COMMANDS)
def test_each_summary_is_parsed_once(
    projects: dict[int, Path], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: Counter[Path] = Counter()
    parse = artifacts.json_of

    def counted(content: bytes, path: Path) -> Any:
        # In results/ and in artifacts/ it is the same.
        parsed[path.relative_to(path.parts[0])] += 1
        return parse(content, path)

    monkeypatch.setattr(artifacts, "json_of", counted)
    with chdir(projects[RUNS]):
        COMMANDS[name]()
    assert sorted(parsed.values()) == RUNS * [1]


def test_work_that_grows_faster_than_the_runs_is_seen() -> None:
    def square(n: int) -> int:
        return sum([a * b for a in range(n) for b in range(n)])

    few, many = (lines_run(lambda n=n: square(n)) for n in (RUNS, 2 * RUNS))
    assert any(count > 2.2 * few[code] + FIXED_LINES for code, count in many.items())
