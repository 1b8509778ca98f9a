"""The state of an interrupted training: saved whole or not at all, and taken up again.

A checkpoint belongs to one seed and schedule; one of another recipe is refused, never mixed in.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from fastdllm.common.errors import UserError
from fastdllm.model.plain import BlockDiffusionModel


@dataclass(slots=True)
class Progress:
    """Where a training stands: phase index, finished steps of it, seconds spent, loss curve."""

    phase: int = 0
    step: int = 0
    elapsed_s: float = 0.0
    losses: list[dict[str, Any]] = field(default_factory=list)


def save_checkpoint(
    path: Path,
    *,
    recipe: dict[str, Any],
    progress: Progress,
    model: BlockDiffusionModel,
    optimizer: torch.optim.Optimizer,
) -> None:
    """Replace the checkpoint at `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.tmp")
    torch.save(
        {
            "recipe": recipe,
            "phase": progress.phase,
            "step": progress.step,
            "elapsed_s": progress.elapsed_s,
            "losses": progress.losses,
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
        },
        partial,
    )
    partial.replace(path)


def load_checkpoint(
    path: Path,
    *,
    recipe: dict[str, Any],
    model: BlockDiffusionModel,
) -> tuple[Progress, dict[str, Any]] | None:
    """Put the checkpoint's weights into `model`; return its progress and optimizer state.

    Returns None when there is no checkpoint.

    Raises:
        UserError: the checkpoint is of another recipe.
    """
    if not path.exists():
        return None
    saved = torch.load(path, weights_only=True)
    if saved["recipe"] != recipe:
        raise UserError(
            f"{path}: the checkpoint is of another recipe; remove the file to start from step 0"
        )
    model.load_state_dict(saved["model"])
    progress = Progress(saved["phase"], saved["step"], saved["elapsed_s"], saved["losses"])
    return progress, saved["optimizer"]
