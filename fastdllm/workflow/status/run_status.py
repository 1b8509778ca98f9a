"""The state of a run, from its files and, on a cluster, its SLURM jobs; nothing here writes.

Used by `fastdllm status`, by reconcile.py and by the table of a dry run, so that all three agree. A
run is done when a summary with its fingerprint exists, in results/ or in artifacts/; any other
summary shows, key by key, which settings differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from fastdllm.cluster.slurm import JobState
from fastdllm.common.files import json_object
from fastdllm.statistics.truncation import MOST_IN_WORDS, is_marked
from fastdllm.workflow.project.artifacts import StoredSummary, SummaryReader, origin_of
from fastdllm.workflow.project.runs import Run
from fastdllm.workflow.status.at_work import (
    Shards,
    parts_at_work,
    queued_in_words,
    running_in_words,
    shards_of,
    unfinished,
)
from fastdllm.workflow.status.endings import STOPPED, Ending, accounted_ending, last_ending
from fastdllm.workflow.status.queue import Queue, RunJob
from fastdllm.workflow.status.run_files import Part, RunFiles, read_run_files
from fastdllm.workflow.status.run_progress import (
    is_number,
    progress_in_words,
    progress_of,
    stored_progress,
)

SAME_COMMAND = "the same command resumes"


class State(StrEnum):
    """The state of a run, which determines what the user can do about it."""

    DONE = "done"
    UNPUBLISHED = "unpublished"
    RUNNING = "running"
    QUEUED = "queued"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    STALE = "stale"
    MISSING = "missing"

    @property
    def has_result(self) -> bool:
        """Whether nothing needs to be decoded."""
        return self in (State.DONE, State.UNPUBLISHED)


@dataclass(frozen=True, slots=True)
class RunStatus:
    """The state of one run, and why.

    reason: one line for people, empty when the state says everything.
    changes: for a result of other settings, what differs.
    earlier: settings that were edited after its process or its job was given them.
    progress: the last numbers of a running or interrupted eval (items_done, items_total, ...).
    is_only_published: valid in artifacts/, but not (yet) in results/.
    record: the summary of the current settings, where there is one.
    is_repeated: to be made even with a valid result.
    leader: the run that its result is, or will be, copied from; None for one that is decoded.
    jobs: the SLURM jobs of this project that work on the run, or are going to.
    shards: the state of the shards of a split run.
    ending: how its last SLURM job ended, if none follows it.
    resumes: failed or interrupted for no reason of its own: the same command resumes it.
    """

    run: Run
    state: State
    reason: str = ""
    changes: tuple[Change, ...] = ()
    progress: Mapping[str, Any] | None = None
    is_only_published: bool = False
    record: Mapping[str, Any] | None = None
    is_repeated: bool = False
    leader: Run | None = None
    jobs: tuple[RunJob, ...] = ()
    shards: Shards | None = None
    ending: Ending | None = None
    resumes: bool = False
    earlier: tuple[Change, ...] = ()

    @property
    def is_adopted(self) -> bool:
        """Whether a SLURM job of this project makes it, which a call takes over."""
        return self.state in (State.RUNNING, State.QUEUED) and bool(self.jobs)

    @property
    def is_to_be_made(self) -> bool:
        """Whether the run is to be made here: by an eval, by its job, or from its leader's."""
        is_free = self.state is not State.RUNNING or self.is_adopted
        return is_free and (self.is_repeated or not self.state.has_result)

    @property
    def title(self) -> str:
        """The state, with what was edited if that alone made the result stale."""
        if self.state is State.STALE and self._is_only_edited:
            return f"{self.state} ({', '.join(str(change) for change in self.changes)})"
        return str(self.state)

    @property
    def why(self) -> str:
        """What the title does not say: settings, reason or changes, and the leader, in one line."""
        is_copy = self.leader is not None and self.is_to_be_made and not self.is_adopted
        same = f"same as {self.leader.name}" if self.leader and is_copy else ""
        if same and self.state is State.MISSING and not self.reason:
            return same
        reason = self.reason
        if not reason and not (self.state is State.STALE and self._is_only_edited):
            reason = ", ".join(str(change) for change in self.changes)
        truncated = MOST_IN_WORDS if self.is_truncated else ""
        parts = (self.earlier_in_words, reason, same, truncated)
        return "; ".join(part for part in parts if part)

    @property
    def earlier_in_words(self) -> str:
        """What was edited since; empty if nothing was."""
        edits = ", ".join(str(change) for change in self.earlier)
        return f"with earlier settings: {edits}" if edits else ""

    @property
    def is_truncated(self) -> bool:
        """Whether too many answers of its result ended at their budget."""
        rate = (self.record or {}).get("truncation_rate")
        return is_number(rate) and is_marked(rate)

    @property
    def _is_only_edited(self) -> bool:
        return bool(self.changes) and all(change.is_edit for change in self.changes)


