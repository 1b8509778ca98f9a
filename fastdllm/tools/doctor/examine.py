"""All checks of the doctor, in parallel: most wait for a command or a file server."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from fastdllm.cluster.site import ClusterOptions
from fastdllm.common.errors import UserError, error_line
from fastdllm.tools.doctor.finding import DoctorFinding, problem
from fastdllm.tools.doctor.gpu import look_at_gpu
from fastdllm.tools.doctor.installation import (
    look_at_caches,
    look_at_environment,
    look_at_git,
    look_at_limits,
    look_at_model,
    look_at_python,
    look_at_user,
    read_config,
)
from fastdllm.tools.doctor.slurm_access import look_at_slurm
from fastdllm.tools.doctor.storage import look_at_clock, look_at_disks, look_at_locks, look_at_quota

Check = Callable[[], list[DoctorFinding]]


def examine() -> list[DoctorFinding]:
    """Return all findings about this machine and the project here, in a fixed order."""
    config, findings = read_config()
    dtype = config.model.dtype if config is not None else None
    options = config.cluster if config is not None else ClusterOptions()
    checks: list[Check] = [look_at_python, look_at_environment, partial(look_at_gpu, dtype)]
    checks += [look_at_disks, look_at_quota, look_at_locks, look_at_clock]
    checks += [look_at_user, look_at_caches]
    checks += [partial(look_at_slurm, options)]
    checks += [partial(look_at_model, config)] if config is not None else []
    checks += [look_at_git, look_at_limits]
    with ThreadPoolExecutor(max_workers=len(checks)) as pool:
        for findings_of_check in pool.map(_findings_of, checks):
            findings += findings_of_check
    return findings


def _findings_of(check: Check) -> list[DoctorFinding]:
    """Return what a check found; one that fails itself must not hide the others."""
    try:
        return check()
    except Exception as error:
        name = getattr(check, "func", check).__name__.removeprefix("look_at_")
        fix = "" if isinstance(error, UserError) else "please report this line"
        return [problem(name, f"could not be checked: {error_line(error)}", fix)]
