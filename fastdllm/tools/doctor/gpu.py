"""Checks of GPUs, their driver, torch's build, and the dtype that fits them.

torch is imported only where there is a GPU, and in its own process: a driver that hangs must
not block the doctor.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from fastdllm.tools.doctor.finding import DoctorFinding, ok, printed_by, problem, warn

# nvidia-smi loads the driver first if nothing keeps it loaded.
DRIVER_PATIENCE_S = 20.0
TORCH_PATIENCE_S = 90.0
# bfloat16 needs NVIDIA Ampere (compute capability 8.0) or newer.
BFLOAT16_CAPABILITY = 8.0
_QUERY = "name,memory.total,driver_version,compute_cap"
_TORCH_PROGRAM = (
    "import json, torch\n"
    "x = torch.ones(2, device='cuda')\n"
    "print(json.dumps([torch.cuda.device_count(), float((x + x).sum())]))\n"
)


@dataclass(frozen=True, slots=True)
class Gpu:
    """A card as nvidia-smi lists it; capability: 8.0 for an A100."""

    name: str
    memory_gib: float
    driver: str
    capability: float


@dataclass(frozen=True, slots=True)
class Build:
    """What torch was built for; cuda: None for a build without CUDA."""

    torch: str
    cuda: str | None


def look_at_gpu(dtype: str | None) -> list[DoctorFinding]:
    """Check cards, driver, torch and dtype; dtype: that of workflow_config.yaml, if known."""
    gpus = read_gpus()
    if not gpus:
        return [_without_gpu()]
    names = sorted({f"{gpu.name} ({gpu.memory_gib:.0f} GiB)" for gpu in gpus})
    findings = [ok("gpu", f"{len(gpus)} x {', '.join(names)}")]
    findings.append(driver_finding(gpus[0].driver, driver_cuda(), torch_build()))
    if findings[-1].state == "ok":
        findings.append(_torch_finding())
    findings.append(dtype_finding(min(gpu.capability for gpu in gpus), dtype))
    return findings


def read_gpus() -> list[Gpu]:
    """Return the cards that nvidia-smi lists."""
    text = printed_by(
        "nvidia-smi",
        f"--query-gpu={_QUERY}",
        "--format=csv,noheader,nounits",
        patience_s=DRIVER_PATIENCE_S,
    )
    gpus = []
    for line in (text or "").splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) == 4:
            name, memory, driver, capability = fields
            gpus.append(Gpu(name, _number(memory) / 1024, driver, _number(capability)))
    return gpus


def driver_cuda() -> str | None:
    """Return the newest CUDA that the driver can run, from the head of nvidia-smi's table."""
    text = printed_by("nvidia-smi", patience_s=DRIVER_PATIENCE_S)
    match = re.search(r"CUDA (?:UMD )?Version:\s*(\d+\.\d+)", text or "")
    return match[1] if match else None


def torch_build() -> Build | None:
    """Return what torch was built for, from its version file; None if torch is not installed."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    text = (Path(spec.origin).parent / "version.py").read_text(encoding="utf-8")
    version = re.search(r"^__version__ = '([^']+)'", text, flags=re.MULTILINE)
    cuda = re.search(r"^cuda[^=\n]*= '([^']+)'", text, flags=re.MULTILINE)
    return Build(version[1] if version else "?", cuda[1] if cuda else None)


def driver_finding(driver: str, newest: str | None, build: Build | None) -> DoctorFinding:
    """Check that the driver can run what torch was built for."""
    if build is None:
        return problem("driver", f"driver {driver}, but no torch here", "make setup-cluster")
    if build.cuda is None:
        return problem(
            "driver",
            f"driver {driver}, but torch {build.torch} was built for CPUs only",
            "install its build with CUDA (pytorch.org), or set up again where pip finds that one",
        )
    text = (
        f"driver {driver} (CUDA up to {newest or '?'}), torch {build.torch} for CUDA {build.cuda}"
    )
    # Within one major version, a driver runs what was built for a later minor one.
    if newest is not None and int(newest.split(".")[0]) < int(build.cuda.split(".")[0]):
        return problem(
            "driver", text, "the driver is too old: take another node, or an older torch"
        )
    return ok("driver", text)


def dtype_finding(capability: float, dtype: str | None) -> DoctorFinding:
    """Check that the card is fast with the dtype of workflow_config.yaml."""
    has = capability >= BFLOAT16_CAPABILITY
    best, other = ("bfloat16", "float16") if has else ("float16", "bfloat16")
    text = f"compute capability {capability:.1f}: {best}" + ("" if has else ", no bfloat16")
    advice = f"model: dtype: {best} or auto, in workflow_config.yaml"
    if dtype == "bfloat16" and not has:
        return problem("dtype", text, advice)
    if dtype == "float32":
        return warn("dtype", f"{text}; float32 takes twice the memory and is slow", advice)
    if dtype == other:
        return warn("dtype", f"{text}; {other} has less range", advice)
    return ok("dtype", f"{text}, as workflow_config.yaml has it" if dtype else text)


def _without_gpu() -> DoctorFinding:
    assigned = os.environ.get("SLURM_JOB_GPUS") or os.environ.get("SLURM_GPUS_ON_NODE")
    if assigned:
        return problem(
            "gpu",
            f"this job was given GPU {assigned}, but nvidia-smi shows none",
            "the node may be broken: sbatch --exclude it, and report it to your site",
        )
    return ok("gpu", "none here; a log-in node has none (fastdllm doctor works in a job, too)")


def _torch_finding() -> DoctorFinding:
    try:
        completed = subprocess.run(
            [sys.executable, "-c", _TORCH_PROGRAM],
            capture_output=True,
            text=True,
            timeout=TORCH_PATIENCE_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return problem(
            "torch", f"no answer from the GPU for {TORCH_PATIENCE_S:.0f} s", "take another node"
        )
    if completed.returncode:
        lines = completed.stderr.strip().splitlines() or [f"exit code {completed.returncode}"]
        return problem("torch", lines[-1][:200], "is the GPU free? nvidia-smi shows who uses it")
    count, _ = json.loads(completed.stdout)
    return ok("torch", f"computes on {count} GPU{'s' if count > 1 else ''}")


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0  # nvidia-smi prints [N/A] for what a card does not report
