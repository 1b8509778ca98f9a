"""The machine under a benchmark: its name, its clock and its peak memory."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import torch

from fastdllm.machine.process import cpu_name, process_peak_memory_gib
from fastdllm.machine.threads import allowed_threads


def hardware(device: torch.device) -> str:
    """The GPU, or processor, cores and memory, in words."""
    if device.type == "cuda":
        memory_gib = torch.cuda.get_device_properties(device).total_memory / 2**30
        return f"{torch.cuda.get_device_name(device)}, {memory_gib:.0f} GiB"
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{cpu_name()}, {allowed_threads()} cores, {memory_gib:.0f} GiB"


def synchronise(device: torch.device) -> None:
    """Wait for all that was asked of the device; a CPU is done when it returns."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def reset_peak_memory(device: torch.device) -> None:
    """Forget the peak so far; where a system cannot, the peak stays that of the whole process."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):  # Linux only: 5 resets the peak of the resident set
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_memory_gib(device: torch.device) -> float:
    """Most memory since the reset: allocated on a GPU, resident in the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return process_peak_memory_gib()
