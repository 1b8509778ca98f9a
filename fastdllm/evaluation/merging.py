"""From the answers of shards to the one answers.jsonl of a run.

The merged file is on the disk as a whole before those of the shards are removed, so a kill at any
moment loses nothing. It is what one process would have left, but for sessions and seconds.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fastdllm.common.files import cannot, write_text_atomically
from fastdllm.evaluation.answer_records import Header, Session
from fastdllm.evaluation.answer_sources import Source, check_requests, combined
from fastdllm.evaluation.answers import (
    AnswerLog,
    chunk_line,
    header_line,
    open_answers,
    session_line,
)
from fastdllm.evaluation.failures import remove
from fastdllm.evaluation.shards import FOLDER
from fastdllm.tasks.plan import Plan


def merge(log: AnswerLog, shards: Sequence[Source], *, plan: Plan, header: Header) -> AnswerLog:
    """Put the chunks of `shards` into the log of their run, and remove their files.

    Together they must hold every chunk. Returns the log to go on with.

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
    """Remove what shards left for `fastdllm status`; their stamps stay.

    Raises:
        UserError: the folder cannot be written.
    """
    for pattern in ("*-of-*.progress.json", "*-of-*.failed.json"):
        for path in (folder / FOLDER).glob(pattern):
            remove(path)


def _text(sources: Sequence[Source], header: Header) -> str:
    """Header, sessions by their start, chunks in the order of the plan."""
    sessions: list[Session] = []
    for source in sources:
        # After a kill between merging and removing, a session stands in two files.
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
    """Let the new name of a file in `folder` reach the disk."""
    try:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        raise cannot("write", folder, error) from None
