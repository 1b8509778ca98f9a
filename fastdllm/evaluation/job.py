"""One run from its spec to its summary: lock, decode what is missing, score, write.

Resumable at any moment: answers.jsonl keeps finished chunks, and summary.json is written last. Ties
the other modules of this package together and holds no logic of its own.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastdllm.console import Display
from fastdllm.errors import UserError
from fastdllm.evaluation.answer_records import Header
from fastdllm.evaluation.answers import AnswerLog, open_answers
from fastdllm.evaluation.environment import git_state, package_versions
from fastdllm.evaluation.loading import (
    check_plan,
    dtype_name,
    load_engine,
    load_plan_tokenizer,
    session_of,
)
from fastdllm.evaluation.lock import run_lock
from fastdllm.evaluation.progress import Progress
from fastdllm.evaluation.requests import Plan, read_plan
from fastdllm.evaluation.results import keep_result_aside, stored_fingerprint
from fastdllm.evaluation.runner import decode_missing, missing_chunks
from fastdllm.evaluation.spec import RunSpec
from fastdllm.evaluation.summary import Summary, read_summary, write_summary
from fastdllm.files import cannot, to_json, write_json_atomically, write_text_atomically


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run tells in the end: its summary, and where answers went to or came from.

    is_new: False when the run had its result already and nothing was done.
    """

    summary: Summary
    answers_kept_aside: Path | None = None
    answers_taken_up: Path | None = None
    unused_answers: int = 0
    is_new: bool = True


def evaluate_run(
    spec: RunSpec,
    folder: Path,
    *,
    display: Display,
    check_sources: Callable[[RunSpec], None],
    device: str | None = None,
    wait: bool = False,
    again: bool = False,
) -> Outcome:
    """Finish one run in `folder` (results/E/T/C) and return its summary.

    Args:
        check_sources: raises a UserError when the files of the run are no longer those of its
            spec; asked first, once more when all is loaded, and before the result is written.
        device: overrides the spec's.
        wait: wait for a process that works on the same run.
        again: decode a run that has its result once more; so does a spec dated after the result.

    Raises:
        UserError: a wrong input, a locked or unwritable folder; failed.json tells it as well.
    """
    with run_lock(folder, wait=wait), _failure_record(folder, spec):
        check_sources(spec)
        done = finished_summary(folder, spec)
        if done is not None and not again and not _is_dated_for_a_repeat(folder):
            _remove(folder / "progress.json")
            return Outcome(done, is_new=False)
        plan = read_plan(Path(spec.run.plan_folder), spec.task)
        check_plan(spec, plan)
        device = device or spec.run.device
        header = Header(
            fingerprint=spec.fingerprint,
            plan_digest=plan.digest,
            dtype=dtype_name(spec, device),
            decides=spec.decides,
        )
        log = open_answers(folder / "answers.jsonl", header, reuse=done is None and not again)
        progress = Progress(folder / "progress.json", display, total=plan.header.n_requests)
        try:
            progress.loading(earlier=log.chunks.values())
            tokenizer = load_plan_tokenizer(spec, plan)
            if missing_chunks(plan, log):
                _decode(
                    spec,
                    plan,
                    log,
                    tokenizer=tokenizer,
                    device=device,
                    progress=progress,
                    check_sources=check_sources,
                )
            progress.scoring()
            outcome = _score_and_write(
                spec,
                folder,
                plan,
                log,
                tokenizer=tokenizer,
                dtype=header.dtype,
                check_sources=check_sources,
            )
            log.append_end()
        finally:
            progress.close()
            log.close()
        progress.remove()
    return outcome


def finished_summary(folder: Path, spec: RunSpec) -> Summary | None:
    """The summary of exactly these settings, if the run has one."""
    path = folder / "summary.json"
    if stored_fingerprint(path) != spec.fingerprint:
        return None
    try:
        return read_summary(path)
    except UserError:
        return None


def _is_dated_for_a_repeat(folder: Path) -> bool:
    spec, summary = folder / "spec.json", folder / "summary.json"
    return spec.exists() and spec.stat().st_mtime > summary.stat().st_mtime


def _decode(
    spec: RunSpec,
    plan: Plan,
    log: AnswerLog,
    *,
    tokenizer: Any,
    device: str,
    progress: Progress,
    check_sources: Callable[[RunSpec], None],
) -> None:
    """Load the model and answer what the log lacks."""
    started = time.perf_counter()
    engine = load_engine(spec, plan, tokenizer, device=device)
    load_s = round(time.perf_counter() - started, 3)
    check_sources(spec)  # policy and model are in memory now: what they were is what decodes
    progress.decoding()
    decode_missing(
        plan,
        log,
        engine,
        start_session=lambda warm_up_s: session_of(
            engine, spec, load_s=load_s, warm_up_s=warm_up_s
        ),
        progress=progress,
    )


def _score_and_write(
    spec: RunSpec,
    folder: Path,
    plan: Plan,
    log: AnswerLog,
    *,
    tokenizer: Any,
    dtype: str,
    check_sources: Callable[[RunSpec], None],
) -> Outcome:
    # lm-eval takes seconds to import and decoding does not need it, so a failing decode is quick.
    from fastdllm.evaluation.scoring import score_answers
    from fastdllm.evaluation.summarize import Decoded, summarize
    from fastdllm.evaluation.tasks import load_task

    chunks = [log.chunks[index] for index in sorted(log.chunks)]
    scores = score_answers(
        plan,
        [answer for chunk in chunks for answer in chunk.answers],
        tokenizer=tokenizer,
        task=load_task(spec.task, Path(spec.run.task_file).parent),
        bootstrap_iters=spec.run.bootstrap_iters,
    )
    summary = summarize(
        spec,
        plan=plan.header,
        decoded=Decoded(sessions=log.sessions, chunks=chunks, dtype=dtype),
        scores=scores,
        git=git_state(),
        environment=package_versions(),
    )
    check_sources(spec)
    path = folder / "summary.json"
    if path.exists() and stored_fingerprint(path) != spec.fingerprint:
        keep_result_aside(folder)
    lines = [to_json_line(record) for record in scores.samples]
    write_json_atomically(folder / "results.json", scores.results)
    write_text_atomically(folder / "samples.jsonl", "".join(lines))
    write_summary(path, summary)
    return Outcome(summary, log.set_aside, log.taken_up, scores.unused_answers)


def to_json_line(record: dict[str, Any]) -> str:
    """One record of a JSON-lines file."""
    return json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"


@contextmanager
def _failure_record(folder: Path, spec: RunSpec) -> Iterator[None]:
    """Leave failed.json when the run fails, and remove the one of an earlier try.

    A run that is interrupted has not failed: its progress.json stays instead, as after a kill.
    """
    path = folder / "failed.json"
    _remove(path)
    try:
        yield
    except Exception as error:
        with suppress(UserError):  # the error itself is what matters
            _remove(folder / "progress.json")
        reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        record = {"reason": " ".join(reason.split())[:500], "time": datetime.now(UTC).isoformat()}
        if spec.log_path.is_file():
            record["log"] = str(spec.log_path)
        _write_if_possible(path, to_json(record))
        raise


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise cannot("remove", path, error) from None


def _write_if_possible(path: Path, text: str) -> None:
    try:
        write_text_atomically(path, text)
    except UserError:
        return  # a full disk is often the reason of the failure itself, which is raised anyway
