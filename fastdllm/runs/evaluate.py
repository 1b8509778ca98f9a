"""One run from its spec to its summary: lock, decode what is missing, score, write.

Resumable at any moment: answers.jsonl keeps finished chunks, and summary.json is written last. Ties
the other modules of this package together and holds no logic of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastdllm.common.console import Display
from fastdllm.common.errors import UserError
from fastdllm.runs.answer_records import Header, Session
from fastdllm.runs.answer_sources import held_chunks, remove_traces, run_sources, shard_sources
from fastdllm.runs.answers import AnswerLog, mark_as_scored, open_answers
from fastdllm.runs.attempts import Journal, guarded_attempt
from fastdllm.runs.chunks import decode_missing, missing_chunks
from fastdllm.runs.finish import Outcome, conclude
from fastdllm.runs.finished import finished_summary, is_dated_for_a_repeat
from fastdllm.runs.loaded_model import (
    KeptModel,
    dtype_name,
    load_engine,
    load_plan_tokenizer,
    session_of,
)
from fastdllm.runs.lock import FINISHING, Locked, run_lock, shard_lock
from fastdllm.runs.progress import Progress, failure_record, remove
from fastdllm.runs.shards import Shard, chunks_in_words, lock_path, places, write_stamp
from fastdllm.runs.spec import RunSpec, check_plan
from fastdllm.runs.stopping import Stop, Stopped
from fastdllm.tasks.plan import Plan, read_plan


def evaluate_run(
    spec: RunSpec, folder: Path, call: Call, *, wait: bool = False, again: bool = False
) -> Outcome:
    """Finish one run in `folder` (results/E/T/C) and return its summary.

    What shards of the run have decoded is taken over.

    Args:
        wait: wait for a process that works on the same run.
        again: decode a run that has its result once more; so does a spec dated after the result.

    Raises:
        UserError: a wrong input, a locked or unwritable folder; failed.json tells it as well.
        Stopped: a signal came; the same call goes on.
    """
    own = places(folder, spec)
    with run_lock(folder, wait=wait), failure_record(own):
        call.check_sources(spec)
        remove_traces(folder)
        done = finished_summary(folder, spec)
        if done is not None and not again and not is_dated_for_a_repeat(folder):
            remove(own.progress)
            mark_as_scored(own.answers, done)
            return Outcome(done, is_new=False)
        plan = read_plan(Path(spec.run.plan_folder), spec.task)
        check_plan(spec, plan)
        device = call.device or spec.run.device
        header = header_of(spec, plan, device)
        with guarded_attempt(folder, pack=call.pack) as journal:
            shards = shard_sources(folder, header)
            held = held_chunks(plan, shards)
            asked = range(len(plan.header.chunks))
            log = open_answers(own.answers, header, reuse=done is None and not again)
            progress = Progress(own.progress, call.display, total=plan.header.n_requests)
            with (
                closing(log),
                closing(progress),
                told(log, progress, call, asked=asked, held=held),
            ):
                progress.loading(earlier=(held | log.chunks).values())
                tokenizer = load_plan_tokenizer(spec, plan)
                answer_missing(
                    spec,
                    plan,
                    log,
                    missing_chunks(plan, log, held=held),
                    tokenizer=tokenizer,
                    device=device,
                    progress=progress,
                    journal=journal,
                    call=call,
                )
                return conclude(
                    spec,
                    folder,
                    plan,
                    log,
                    shards=shards,
                    header=header,
                    tokenizer=tokenizer,
                    progress=progress,
                    check_sources=call.check_sources,
                    stop=call.stop,
                )


# The GPU part of a run or of a shard: load the model, answer the chunks that are missing.


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


# One shard of a run: decode its chunks; whoever is last finishes the run. A chunk that any file of
# the run holds is not decoded again, however the run was cut then.


@dataclass(frozen=True, slots=True)
class ShardOutcome:
    """What a shard tells in the end.

    n_chunks: its own. n_decoded: how many of them by this process.
    run: the result of the run, where this shard finished it or it had one; else `waits_for` says
        what it lacks.
    """

    n_chunks: int
    n_decoded: int
    run: Outcome | None = None
    waits_for: str = ""

    def line(self, shard: Shard) -> str:
        """What a person is told of the shard itself."""
        chunks = "1 chunk" if self.n_chunks == 1 else f"{self.n_chunks} chunks"
        done = f"{shard.words}: {chunks} done, {self.n_decoded} of them here"
        return done if self.run else f"{done}; the run waits for {self.waits_for}"


def evaluate_shard(
    spec: RunSpec,
    folder: Path,
    shard: Shard,
    call: Call,
    *,
    wait: bool = False,
    again: bool = False,
) -> ShardOutcome:
    """Decode the chunks of `shard`, leave its stamp, and finish the run if no other is left.

    Args:
        wait: wait for a process that works on the same shard, or on the whole run.
        again: as for `evaluate_run`.

    Raises:
        UserError: a wrong input, a locked or unwritable folder; the failure file tells it as well.
        Stopped: a signal came; the same call goes on.
    """
    own = places(folder, spec, shard)
    with shard_lock(folder, lock_path(folder, shard), wait=wait), failure_record(own):
        call.check_sources(spec)
        for path in (places(folder, spec).failure, places(folder, spec).progress):
            remove(path)  # of an earlier try in one piece
        done = finished_summary(folder, spec)
        repeats = done is not None and (again or is_dated_for_a_repeat(folder))
        plan = read_plan(Path(spec.run.plan_folder), spec.task)
        check_plan(spec, plan)
        asked = shard.chunks(len(plan.header.chunks))
        if done is not None and not repeats:
            remove(own.progress)
            write_stamp(folder, shard, spec, asked)
            return ShardOutcome(len(asked), 0, Outcome(done, is_new=False))
        device = call.device or spec.run.device
        header = header_of(spec, plan, device)
        with guarded_attempt(folder, shard=str(shard)) as journal:
            held = held_chunks(plan, run_sources(folder, header, reuse=not repeats))
            log = open_answers(own.answers, header)
            n_requests = sum(len(plan.header.chunks[index]) for index in asked)
            progress = Progress(own.progress, call.display, total=n_requests)
            with (
                closing(log),
                closing(progress),
                told(log, progress, call, asked=asked, held=held),
            ):
                progress.loading(earlier=[held[index] for index in asked if index in held])
                tokenizer = load_plan_tokenizer(spec, plan)
                answer_missing(
                    spec,
                    plan,
                    log,
                    missing_chunks(plan, log, own=asked, held=held),
                    tokenizer=tokenizer,
                    device=device,
                    progress=progress,
                    journal=journal,
                    call=call,
                )
                # What is decoded is stamped and scored, unless SIGTERM forbids the latter.
                call.stop.settle()
        stamp = write_stamp(folder, shard, spec, asked, dtype=header.dtype)
        progress.remove()
    try:
        with run_lock(folder, work=FINISHING, awaits_finish=False):
            run = _finish(
                spec,
                folder,
                plan,
                header,
                tokenizer=tokenizer,
                call=call,
                repeats=repeats,
                stamp=stamp,
                log=own.log,
            )
    except Locked as locked:
        run = locked.holder
    if isinstance(run, str):
        return ShardOutcome(len(asked), journal.chunks, waits_for=run)
    return ShardOutcome(len(asked), journal.chunks, run)


def _finish(
    spec: RunSpec,
    folder: Path,
    plan: Plan,
    header: Header,
    *,
    tokenizer: Any,
    call: Call,
    repeats: bool,
    stamp: Path,
    log: Path,
) -> Outcome | str:
    """The result of the run, or what it lacks.

    log: where the workflow keeps what the shard prints.
    """
    own = places(folder, spec)
    done = finished_summary(folder, spec)
    if done is not None:
        made = (folder / "summary.json").stat().st_mtime_ns
        if not repeats or made >= stamp.stat().st_mtime_ns:
            return Outcome(done, is_new=False)
    held = held_chunks(plan, run_sources(folder, header, reuse=not repeats))
    missing = [index for index in range(len(plan.header.chunks)) if index not in held]
    if missing:
        return chunks_in_words(missing)
    with failure_record(own, log=log):
        answers = open_answers(own.answers, header, reuse=not repeats)
        progress = Progress(own.progress, call.display, total=plan.header.n_requests)
        with closing(answers), closing(progress):
            for line in answers.history():
                call.display.note(line)
            progress.loading(earlier=held.values())
            return conclude(
                spec,
                folder,
                plan,
                answers,
                shards=shard_sources(folder, header),
                header=header,
                tokenizer=tokenizer,
                progress=progress,
                check_sources=call.check_sources,
                stop=call.stop,
            )
