"""A real SLURM for the tests of this folder: one per process that runs tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.slurm.lab import Lab
from tests.slurm.packages import why_absent


@pytest.fixture(scope="session")
def shared_lab() -> Iterator[Lab]:
    """The SLURM of this process; tests use `lab`."""
    reason = why_absent()
    if reason and os.environ.get("FASTDLLM_REQUIRE_SLURM") == "1":
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)
    lab = Lab.start()
    yield lab
    lab.stop()


@pytest.fixture
def lab(shared_lab: Lab) -> Iterator[Lab]:
    """A real SLURM with an empty queue and all nodes up."""
    yield shared_lab
    shared_lab.clear()
