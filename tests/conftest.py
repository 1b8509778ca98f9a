"""Fixtures that more than one folder of tests uses, the order of tests, and what `slow` means."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator
from functools import cache
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from fastdllm.model.plain import BlockDiffusionModel

GOLDEN = Path(__file__).parent / "golden"
# Read by torch when it is imported, and by the commands that tests start. Tests run side by side;
# more threads than cores make tiny matrix products crawl.
os.environ["OMP_NUM_THREADS"] = "1"
# No test depends on a clock, which runs fast on a busy machine.
settings.register_profile("any-clock", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any-clock")
# A shell that starts the tests in the background has SIGINT ignored, which the commands that tests
# interrupt would inherit.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# Hundreds of commands, and each process of tests, would compile all modules again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# How the programs begin that only a slow test may start: interpreters, a browser, SLURM's daemons.
SLOW_PROGRAMS = (
    "python",
    "snakemake",
    "fastdllm",
    "bash",
    "node",
    "chrom",
    "slurm",
    "munge",
    "maria",
)
# Modules that take longest. Those of SLURM mostly wait: all processes but the last begin with them,
# and the last with those that compute, so that no processor idles.
OF_SLURM = "tests/slurm/"
LONGEST_FIRST = (
    f"{OF_SLURM}test_faults.py",
    # It does not wait for the reference, which the process above makes meanwhile.
    f"{OF_SLURM}test_lab.py",
    f"{OF_SLURM}test_submit.py",
    f"{OF_SLURM}test_grid.py",
    OF_SLURM,
    "tests/docs/",
    "tests/workflow/test_experiments_resume.py",
    "tests/tools/test_fetch.py",
    "tests/harness/",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Deal the slow modules to the processes of xdist, the longest first, then fill up.

    xdist gives each process an equal piece of the list to begin with, in order, and a module stays
    together because its tests share fixtures.
    """
    queues: list[list[pytest.Item]] = [
        [] for _ in range(int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
    ]
    modules: dict[str, list[pytest.Item]] = {}
    for item in items:
        if is_slow(item):
            modules.setdefault(item.nodeid.partition("::")[0], []).append(item)

    def place(module: str) -> int:
        return (*(module.startswith(name) for name in LONGEST_FIRST), True).index(True)

    deal = cycle(queues[:-1] or queues), cycle(queues[-1:]), cycle(queues)
    for name in sorted(modules, key=place):
        kind = 0 if name.startswith(OF_SLURM) else 1 if name.startswith(LONGEST_FIRST) else 2
        next(deal[kind]).extend(modules[name])
    # Neighbours share fixtures, so each process gets a run of them.
    quick = [item for item in items if not is_slow(item)]
    piece = -(-len(items) // len(queues))
    for queue in queues:
        room = max(0, piece - len(queue))
        queue.extend(quick[:room])
        del quick[:room]
    items[:] = [item for queue in queues for item in queue]


def pytest_collection() -> None:
    """Look for no garbage while all is imported, of which nothing becomes any."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Keep what was imported, which lives to the end, out of all later garbage collections."""
    gc.enable()
    gc.collect()
    gc.freeze()


def is_slow(item: pytest.Item) -> bool:
    """Whether a test may start processes that take seconds."""
    return item.get_closest_marker("slow") is not None


class _Processes:
    """Whether the test at work, its fixtures included, may start processes."""

    are_allowed = True


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    """Fail a test that starts a process though it is not marked slow."""
    if event == "subprocess.Popen" and not _Processes.are_allowed:
        program, words = arguments[:2]
        first = words if isinstance(words, str) else words[0]
        name = Path(os.fsdecode(program or first)).name
        if name.startswith(SLOW_PROGRAMS):
            pytest.fail(f"mark this test slow: it starts {name}")


# An audit hook sees every start, whoever asks for it, and does not change how it is done.
sys.addaudithook(_refuse)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Allow processes in slow tests only."""
    _Processes.are_allowed = is_slow(item)
    yield
    _Processes.are_allowed = True


@pytest.fixture(scope="session")
def golden_model() -> Callable[[str], BlockDiffusionModel]:
    """Load a golden model ("m6", "m14", "m28") as a plain float32 module, once per process."""

    from fastdllm.model.loading import load_plain_model

    @cache
    def load(name: str) -> BlockDiffusionModel:
        return load_plain_model(GOLDEN / name, device="cpu", dtype="float32")

    return load
