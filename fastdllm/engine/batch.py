"""One pass as flat rows: the segments of sequences, and the tensors that the layers need.

A segment is a run of rows of one sequence that all see the same positions: a block, a sub-block, or
one block of a prefill. Under block-causal attention every row of a block sees the whole prefix and
the whole block, so no pass needs a mask, and a prompt of several blocks is several segments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Segment:
    """Rows of one sequence in one pass.

    cache_start: beginning of its extent of the cache. first: absolute position of the first row.
    visible: number of positions of the extent that the rows see. read: half-open range of its rows
    whose logits are read.
    """

    cache_start: int
    first: int
    tokens: Sequence[int]
    visible: int
    read: tuple[int, int] = (0, 0)

    @property
    def width(self) -> int:
        """Number of rows."""
        return len(self.tokens)


@dataclass(frozen=True, slots=True)
class Piece:
    """The rows and the cache positions of one segment, for attention.

    row: index of the first query row; width: number of query rows; start: first visible position
    of the cache; visible: number of visible positions.
    """

    row: int
    width: int
    start: int
    visible: int


class FlatBatch:
    """Segments, one after the other, as tensors.

    tokens, positions, write: long [R]; write is where a row's keys and values go in the cache.
    first_write: the first of `write`, if the others follow it one by one; else None.
    read: long [M], the rows whose logits are read; None when that is all of them.
    pieces, read_pieces: what attention works on, for all rows and for those that are read.
    """

    def __init__(self, segments: Sequence[Segment], device: torch.device) -> None:
        tokens: list[int] = []
        positions: list[int] = []
        write: list[int] = []
        read: list[int] = []
        self.pieces: list[Piece] = []
        self.read_pieces: list[Piece] = []
        for segment in segments:
            row, width = len(tokens), segment.width
            self.pieces.append(Piece(row, width, segment.cache_start, segment.visible))
            start, stop = segment.read
            if start < stop:
                self.read_pieces.append(
                    Piece(len(read), stop - start, segment.cache_start, segment.visible)
                )
                read.extend(range(row + start, row + stop))
            tokens.extend(segment.tokens)
            positions.extend(range(segment.first, segment.first + width))
            place = segment.cache_start + segment.first
            write.extend(range(place, place + width))
        self.rows = len(tokens)
        follows = write == list(range(write[0], write[0] + self.rows))
        self.first_write = write[0] if follows else None
        columns = torch.tensor([tokens, positions, write], device=device)
        self.tokens, self.positions, self.write = columns.unbind(0)
        everything = len(read) == self.rows
        self.read = None if everything else torch.tensor(read, dtype=torch.long, device=device)
