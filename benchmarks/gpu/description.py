"""The machine as a record: hardware, driver, versions, and the code that is measured."""

from __future__ import annotations

import os
from typing import Any

import torch

from benchmarks.gpu.parts import ROOT
from benchmarks.gpu.work import Work
from fastdllm.engine.engines import FLASH_CAPABILITY
from fastdllm.engine.static_attention import FlashAttention
from fastdllm.machine.device import free_bytes, hardware
from fastdllm.machine.process import commit_words, git_state, package_versions
from fastdllm.runs.decoder_code import code_digest
from fastdllm.tools.doctor.gpu import driver_cuda, read_gpus

# Beginnings of variables that can change kernels or memory.
SETTINGS = ("CUDA_", "PYTORCH_", "CUBLAS_")


def run(work: Work) -> None:
    """Compute something, then describe what computed it."""
    device = work.device
    if (
        float((torch.ones(64, 64, device=device) @ torch.ones(64, 64, device=device)).sum())
        != 2**18
    ):
        raise RuntimeError(f"{hardware(device)} multiplies ones wrongly")
    found: dict[str, Any] = {
        "hardware": hardware(device),
        "free_gib": round(free_bytes(device) / 2**30, 1),
        "half_precision": str(work.half).removeprefix("torch."),
        "flash_attention": has_flash(device),
        "versions": package_versions() | {"torch": torch.__version__},
        "decoder_code": code_digest(),
    }
    commit = commit_words(git_state(ROOT))
    found |= {"commit": commit} if commit is not None else {}
    if device.type == "cuda":
        found |= of_gpu(device)
    work.tell("machine", sentence(found), **found)


def has_flash(device: torch.device) -> bool:
    """Whether card and torch have FlashAttention for rows of different length."""
    if device.type != "cuda":
        return False
    is_new = torch.cuda.get_device_capability(device) >= FLASH_CAPABILITY
    return is_new and FlashAttention.is_offered()


def of_gpu(device: torch.device) -> dict[str, Any]:
    """Describe what only a GPU has; absent what cannot be read."""
    capability = torch.cuda.get_device_capability(device)
    gpus, newest = read_gpus(), driver_cuda()
    return {
        "compute_capability": ".".join(map(str, capability)),
        "multiprocessors": torch.cuda.get_device_properties(device).multi_processor_count,
        "cuda": torch.version.cuda,
        "settings": {k: v for k, v in sorted(os.environ.items()) if k.startswith(SETTINGS)},
        **({"driver": gpus[0].driver} if gpus else {}),
        **({"driver_cuda": newest} if newest else {}),
        **({"cudnn": torch.backends.cudnn.version()} if torch.backends.cudnn.version() else {}),
        **({"mig": True} if "MIG" in torch.cuda.get_device_name(device) else {}),
    }


def sentence(found: dict[str, Any]) -> str:
    """Say in one line what was found."""
    parts = [found["hardware"], f"{found['free_gib']:.0f} GiB free"]
    if "driver" in found:
        parts.append(f"driver {found['driver']}")
    parts += [f"torch {found['versions']['torch']}", found["half_precision"]]
    if not found["flash_attention"]:
        parts.append("without FlashAttention")
    if "mig" in found:
        parts.append("a slice of a card, whose rates and shares are its own")
    parts.append(found.get("commit") or f"no git here, code {found['decoder_code'][:12]}")
    return ", ".join(parts)
