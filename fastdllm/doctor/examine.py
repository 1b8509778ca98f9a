"""Everything at once: most checks wait for a command or a file server, not for each other."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from fastdllm.cluster.options import ClusterOptions
from fastdllm.doctor.findings import Finding
from fastdllm.doctor.gpu import look_at_gpu
from fastdllm.doctor.project import look_at_git, look_at_limits, look_at_model, read_config
from fastdllm.doctor.slurm import look_at_slurm
from fastdllm.doctor.software import look_at_caches, look_at_environment, look_at_python
from fastdllm.doctor.storage import (
    look_at_clock,
    look_at_disks,
    look_at_locks,
    look_at_quota,
)

Check = Callable[[], list[Finding]]


def examine() -> list[Finding]:
    """All findings about this machine and the project in the current folder, in a fixed order."""
    config, findings = read_config()
    dtype = config.model.dtype if config is not None else None
    options = config.cluster if config is not None else ClusterOptions()
    checks: list[Check] = [look_at_python, look_at_environment, partial(look_at_gpu, dtype)]
    checks += [look_at_disks, look_at_quota, look_at_locks, look_at_clock, look_at_caches]
    checks += [partial(look_at_slurm, options)]
    checks += [partial(look_at_model, config)] if config is not None else []
    checks += [look_at_git, look_at_limits]
    with ThreadPoolExecutor(max_workers=len(checks)) as pool:
        for found in pool.map(lambda check: check(), checks):
            findings += found
    return findings
