"""Which measurement predicts a run best, among all paces of its task on one kind of hardware.

In this order: the run's own finished chunks; a finished run of the same settings, whole or limited;
the median over all configs of the task. What was measured at another batch size comes last, as that
matters more than a setting. Reads no files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from statistics import median

from fastdllm.tools.estimate.finished_chunks import FinishedChunk
from fastdllm.tools.estimate.paces import Pace, settings_digest, startup_s
from fastdllm.workflow.project.runs import Run


class Basis(Enum):
    """Where the seconds per item come from, in the words of a table."""

    CHUNKS = "its own finished chunks"
    SETTINGS = "earlier runs"
    TASK = "median of the task"
    PUBLISHED = "published by others"
    NONE = "nothing measured"


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast a run is expected to be.

    startup_s: loading, warm-up and recording of shapes; None if never measured.
    batch_size: of the measurement, if it is not that of the run. note: source of a published speed.
    """

    basis: Basis
    seconds_per_item: float
    startup_s: float | None
    batch_size: int | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class ExpectedBatch:
    """How many requests a run will decode at once, as far as that is known before it starts.

    asked: as in workflow_config.yaml. most: requests in its largest chunk.
    """

    asked: int | str
    most: int

    @classmethod
    def of(cls, run: Run, items: int | None) -> ExpectedBatch:
        """Return that of a run; items: of the whole run, if known."""
        chunk_size = int(run.decides["chunk_size"])
        return cls(run.surroundings["batch_size"], min(chunk_size, items or chunk_size))

    def is_like(self, measured: int, *, items: int) -> bool:
        """Whether `measured` at once, out of so many items, is what the run will do."""
        if isinstance(self.asked, int):
            # Of log-likelihoods inputs are counted, and a request can have several.
            return measured in (self.asked, min(self.asked, self.most))
        # A batch of all items there were does not show what memory would have allowed.
        return measured >= self.most or items > measured


class TaskPaces:
    """The paces of one task, with one model in one number format on one kind of hardware."""

    def __init__(self, paces: Sequence[Pace]) -> None:
        self._same: dict[str, list[Pace]] = {}
        self._by_config: dict[tuple[str, str], list[Pace]] = {}
        self._medians: dict[ExpectedBatch, Speed | None] = {}
        self._startup_s = _median_startup_s(paces)
        for pace in paces:
            self._by_config.setdefault((pace.experiment, pace.config), []).append(pace)
            for digest in {pace.settings, pace.computation} - {None}:
                self._same.setdefault(str(digest), []).append(pace)

    def speed(self, run: Run, items: int | None, chunks: Sequence[FinishedChunk]) -> Speed | None:
        """Return the speed of a run; None if nothing was measured.

        Args:
            items: of the whole run, if known.
            chunks: its finished chunks on this hardware.
        """
        batch = ExpectedBatch.of(run, items)
        if chunks:
            return self._of_chunks(chunks, batch)
        same = [
            pace
            for digest in (settings_digest(run.decides), run.computation)
            for pace in self._same.get(digest, [])
        ]
        of_same = self._of_paces(Basis.SETTINGS, [_best(same, batch)], batch) if same else None
        if of_same is not None and of_same.batch_size is None:
            return of_same
        if batch not in self._medians:
            self._medians[batch] = self._median(batch)
        of_task = self._medians[batch]
        is_better = of_same is None or (of_task is not None and of_task.batch_size is None)
        return of_task if is_better else of_same

    def _median(self, batch: ExpectedBatch) -> Speed | None:
        best = [_best(paces, batch) for paces in self._by_config.values()]
        fitting = [pace for pace in best if _fits(pace, batch)]
        return self._of_paces(Basis.TASK, fitting or best, batch) if best else None

    def _of_chunks(self, chunks: Sequence[FinishedChunk], batch: ExpectedBatch) -> Speed:
        items = sum(chunk.items for chunk in chunks)
        size = max(chunk.batch_size for chunk in chunks)
        start_s = startup_s(chunks)
        return Speed(
            Basis.CHUNKS,
            sum(chunk.seconds for chunk in chunks) / items,
            self._startup_s if start_s is None else start_s,
            None if batch.is_like(size, items=items) else size,
        )

    def _of_paces(self, basis: Basis, paces: Sequence[Pace], batch: ExpectedBatch) -> Speed:
        start_s = _median_startup_s(paces)
        return Speed(
            basis,
            median(pace.seconds_per_item for pace in paces),
            self._startup_s if start_s is None else start_s,
            None if _fits(paces[0], batch) else max(pace.batch_size for pace in paces),
        )


def _median_startup_s(paces: Sequence[Pace]) -> float | None:
    known_s = [pace.startup_s for pace in paces if pace.startup_s is not None]
    return median(known_s) if known_s else None


def _best(paces: Sequence[Pace], batch: ExpectedBatch) -> Pace:
    """Of the run's batch size, of most items, newest."""
    return max(paces, key=lambda pace: (_fits(pace, batch), pace.items, pace.time))


def _fits(pace: Pace, batch: ExpectedBatch) -> bool:
    return batch.is_like(pace.batch_size, items=pace.items)
