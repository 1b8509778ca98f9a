"""What can be wrong with a machine before anything is measured, each in one line.

Imports nothing but the standard library and modules of fastdllm that need no package.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.gpu.parts import ROOT
from fastdllm.common.errors import UserError
from fastdllm.machine.gpus import visible_cards
from fastdllm.tools.doctor.finding import printed_by
from fastdllm.tools.doctor.gpu import (
    DRIVER_PATIENCE_S,
    driver_cuda,
    driver_finding,
    read_gpus,
    torch_build,
)

OLDEST = {"torch": "2.11", "pydantic": "2.0"}
# What decoding and its measurement import; the tests also need the second line, and the trained
# model's prompts the third.
NEEDED = ("torch", "numpy", "pydantic", "rich")
FOR_TESTS = ("pytest", "hypothesis")
FOR_PROMPTS = ("transformers", "tokenizers", "jinja2")
# Set by some containers and while looking for errors: float32 with fewer bits, slow launches.
MISLEADING = {
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "float32 would be multiplied with fewer bits",
    "NVIDIA_TF32_OVERRIDE": "float32 would be multiplied with fewer bits",
    "CUDA_LAUNCH_BLOCKING": "each launch would be waited for",
    "PYTORCH_NO_CUDA_MEMORY_CACHING": "each tensor would be allocated anew",
}
QUERY = {
    "busy_percent": "utilization.gpu",
    "memory_used_mib": "memory.used",
    "temperature_c": "temperature.gpu",
    "sm_clock_mhz": "clocks.sm",
    "most_sm_clock_mhz": "clocks.max.sm",
    "power_limit_w": "power.limit",
}
# Above these, somebody else is at work: a driver alone takes some hundred MiB.
BUSY_PERCENT, BUSY_MIB = 5, 2048


@dataclass(slots=True)
class Surroundings:
    """What processes get from here: notices for people, variables, and the card's state before."""

    notices: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    removed: list[str] = field(default_factory=list)
    card: dict[str, float] = field(default_factory=dict)


def missing(packages: Iterable[str]) -> list[str]:
    """Return those of `packages` that this Python does not have."""
    return [name for name in packages if importlib.util.find_spec(name) is None]


def how_to_install(packages: Iterable[str], constraints: Path = ROOT / "constraints.txt") -> str:
    """Return the command that installs the tested versions of `packages`."""
    pins = constraints.read_text(encoding="utf-8").splitlines()
    names = {re.split("[=<>]", pin)[0].lower(): pin for pin in pins}
    wanted = " ".join(names.get(name, name) for name in packages)
    return f"{sys.executable} -m pip install {wanted}"


def check_packages() -> None:
    """Refuse a Python without what every part needs, and packages that are too old.

    Raises:
        UserError: naming what is missing, and how to get it.
    """
    if absent := missing(NEEDED):
        raise UserError(
            f"{sys.executable} lacks {', '.join(absent)}: {how_to_install(absent)} (without a "
            "network: pip download them elsewhere, for this Python, and install from that folder)"
        )
    for name, oldest in OLDEST.items():
        try:
            found = version(name)
        except PackageNotFoundError:
            continue  # built from source: what it lacks will show
        if first_numbers(found) < first_numbers(oldest):
            raise UserError(
                f"{name} {found} is too old: {oldest} or newer is needed; choose another Python "
                f"(make gpu PYTHON=...), or {how_to_install([name])}"
            )


def first_numbers(text: str) -> tuple[int, ...]:
    """Return the first two numbers of a version."""
    return tuple(map(int, re.findall(r"\d+", text)[:2]))


def why_no_gpu() -> str:
    """Return why torch sees no GPU, as far as driver and variables tell."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") is not None and not visible_cards():
        return f"CUDA_VISIBLE_DEVICES={os.environ['CUDA_VISIBLE_DEVICES']!r} hides every GPU"
    gpus = read_gpus()
    if not gpus:
        return (
            "nvidia-smi lists none here; on a cluster, ask for one (srun --gres=gpu:1), in a "
            "container, start it with its GPUs (--gpus all, --nv)"
        )
    finding = driver_finding(gpus[0].driver, driver_cuda(), torch_build())
    return f"{gpus[0].name}: {finding.text}" + (f"; {finding.fix}" if finding.fix else "")


def look_around(device: str) -> Surroundings:
    """Look at home, variables and the card that will be used, before any part runs.

    Raises:
        UserError: there is no place for temporary files.
    """
    found = Surroundings()
    try:
        temporary = tempfile.gettempdir()
    except OSError as error:
        raise UserError(f"{error.strerror}; export TMPDIR=<a folder that you can write>") from None
    home = os.environ.get("HOME", "")
    if not (home and os.access(home, os.W_OK)):
        found.environment["HOME"] = temporary
        found.notices.append(f"HOME={home!r} cannot be written; {temporary} is used")
    for name, effect in MISLEADING.items():
        if os.environ.get(name, "0") not in ("", "0"):
            found.removed.append(name)
            found.notices.append(f"{name} is ignored here: {effect}")
    if device != "cpu":
        found.card = card_state(device)
        found.notices += card_notices(found.card)
    return found


def card_state(device: str) -> dict[str, float]:
    """Return what nvidia-smi says of the card now; without what it does not report."""
    cards = visible_cards()
    index = int(device.partition(":")[2] or 0)
    if index >= len(cards):
        return {}
    printed = printed_by(
        "nvidia-smi",
        f"--id={cards[index]}",
        f"--query-gpu={','.join(QUERY.values())}",
        "--format=csv,noheader,nounits",
        patience_s=DRIVER_PATIENCE_S,
    )
    values = (printed or "").strip().split(",")
    if len(values) != len(QUERY):
        return {}
    return {
        name: float(value)
        for name, value in zip(QUERY, map(str.strip, values), strict=True)
        if re.fullmatch(r"[0-9.]+", value)
    }


def card_notices(card: dict[str, Any]) -> list[str]:
    """Say that somebody else uses the card, if its state shows it."""
    busy, used = card.get("busy_percent", 0), card.get("memory_used_mib", 0)
    if busy <= BUSY_PERCENT and used <= BUSY_MIB:
        return []
    return [
        f"the GPU is in use by others ({busy:.0f} % busy, {used / 1024:.1f} GiB taken): speeds are "
        "those of a shared card; nvidia-smi shows who"
    ]
