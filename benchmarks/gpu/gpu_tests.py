"""The tests that are marked `gpu`, run by pytest, each a row."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu.parts import ROOT
from benchmarks.gpu.work import Work
from fastdllm.common.errors import UserError

MARK = "pytest.mark.gpu"


def files_with_gpu_tests(folder: Path = ROOT / "tests") -> list[Path]:
    """Return the files of such tests: only these are imported, as others need more packages."""
    return [path for path in sorted(folder.rglob("test_*.py")) if MARK in path.read_text("utf-8")]


class Rows:
    """A plugin of pytest that keeps a row of each test as soon as it has ended."""

    def __init__(self, work: Work) -> None:
        self.work, self.skipped = work, list[str]()

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Keep what failed at any time, what passed its call, and what was skipped."""
        name = report.nodeid.partition("::")[2]
        if report.failed:
            lines = str(report.longrepr).strip().splitlines()
            self.work.tell(name, f"failed ({report.when}): {lines[-1][:200]}", holds=False)
        elif report.skipped:
            reason = report.longrepr[2].removeprefix("Skipped: ")
            self.skipped.append(reason)
            self.work.tell(name, f"skipped: {reason}")
        elif report.when == "call":
            self.work.tell(name, f"passed in {report.duration:.1f} s", holds=True)

    def pytest_collectreport(self, report: Any) -> None:
        """Keep a file that cannot be imported."""
        if report.failed:
            self.work.tell(report.nodeid, f"failed: {list(_last(report.longrepr))}", holds=False)


def _last(text: Any) -> Iterator[str]:
    yield from str(text).strip().splitlines()[-1:]


def run(work: Work) -> None:
    """Run the tests.

    Raises:
        UserError: all were skipped.
    """
    rows = Rows(work)
    # Whatever plugins this Python has are not for these tests.
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    files = [str(path.relative_to(ROOT)) for path in files_with_gpu_tests()]
    code = pytest.main(["-q", "-m", "gpu", *files], plugins=[rows])
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise RuntimeError(f"pytest ended with {code!r}")
    if rows.skipped and work.device.type != "cuda":
        raise UserError(f"{len(rows.skipped)} tests: {rows.skipped[0]}")
