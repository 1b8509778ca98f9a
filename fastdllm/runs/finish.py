"""The result of a run from answers that others left; decodes nothing, needs no GPU.

What the answers were decoded in (their dtype) is told by their files, not by this machine.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastdllm.common.console import Display
from fastdllm.common.errors import UserError
from fastdllm.common.files import write_json_atomically, write_text_atomically
from fastdllm.machine.provenance import git_state, package_versions
from fastdllm.results.result_files import keep_result_aside, stored_fingerprint
from fastdllm.results.summary import Summary, write_summary
from fastdllm.runs.answer_records import SCHEMA_VERSION, Header
from fastdllm.runs.answer_sources import (
    Source,
    headers,
    held_chunks,
    merge,
    remove_traces,
    run_sources,
    shard_sources,
)
from fastdllm.runs.answers import AnswerLog, open_answers
from fastdllm.runs.finished import finished_summary
from fastdllm.runs.loaded_model import load_plan_tokenizer
from fastdllm.runs.progress import Progress, failure_record, read_failure
from fastdllm.runs.shards import (
    FOLDER,
    Shard,
    answer_files,
    chunks_in_words,
    finish_log,
    parse_shard,
    places,
    stamps,
)
from fastdllm.runs.spec import RunSpec, check_plan
from fastdllm.runs.stopping import Stop
from fastdllm.tasks.plan import Plan, read_plan


def finish_run(
    spec: RunSpec, folder: Path, *, display: Display, check_sources: Callable[[RunSpec], None]
) -> Outcome:
    """Merge, score and write a run that has no result (or is to be repeated); holding its lock.

    Raises:
        UserError: a chunk is missing (which, and what decodes it), or was decoded in two ways, or
            the run cannot be scored.
    """
    own = places(folder, spec)
    plan = read_plan(Path(spec.run.plan_folder), spec.task)
    check_plan(spec, plan)
    # A result that is there is to be repeated, or nobody would ask for another one.
    reuse = finished_summary(folder, spec) is None
    header = _complete_header(spec, folder, plan, reuse=reuse)
    with failure_record(own, log=finish_log(spec)):
        check_sources(spec)
        tokenizer = load_plan_tokenizer(spec, plan)
        log = open_answers(own.answers, header, reuse=reuse)
        progress = Progress(own.progress, display, total=plan.header.n_requests)
        with closing(log), closing(progress):
            for line in log.history():
                display.note(line)
            shards = shard_sources(folder, header)
            chunks = {i: chunk for shard in shards for i, chunk in shard.chunks.items()}
            progress.loading(earlier=(chunks | log.chunks).values())
            return conclude(
                spec,
                folder,
                plan,
                log,
                shards=shards,
                header=header,
                tokenizer=tokenizer,
                progress=progress,
                check_sources=check_sources,
                stop=Stop(),
            )


def _complete_header(spec: RunSpec, folder: Path, plan: Plan, *, reuse: bool) -> Header:
    """The header under which every chunk is there.

    Raises:
        UserError: there is none.
    """
    keys = {"fingerprint": spec.fingerprint, "plan_digest": plan.digest}
    found = headers(folder, {**keys, "schema_version": SCHEMA_VERSION})
    needed = set(range(len(plan.header.chunks)))
    by_dtype: dict[str, set[int]] = {}
    for dtype in dict.fromkeys(str(values["dtype"]) for _, values in found):
        header = Header(**keys, dtype=dtype, decides=spec.decides)
        by_dtype[dtype] = set(held_chunks(plan, run_sources(folder, header, reuse=reuse)))
        if by_dtype[dtype] >= needed:
            return header
    raise UserError(f"{folder}: {_what_lacks(folder, needed, by_dtype)}")


def _what_lacks(folder: Path, needed: set[int], by_dtype: dict[str, set[int]]) -> str:
    """Why a run cannot be finished, and what to do about it."""
    count = _count(folder)
    parts = sorted((folder / FOLDER).glob(f"*-of-{count}.failed.json")) if count else []
    for path in [folder / "failed.json", *parts]:
        reason = read_failure(path)
        if reason is not None:
            part = "it" if path.parent == folder else f"shard {path.name.split('.')[0]}"
            return f"{part} failed: {reason}"
    if len(by_dtype) > 1 and set().union(*by_dtype.values()) >= needed:
        kinds = " and ".join(f"{d} ({chunks_in_words(c)})" for d, c in by_dtype.items() if c)
        return (
            f"decoded in {kinds}, which are never mixed; name a dtype in workflow_config.yaml, or "
            "ask for one type of GPU"
        )
    missing = needed - max(by_dtype.values(), key=len, default=set())
    verb = "have" if len(missing) > 1 else "has"
    if count is None:
        command = f"fastdllm eval {folder / 'spec.json'}"
    else:
        shard = Shard(min(missing) % count + 1, count)
        command = f"fastdllm eval {folder / 'spec.json'} --shard {shard.index}/{shard.count}"
    return f"{chunks_in_words(missing)} {verb} no answers; this decodes more: {command}"


def _count(folder: Path) -> int | None:
    """In how many shards the run was cut last; None where it was not."""
    failures = (folder / FOLDER).glob("*-of-*.failed.json")
    parts = [*stamps(folder), *answer_files(folder), *failures]
    if not parts:
        return None
    newest = max(parts, key=lambda path: path.stat().st_mtime_ns)
    return parse_shard(newest.name.split(".")[0].replace("-of-", "/")).count


# The end of a run: merge what shards left, score, write the result. Decodes nothing.


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run tells in the end.

    is_new: False when the run had its result already and nothing was done.
    """

    summary: Summary
    unused_answers: int = 0
    is_new: bool = True

    def lines(self, folder: Path) -> list[str]:
        """What a person is told in the end."""
        primary = self.summary.primary
        lines = [f"{primary.metric} {self.summary.accuracy:.4f} -> {folder / 'summary.json'}"]
        if not self.is_new:
            lines[0] += " (was done already; --again repeats it)"
        if self.unused_answers:
            lines.append(f"warning: {self.unused_answers} answers belong to no item of the task")
        return lines


def conclude(
    spec: RunSpec,
    folder: Path,
    plan: Plan,
    log: AnswerLog,
    *,
    shards: Sequence[Source],
    header: Header,
    tokenizer: Any,
    progress: Progress,
    check_sources: Callable[[RunSpec], None],
    stop: Stop,
) -> Outcome:
    """Make the result of a run whose chunks are all there, in its log and in those of its shards.

    Closes the log. SIGUSR1 is only noted meanwhile, since a run that is decoded is soon done; one
    that is stopped or killed here loses nothing. With the result there, nothing is left to stop.

    Raises:
        Stopped: by SIGTERM.
        UserError: shards contradict each other, the task cannot be scored, a file not be written.
    """
    try:
        with stop.deferred(signal.SIGUSR1):
            log = merge(log, shards, plan=plan, header=header)
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
            stop.settle()
    finally:
        log.close()
    remove_traces(folder)
    progress.remove()
    return outcome


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
    from fastdllm.runs.scoring import score_answers
    from fastdllm.runs.summarize import Decoded, summarize
    from fastdllm.tasks.lm_eval_tasks import load_task

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
    lines = [_json_line(record) for record in scores.samples]
    write_json_atomically(folder / "results.json", scores.results)
    write_text_atomically(folder / "samples.jsonl", "".join(lines))
    write_summary(path, summary)
    return Outcome(summary, unused_answers=scores.unused_answers)


def _json_line(record: Mapping[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"
