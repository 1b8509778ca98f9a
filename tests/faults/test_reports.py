"""Reports, tables and READMEs show and compare only what belongs together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fastdllm.cli import main
from fastdllm.common.errors import UserError
from fastdllm.workflow.project.runs import load_project
from scripts.update_answers import published
from tests.support.fakes import fake_summary


def store_results() -> None:
    """Give every run of the project a result of its current settings that is not published."""
    for run in load_project().runs:
        run.summary_path.parent.mkdir(parents=True, exist_ok=True)
        run.summary_path.write_text(json.dumps(fake_summary(run.spec())))


def test_the_answers_of_readmes_know_no_result_of_earlier_settings(project: Path) -> None:
    store_results()
    assert main(["aggregate"]) == 0
    assert [run.task for run in published(project)] == ["sums", "choices"]
    task = project / "tasks/sums.yaml"
    task.write_text(task.read_text().replace("version: 1", "version: 2"))
    with pytest.raises(UserError, match="the tables in artifacts/ are not those of its published"):
        published(project)
    assert main(["aggregate"]) == 0
    assert [run.task for run in published(project)] == ["choices"]
    assert len(list((project / "artifacts").glob("*/*/*/summary.json"))) == 2
