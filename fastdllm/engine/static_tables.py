"""The sizes of a pass at fixed shapes, and its integers in one buffer on the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fastdllm.engine.batch import Segment


@dataclass(frozen=True, slots=True)
class PassShape:
    """Sizes of a pass, rounded up.

    rows, segments, read: how many of each; width: most rows of a segment; visible: most positions
    that a segment sees.
    """

    rows: int
    segments: int
    read: int
    width: int
    visible: int

    @classmethod
    def of(cls, segments: Sequence[Segment], block_size: int) -> PassShape:
        """Return the smallest shape that holds `segments`."""
        width = max(block_size, *(s.width for s in segments))
        rows = sized(sum(s.width for s in segments), 8)
        read = sized(sum(s.read[1] - s.read[0] for s in segments), 8)
        # Padding rows lie in segments of their own, no wider than the others.
        spare = max(
            rows - sum(s.width for s in segments),
            read - sum(s.read[1] - s.read[0] for s in segments),
        )
        return cls(
            rows=rows,
            segments=sized(len(segments) + -(-spare // width), 4),
            read=read,
            width=width,
            visible=sized(max(s.visible for s in segments), 256),
        )


def sized(number: int, unit: int) -> int:
    """Round up to unit times 1, 2, 3, 4, 6, 8, 12, 16, ..."""
    size = unit
    while size < number:
        size *= 2
    between = size // 4 * 3
    return between if size >= 4 * unit and between >= number else size


class StaticTables:
    """The integers that describe a pass of R rows, N segments and M rows read.

    tokens, positions, write: [R] as in batch.py. place: [R], n * width + t for row t of segment n.
    read: [M], rows whose logits are read; read_place: [M], the same as place among those.
    starts, visible: [N], first cache position of each segment, and how many positions it sees.
    bounds, read_bounds: [N + 1], first row (row read) of each segment, and the end.
    """

    def __init__(self, shape: PassShape, device: torch.device) -> None:
        self.shape = shape
        rows, read, segments = shape.rows, shape.read, shape.segments
        self.sizes = [rows] * 4 + [read] * 2 + [segments] * 2 + [segments + 1] * 2
        self._pinned = device.type == "cuda"
        self._device = torch.zeros(sum(self.sizes), dtype=torch.long, device=device)
        (
            self.tokens,
            self.positions,
            self.write,
            self.place,
            self.read,
            self.read_place,
            self.starts,
            self.visible,
            self.bounds,
            self.read_bounds,
        ) = self._device.split(self.sizes)

    def fill(self, segments: Sequence[Segment], *, scratch: int) -> None:
        """Describe `segments`; padding works on the position `scratch` of the cache."""
        shape, width = self.shape, self.shape.width
        tokens: list[int] = []
        positions: list[int] = []
        write: list[int] = []
        place: list[int] = []
        read: list[int] = []
        read_place: list[int] = []
        starts, visible, bounds, read_bounds = [], [], [0], [0]
        for n, segment in enumerate(segments):
            row = len(tokens)
            tokens.extend(segment.tokens)
            positions.extend(range(segment.first, segment.first + segment.width))
            first = segment.cache_start + segment.first
            write.extend(range(first, first + segment.width))
            place.extend(range(n * width, n * width + segment.width))
            count = segment.read[1] - segment.read[0]
            read.extend(range(row + segment.read[0], row + segment.read[1]))
            read_place.extend(range(n * width, n * width + count))
            starts.append(segment.cache_start)
            visible.append(segment.visible)
            bounds.append(len(tokens))
            read_bounds.append(len(read))
        spare, spare_read = shape.rows - len(tokens), shape.read - len(read)
        spare_segments = shape.segments - len(segments)
        base = len(segments) * width
        starts += [scratch] * spare_segments
        visible += [1] * spare_segments
        tokens += [0] * spare
        positions += [0] * spare
        write += [scratch] * spare
        place += range(base, base + spare)
        read += [0] * spare_read
        read_place += range(base, base + spare_read)
        for n in range(1, spare_segments + 1):
            bounds.append(min(shape.rows - spare + n * width, shape.rows))
            read_bounds.append(min(shape.read - spare_read + n * width, shape.read))
        parts = (tokens, positions, write, place, read, read_place)
        numbers = [*parts, starts, visible, bounds, read_bounds]
        # A new buffer each time: an earlier transfer may still be under way.
        host = torch.tensor([n for part in numbers for n in part], pin_memory=self._pinned)
        self._device.copy_(host, non_blocking=True)
