"""Everything at once: most checks wait for a command or a file server, not for each other."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from fastdllm.cluster.site import ClusterOptions
from fastdllm.common.errors import error_line
from fastdllm.tools.doctor.findings import Finding, problem
from fastdllm.tools.doctor.gpu import look_at_gpu
from fastdllm.tools.doctor.project import look_at_git, look_at_limits, look_at_model, read_config
from fastdllm.tools.doctor.slurm import look_at_slurm
from fastdllm.tools.doctor.software import look_at_caches, look_at_environment, look_at_python
from fastdllm.tools.doctor.storage import look_at_clock, look_at_disks, look_at_locks, look_at_quota

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
        for found in pool.map(_findings_of, checks):
            findings += found
    return findings


def _findings_of(check: Check) -> list[Finding]:
    """What a check found; one that fails itself must not hide the others."""
    try:
        return check()
    except Exception as error:
        name = getattr(check, "func", check).__name__.removeprefix("look_at_")
        text = f"could not be looked at: {error_line(error)}"
        return [problem(name, text, "tell us, with this line")]
