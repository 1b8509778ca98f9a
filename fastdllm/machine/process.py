"""This process: its processor, host and memory, and what the C library does with freed memory."""

from __future__ import annotations

import ctypes
import platform
import socket
import sys
from pathlib import Path


def return_freed_memory() -> bool:
    """Give freed pages back to the system; False where the C library cannot (only glibc can).

    Packing weights frees each plain copy, but glibc keeps blocks of up to 32 MiB for later.
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return False
    return bool(trim(0))


def cpu_name() -> str:
    """The processor's name as the operating system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux: the platform module knows less, but something
    return platform.processor() or platform.machine()


def host_name() -> str:
    return socket.gethostname()


def process_peak_memory_gib() -> float:
    """Most memory this process has held so far (resident set), in GiB."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts KiB, macOS bytes.
    return peak / (2**30 if sys.platform == "darwin" else 2**20)


def reset_process_peak_memory() -> None:
    """Let `process_peak_memory_gib` count from now on, where the system can (Linux)."""
    try:
        # 5 sets the peak of the resident set to what is resident now; see proc(5).
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return  # the peak stays that of the whole process, as its kind in the summary says
