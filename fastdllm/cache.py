"""Keys and values of the sequences of a batch, in one preallocated buffer per layer.

The prefix cache of a sequence is the head of its slot; the rows of the current block lie right
behind it, and are the block cache: a full-block pass writes them all, a sub-block pass overwrites
its own in place, a commit makes them part of the prefix. Knows nothing of tokens or policies.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastdllm.model import ModelConfig


class KVCache:
    """Buffers of `slots` sequences of up to `capacity` positions each."""

    def __init__(
        self,
        config: ModelConfig,
        *,
        slots: int,
        capacity: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        shape = (slots, config.num_kv_heads, capacity, config.head_dim)
        # Zeros, not empty: a masked position has weight 0, and 0 times a stray NaN is NaN.
        layers = range(config.num_layers)
        self.keys = [torch.zeros(shape, device=device, dtype=dtype) for _ in layers]
        self.values = [torch.zeros_like(key) for key in self.keys]

    def view(
        self,
        slots: Sequence[int],
        *,
        starts: Sequence[int],
        width: int,
        visible: Sequence[int],
    ) -> CacheView:
        """Open the cache for one pass over `width` positions of each of `slots`.

        Args:
            starts: absolute position of the first row of each sequence.
            visible: how many positions of its slot each sequence attends to.
        """
        device = self.keys[0].device
        return CacheView(
            self,
            slots=torch.tensor(slots, device=device),
            positions=torch.tensor(starts, device=device)[:, None]
            + torch.arange(width, device=device),
            visible=torch.tensor(visible, device=device),
            length=max(visible),
        )


class CacheView:
    """One pass's access to the cache: a `PassCache` of model.py.

    positions: [B, T] absolute positions of the rows of the pass.
    mask: bool [B, 1, 1, S], or None when every sequence sees all S positions.
    """

    def __init__(
        self, cache: KVCache, *, slots: Tensor, positions: Tensor, visible: Tensor, length: int
    ) -> None:
        self.cache = cache
        self.slots = slots
        self.positions = positions
        self.visible = visible
        self.length = length
        seen = torch.arange(length, device=visible.device) < visible[:, None]
        self.mask = None if bool(seen.all()) else seen[:, None, None, :]
        slot_list = slots.tolist()
        self._all_slots = slot_list == list(range(cache.keys[0].shape[0]))

    def rows(self, index: Tensor) -> CacheView:
        """The same pass for the sequences at `index` (long, [b]) only."""
        return CacheView(
            self.cache,
            slots=self.slots[index],
            positions=self.positions[index],
            visible=self.visible[index],
            length=int(self.visible[index].max()),
        )

    def update(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store `key`, `value` [B, kv_heads, T, d]; return the visible ones [B, kv_heads, S, d]."""
        return (
            self._write_and_read(self.cache.keys[layer], key),
            self._write_and_read(self.cache.values[layer], value),
        )

    def _write_and_read(self, buffer: Tensor, new: Tensor) -> Tensor:
        buffer[self.slots[:, None], :, self.positions] = new.transpose(1, 2)
        if self._all_slots:
            return buffer[:, :, : self.length]
        return buffer[self.slots, :, : self.length]