def inspect(run: Run, *, jobs: Queue | None = None, read: SummaryReader | None = None) -> RunStatus:
    """Return the state of a run.

    Args:
        jobs: what SLURM knows of this project, where there is a SLURM.
        read: has read summaries that will be asked for again.
    """
    read = read or SummaryReader()
    run_jobs = jobs.of(run) if jobs is not None else ()
    live = tuple(job for job in run_jobs if job.job.is_live)
    files = read_run_files(run, count=next((job.shard.count for job in live if job.shard), None))
    live = unfinished(live, files)
    alive = parts_at_work(files, jobs)
    if alive:
        return _running(files, alive, live)
    result = read(run.summary_path)
    artifact = StoredSummary() if run.limit is not None else read(run.artifact_path)
    # A pack may include runs that have finished in another way since.
    own_jobs = [job for job in live if job.rule != "pack"]
    if artifact.belongs_to(run) and not result.belongs_to(run) and not own_jobs:
        return RunStatus(run, State.DONE, is_only_published=True, record=artifact.record)
    if result.belongs_to(run):
        status = _finished(run, result, artifact, repeat=_repeat(files, own_jobs))
        return replace(status, jobs=live)
    old = result.record or artifact.record
    changes = () if old is None else what_changed(old.get("decides"), run.decides)
    if any(job.is_at_work for job in own_jobs):
        return replace(_running(files, alive, live), changes=changes)
    if live and not _has_failed_in(files, live):
        shards = shards_of(files, alive, live)
        reason = queued_in_words(files, live, shards)
        progress = stored_progress(files)
        status = RunStatus(run, State.QUEUED, reason, changes, progress, jobs=live, shards=shards)
        return replace(status, earlier=_edited(run))
    status = _unfinished(run, files, result, artifact, jobs=jobs)
    return replace(status, changes=changes, shards=shards_of(files, alive, live))


def _has_failed_in(files: RunFiles, live: Sequence[RunJob]) -> bool:
    """Whether a pack that is still at work has tried the run, and failed; not in an earlier job."""
    last = next(iter(files.attempts()[-1:]), None)
    ids = {job.job.id for job in live if job.is_at_work}
    return files.failure is not None and last is not None and last.slurm_job in ids


def with_accounts(
    statuses: Sequence[RunStatus], ask: Callable[[Iterable[str]], Mapping[str, JobState]]
) -> list[RunStatus]:
    """Return the states, with reasons from the accounting database where SLURM gave no clear one.

    Args:
        ask: returns the jobs with these ids; called once, and only where needed.
    """
    unclear = {s.ending.job_id for s in statuses if s.ending is not None and not s.ending.is_clear}
    accounts = ask(unclear) if unclear else {}
    return [_with_account(status, accounts) for status in statuses]


def _with_account(status: RunStatus, accounts: Mapping[str, JobState]) -> RunStatus:
    ending = status.ending
    if ending is None or ending.is_clear or ending.job_id not in accounts:
        return status
    ending = accounted_ending(ending, accounts[ending.job_id])
    return replace(status, ending=ending, reason=_ended(ending, status), resumes=ending.resumes)


def _finished(
    run: Run, result: StoredSummary, artifact: StoredSummary, *, repeat: str
) -> RunStatus:
    if run.limit is not None or result.record == artifact.record:
        return RunStatus(run, State.DONE, repeat, record=result.record)
    reason = (
        "differs from its copy in artifacts/"
        if artifact.belongs_to(run)
        else "not yet copied to artifacts/"
    )
    return RunStatus(run, State.UNPUBLISHED, repeat or reason, record=result.record)


def _running(files: RunFiles, alive: Sequence[Part], live: tuple[RunJob, ...]) -> RunStatus:
    shards = shards_of(files, alive, live)
    return RunStatus(
        files.run,
        State.RUNNING,
        running_in_words(files, alive, live, shards),
        progress=progress_of(files, alive),
        jobs=live,
        shards=shards,
        earlier=_edited(files.run),
    )


