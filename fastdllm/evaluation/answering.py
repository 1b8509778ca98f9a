"""The GPU part of a run or of a shard: load the model, answer the chunks that are missing."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from fastdllm.common.console import Display
from fastdllm.common.errors import UserError
from fastdllm.evaluation.answer_records import Header, Session
from fastdllm.evaluation.answers import AnswerLog
from fastdllm.evaluation.attempts import Journal
from fastdllm.evaluation.kept_model import KeptModel
from fastdllm.evaluation.loading import dtype_name, load_engine, session_of
from fastdllm.evaluation.progress import Progress
from fastdllm.evaluation.runner import decode_missing
from fastdllm.evaluation.spec import RunSpec
from fastdllm.evaluation.stopping import Stop, Stopped
from fastdllm.tasks.plan import Plan


@dataclass(frozen=True, slots=True)
class Call:
    """What the process that works on a run brings along.

    check_sources: raises a UserError when the files of the run are no longer those of its spec;
        asked first, once more when all is loaded, and before the result is written.
    device: overrides the spec's.
    models: where the model is kept for the next run of the same process.
    pack: the id of the pack that the run is decoded in.
    """

    display: Display
    check_sources: Callable[[RunSpec], None]
    device: str | None = None
    stop: Stop = field(default_factory=Stop)
    models: KeptModel = field(default_factory=KeptModel)
    pack: str | None = None


def header_of(spec: RunSpec, plan: Plan, device: str) -> Header:
    """What the answers that are decoded on `device` share.

    Raises:
        UserError: no such device here.
    """
    return Header(
        fingerprint=spec.fingerprint,
        plan_digest=plan.digest,
        dtype=dtype_name(spec, device),
        decides=spec.decides,
    )


@contextmanager
def told(
    log: AnswerLog, progress: Progress, call: Call, *, asked: Sequence[int], held: Container[int]
) -> Iterator[None]:
    """Say what became of earlier answers, and if a signal ends the work, how far it came.

    asked: the chunks of this job. held: those that another file has.

    Raises:
        Stopped: the one from within, with the number of chunks.
    """
    for line in log.history():
        call.display.note(line)
    try:
        yield
    except Stopped as stopped:
        with suppress(UserError):  # a full disk must not hide why the work ends
            progress.stopped(stopped.cause)
        done = sum(index in log.chunks or index in held for index in asked)
        raise stopped.with_chunks(done, len(asked)) from None


def answer_missing(
    spec: RunSpec,
    plan: Plan,
    log: AnswerLog,
    missing: Sequence[int],
    *,
    tokenizer: Any,
    device: str,
    progress: Progress,
    journal: Journal,
    call: Call,
) -> None:
    """Load the model and answer the chunks that are `missing`.

    Raises:
        Stopped: a signal came.
        UserError: what cannot be loaded, or does not fit.
    """
    if not missing:
        return
    before = len(log.chunks)

    def start_session(warm_up_s: float) -> Session:
        session = session_of(engine, spec, load_s=load_s, warm_up_s=warm_up_s)
        journal.tell(device=session.device_name)
        return session

    try:
        engine, load_s = load_engine(spec, plan, tokenizer, device=device, models=call.models)
        # Policy and model are in memory now: what they were is what decodes.
        call.check_sources(spec)
        progress.decoding()
        decode_missing(
            plan,
            log,
            engine,
            start_session=start_session,
            progress=progress,
            missing=missing,
            stop=call.stop,
        )
    finally:
        journal.chunks = len(log.chunks) - before
