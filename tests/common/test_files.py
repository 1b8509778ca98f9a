"""Small files and temporary folders, and what the file system refuses."""

from __future__ import annotations

import os
import time
from pathlib import Path
from unittest.mock import Mock

import pytest

from fastdllm.common.errors import UserError
from fastdllm.common.files import date_after, temporary_folder


def test_no_room_for_a_temporary_folder_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    full = OSError(28, "No space left on device")
    monkeypatch.setattr("tempfile.TemporaryDirectory", Mock(side_effect=full))
    with pytest.raises(UserError, match=r"^no temporary folder: No space left on device; set TMP"):
        temporary_folder("x")


@pytest.mark.parametrize("age_s", [-3600.0, 0.0, 0.5, 3600.0])
def test_a_file_is_made_newer_than_its_output_and_none_is_of_the_future(
    tmp_path: Path, age_s: float
) -> None:
    spec, output = tmp_path / "spec", tmp_path / "output"
    spec.touch()
    output.touch()
    made_s = time.time() - age_s
    os.utime(output, (made_s, made_s))
    os.utime(spec, (0, 0))
    date_after(spec, output)
    assert output.stat().st_mtime < spec.stat().st_mtime <= time.time()
    if age_s > 1:
        assert output.stat().st_mtime == pytest.approx(made_s, abs=1e-3), "it needs no other date"
