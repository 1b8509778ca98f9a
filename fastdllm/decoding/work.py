"""What one sequence does in one pass: which kind, on which rows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from fastdllm.decoding.sequence import DecodedSequence, Window
from fastdllm.engine.batch import Segment
from fastdllm.policy import PassKind, Policy, SequenceState


@dataclass(slots=True)
class Work:
    """What one sequence does in one pass.

    kind: prefill, commit, full_block or sub_block. state, window: of denoising passes only; window
    is the half-open range of block offsets to predict. blocks: of a prefill, the half-open range of
    its blocks. read: rows of the last segment whose logits are read. input_changes: of the spans
    that the policy measured, in order (`SpanSignals.input_change`).
    """

    sequence: DecodedSequence
    kind: PassKind
    state: SequenceState | None = None
    window: Window = (0, 0)
    blocks: tuple[int, int] = (0, 0)
    read: tuple[int, int] = (0, 0)
    layers_skipped: int = 0
    input_changes: list[float] = field(default_factory=list)

    @property
    def is_sampled(self) -> bool:
        """Whether its tokens are sampled, not the most likely ones."""
        return self.denoises and self.sequence.temperature > 0

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
        first, rows = self.offset, self.width
        return [
            Segment(
                sequence.cache_start,
                sequence.block_start + first,
                sequence.block_tokens[first : first + rows],
                visible=sequence.block_start + size,
                read=self.read,
            )
        ]

    @property
    def offset(self) -> int:
        """Block offset of the first row, of a pass over the current block."""
        if self.kind is PassKind.SUB_BLOCK and self.state is not None:
            return self.state.sub_block * self.sequence.small_block_size
        return 0

    @property
    def width(self) -> int:
        """Number of rows."""
        if self.kind is PassKind.PREFILL:
            return (self.blocks[1] - self.blocks[0]) * self.sequence.block_size
        if self.kind is PassKind.SUB_BLOCK:
            return self.sequence.small_block_size
        return self.sequence.block_size

    @property
    def computed_window(self) -> Window:
        """The beginning of `window` that the rows of this pass predict.

        A sub-block pass runs one sub-block only; the positions ahead were predicted before.
        """
        if self.kind is PassKind.SUB_BLOCK:
            return self.window[0], min(self.window[1], self.offset + self.width)
        return self.window

    def row_of(self, position: int) -> int:
        """Return which of the rows read predicts block offset `position`.

        Token shift: the row of offset p predicts p + 1; the first row predicts its own too.
        """
        return max(position - 1 - self.offset, 0) - self.read[0]


def by_policy(works: Iterable[Work]) -> list[tuple[Policy, list[int]]]:
    """Return the indices of the works of each policy, which decides for them together."""
    groups: dict[int, tuple[Policy, list[int]]] = {}
    for index, work in enumerate(works):
        policy = work.sequence.policy
        groups.setdefault(id(policy), (policy, []))[1].append(index)
    return list(groups.values())
