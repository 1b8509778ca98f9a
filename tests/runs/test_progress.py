"""What failed.json says to the executor that may submit a failed run again."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastdllm.common.errors import UserError
from fastdllm.runs.progress import failure_record, mistake_of_job, read_failure
from fastdllm.runs.shards import JobFiles


@pytest.mark.parametrize("error", [UserError("no such task"), RuntimeError("no such task")])
def test_a_failure_says_whether_it_is_a_mistake_and_of_which_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    path = tmp_path / "failed.json"
    files = JobFiles(tmp_path / "a", tmp_path / "p", path, tmp_path / "log")
    with pytest.raises(type(error)), failure_record(files):
        raise error
    assert "no such task" in str(read_failure(path))
    mistake = "no such task" if isinstance(error, UserError) else None
    assert mistake_of_job(path, "77") == mistake
    assert mistake_of_job(path, "78") is None
