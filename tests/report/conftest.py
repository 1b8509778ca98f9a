"""Made-up runs for the tests of the report."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastdllm.records.summary import Summary
from fastdllm.report.content import Report, build_report
from fastdllm.report.sensitivity_map import SensitivityMap
from fastdllm.tools.sensitivity.sensitivity_record import SensitivityRecord
from tests.support import made_up_runs as synthetic
from tests.support.run_project import a_summary  # noqa: F401


@pytest.fixture(scope="session")
def runs() -> list[Summary]:
    """58 runs on each of two tasks."""
    return synthetic.runs()


@pytest.fixture(scope="session")
def words(runs: list[Summary]) -> list[Summary]:
    """Those on word problems."""
    return [run for run in runs if run.task == "word_problems"]


@pytest.fixture(scope="session")
def results(runs: list[Summary], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Their samples, as in results/."""
    folder = tmp_path_factory.mktemp("results")
    synthetic.write_samples(folder, runs)
    return folder


@pytest.fixture(scope="session")
def report(runs: list[Summary], results: Path) -> Report:
    """The report on all of them."""
    return build_report(
        runs,
        titles={"00_baseline": "Does reuse keep accuracy?"},
        sensitivity=SensitivityMap(
            Path("sensitivity.json"), SensitivityRecord.model_validate(synthetic.sensitivity())
        ),
        results=results,
        speeds=synthetic.speeds(runs),
    )
