"""A probe on a workstation: it takes a free card, as a run does."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fastdllm.commands.estimate import _probe
from fastdllm.machine import gpus, process
from fastdllm.tools.estimate import probing


class Probing(Exception):
    """The probe began."""


def test_a_probe_leaves_a_card_that_a_run_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setattr(gpus, "_own_folder", lambda *_: tmp_path)
    monkeypatch.setattr(process, "use_allowed_threads", lambda _: None)
    seen: list[str] = []

    def probe(*_: object, **__: object) -> Iterator[object]:
        seen.append(os.environ["CUDA_VISIBLE_DEVICES"])
        raise Probing

    monkeypatch.setattr(probing, "probe", probe)
    project: Any = SimpleNamespace(
        plans=(), config=SimpleNamespace(model=SimpleNamespace(device="auto"))
    )
    with gpus.card_for("auto"), monkeypatch.context() as another:
        # What the other process sees.
        another.setenv("CUDA_VISIBLE_DEVICES", "3,5")
        with pytest.raises(Probing):
            _probe(project, [], argparse.Namespace(minutes=None, threads=1))
    assert seen == ["5"]
