"""The least memory of a GPU that a model needs, from its config.json alone.

Weights, one sequence, and what CUDA itself takes; the rest decides how many sequences are decoded
at once, which decoding/memory.py finds out on the card. Imports no torch, as it runs on a log-in
node before a job is submitted. Nothing is known of a model that was not fetched yet.
"""

from __future__ import annotations

from dataclasses import dataclass

from fastdllm.cluster.site import GpuKind
from fastdllm.common.errors import UserError
from fastdllm.common.paths import expanded
from fastdllm.machine.hub_cache import snapshot
from fastdllm.model.config import ModelConfig, read_config

GIB = 2**30
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# An allowance for what is not our tensors: the CUDA context with its kernels, the workspaces of
# the matrix library, the captured graphs.
RUNTIME_GIB = 1.0
# A card has less than its name says: an L40S of 48 GB shows 45 GiB.
USABLE = 0.93
# A prompt with worked examples, in tokens, on top of the answer.
PROMPT = 1024
# Rows whose logits are alive at a time: one block.
BLOCK = 32


@dataclass(frozen=True, slots=True)
class ModelNeeds:
    """The model of a call, as written, and the memory it needs; config: None if not known."""

    name: str
    dtype: str
    device: str
    config: ModelConfig | None
    max_new_tokens: int

    def dtype_on(self, kind: GpuKind) -> str:
        """Return the number format on a kind of GPU; auto is the better half precision it has."""
        if self.dtype != "auto":
            return self.dtype
        return "bfloat16" if kind.bfloat16 else "float16"

    def needed_gib(self, kind: GpuKind) -> float | None:
        """Return the least memory it needs on a kind of GPU; None if not known."""
        if self.config is None:
            return None
        return needed_gib(self.config, self.dtype_on(kind), max_new_tokens=self.max_new_tokens)

    def fitting_sizes(self, kind: GpuKind) -> tuple[int, ...]:
        """Return the sizes of a kind that hold it in its number format; all if not known."""
        if self.dtype == "bfloat16" and not kind.bfloat16:
            return ()
        needed = self.needed_gib(kind)
        return tuple(s for s in kind.sizes_gib if needed is None or fits(needed, s))


def known_config(path: str, revision: str | None = None) -> ModelConfig | None:
    """Read the config of a checkpoint folder, or of a hub id in the cache; None if not known.

    A config.json that cannot be used is no error here: planning, which reads it first, reports it.
    """
    local = expanded(path)
    folder = local if local.is_dir() else snapshot(path, revision)
    try:
        return read_config(folder) if folder is not None else None
    except UserError:
        return None


def needed_gib(config: ModelConfig, dtype: str, *, max_new_tokens: int) -> float:
    """Return the least memory of a card that decodes one sequence, in GiB."""
    size = BYTES[dtype]
    positions = PROMPT + max_new_tokens
    cache = positions * config.num_layers * 2 * config.num_kv_heads * config.head_dim * size
    # In the model's dtype, in float32, and their softmax.
    logits = BLOCK * config.vocab_size * (size + 8)
    return (config.parameters * size + cache + logits) / GIB + RUNTIME_GIB


def fits(needed_gib: float, size_gib: int) -> bool:
    """Whether a card of this size holds it."""
    return needed_gib <= USABLE * size_gib
