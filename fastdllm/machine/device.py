"""A torch device, CPU or GPU: its description, its queue of work and its memory."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from fastdllm.machine.cgroups import memory_left
from fastdllm.machine.process import cpu_name, peak_resident_gib, reset_peak_resident
from fastdllm.machine.threads import allowed_threads

# What torch says in errors about memory that its own allocator does not manage.
LACK_OF_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)


def hardware(device: torch.device) -> str:
    """Describe the GPU, or the processor with its cores, and the memory."""
    if device.type == "cuda":
        memory_gib = torch.cuda.get_device_properties(device).total_memory / 2**30
        return f"{torch.cuda.get_device_name(device)}, {memory_gib:.0f} GiB"
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{cpu_name()}, {allowed_threads()} cores, {memory_gib:.0f} GiB"


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished its queue; a CPU has none."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def reset_peak_memory(device: torch.device) -> None:
    """Forget the peak so far; on a CPU only where the system can (`reset_peak_resident`)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        reset_peak_resident()


def peak_memory_gib(device: torch.device) -> float:
    """Return the peak since the reset: allocated on a GPU, resident in the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return peak_resident_gib()


def free_bytes(device: torch.device) -> int:
    """Return the bytes that can still be allocated on `device`."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + cached
    remaining = memory_left()
    return _available() if remaining is None else min(_available(), remaining)


def _available() -> int:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # not Linux: the limit is unknown
    return 2**62


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a pass ran out of memory.

    Errors from outside torch's own allocator (a CPU, graphs, cuBLAS) show it in their message only.
    What fails while such an error ends a recording counts too.
    """
    if isinstance(error, torch.OutOfMemoryError):
        return True
    if isinstance(error, RuntimeError) and any(text in str(error) for text in LACK_OF_MEMORY):
        return True
    return error.__context__ is not None and is_out_of_memory(error.__context__)
