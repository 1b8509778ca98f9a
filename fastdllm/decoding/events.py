"""The events that an observer of decoding receives: slots, requests that enter them, passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from fastdllm.engine.batch import Segment


class SegmentShape(NamedTuple):
    """Rows of one sequence in a pass, the positions that they see, and the rows that are read."""

    width: int
    visible: int
    read: int


@dataclass(frozen=True, slots=True)
class PassRecord:
    """One pass of the engine: the shapes it ran, and its seconds.

    seconds: from laying out the rows until their tokens are on the host. recording_s: seconds,
        not among these, of recording a shape that ran for the first time.
    """

    segments: tuple[SegmentShape, ...]
    seconds: float
    recording_s: float = 0.0

    @property
    def rows(self) -> int:
        """Rows that went through the layers."""
        return sum(segment.width for segment in self.segments)

    @property
    def rows_read(self) -> int:
        """Rows that went through the language-model head."""
        return sum(segment.read for segment in self.segments)

    @classmethod
    def of(
        cls, segments: Sequence[Segment], seconds: float, recording_s: float = 0.0
    ) -> PassRecord:
        """Describe a pass that ran `segments`."""
        shapes = [SegmentShape(s.width, s.visible, s.read[1] - s.read[0]) for s in segments]
        return cls(tuple(shapes), seconds, recording_s)


@dataclass(frozen=True, slots=True)
class SlotsChosen:
    """The number of slots was chosen: the most sequences in flight."""

    slots: int


@dataclass(frozen=True, slots=True)
class OutOfMemory:
    """A pass ran out of memory; decoding continues with fewer slots."""

    slots_before: int
    slots: int


@dataclass(frozen=True, slots=True)
class Entered:
    """A request entered a slot for the first time; its answer is timed from here."""

    request: int


Event = PassRecord | SlotsChosen | OutOfMemory | Entered
Observer = Callable[[Event], None]