def _edited(run: Run) -> tuple[Change, ...]:
    """Return how the settings of a run differ from those in its spec.json, which its job reads."""
    spec = json_object(run.spec_path)
    is_own = not spec or spec.get("fingerprint") == run.fingerprint
    return () if is_own else what_changed(spec.get("decides"), run.decides)


def _repeat(files: RunFiles, live: Sequence[RunJob]) -> str:
    """Return the state of a forced repeat beside a valid result; empty without one."""
    if any(job.is_waiting for job in live):
        return f"a repeat of it {queued_in_words(files, live, None)}"
    if files.failure is not None:
        return f"a repeat of it failed: {files.failure}"
    # Of a run that was split, the stamps stay.
    is_begun = any(part.progress is not None for part in files.parts)
    progress = stored_progress(files) if is_begun else None
    if progress is not None:
        return f"a repeat of it was interrupted: {progress_in_words(progress)}"
    return ""


def _unfinished(
    run: Run,
    files: RunFiles,
    result: StoredSummary,
    artifact: StoredSummary,
    *,
    jobs: Queue | None,
) -> RunStatus:
    progress = stored_progress(files)
    if files.failure is not None:
        return RunStatus(run, State.FAILED, files.failure, progress=progress)
    ending = last_ending(files, jobs) if jobs is not None else None
    if ending is not None:
        status = RunStatus(
            run, State.FAILED, progress=progress, ending=ending, resumes=ending.resumes
        )
        return replace(status, reason=_ended(ending, status))
    if progress is not None:
        last = next(iter(files.attempts()[-1:]), None)
        cause = STOPPED.get(last.why, "") if last is not None else ""
        line = "; ".join(
            part for part in (cause, progress_in_words(progress), SAME_COMMAND) if part
        )
        return RunStatus(run, State.INTERRUPTED, line, progress=progress, resumes=True)
    old = result.record or artifact.record
    if old is not None:
        return RunStatus(run, State.STALE, _not_decoded(old, run))
    return RunStatus(run, State.MISSING, result.problem or artifact.problem or "")


def _ended(ending: Ending, status: RunStatus) -> str:
    """Return how a job ended, what is kept, and whether the same command resumes."""
    parts = [str(ending)]
    if ending.resumes:
        parts += [progress_in_words(status.progress)] if status.progress else []
        parts.append(SAME_COMMAND)
    return "; ".join(parts) + (f" (log: {ending.log})" if ending.log is not None else "")


def _not_decoded(old: Mapping[str, Any], run: Run) -> str:
    """Return why a copy under the run's own fingerprint is not its result; empty for any other."""
    origin = origin_of(old, run)
    if origin is None or old.get("fingerprint") != run.fingerprint:
        return ""
    wanted = "replicate: true asks for its own" if run.is_replicated else "no longer the same"
    return f"copied from {origin}; {wanted}"


# What was edited, for keys whose values, digests or a count, mean nothing to people.
_EDITED = {
    "policy_digest": "policy",
    "task_digest": "task",
    "model_digest": "model",
    "decoder_version": "decoder",
}


@dataclass(frozen=True, slots=True)
class Change:
    """One setting that decides the answers and differs from the stored result's."""

    key: str
    old: Any
    new: Any

    @property
    def is_edit(self) -> bool:
        """Whether it shows only what was edited, and no values."""
        # Of a model from the hub the digest is the name of a revision.
        is_name = self.key == "model_digest" and not (_is_digest(self.old) and _is_digest(self.new))
        return self.key in _EDITED and not is_name

    def __str__(self) -> str:
        if self.is_edit:
            return f"{_EDITED[self.key]} changed"
        return f"{self.key} {_short(self.old)} -> {_short(self.new)}"


def what_changed(old: Any, new: Mapping[str, Any]) -> tuple[Change, ...]:
    """Return the settings that differ, in alphabetical order."""
    if not isinstance(old, Mapping):
        return (Change("decides", "not recorded", "recorded"),)
    keys = sorted(old.keys() | new.keys())
    changes = tuple(
        Change(key, old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)
    )
    # Equal settings under another fingerprint: the fingerprint itself is made differently now.
    return changes or (Change("fingerprint", "made by another version", "current"),)


def _short(value: Any) -> str:
    if value is None:
        return "none"
    # The first letters are enough to distinguish two digests.
    return value[:8] if _is_digest(value) else str(value)


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 64 and value.isalnum()
