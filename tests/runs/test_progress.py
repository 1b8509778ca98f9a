"""What failed.json says to the executor that may submit a failed run again."""

from __future__ import annotations

import errno
import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fastdllm.common.errors import UserError
from fastdllm.common.files import read_text as text_of
from fastdllm.runs.progress import failure_record, mistake_of_job, read_failure
from fastdllm.runs.shards import JobFiles

LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


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
    assert mistake_of_job(path, "77", earliest=LONG_AGO) == mistake
    assert mistake_of_job(path, "78", earliest=LONG_AGO) is None
    assert mistake_of_job(path, "77", earliest=LONG_AGO.replace(year=9000)) is None
    for time in (None, "soon", "2026-01-01T00:00:00"):
        path.write_text(json.dumps({"is_mistake": True, "slurm_job": "77", "time": time}))
        assert mistake_of_job(path, "77", earliest=LONG_AGO) is None


@pytest.mark.parametrize(("number", "is_mistake"), [(errno.EIO, False), (errno.EACCES, True)])
def test_a_disk_that_does_not_answer_is_no_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, is_mistake: bool
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "77")

    def read_text(*_: object, **__: object) -> str:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "read_text", read_text)
    files = JobFiles(tmp_path / "a", tmp_path / "p", tmp_path / "failed.json", tmp_path / "log")
    with pytest.raises(UserError), failure_record(files):
        text_of(tmp_path / "data.jsonl")
    mistake = mistake_of_job(files.failure, "77", earliest=LONG_AGO)
    assert (mistake is not None) is is_mistake
