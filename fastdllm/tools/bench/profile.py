"""Where the time of a pass goes: a trace for a browser, and its seconds in five groups."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from fastdllm.machine.device import synchronize

PRODUCTS, ATTENTION = "matrix products", "attention"
COPIES, ELEMENTWISE = "copies and indexing", "norms and elementwise"
REST = "Python and launching"

# Parts of the names of PyTorch's operators and of CUDA kernels; the first group that fits counts.
GROUPS = {
    ATTENTION: "attention attn flash fmha",
    PRODUCTS: "mm linear_ ::linear gemm gemv cutlass nvjet xmma matmul",
    COPIES: "copy index ::cat catarray clone gather scatter memcpy memset fill zero empty ::to "
    "local_scalar stack",
}


def group_of(name: str) -> str:
    """Return the group of an operator or kernel."""
    lowered = name.lower()
    for group, parts in GROUPS.items():
        if any(part in lowered for part in parts.split()):
            return group
    return ELEMENTWISE


def write_profile(run: Callable[[], object], device: torch.device, file: Path) -> dict[str, float]:
    """Run `run` under the profiler, write its Chrome trace, and return seconds by group.

    The profiler itself costs time, most of it in the last group: what the processor spent outside
    of operators, or, on a GPU, what the device waited. Groups add up to the wall time.
    """
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as profiler:
        started = time.perf_counter()
        run()
        synchronize(device)
        elapsed_s = time.perf_counter() - started
    profiler.export_chrome_trace(str(file))
    seconds = dict.fromkeys((PRODUCTS, ATTENTION, ELEMENTWISE, COPIES), 0.0)
    for event in profiler.key_averages():
        is_kernel = event.device_type != torch.autograd.DeviceType.CPU
        if is_kernel != on_gpu:
            continue
        spent_us = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        seconds[group_of(event.key)] += spent_us / 1e6
    return seconds | {REST: elapsed_s - sum(seconds.values())}
