"""A real SLURM for the tests of this folder: one per process that runs tests."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator

import pytest

from tests.slurm.lab import Lab
from tests.slurm.packages import why_absent
from tests.slurm.projects import ClusterProject, make_reference
from tests.slurm.trial import ATTACKED


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


@pytest.fixture(scope="session")
def reference(shared_lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> ClusterProject:
    """Runs made on this machine without SLURM, in one process; once for all workers."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    with (folder / "reference.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return make_reference(folder / "reference", shared_lab, ATTACKED)
