"""How many CPU threads a process takes, and how long they spin."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch

from fastdllm.common.errors import UserError
from fastdllm.machine.threads import (
    SMALL_PRODUCT,
    SPINS,
    allowed_threads,
    idle_cores,
    spin_briefly,
    use_threads,
)
from fastdllm.model.products import product


@pytest.fixture(autouse=True)
def threads_of_the_session() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


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
        (None, "3", 3),
        (None, "3,2", 3),
        (None, "16", 8),
        (5, "3", 5),
        (5, "none", 5),
        (16, "3", 8),
    ],
)
def test_the_users_word_wins_up_to_what_is_allowed(
    monkeypatch: pytest.MonkeyPatch, requested: int | None, variable: str, threads: int
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", variable)
    assert use_threads(requested, product=SMALL_PRODUCT) == threads
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("variable", ["0", "-2", "many"])
def test_a_variable_that_is_no_number_of_threads_is_refused(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", variable)
    with pytest.raises(UserError, match=re.escape(f"OMP_NUM_THREADS={variable!r} is not allowed")):
        use_threads(product=SMALL_PRODUCT)


@pytest.mark.parametrize(
    ("product", "busy", "threads"),
    [
        pytest.param(SMALL_PRODUCT, [0.0] * 8, 1, id="small products, quiet"),
        pytest.param(SMALL_PRODUCT + 1, [0.0] * 8, 8, id="quiet"),
        pytest.param(SMALL_PRODUCT + 1, [3.1] * 8, 8, id="a little noise"),
        pytest.param(SMALL_PRODUCT + 1, [100.0] * 6 + [0.0] * 2, 2, id="two idle cores"),
        pytest.param(SMALL_PRODUCT + 1, [100.0] * 8, 1, id="all busy"),
        pytest.param(SMALL_PRODUCT + 1, [0.0] * 8 + [100.0] * 56, 8, id="others' cores are busy"),
        pytest.param(SMALL_PRODUCT + 1, [100.0] * 8 + [0.0] * 56, 1, id="others' cores are idle"),
    ],
)
def test_without_a_word_size_and_load_decide(
    monkeypatch: pytest.MonkeyPatch, product: int, busy: list[float], threads: int
) -> None:
    monkeypatch.setattr(psutil, "cpu_percent", lambda *_, **__: busy)
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    assert use_threads(product=product) == threads


@pytest.mark.slow
def test_a_busy_core_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        core = min(os.sched_getaffinity(busy.pid))
        os.sched_setaffinity(busy.pid, {core})
        while psutil.Process(busy.pid).cpu_times().user < 0.1:
            pass
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: {core})
        try:
            assert idle_cores() == 0
        finally:
            busy.kill()


def test_the_number_of_threads_does_not_change_a_product() -> None:
    weight, rows = torch.randn(1536, 512), torch.randn(129, 512)
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(
            [product(part)(rows[:, : part.shape[1]]) for part in (weight, weight[:99, :64])]
        )
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


@pytest.mark.parametrize(
    ("chosen", "spins"),
    [({}, SPINS), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)],
)
def test_waiting_threads_sleep_soon_unless_the_user_has_chosen(
    monkeypatch: pytest.MonkeyPatch, chosen: dict[str, str], spins: str | None
) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in chosen.items():
        monkeypatch.setenv(name, value)
    spin_briefly()
    assert os.environ.get("GOMP_SPINCOUNT") == spins


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere torch has another OpenMP")
def test_a_command_tells_openmp_before_it_starts() -> None:
    """OpenMP reads its variables once, when torch loads it; it says itself what it has read."""
    environment = {k: v for k, v in os.environ.items() if k != "GOMP_SPINCOUNT"}
    done = subprocess.run(
        [sys.executable, "-m", "fastdllm", "generate", "--model", "nowhere", "hello"],
        env=environment | {"OMP_DISPLAY_ENV": "verbose"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert f"GOMP_SPINCOUNT = '{SPINS}'" in done.stderr
