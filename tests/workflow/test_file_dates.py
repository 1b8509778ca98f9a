"""Atomic writing, and the status command's speed and words."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fastdllm.commands.status import as_record, as_text
from fastdllm.commands.status_view import suggest
from fastdllm.common.errors import UserError
from fastdllm.common.files import read_json, write_json_atomically, write_text_atomically
from fastdllm.workflow.project.runs import load_project
from fastdllm.workflow.status.run_status import inspect
from tests.support.small_project import SmallProject


def test_a_full_disk_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    write_json_atomically(path, {"b": 1, "a": 2})

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"a\.json.*the disk is full"):
        write_text_atomically(path, "new")
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    assert path.read_text() == '{\n  "a": 2,\n  "b": 1\n}\n'


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*results"):
        write_text_atomically(tmp_path / "results" / "a.json", "")


@pytest.mark.parametrize(("content", "says"), [("", "empty"), ("{", "not valid JSON")])
def test_a_file_that_is_no_json_is_one_line(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(UserError, match=says):
        read_json(tmp_path / "a.json")


@pytest.mark.usefixtures("project")
def test_status_shows_each_run_and_the_next_command() -> None:
    statuses = [inspect(run) for run in load_project().runs]
    command = suggest(statuses, {"task": None, "limit": 3})
    assert command == "snakemake --config limit=3"
    text = as_text(statuses, command, [], color=False)
    assert "k2_first  missing" in text
    assert "4 runs: 4 missing" in text
    record = as_record(statuses, command, [])
    assert record["totals"]["missing"] == 4
    assert json.loads(json.dumps(record)) == record


@pytest.mark.slow
def test_status_imports_nothing_heavy(project: SmallProject) -> None:
    code = (
        "import sys; import fastdllm.commands.status as s; "
        "from fastdllm.workflow.project.runs import load_project; load_project(); "
        "print([m for m in ('torch', 'snakemake', 'transformers', 'lm_eval') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=project.path
    )
    assert done.stdout.strip() == "[]"
