"""Tests here have a whole small project of runs."""

import pytest

from fastdllm.harness.team import APART
from tests.support.run_project import *  # noqa: F403


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process belongs to no others, and lm-eval does not start pip to describe it."""
    for name in ("RANK", "WORLD_SIZE", *APART):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda _: None)
