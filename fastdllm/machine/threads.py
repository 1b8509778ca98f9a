"""How many CPU threads the process may use, and no more: two threads on one core only wait.

A pass of a small model takes milliseconds; threads that share a core spin at each of its barriers,
which makes passes many times slower.
"""

from __future__ import annotations

import os
from pathlib import Path

from fastdllm.common.errors import UserError
from fastdllm.machine.cgroups import cpu_quota


def allowed_threads(root: Path = Path("/")) -> int:
    """Threads that scheduler, control groups and SLURM allow; at least 1.

    root: where the files of the control groups are looked for.
    """
    if hasattr(os, "sched_getaffinity"):
        allowed = [len(os.sched_getaffinity(0))]
    else:
        allowed = [os.cpu_count() or 1]
    quota = cpu_quota(root)
    if quota is not None:
        allowed.append(int(quota))
    for_task = os.environ.get("SLURM_CPUS_PER_TASK", "")
    if for_task.isdecimal():
        allowed.append(int(for_task))
    return max(min(allowed), 1)


def chosen_threads(asked: int | None = None, *, allowed: int) -> int:
    """`asked`, else what OMP_NUM_THREADS says, else `allowed`; never more than `allowed`.

    Raises:
        UserError: OMP_NUM_THREADS is no positive number.
    """
    written = os.environ.get("OMP_NUM_THREADS")
    if asked is None and written:
        # It may be a list, one number per level of nesting.
        first = written.split(",")[0].strip()
        if not first.isdecimal() or int(first) == 0:
            raise UserError(
                f"OMP_NUM_THREADS={written!r} is not allowed; it should be a number of threads, at "
                "least 1; unset it, and all that the process may use are taken"
            )
        asked = int(first)
    return min(asked, allowed) if asked is not None else allowed


def use_allowed_threads(asked: int | None = None) -> int:
    """Let torch use `asked` threads (see `chosen_threads`); return how many it took."""
    import torch

    count = chosen_threads(asked, allowed=allowed_threads())
    torch.set_num_threads(count)
    return count
