"""The loop of a run: decode the chunks that answers.jsonl lacks, time them, report progress.

Knows no lm-eval: the engine does the work, the log keeps it. A chunk's seconds cover its decoding
only: not loading, not the warm-up, not writing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fastdllm.runs.answer_records import Chunk, Session
from fastdllm.runs.answer_sources import Source, check_requests
from fastdllm.runs.answers import AnswerLog
from fastdllm.runs.chunk_in_flight import ChunkInFlight
from fastdllm.runs.pauses import pauses_watched
from fastdllm.runs.progress import Progress
from fastdllm.runs.stopping import SIGNALS, Stop
from fastdllm.tasks.plan import Plan, PlannedRequest

if TYPE_CHECKING:
    from fastdllm.runs.chunk_engine import Answered, DecodingEngine


def missing_chunks(
    plan: Plan, log: AnswerLog, chunks: Sequence[int] | None = None, held: Container[int] = ()
) -> list[int]:
    """Return the chunks without answers, in the order in which they are decoded.

    Args:
        chunks: the chunks of this job; default: all of the plan.
        held: chunks that another file has.

    Raises:
        UserError: the log holds answers to other requests than the plan's.
    """
    check_requests(plan, Source(log.path, log.sessions, log.chunks))
    indices = range(len(plan.header.chunks)) if chunks is None else chunks
    return [index for index in indices if index not in log.chunks and index not in held]


def decode_missing(
    plan: Plan,
    log: AnswerLog,
    engine: DecodingEngine,
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
    with progress.ticking(), pauses_watched(stop) as watch:
        started = time.perf_counter()
        engine.warm_up(plan.chunk(missing[0]))
        engine.synchronize()
        log.append_session(start_session(round(time.perf_counter() - started, 3)))
        pace_s = None
        with stop.deferred(*SIGNALS):
            for index in missing:
                stop.check_between()
                flight = ChunkInFlight(progress, stop, len(plan.chunk(index)), pace_s)
                watch.look()
                stop.was_paused = False
                chunk = _timed_chunk(plan, index, engine, flight, log)
                watch.look()
                if stop.was_paused:
                    chunk = replace(chunk, was_paused=True)
                log.append_chunk(chunk)
                progress.stored()
                pace_s = None if stop.was_paused else chunk.seconds / len(chunk.answers)


@dataclass(frozen=True, slots=True)
class Timed:
    """The answers of a chunk and the seconds of their decoding, warm-up excluded.

    processor_s: of `seconds`, those in which this thread was on a processor.
    """

    answered: Answered
    seconds: float
    processor_s: float


def timed_answers(
    engine: DecodingEngine, requests: Sequence[PlannedRequest], flight: ChunkInFlight
) -> Timed:
    """Answer one chunk and time it."""
    engine.synchronize()
    started, worked_s = time.perf_counter(), -time.thread_time()
    answered = engine.answer(requests, flight)
    engine.synchronize()
    # Preparing a shape for its first use is warm-up, whenever it happens.
    seconds = time.perf_counter() - started - answered.recording_s
    return Timed(answered, seconds, worked_s + time.thread_time())


def _timed_chunk(
    plan: Plan, index: int, engine: DecodingEngine, flight: ChunkInFlight, log: AnswerLog
) -> Chunk:
    requests = plan.chunk(index)
    timed = timed_answers(engine, requests, flight)
    answered = timed.answered
    return Chunk(
        index=index,
        seconds=round(timed.seconds, 6),
        prompt_tokens=sum(len(request.prompt_ids) for request in requests),
        peak_memory_gib=round(engine.peak_memory_gib(), 4),
        recording_s=round(answered.recording_s, 6),
        batch_size=answered.batch_size,
        smallest_batch_size=answered.smallest_batch_size,
        out_of_memory=answered.out_of_memory,
        answers=answered.answers,
        session=len(log.sessions) - 1,
        confidence_counts=answered.confidence_counts,
        position_forwards=answered.position_forwards,
        processor_s=round(timed.processor_s, 6) if log.sessions[-1].device == "cpu" else None,
    )
