"""Runs model inputs that share prefixes, each distinct block once.

A block's keys and values depend on the blocks before it and on itself, so inputs that begin with
the same blocks have the same keys and values there. Inputs run in groups that fit the memory, each
in its own extent. A shared block is computed in the extent of the first input that has it, and
copied to those of the others where they diverge. Knows nothing of likelihoods.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from fastdllm.common.errors import UserError
from fastdllm.decoding.events import Observer, OutOfMemory, PassRecord, SlotsChosen
from fastdllm.decoding.memory import scoring_bytes
from fastdllm.decoding.prefix_tree import Branch, Tokens, grow, shared_blocks
from fastdllm.engine.batch import Segment
from fastdllm.engine.engines import Engine, drop_idle, make_engine
from fastdllm.engine.static import run_directly
from fastdllm.machine.device import free_bytes, is_out_of_memory
from fastdllm.model.fused import FusedModel

# More rows in a pass gain no more throughput, but their activations take memory.
PASS_ROWS = 2048

# Called with the input and position of each row, and the logits of the rows [M, V].
TakeLogits = Callable[[Sequence[tuple[Tokens, int]], Tensor], None]


@dataclass(slots=True)
class _Stretch:
    """A branch that is being run: its blocks before `done` are in the cache."""

    branch: Branch
    done: int


class SharedPasses:
    """The inputs of one scoring, and the cache that they run in.

    starts: beginnings of the extents, one for each input of a group. blocks: most blocks in a pass.
    """

    def __init__(
        self,
        model: FusedModel,
        inputs: Mapping[Tokens, tuple[int, int]],
        *,
        take: TakeLogits,
        block_size: int,
        batch_size: int,
        observe: Observer | None = None,
    ) -> None:
        """Allocate the cache.

        Args:
            inputs: whole blocks of tokens, and the half-open range of positions in the last block
                whose logits are read.
            take: called after each pass; may get a row again after memory ran out.
            batch_size: most inputs in the cache at once; fewer where memory does not allow them.

        Raises:
            UserError: not even one input fits the memory.
        """
        self.model, self.inputs, self.take, self.observe = model, inputs, take, observe
        self.block_size = block_size
        # In this order, inputs that share blocks are neighbours.
        self.order = sorted(inputs)
        length = max(len(tokens) for tokens in inputs)
        # The memory of a cache left by a decoding would count as taken.
        drop_idle(model)
        slots = min(_fitting(model, length), batch_size, len(inputs))
        self.engine, slots = _engine_for(model, slots, length)
        self.starts = [slot * length for slot in range(slots)]
        self.blocks = max(PASS_ROWS // block_size, 1)
        self._notify(SlotsChosen(slots))

    def run(self) -> None:
        """Run all inputs.

        Raises:
            UserError: not even one block at a time fits the memory.
        """
        before: Tokens = ()
        for first in range(0, len(self.order), len(self.starts)):
            group = self.order[first : first + len(self.starts)]
            self._run_group(group, shared_blocks(before, group[0], self.block_size))
            # What the next group shares with this one, its first input shares with the last input
            # here, and continues in that extent.
            last = self.starts.pop(len(group) - 1)
            self.starts.insert(0, last)
            before = group[-1]

    def _run_group(self, group: Sequence[Tokens], resident: int) -> None:
        """Run inputs together; the cache holds the first `resident` blocks of the first input."""
        ready, stretches = [grow(group, self.block_size)], list[_Stretch]()
        while ready or stretches:
            while ready:
                branch = ready.pop()
                cached = resident if branch.members[0] == 0 else 0
                if cached < branch.stop:
                    stretches.append(_Stretch(branch, max(branch.start, cached)))
                else:
                    ready += self._parted(branch)
            pieces = self._pieces(stretches)
            if self._run_pass(group, pieces):
                for stretch, stop in pieces:
                    stretch.done = stop
                    if stop == stretch.branch.stop:
                        ready += self._parted(stretch.branch)
                stretches = [s for s in stretches if s.done < s.branch.stop]

    def _parted(self, branch: Branch) -> list[Branch]:
        """Copy the blocks of a finished branch to its children, which are returned."""
        source = branch.members[0]
        for child in branch.children:
            if child.members[0] != source:
                self.engine.cache.copy(
                    self.starts[source],
                    self.starts[child.members[0]],
                    branch.stop * self.block_size,
                )
        return branch.children

    def _pieces(self, stretches: Sequence[_Stretch]) -> list[tuple[_Stretch, int]]:
        """Return what the next pass runs: stretches, each with the block it stops before."""
        pieces, room = [], self.blocks
        for stretch in stretches:
            stop = min(stretch.done + room, stretch.branch.stop)
            if stop > stretch.done:
                pieces.append((stretch, stop))
                room -= stop - stretch.done
        return pieces

    def _run_pass(self, group: Sequence[Tokens], pieces: Sequence[tuple[_Stretch, int]]) -> bool:
        """Run one pass; if memory runs out, allow half as many blocks and return False."""
        segments: list[Segment] = []
        read: list[tuple[Tokens, int]] = []
        for stretch, stop in pieces:
            leader = stretch.branch.members[0]
            tokens, start = group[leader], self.starts[leader]
            for block in range(stretch.done, stop):
                first, end = block * self.block_size, (block + 1) * self.block_size
                # Prefixes come first in a group, so an input that ends here is the leader.
                rows = self.inputs[tokens] if end == len(tokens) else (first, first)
                read += [(tokens, position) for position in range(*rows)]
                reads = (rows[0] - first, rows[1] - first)
                segments.append(Segment(start, first, tokens[first:end], visible=end, read=reads))
        started = time.perf_counter()
        try:
            opened = self.engine.open(segments)
            layers = self.model.config.num_layers
            hidden = opened.layers(opened.embed(), 0, layers, only_read=True)
            self.take(read, self.model.logits(hidden))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            self._halve(len(segments))
            return False
        seconds = time.perf_counter() - started
        self._notify(PassRecord.of(segments, seconds))
        return True

    def _halve(self, blocks: int) -> None:
        """Allow half as many blocks per pass; what this one wrote will be written again."""
        if blocks == 1:
            raise UserError(
                "out of memory with one block at a time; shorten the prompts, lower batch_size, or "
                "use a device with more memory"
            ) from None
        self.blocks = blocks // 2
        self._notify(OutOfMemory(blocks, self.blocks))

    def _notify(self, record: PassRecord | SlotsChosen | OutOfMemory) -> None:
        if self.observe is not None:
            self.observe(record)


def _fitting(model: FusedModel, length: int) -> int:
    """Return how many inputs of `length` tokens fit half the memory; passes have the other half."""
    device = model.device
    free = free_bytes(device)
    needed = scoring_bytes(model.config, device, model.dtype, length)
    if needed > free:
        raise UserError(
            f"a request of {length} tokens needs {needed / 2**30:.1f} GiB for cache and passes, "
            f"but {device} has {free / 2**30:.1f} GiB free; shorten the prompt"
        )
    return free // needed


def _engine_for(model: FusedModel, slots: int, length: int) -> tuple[Engine, int]:
    """Return an engine for `slots` inputs, or half as many until they fit, and the number."""
    while True:
        try:
            if model.make_engine is not None:
                return model.make_engine(model, slots * length), slots
            # The passes are too large and too different to be worth recording.
            return make_engine(model, slots * length, run_directly), slots
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if slots == 1:
                raise UserError(
                    f"an input of {length} tokens does not fit the memory; use a device with more"
                ) from None
        slots //= 2
