"""A torch device, CPU or GPU: its description, its queue of work and its peak memory."""

from __future__ import annotations

import os

import torch

from fastdllm.machine.process import (
    allowed_threads,
    cpu_name,
    peak_resident_gib,
    reset_peak_resident,
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
