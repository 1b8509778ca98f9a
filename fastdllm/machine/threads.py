"""How many CPU threads a process takes for the products of a model.

The threads of a product wait for each other at its end, and spin while they wait. If another
process holds a core, each product lasts until the scheduler takes turns: on two busy cores two
threads were up to 60 times slower than one (docs/performance.md).
"""

from __future__ import annotations

import os
from pathlib import Path

from fastdllm.common.errors import UserError
from fastdllm.machine.cgroups import cpu_quota

# Up to this many weights a second thread gains next to nothing at batch 1, even on quiet cores (5 %
# at 24,576 weights, 29 % at 98,304).
SMALL_PRODUCT = 65_536
# For how long the load is measured, in seconds: cheap beside loading a model.
LOOK_S = 0.2
# How often a waiting thread of GNU OpenMP looks before it sleeps. Its default, 300,000, lasts
# milliseconds; this is the least that costs large products nothing on quiet cores.
SPINS = "1000"


def allowed_threads(root: Path = Path("/")) -> int:
    """Return how many threads scheduler, control groups and SLURM allow; at least 1.

    root: where to look for the files of the control groups.
    """
    allowed = [len(_cores())]
    quota = cpu_quota(root)
    if quota is not None:
        allowed.append(int(quota))
    for_task = os.environ.get("SLURM_CPUS_PER_TASK", "")
    if for_task.isdecimal():
        allowed.append(int(for_task))
    return max(min(allowed), 1)


def requested_threads(requested: int | None = None) -> int | None:
    """Return `requested`, else OMP_NUM_THREADS, else None.

    Raises:
        UserError: OMP_NUM_THREADS is no positive number.
    """
    written = os.environ.get("OMP_NUM_THREADS")
    if requested is not None or not written:
        return requested
    # It may be a list, one number per level of nesting.
    first = written.split(",")[0].strip()
    if not first.isdecimal() or int(first) == 0:
        raise UserError(
            f"OMP_NUM_THREADS={written!r} is not allowed; it should be a number of threads, at "
            "least 1; unset it to use the cores that are idle"
        )
    return int(first)


def idle_cores() -> int:
    """Return how many of the cores of this process nobody uses, measured for LOOK_S seconds."""
    import psutil

    busy = psutil.cpu_percent(LOOK_S, percpu=True)
    return round(sum(1 - busy[core] / 100 for core in _cores() if core < len(busy)))


def use_threads(requested: int | None = None, *, product: int) -> int:
    """Set torch to as many threads as were asked for, else as are useful; return how many.

    Useful are one for small products, and as many as there are idle cores for others; never more
    than are allowed.

    product: weights of the model's largest product.

    Raises:
        UserError: OMP_NUM_THREADS is no positive number.
    """
    import torch

    count = requested_threads(requested)
    if count is None:
        count = 1 if product <= SMALL_PRODUCT else idle_cores()
    count = max(min(count, allowed_threads()), 1)
    torch.set_num_threads(count)
    return count


def spin_briefly() -> None:
    """Let waiting threads sleep soon; only before torch is imported, unless the user has chosen."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)


def _cores() -> list[int]:
    """The numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))
