"""Tests here have a whole small project of runs."""

import pytest

from fastdllm.runs import lock
from tests.support.run_project import *  # noqa: F403


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who finds a lock held gives up soon."""
    monkeypatch.setattr(lock, "PATIENCE_S", 0.2)
