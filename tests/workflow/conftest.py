"""Tests here have a small project that Snakemake runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.claimed_project import claimed  # noqa: F401
from tests.support.small_project import (
    SmallProject,
    copy_project,
    project,  # noqa: F401
)


@pytest.fixture
def made(made_once: SmallProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SmallProject:
    """A copy of a module's project after its first call; also the working directory."""
    copy = copy_project(made_once, tmp_path / "project")
    monkeypatch.chdir(copy.path)
    return copy
