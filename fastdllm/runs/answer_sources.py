"""The answers of a run in all its files: answers.jsonl, and those of its shards.

How a run was split when a chunk was decoded does not matter: every chunk under its header is
used, and a chunk that two files hold must have the same answers in both. Files are read while other
processes append to them. `merge` puts the answers of shards into the one answers.jsonl of the run:
what one process would have left, but for sessions and seconds.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from fastdllm.common.errors import UserError
from fastdllm.common.files import cannot, write_text_atomically
from fastdllm.runs.answer_records import OTHER_CODE, Answer, Chunk, Header, Session
from fastdllm.runs.answers import (
    AnswerLog,
    Content,
    chunk_line,
    commit_of,
    header_line,
    kept_aside,
    open_answers,
    read_content,
    records_of,
    session_line,
    why_other,
)
from fastdllm.runs.decoder_code import code_digest
from fastdllm.runs.progress import read_failure, remove
from fastdllm.runs.shards import FOLDER, answer_files, chunks_in_words, newest_count, split_name
from fastdllm.runs.spec import RunSpec
from fastdllm.tasks.plan import Plan


@dataclass(frozen=True, slots=True)
class Source:
    """The sessions and chunks of one file under the header of a run."""

    path: Path
    sessions: Sequence[Session]
    chunks: Mapping[int, Chunk]


def run_sources(folder: Path, header: Header, *, reuse: bool) -> list[Source]:
    """Return all files of a run that hold chunks under its header.

    reuse: as for `open_answers`, which would use the same answers.
    """
    run_source = _run_source(folder / "answers.jsonl", header, reuse=reuse)
    return [*([run_source] if run_source else []), *shard_sources(folder, header)]


def _run_source(path: Path, header: Header, *, reuse: bool) -> Source | None:
    """Read answers.jsonl at `path`, or the file kept aside from it under the same header."""
    content = _content(path)
    if not (content.belongs_to(header) and (reuse or not content.ended)):
        aside = kept_aside(path, header) if reuse and path.parent.is_dir() else None
        if aside is None:
            return None
        path, content = aside, _content(aside)
    return _source(path, content)


def shard_sources(folder: Path, header: Header) -> list[Source]:
    """Return the answers of all shards of a run, however it was split."""
    contents = ((path, _content(path)) for path in answer_files(folder))
    return [_source(path, content) for path, content in contents if content.belongs_to(header)]


def check_requests(plan: Plan, source: Source) -> None:
    """Refuse answers to requests that are not those of the plan.

    Raises:
        UserError: naming file and chunk.
    """
    planned = range(len(plan.header.chunks))
    for index, chunk in source.chunks.items():
        planned_ids = [request.id for request in plan.chunk(index)] if index in planned else None
        if [answer.id for answer in chunk.answers] != planned_ids:
            raise UserError(
                f"{source.path}: chunk {index} answers other requests than the plan's; rename the "
                "file to decode its chunks again"
            )


def held_chunks(plan: Plan, sources: Iterable[Source]) -> dict[int, Chunk]:
    """Return the chunks in some files, each checked against the plan.

    Raises:
        UserError: a file answers other requests than the plan's.
    """
    chunks: dict[int, Chunk] = {}
    for source in sources:
        check_requests(plan, source)
        chunks |= source.chunks
    return chunks


def combined(sources: Iterable[Source]) -> dict[int, tuple[Source, Chunk]]:
    """Return each chunk once, by its index, with the file it is taken from.

    Raises:
        UserError: two files hold a chunk with different answers.
    """
    merged: dict[int, tuple[Source, Chunk]] = {}
    for source in sources:
        for index, chunk in source.chunks.items():
            first, first_chunk = merged.setdefault(index, (source, chunk))
            if first_chunk is not chunk and _essence(first_chunk) != _essence(chunk):
                raise UserError(
                    f"{first.path} and {source.path}: chunk {index} has different answers in them; "
                    "rename the wrong one, and type the same command again"
                )
    return merged


def _essence(chunk: Chunk) -> list[tuple[Any, ...]]:
    """What two decodings of a chunk must agree on."""
    return [_essence_of(answer) for answer in chunk.answers]


def _essence_of(answer: Answer) -> tuple[Any, ...]:
    return answer.id, answer.token_ids, answer.finish_reason, answer.logprob, answer.is_greedy


class _Held(NamedTuple):
    """The chunks that a run has under one header, and the commit of the code."""

    header: Header
    commit: str
    chunks: set[int]


def complete_header(
    spec: RunSpec, folder: Path, plan: Plan, *, reuse: bool
) -> tuple[Header, dict[int, Chunk]]:
    """Return the header under which all chunks exist, and the chunks.

    Raises:
        UserError: there is none; what is missing, and the command that decodes it.
    """
    needed = set(range(len(plan.header.chunks)))
    found: list[_Held] = []
    for header, commit in _headers(spec, folder, plan):
        held = held_chunks(plan, run_sources(folder, header, reuse=reuse))
        if held.keys() >= needed:
            return header, held
        found.append(_Held(header, commit, set(held)))
    raise UserError(f"{folder}: {_what_lacks(folder, needed, found)}")


def header_to_use(here: Header, spec: RunSpec, folder: Path, plan: Plan, *, reuse: bool) -> Header:
    """Return the header of what is decoded here, or that of other code which decoded all chunks.

    So an edit after the last chunk does not decode a run again that only lacks its score.
    """
    for header, _ in _headers(spec, folder, plan):
        if header.dtype == here.dtype and header.code_digest != here.code_digest:
            held = held_chunks(plan, run_sources(folder, header, reuse=reuse))
            if len(held) == len(plan.header.chunks):
                return header
    return here


def unused(folder: Path, header: Header) -> Iterator[str]:
    """Yield a line for each file with answers to the same plan that other code decoded."""
    for path in (folder / "answers.jsonl", *answer_files(folder)):
        content = _content(path, lines=2)
        is_aside = split_name(path.name)[1] != "jsonl"
        if not is_aside and header.difference_from(content.header or {}) == OTHER_CODE:
            yield f"{path} is not used: {why_other(content, header)}"


def _headers(spec: RunSpec, folder: Path, plan: Plan) -> Iterator[tuple[Header, str]]:
    """Yield the headers of a run's files, each with a commit that has its code."""
    seen: list[Header] = []
    for path in (folder / "answers.jsonl", *answer_files(folder)):
        content = _content(path, lines=2)
        found = content.header or {}
        header = Header(
            fingerprint=spec.fingerprint,
            plan_digest=plan.digest,
            dtype=str(found.get("dtype")),
            decides=spec.decides,
            code_digest=found.get("code_digest"),
        )
        if content.belongs_to(header) and header not in seen:
            seen.append(header)
            yield header, commit_of(content)


