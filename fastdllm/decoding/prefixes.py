"""Keys and values of whole blocks, kept when a sequence ends for the next one that begins alike.

Exact under block-causal attention: what a block leaves in the cache depends on the blocks before it
and on itself. Kept are blocks of final tokens, which only prefills and commits have written; both
run all layers, whatever the policy, so the tokens and the block size decide all. One store belongs
to one model. Kept in host memory.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Iterator, Sequence

from torch import Tensor

from fastdllm.decoding.sequence import DecodedSequence
from fastdllm.engine.cache import KVCache


class PrefixStore:
    """Blocks by the digest of the tokens up to their end, at most `budget` bytes of them.

    The least recently used go first, of one beginning the last ones: no block is kept whose
    predecessor is not.
    """

    def __init__(self, budget: int) -> None:
        self.budget, self.bytes = budget, 0
        self._blocks: OrderedDict[bytes, Tensor] = OrderedDict()

    def __len__(self) -> int:
        """Number of blocks."""
        return len(self._blocks)

    def restore(self, sequence: DecodedSequence, cache: KVCache) -> None:
        """Write what is kept of the beginning of a prompt to the extent of its sequence.

        Its last token is left to a prefill or a denoising pass, which predict what follows.
        """
        size = sequence.block_size
        keys: list[bytes] = []
        for key in _chain(sequence, (sequence.prompt_length - 1) // size):
            if key not in self._blocks:
                break
            cache.restore(sequence.cache_start + len(keys) * size, self._blocks[key])
            keys.append(key)
        self._touch(keys)
        sequence.prefilled = sequence.restored = len(keys)

    def keep(self, sequence: DecodedSequence, cache: KVCache) -> None:
        """Keep the whole blocks of a sequence, as many from its beginning as the budget allows."""
        size = sequence.block_size
        keys = list(_chain(sequence, sequence.whole_blocks))
        kept = [key for key in keys if key in self._blocks]
        # So that other blocks go first.
        self._touch(kept)
        for block in range(len(kept), len(keys)):
            saved = cache.save(sequence.cache_start + block * size, size)
            if not self._make_room(saved.nbytes, set(keys)):
                break
            self._blocks[keys[block]] = saved
            self.bytes += saved.nbytes
            kept.append(keys[block])
        self._touch(kept)

    def _make_room(self, size: int, kept: set[bytes]) -> bool:
        """Drop the least recently used until `size` bytes are free; False if only `kept` remain."""
        while self.bytes + size > self.budget:
            oldest = next(iter(self._blocks), None)
            if oldest is None or oldest in kept:
                return False
            self.bytes -= self._blocks.pop(oldest).nbytes
        return True

    def _touch(self, keys: Sequence[bytes]) -> None:
        """Make a chain the most recently used, its first block the very last to go."""
        for key in reversed(keys):
            self._blocks.move_to_end(key)


def _chain(sequence: DecodedSequence, count: int) -> Iterator[bytes]:
    """Yield the keys of the first `count` blocks: each stands for all tokens up to its end."""
    size, key = sequence.block_size, str(sequence.block_size).encode()
    for block in range(count):
        tokens = array("q", sequence.tokens[block * size : (block + 1) * size])
        key = hashlib.sha256(key + tokens.tobytes()).digest()
        yield key
