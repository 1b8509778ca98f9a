"""The result of a run from answers that others left; decodes nothing, needs no GPU.

What the answers were decoded in (their dtype) is told by their files, not by this machine.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from fastdllm.common.console import Display
from fastdllm.common.errors import UserError
from fastdllm.evaluation.answer_records import SCHEMA_VERSION, Header
from fastdllm.evaluation.answer_sources import headers, held_chunks, run_sources, shard_sources
from fastdllm.evaluation.answers import open_answers
from fastdllm.evaluation.failures import failure_record, read_failure
from fastdllm.evaluation.finished import finished_summary
from fastdllm.evaluation.finishing import Outcome, conclude
from fastdllm.evaluation.loading import load_plan_tokenizer
from fastdllm.evaluation.plan_checks import check_plan
from fastdllm.evaluation.progress import Progress
from fastdllm.evaluation.shards import (
    FOLDER,
    Shard,
    answer_files,
    chunks_in_words,
    finish_log,
    parse_shard,
    places,
    stamps,
)
from fastdllm.evaluation.spec import RunSpec
from fastdllm.evaluation.stopping import Stop
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