def _what_lacks(folder: Path, needed: set[int], found: Sequence[_Held]) -> str:
    """Why a run cannot be finished, and what to do about it."""
    count = newest_count(folder)
    parts = sorted((folder / FOLDER).glob(f"*-of-{count}.failed.json")) if count else []
    for path in [folder / "failed.json", *parts]:
        reason = read_failure(path)
        if reason is not None:
            part = "it" if path.parent == folder else f"shard {path.name.split('.')[0]}"
            return f"{part} failed: {reason}"
    by_dtype: dict[str, set[int]] = {}
    for held in found:
        by_dtype.setdefault(held.header.dtype, set()).update(held.chunks)
    if len(by_dtype) > 1 and set().union(*by_dtype.values()) >= needed:
        kinds = " and ".join(f"{d} ({chunks_in_words(c)})" for d, c in by_dtype.items() if c)
        return (
            f"decoded in {kinds}, which are never mixed; name a dtype in workflow_config.yaml, or "
            "ask for one type of GPU"
        )
    of_this_code = [h.chunks for h in found if h.header.code_digest == code_digest()]
    missing = needed - max(of_this_code, key=len, default=set())
    what = f"{chunks_in_words(missing)} {'have' if len(missing) > 1 else 'has'} no answers"
    commits = dict.fromkeys(h.commit for h in found if h.header.code_digest != code_digest())
    if commits:
        what += f" by this code, and those by other code ({', '.join(commits)}) are not mixed in"
    command = f"fastdllm eval {folder / 'spec.json'}"
    if count is not None:
        command += f" --shard {min(missing) % count + 1}/{count}"
    return f"{what}; this decodes more: {command}"


def _content(path: Path, lines: int | None = None) -> Content:
    try:
        return read_content(path, lines)
    except FileNotFoundError:
        return Content()  # its shard has just renamed it to use it again
    except OSError as error:
        raise cannot("read", path, error) from None


def _source(path: Path, content: Content) -> Source:
    sessions, chunks = records_of(path, content)
    return Source(path, sessions, chunks)


def merge(log: AnswerLog, shards: Sequence[Source], *, plan: Plan, header: Header) -> AnswerLog:
    """Put the chunks of `shards` into the log of their run, and remove their files.

    Together they must hold every chunk. The merged file is complete on disk before those of the
    shards are removed, so a kill at any moment loses nothing. Returns the log to continue with.

    Raises:
        UserError: two files hold a chunk with different answers, or one cannot be written.
    """
    if not shards:
        return log
    sources = [Source(log.path, log.sessions, log.chunks), *shards]
    for source in sources:
        check_requests(plan, source)
    write_text_atomically(log.path, _text(sources, header))
    _sync(log.path.parent)
    log.close()
    for source in shards:
        remove(source.path)
    remove_traces(log.path.parent)
    return open_answers(log.path, header)


def remove_traces(folder: Path) -> None:
    """Remove the progress and failures of shards; their stamps stay.

    Raises:
        UserError: the folder cannot be written.
    """
    for pattern in ("*-of-*.progress.json", "*-of-*.failed.json"):
        for path in (folder / FOLDER).glob(pattern):
            remove(path)


def _text(sources: Sequence[Source], header: Header) -> str:
    """The merged file: header, sessions by their start, chunks in the order of the plan."""
    sessions: list[Session] = []
    for source in sources:
        # After a kill between merging and removing, a session is in two files.
        sessions += [session for session in source.sessions if session not in sessions]
    sessions.sort(key=lambda session: session.started)
    chunks = combined(sources)
    lines = [header_line(header), *(session_line(session) for session in sessions)]
    for index in sorted(chunks):
        source, chunk = chunks[index]
        session = sessions.index(source.sessions[chunk.session])
        lines.append(chunk_line(replace(chunk, session=session), len(sessions) - 1))
    return "".join(lines)


def _sync(folder: Path) -> None:
    """Flush the names of the files in `folder` to the disk."""
    try:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        raise cannot("write", folder, error) from None
