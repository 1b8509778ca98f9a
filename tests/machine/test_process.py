"""Threads: what the process may use, and never more."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import torch

from fastdllm.common.errors import UserError
from fastdllm.machine.process import allowed_threads, chosen_threads, use_allowed_threads


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    for name in ("SLURM_CPUS_PER_TASK", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)


def quota(root: Path, text: str) -> Path:
    for name, content in (("proc/self/cgroup", "0::/job"), ("sys/fs/cgroup/job/cpu.max", text)):
        (root / name).parent.mkdir(parents=True)
        (root / name).write_text(content)
    return root


@pytest.mark.parametrize(
    ("text", "allowed"),
    [("max 100000", 8), ("350000 100000", 3), ("50000 100000", 1), ("9900000 100000", 8)],
)
def test_a_quota_is_rounded_down_but_never_to_none(tmp_path: Path, text: str, allowed: int) -> None:
    assert allowed_threads(quota(tmp_path, text)) == allowed


@pytest.mark.parametrize(("written", "allowed"), [("4", 4), ("64", 8), ("", 8), ("four", 8)])
def test_slurm_can_only_lower_the_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str, allowed: int
) -> None:
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", written)
    assert allowed_threads(tmp_path) == allowed


@pytest.mark.parametrize(
    ("requested", "variable", "threads"),
    [
        (None, None, 8),
        (None, "3", 3),
        (None, "3,2", 3),
        (None, "", 8),
        (None, "16", 8),
        (5, "3", 5),
        (5, "none", 5),
        (16, "3", 8),
    ],
)
def test_the_users_word_wins_up_to_what_is_allowed(
    monkeypatch: pytest.MonkeyPatch, requested: int | None, variable: str | None, threads: int
) -> None:
    if variable is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    assert chosen_threads(requested, allowed=8) == threads


@pytest.mark.parametrize("variable", ["0", "-2", "many"])
def test_a_variable_that_is_no_number_of_threads_is_refused(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", variable)
    with pytest.raises(UserError, match=re.escape(f"OMP_NUM_THREADS={variable!r} is not allowed")):
        chosen_threads(allowed=8)


def test_torch_gets_the_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
    torch.set_num_threads(2)
    try:
        assert use_allowed_threads(7) == 1
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(1)
