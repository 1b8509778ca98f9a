"""The loop of a run: decode the chunks that answers.jsonl lacks, time them, tell the progress.

Knows neither lm-eval nor torch: the engine does the work, the log keeps it. A chunk's seconds cover
its decoding only: not loading, not the warm-up, not writing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from fastdllm.errors import UserError
from fastdllm.evaluation.answer_records import Answer, Chunk, Session
from fastdllm.evaluation.answers import AnswerLog
from fastdllm.evaluation.progress import Progress
from fastdllm.evaluation.requests import Plan, PlannedRequest


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
    """Who hears of a chunk while it is decoded; must be quick, as its seconds count."""

    def answered(self, answer: Answer) -> None: ...

    def note(self, text: str) -> None: ...


class Engine(Protocol):
    """What the loop needs from a model (see generate.py)."""

    def answer(self, requests: Sequence[PlannedRequest], listener: Listener) -> Answered: ...

    def warm_up(self, requests: Sequence[PlannedRequest]) -> None: ...

    def synchronize(self) -> None: ...

    def peak_memory_gib(self) -> float: ...


def missing_chunks(plan: Plan, log: AnswerLog) -> list[int]:
    """The chunks without answers, in the order in which they are decoded.

    Raises:
        UserError: the log holds answers to other requests than the plan asks.
    """
    planned = range(len(plan.header.chunks))
    for index, chunk in log.chunks.items():
        asked = [request.id for request in plan.chunk(index)] if index in planned else None
        if [answer.id for answer in chunk.answers] != asked:
            raise UserError(
                f"{log.path}: chunk {index} answers other requests than the plan asks; rename the "
                "file, and everything is decoded anew"
            )
    return [index for index in planned if index not in log.chunks]


def decode_missing(
    plan: Plan,
    log: AnswerLog,
    engine: Engine,
    *,
    start_session: Callable[[float], Session],
    progress: Progress,
) -> None:
    """Answer every chunk that `log` lacks and append it as soon as it is complete.

    `start_session` describes this process, given the seconds that the warm-up took.
    """
    missing = missing_chunks(plan, log)
    if not missing:
        return
    with progress.ticking():
        started = time.perf_counter()
        engine.warm_up(plan.chunk(missing[0]))
        engine.synchronize()
        log.append_session(start_session(round(time.perf_counter() - started, 3)))
        for index in missing:
            log.append_chunk(_timed_chunk(plan, index, engine, progress, len(log.sessions) - 1))


def _timed_chunk(plan: Plan, index: int, engine: Engine, progress: Progress, session: int) -> Chunk:
    requests = plan.chunk(index)
    engine.synchronize()
    started = time.perf_counter()
    answered = engine.answer(requests, progress)
    engine.synchronize()
    # Making a shape ready for its first use is warm-up, whenever it comes.
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
