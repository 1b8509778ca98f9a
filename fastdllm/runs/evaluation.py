"""Finishes one run: decode what is missing, whole or in shards, then merge, score and write.

Resumable at any moment: answers.jsonl keeps finished chunks, and summary.json is written last. A
chunk that any file of the run holds is not decoded again, however the run was split when it
was decoded. Ties the other modules of this package together.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from fastdllm.common.console import Display
from fastdllm.common.errors import UserError
from fastdllm.decoding.user_code import code_files
from fastdllm.machine.process import git_state, package_versions
from fastdllm.model.checkpoint import find_checkpoint, other_weights
from fastdllm.model.config import read_config
from fastdllm.runs.answer_records import Chunk, Header, Session
from fastdllm.runs.answer_sources import (
    complete_header,
    header_to_use,
    held_chunks,
    merge,
    remove_traces,
    run_sources,
    shard_sources,
    unused,
)
from fastdllm.runs.answers import AnswerLog, mark_as_scored, open_answers
from fastdllm.runs.attempts import Journal, guarded_attempt
from fastdllm.runs.chunks import decode_missing, missing_chunks
from fastdllm.runs.decoder_code import code_digest
from fastdllm.runs.loaded_model import (
    KeptModel,
    dtype_name,
    load_engine,
    load_plan_tokenizer,
    session_of,
)
from fastdllm.runs.lock import FINISHING, Locked, run_lock, shard_lock
from fastdllm.runs.needs import require_permission
from fastdllm.runs.progress import Progress, failure_record, remove
from fastdllm.runs.result import Outcome, ShardOutcome, kept_result, stored_result, write_result
from fastdllm.runs.shards import (
    JobFiles,
    Shard,
    chunks_in_words,
    finish_log,
    job_files,
    lock_path,
    write_stamp,
)
from fastdllm.runs.spec import RunSpec, check_plan
from fastdllm.runs.stopping import Stop, Stopped
from fastdllm.tasks.plan import Plan, read_plan
from fastdllm.tasks.task_files import find_task_files


@dataclass
class Evaluation:
    """A run in `folder` (results/E/T/C), and what the process that works on it needs.

    check_sources: raises a UserError when the files of the run are no longer those of its spec;
        called first, again when all is loaded, and before the result is written.
    device: overrides the spec's.
    models: where the model is kept for the next run of the same process.
    pack: the id of the pack that the run is decoded in.
    allows_code: asked before a task is scored that runs the code in answers.

    header, log, progress and tokenizer are set as work proceeds; log and progress are those
    of the shard while a shard is decoded.
    """

    spec: RunSpec
    folder: Path
    display: Display
    check_sources: Callable[[RunSpec], None]
    device: str | None = None
    stop: Stop = field(default_factory=Stop)
    models: KeptModel = field(default_factory=KeptModel)
    pack: str | None = None
    allows_code: Callable[[], bool] = lambda: False
    header: Header = field(init=False)
    log: AnswerLog = field(init=False)
    progress: Progress = field(init=False)
    tokenizer: Any = field(init=False, default=None)

    @cached_property
    def plan(self) -> Plan:
        """The plan of the task, checked against the spec.

        Raises:
            UserError: it is missing, damaged, or made for other options.
        """
        plan = read_plan(Path(self.spec.run.plan_folder), self.spec.task)
        check_plan(self.spec, plan)
        return plan

    @cached_property
    def files(self) -> JobFiles:
        """Where the run as a whole keeps its files."""
        return job_files(self.folder, self.spec)

    @property
    def _sources(self) -> list[Path]:
        """Policy, task, what they import and local data: the files that decide the run."""
        task = find_task_files(self.spec.run.task)
        code = [Path(self.spec.run.policy_file), *task.helpers]
        others = [*(path for path, _ in task.layers), *(path for _, path in task.data)]
        return [*others, *(file for path in code for file in code_files(path))]

    @property
    def _all_chunks(self) -> range:
        return range(len(self.plan.header.chunks))

    def evaluate(self, *, wait: bool = False, again: bool = False) -> Outcome:
        """Finish the run and return its result; what its shards have decoded is used.

        Args:
            wait: wait for a process that works on the same run.
            again: repeat a run that has a result; a spec dated after the result does the same.

        Raises:
            UserError: a wrong input, a locked or unwritable folder; failed.json records it.
            Stopped: by a signal; the same call resumes.
        """
        with run_lock(self.folder, wait=wait), failure_record(self.files):
            self.check_sources(self.spec)
            remove_traces(self.folder)
            result = None if again else kept_result(self.folder, self.spec)
            if result is not None:
                remove(self.files.progress)
                mark_as_scored(self.files.answers, result)
                return Outcome(result, is_new=False)
            reuse = not again and stored_result(self.folder, self.spec) is None
            self.header = self._header_to_use(reuse=reuse)
            with guarded_attempt(self.folder, pack=self.pack, sources=self._sources) as journal:
                held = held_chunks(self.plan, shard_sources(self.folder, self.header))
                with (
                    self._opened(self.files, reuse=reuse),
                    self._stop_counted(self._all_chunks, held),
                ):
                    self._decode(self._all_chunks, held, journal)
                    return self._conclude()

    def evaluate_shard(
        self, shard: Shard, *, wait: bool = False, again: bool = False
    ) -> ShardOutcome:
        """Decode the chunks of a shard, leave its stamp, and finish the run if none is missing.

        Args:
            wait: wait for a process that works on the same shard, or on the whole run.
            again: as for `evaluate`.

        Raises:
            UserError: a wrong input, a locked or unwritable folder; the failure file records it.
            Stopped: by a signal; the same call resumes.
        """
        shard_files = job_files(self.folder, self.spec, shard)
        lock = shard_lock(self.folder, lock_path(self.folder, shard), wait=wait)
        with lock, failure_record(shard_files):
            self.check_sources(self.spec)
            for path in (self.files.failure, self.files.progress):
                remove(path)  # of an earlier try in one piece
            result = None if again else kept_result(self.folder, self.spec)
            chunks = shard.chunks(len(self._all_chunks))
            if result is not None:
                remove(shard_files.progress)
                write_stamp(self.folder, shard, self.spec, chunks)
                return ShardOutcome(shard, len(chunks), run=Outcome(result, is_new=False))
            reuse = stored_result(self.folder, self.spec) is None
            self.header = self._header_to_use(reuse=reuse)
            with guarded_attempt(self.folder, shard=str(shard), sources=self._sources) as journal:
                held = held_chunks(self.plan, run_sources(self.folder, self.header, reuse=reuse))
                with self._opened(shard_files, chunks), self._stop_counted(chunks, held):
                    self._decode(chunks, held, journal)
                    # What is decoded is stamped and scored, unless SIGTERM forbids the latter.
                    self.stop.settle()
            stamp = write_stamp(self.folder, shard, self.spec, chunks, header=self.header)
            self.progress.remove()
        try:
            with run_lock(self.folder, work=FINISHING, awaits_finish=False):
                run = self._finish_after_shard(stamp, reuse=reuse, log=shard_files.log)
        except Locked as locked:
            run = locked.holder
        if isinstance(run, str):
            return ShardOutcome(shard, len(chunks), journal.chunks, waits_for=run)
        return ShardOutcome(shard, len(chunks), journal.chunks, run)

    def finish(self) -> Outcome:
        """Merge, score and write a run that has no result (or is to be repeated).

        Decodes nothing and needs no GPU: the files of answers name the dtype they were decoded in.
        The caller holds the run's lock.

        Raises:
            UserError: a chunk is missing (which, and what decodes it), or was decoded in two ways,
                or the run cannot be scored.
        """
        # The caller has found no result to keep, so one that is stored is to be repeated.
        reuse = stored_result(self.folder, self.spec) is None
        self.header, held = complete_header(self.spec, self.folder, self.plan, reuse=reuse)
        with failure_record(self.files, log=finish_log(self.spec)):
            self.check_sources(self.spec)
            self.tokenizer = load_plan_tokenizer(self.spec, self.plan)
            return self._finish(held, reuse=reuse)

    def _finish_after_shard(self, stamp: Path, *, reuse: bool, log: Path) -> Outcome | str:
        """The result of the run, or what it lacks; log: where this process's output is kept."""
        result = stored_result(self.folder, self.spec)
        if result is not None:
            made_ns = (self.folder / "summary.json").stat().st_mtime_ns
            if reuse or made_ns >= stamp.stat().st_mtime_ns:
                return Outcome(result, is_new=False)
        held = held_chunks(self.plan, run_sources(self.folder, self.header, reuse=reuse))
        missing = [index for index in self._all_chunks if index not in held]
        if missing:
            return chunks_in_words(missing)
        with failure_record(self.files, log=log):
            return self._finish(held, reuse=reuse)

    def _finish(self, held: Mapping[int, Chunk], *, reuse: bool) -> Outcome:
        """Finish the run from the chunks in its files, which are complete."""
        with self._opened(self.files, reuse=reuse):
            self.progress.loading(earlier=held.values())
            return self._conclude()

    def _header_to_use(self, *, reuse: bool) -> Header:
        """What the answers that are decoded on this device share, or those that are all there.

        Raises:
            UserError: no such device here.
        """
        here = Header(
            fingerprint=self.spec.fingerprint,
            plan_digest=self.plan.digest,
            dtype=dtype_name(self.spec, self.device or self.spec.run.device),
            decides=self.spec.decides,
            code_digest=code_digest(),
        )
        return header_to_use(here, self.spec, self.folder, self.plan, reuse=reuse)

    @contextmanager
    def _opened(
        self, files: JobFiles, chunks: Sequence[int] | None = None, *, reuse: bool = True
    ) -> Iterator[None]:
        """Open the files of answers and progress; chunks: those worked on (default: all)."""
        sizes = [len(chunk) for chunk in self.plan.header.chunks]
        n_requests = sum(sizes if chunks is None else (sizes[index] for index in chunks))
        self.log = open_answers(files.answers, self.header, reuse=reuse)
        code = self.header.code_digest
        self.progress = Progress(files.progress, self.display, total=n_requests, code=code)
        with closing(self.log), closing(self.progress):
            for line in (*self.log.history(), *unused(self.folder, self.header)):
                self.display.note(line)
            yield

    @contextmanager
    def _stop_counted(self, chunks: Sequence[int], held: Container[int]) -> Iterator[None]:
        """Say in a stop how many chunks are finished.

        chunks: those of this job. held: those that another file has.

        Raises:
            Stopped: the one from within, with the number of chunks.
        """
        log = self.log  # merging replaces it by a log of all chunks
        try:
            yield
        except Stopped as stopped:
            with suppress(UserError):  # a full disk must not hide why the work ends
                self.progress.stopped(stopped.cause)
            n_done = sum(index in log.chunks or index in held for index in chunks)
            raise stopped.with_chunks(n_done, len(chunks)) from None

    def _decode(self, chunks: Sequence[int], held: Mapping[int, Chunk], journal: Journal) -> None:
        """Answer those of `chunks` that neither the log nor another file, `held`, has.

        Raises:
            Stopped: by a signal.
            UserError: what cannot be loaded, or does not fit.
        """
        answered = {**held, **self.log.chunks}
        self.progress.loading(earlier=[answered[index] for index in chunks if index in answered])
        self.tokenizer = load_plan_tokenizer(self.spec, self.plan)
        missing = missing_chunks(self.plan, self.log, chunks, held=held)
        if not missing:
            return
        n_before = len(self.log.chunks)

        def start_session(warm_up_s: float) -> Session:
            session = session_of(
                engine, self.spec, load_s=load_s, warm_up_s=warm_up_s, git=journal.git
            )
            journal.add(device=session.device_name)
            return session

        try:
            engine, load_s = load_engine(
                self.spec,
                self.plan,
                self.tokenizer,
                device=self.device or self.spec.run.device,
                models=self.models,
            )
            # Policy and model are in memory now; later changes to their files have no effect.
            self.check_sources(self.spec)
            self.progress.decoding()
            decode_missing(
                self.plan,
                self.log,
                engine,
                start_session=start_session,
                progress=self.progress,
                missing=missing,
                stop=self.stop,
            )
        finally:
            journal.chunks = len(self.log.chunks) - n_before

    def _conclude(self) -> Outcome:
        """Make the result from the chunks in the logs of run and shards, which are complete.

        Closes the log. SIGUSR1 is only noted meanwhile, since a run that is decoded is soon done;
        one that is stopped or killed here loses nothing. After the result is written, nothing is
        left to stop.

        Raises:
            Stopped: by SIGTERM.
            UserError: contradictory shards, an unscorable task, or an unwritable file.
        """
        try:
            with self.stop.deferred(signal.SIGUSR1):
                shards = shard_sources(self.folder, self.header)
                self.log = merge(self.log, shards, plan=self.plan, header=self.header)
                self.progress.scoring()
                outcome = self._score()
                self.log.append_end()
                self.stop.settle()
        finally:
            self.log.close()
        remove_traces(self.folder)
        self.progress.remove()
        return outcome

    def _score(self) -> Outcome:
        """Score the answers in the log and write the result."""
        # lm-eval takes seconds to import and decoding does not need it: a failing decode is quick.
        from fastdllm.model.loading import OTHER_HEAD, has_other_head
        from fastdllm.runs.scoring import score_answers
        from fastdllm.runs.summarize import Decoded, summarize
        from fastdllm.tasks.lm_eval_setup import code_notices, runs_code
        from fastdllm.tasks.lm_eval_tasks import load_task

        # Once more, since it may have been forbidden meanwhile.
        require_permission(self.spec.run.task, self.allows_code)
        is_code = runs_code(self.spec.run.task)
        model = find_checkpoint(self.spec.run.model_path, self.spec.run.model_revision)
        chunks = [self.log.chunks[index] for index in sorted(self.log.chunks)]
        scores = score_answers(
            self.plan,
            [answer for chunk in chunks for answer in chunk.answers],
            tokenizer=self.tokenizer,
            task=load_task(self.spec.run.task),
            bootstrap_iters=self.spec.run.bootstrap_iters,
            allows_code=is_code,
        )
        summary = summarize(
            self.spec,
            plan=self.plan,
            decoded=Decoded(self.log.sessions, chunks, self.header.dtype, self.header.code_digest),
            scores=scores,
            git=git_state(files=self._sources),
            environment=package_versions(),
            weights_left_alone=other_weights(model),
            notices=[
                *[f"the model {OTHER_HEAD}"] * has_other_head(model, read_config(model)),
                *(code_notices() if is_code else ()),
            ],
        )
        self.check_sources(self.spec)
        write_result(self.folder, summary, scores)
        return Outcome(summary, unused_answers=scores.unused_answers)
