"""Fixtures that more than one folder of tests uses."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch

from fastdllm.model.loading import load_plain_model
from fastdllm.model.plain import BlockDiffusionModel

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Tests run side by side; more threads than cores make tiny matrix products crawl."""
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # for the commands, which set their own number


@pytest.fixture(scope="session")
def golden_model() -> Callable[[str], BlockDiffusionModel]:
    """Load a golden model ("m6", "m14", "m28") as a plain float32 module, once per process."""

    @cache
    def load(name: str) -> BlockDiffusionModel:
        return load_plain_model(GOLDEN / name, device="cpu", dtype="float32")

    return load
