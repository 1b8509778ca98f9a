"""What a checkpoint is: its shapes and constants; and where the embedded one lies. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Shapes and constants of a checkpoint, as read from its config.json (loading.py)."""

    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    rope_theta: float
    rms_norm_eps: float
    tie_word_embeddings: bool
    max_positions: int
    block_size: int
    mask_id: int | None = None
    stop_token: int | None = None
    pad_id: int | None = None


# The model that ships with the project, so that every command works without a download.
EMBEDDED_MODEL = Path(__file__).resolve().parents[2] / "models" / "tiny"
