"""One shard of a run: decode its chunks; whoever is last finishes the run.

A chunk that any file of the run holds is not decoded again, however the run was cut then.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastdllm.evaluation.answer_records import Header
from fastdllm.evaluation.answer_sources import held_chunks, run_sources, shard_sources
from fastdllm.evaluation.answering import Call, answer_missing, header_of, told
from fastdllm.evaluation.answers import open_answers
from fastdllm.evaluation.failures import failure_record, remove
from fastdllm.evaluation.finished import finished_summary, is_dated_for_a_repeat
from fastdllm.evaluation.finishing import Outcome, conclude
from fastdllm.evaluation.loading import load_plan_tokenizer
from fastdllm.evaluation.lock import FINISHING, Locked, run_lock, shard_lock
from fastdllm.evaluation.plan_checks import check_plan
from fastdllm.evaluation.progress import Progress
from fastdllm.evaluation.requeue import guarded_attempt
from fastdllm.evaluation.runner import missing_chunks
from fastdllm.evaluation.shards import (
    Shard,
    chunks_in_words,
    lock_path,
    places,
    write_stamp,
)
from fastdllm.evaluation.spec import RunSpec
from fastdllm.tasks.plan import Plan, read_plan


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
