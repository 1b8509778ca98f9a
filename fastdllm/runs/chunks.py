"""The loop of a run: decode the chunks that answers.jsonl lacks, time them, report progress.

Knows neither lm-eval nor torch: the engine does the work, the log keeps it. A chunk's seconds cover
its decoding only: not loading, not the warm-up, not writing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Protocol

from fastdllm.runs.answer_records import Answer, Chunk, Session
from fastdllm.runs.answer_sources import Source, check_requests
from fastdllm.runs.answers import AnswerLog
from fastdllm.runs.progress import Progress
from fastdllm.runs.stopping import SIGNALS, Stop
from fastdllm.tasks.plan import Plan, PlannedRequest


@dataclass(frozen=True, slots=True)
class Answered:
    """The answers to a chunk, in request order; the rest as in `Chunk`."""

    answers: tuple[Answer, ...]
    recording_s: float
    batch_size: int
    smallest_batch_size: int
    out_of_memory: int
    confidence_counts: tuple[int, ...] | None = None


class Listener(Protocol):
    """Gets the answers of a chunk while it is decoded; must be quick, as its seconds count."""

    def answered(self, answer: Answer) -> None: ...

    def note(self, text: str) -> None: ...

    def step(self) -> None:
        """Called after each pass; an exception ends the chunk, which is then lost."""


class ChunkEngine(Protocol):
    """What the loop needs from a model; implemented in chunk_engine.py."""

    def answer(self, requests: Sequence[PlannedRequest], listener: Listener) -> Answered: ...

    def warm_up(self, requests: Sequence[PlannedRequest]) -> None: ...

    def synchronize(self) -> None: ...

    def peak_memory_gib(self) -> float: ...


def missing_chunks(
    plan: Plan, log: AnswerLog, own: Sequence[int] | None = None, held: Container[int] = ()
) -> list[int]:
    """Return the chunks without answers, in the order in which they are decoded.

    Args:
        own: the chunks of this job; default: all of the plan.
        held: chunks that another file has.

    Raises:
        UserError: the log holds answers to other requests than the plan asks.
    """
    check_requests(plan, Source(log.path, log.sessions, log.chunks))
    asked = range(len(plan.header.chunks)) if own is None else own
    return [index for index in asked if index not in log.chunks and index not in held]


def decode_missing(
    plan: Plan,
    log: AnswerLog,
    engine: ChunkEngine,
    *,
    start_session: Callable[[float], Session],
    progress: Progress,
    missing: Sequence[int] | None = None,
    stop: Stop | None = None,
) -> None:
    """Answer the chunks that are `missing` and append each as soon as it is complete.

    Args:
        start_session: describes this process, given the seconds that the warm-up took.
        missing: default: every chunk that `log` lacks.
        stop: checked between chunks and between the steps of one.

    Raises:
        Stopped: a signal came; the chunk in flight is in the log, or was dropped.
    """
    missing = missing_chunks(plan, log) if missing is None else missing
    stop = stop or Stop()
    if not missing:
        return
    with progress.ticking():
        started = time.perf_counter()
        engine.warm_up(plan.chunk(missing[0]))
        engine.synchronize()
        log.append_session(start_session(round(time.perf_counter() - started, 3)))
        pace_s = None
        with stop.deferred(*SIGNALS):
            for index in missing:
                stop.check_between()
                flight = _Flight(progress, stop, len(plan.chunk(index)), pace_s)
                chunk = _timed_chunk(plan, index, engine, flight, len(log.sessions) - 1)
                log.append_chunk(chunk)
                progress.stored()
                pace_s = chunk.seconds / len(chunk.answers)


class _Flight:
    """Listens to the chunk in flight: counts it, and stops it if there is no time to finish it.

    pace_s: seconds per request of the chunk before; None for the first.
    """

    def __init__(
        self, progress: Progress, stop: Stop, n_requests: int, pace_s: float | None
    ) -> None:
        self._progress, self._stop = progress, stop
        self._n_requests, self._pace_s = n_requests, pace_s
        self._n_answered = 0
        self._started = time.monotonic()

    def answered(self, answer: Answer) -> None:
        self._n_answered += 1
        self._progress.answered(answer)

    def note(self, text: str) -> None:
        self._progress.note(text)

    def step(self) -> None:
        self._stop.check(self._remaining_s)

    def _remaining_s(self) -> float | None:
        """Estimate what the chunk still takes, at least, from the one before and its own answers.

        Requests are decoded side by side, so the first answers say little about the others: they
        count only once half of them are there.
        """
        elapsed_s = time.monotonic() - self._started
        open_requests = self._n_requests - self._n_answered
        estimates = []
        if self._pace_s is not None:
            estimates.append(max(0.0, self._pace_s * self._n_requests - elapsed_s))
        if self._n_answered >= open_requests:
            estimates.append(elapsed_s * open_requests / self._n_answered)
        return min(estimates, default=None)


def _timed_chunk(
    plan: Plan, index: int, engine: ChunkEngine, listener: Listener, session: int
) -> Chunk:
    requests = plan.chunk(index)
    engine.synchronize()
    started = time.perf_counter()
    answered = engine.answer(requests, listener)
    engine.synchronize()
    # Preparing a shape for its first use is warm-up, whenever it happens.
    seconds = time.perf_counter() - started - answered.recording_s
    return Chunk(
        index=index,
        seconds=round(seconds, 6),
        prompt_tokens=sum(len(request.prompt_ids) for request in requests),
        peak_memory_gib=round(engine.peak_memory_gib(), 4),
        recording_s=round(answered.recording_s, 6),
        batch_size=answered.batch_size,
        smallest_batch_size=answered.smallest_batch_size,
        out_of_memory=answered.out_of_memory,
        answers=answered.answers,
        session=session,
        confidence_counts=answered.confidence_counts,
    )
