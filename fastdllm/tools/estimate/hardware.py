"""Names of hardware: a site's kinds of GPU, torch's devices, and this machine.

The only place that matches them. Imports no torch: a log-in node asks as well.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from fastdllm.machine.process import cpu_name

# One folder per GPU, with a line `Model:`, wherever NVIDIA's driver is loaded.
DRIVER_FOLDER = Path("/proc/driver/nvidia/gpus")
# Threads of a run without a GPU (profiles/local); a speed on a CPU belongs to a number of them.
WORKFLOW_THREADS = 1
# Words that distinguish cards of the same number: "RTX 6000 Ada" is not "RTX 6000".
GENERATIONS = ("ada", "blackwell")


@dataclass(frozen=True, slots=True)
class MeasuredHardware:
    """What a speed was measured on; threads: only on a CPU."""

    name: str
    threads: int | None = None

    def __str__(self) -> str:
        if self.threads is None:
            return self.name
        return f"{self.name} ({self.threads} thread{'' if self.threads == 1 else 's'})"


@dataclass(frozen=True, slots=True)
class WantedHardware:
    """The hardware asked for: a kind of GPU, or with `threads` exactly this processor."""

    name: str
    threads: int | None = None

    def matches(self, measured: MeasuredHardware) -> bool:
        """Return whether a speed measured on `measured` holds for this hardware."""
        if self.threads is not None:
            return measured == MeasuredHardware(self.name, self.threads)
        return is_of_kind(measured.name, self.name)

    def __str__(self) -> str:
        return str(MeasuredHardware(self.name, self.threads))


def is_of_kind(device_name: str, kind: str) -> bool:
    """Return whether torch's device name ("Quadro RTX 6000") is of a site's kind ("RTX_6000").

    All words of the kind must appear in the name, in any order.
    """
    present, wanted = _words(device_name), _words(kind)
    return wanted <= present and all((word in wanted) == (word in present) for word in GENERATIONS)


def _words(name: str) -> set[str]:
    return set(re.findall(r"[a-z0-9]+", name.lower()))


def this_machine(
    device: str = "auto", *, threads: int = WORKFLOW_THREADS, driver: Path = DRIVER_FOLDER
) -> WantedHardware:
    """Return the hardware that a run would use here.

    Args:
        device: the run's; auto takes a GPU if there is one.
        threads: of the run, if it has no GPU.
        driver: where NVIDIA's driver lists GPUs.
    """
    gpu = None if device == "cpu" else _gpu_here(driver)
    return WantedHardware(cpu_name(), threads) if gpu is None else WantedHardware(gpu)


def _gpu_here(driver: Path) -> str | None:
    for path in sorted(driver.glob("*/information")):
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue  # another GPU of the machine answers as well
        match = re.search(r"^Model:\s*(\S.*?)\s*$", text, flags=re.MULTILINE)
        if match:
            return match[1]
    return None
