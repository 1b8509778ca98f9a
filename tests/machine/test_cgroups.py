"""Limits of control groups, read from folders that look like those of Linux."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastdllm.machine.cgroups import cpu_quota, memory_left

GIB = 2**30
V2_JOB = {"proc/self/cgroup": "0::/system.slice/job_7/step_0"}
V1_JOB = {"proc/self/cgroup": "9:name=systemd:/\n4:memory:/slurm/job_7\n3:cpu,cpuacct:/slurm/job_7"}


def write(root: Path, files: dict[str, object]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return root


def v2(level: str, **files: object) -> dict[str, object]:
    """Files of one group; `memory_max` stands for memory.max."""
    return {f"sys/fs/cgroup/{level}/{k.replace('_', '.', 1)}": v for k, v in files.items()}


def v1_memory(level: str, limit: int, used: int) -> dict[str, object]:
    folder = f"sys/fs/cgroup/memory/{level}"
    return {
        f"{folder}/memory.limit_in_bytes": limit,
        f"{folder}/memory.usage_in_bytes": used,
        f"{folder}/memory.stat": f"cache 9\ninactive_file {GIB}\ntotal_inactive_file 0",
    }


def test_without_any_control_group_there_is_no_limit(tmp_path: Path) -> None:
    assert memory_left(tmp_path) is None
    assert cpu_quota(tmp_path) is None


def test_no_limit_in_words_or_in_a_huge_number_is_none(tmp_path: Path) -> None:
    write(tmp_path / "2", V2_JOB | v2("", memory_max="max", memory_current=5, cpu_max="max 100000"))
    files = v1_memory("", 2**63 - 4096, 5) | {
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": -1,
        "sys/fs/cgroup/cpu/cpu.cfs_period_us": 100000,
    }
    write(tmp_path / "1", V1_JOB | files)
    for version in "12":
        assert memory_left(tmp_path / version) is None
        assert cpu_quota(tmp_path / version) is None


@pytest.mark.parametrize(
    ("level", "free"),
    [("system.slice/job_7/step_0", 3), ("system.slice/job_7", 2), ("system.slice", 1)],
)
def test_the_least_that_is_left_on_the_way_to_the_root_counts(
    tmp_path: Path, level: str, free: int
) -> None:
    for other in ("system.slice/job_7/step_0", "system.slice/job_7", "system.slice", ""):
        write(tmp_path, v2(other, memory_max=10 * GIB, memory_current=2 * GIB))
    write(tmp_path, V2_JOB | v2(level, memory_max=4 * GIB, memory_current=(4 - free) * GIB))
    write(tmp_path, v2("other.slice", memory_max=1, memory_current=1))
    assert memory_left(tmp_path) == free * GIB


def test_a_group_that_is_over_its_limit_has_nothing_left(tmp_path: Path) -> None:
    write(tmp_path, V2_JOB | v2("system.slice", memory_max=GIB, memory_current=2 * GIB))
    assert memory_left(tmp_path) == 0


def test_pages_of_files_count_as_left_also_of_weights_that_were_read_twice(tmp_path: Path) -> None:
    stat = f"active_file {GIB}\ninactive_file {3 * GIB}\nanon {2 * GIB}"
    files = v2("", memory_max=8 * GIB, memory_current=6 * GIB, memory_stat=stat)
    write(tmp_path, V2_JOB | files)
    assert memory_left(tmp_path) == 6 * GIB


def test_version_1_has_a_group_per_controller(tmp_path: Path) -> None:
    write(tmp_path, V1_JOB | v1_memory("", 2**63 - 4096, 7 * GIB))
    write(tmp_path, v1_memory("slurm/job_7", 4 * GIB, 3 * GIB))
    write(tmp_path, {"sys/fs/cgroup/cpu/slurm/cpu.cfs_quota_us": 150_000})
    write(tmp_path, {"sys/fs/cgroup/cpu/slurm/cpu.cfs_period_us": 100_000})
    assert memory_left(tmp_path) == GIB
    assert cpu_quota(tmp_path) == 1.5


@pytest.mark.parametrize("own", ["0::/", "0::/docker/of/the/host", "0::/../../elsewhere"])
def test_inside_a_container_the_root_of_the_mount_holds_the_limit(tmp_path: Path, own: str) -> None:
    outside = {"sys/elsewhere/memory.max": 1, "sys/elsewhere/memory.current": 1}
    write(tmp_path, {"proc/self/cgroup": own} | outside)
    files = v2("", memory_max=2 * GIB, memory_current=GIB, cpu_max="250000 100000")
    write(tmp_path, files)
    assert memory_left(tmp_path) == GIB
    assert cpu_quota(tmp_path) == 2.5
