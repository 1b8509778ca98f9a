"""What one sequence does in one pass: which kind, on which rows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from fastdllm.decoding.sequence import DecodedSequence, Window
from fastdllm.engine.batch import Segment
from fastdllm.policy import PassKind, Policy, SequenceState

Value = TypeVar("Value")


@dataclass(slots=True, eq=False)
class Work:
    """What one sequence does in one pass.

    width: number of rows; 0 for a reused pass, which runs none. offset: block offset of the first
    row, of a pass over the current block. state, window, computed_window: of denoising passes only;
    window is the half-open range of block offsets to predict, and computed_window the beginning of
    it that the rows of this pass predict. blocks: of a prefill, the half-open range of its blocks.
    read: rows of the last segment whose logits are read. input_changes: of the spans that the
    policy measured, in order (`SpanSignals.input_change`).
    """

    sequence: DecodedSequence
    kind: PassKind
    width: int
    offset: int = 0
    state: SequenceState | None = None
    window: Window = (0, 0)
    computed_window: Window = (0, 0)
    blocks: tuple[int, int] = (0, 0)
    read: tuple[int, int] = (0, 0)
    layers_skipped: int = 0
    input_changes: list[float] = field(default_factory=list)

    @property
    def is_sampled(self) -> bool:
        """Whether its tokens are sampled, not the most likely ones."""
        return self.denoises and self.sequence.generator is not None

    @property
    def denoises(self) -> bool:
        """Whether a policy chooses what is committed."""
        return self.state is not None

    def segments(self) -> list[Segment]:
        """Return the rows of this work."""
        sequence = self.sequence
        size = sequence.block_size
        if self.kind is PassKind.PREFILL:
            last = self.blocks[1] - 1
            return [
                Segment(
                    sequence.cache_start,
                    block * size,
                    sequence.tokens[block * size : (block + 1) * size],
                    visible=(block + 1) * size,
                    read=self.read if block == last else (0, 0),
                )
                for block in range(*self.blocks)
            ]
        first = sequence.block_start + self.offset
        return [
            Segment(
                sequence.cache_start,
                first,
                sequence.tokens[first : first + self.width],
                visible=sequence.block_start + size,
                read=self.read,
            )
        ]

    def per_position(self, rows: list[Value]) -> list[Value]:
        """Return what the rows read predict, one value for each offset of `computed_window`.

        Token shift: a row predicts the position after it; the first row predicts its own too.
        """
        start, stop = self.computed_window
        return [rows[0], *rows] if stop - start > len(rows) else rows


def by_policy(works: Iterable[Work]) -> list[tuple[Policy, list[int]]]:
    """Return the indices of the works of each policy, which decides for them together."""
    groups: dict[int, tuple[Policy, list[int]]] = {}
    for index, work in enumerate(works):
        policy = work.sequence.policy
        groups.setdefault(id(policy), (policy, []))[1].append(index)
    return list(groups.values())
