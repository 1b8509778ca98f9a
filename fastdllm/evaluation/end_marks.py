"""The end mark that a kill between writing a result and marking its answers left out."""

from __future__ import annotations

import os
from pathlib import Path

from fastdllm.common.files import cannot
from fastdllm.evaluation.answer_files import read_content
from fastdllm.evaluation.answers import AnswerLog, records_of
from fastdllm.results.summary import Summary

# Bytes of the line of an end, at most.
_LONGEST = 200


def mark_as_scored(path: Path, result: Summary) -> None:
    """Append the end to the answers of a result, where it is missing; the caller holds the lock.

    Without it a repetition would take them for its own, and decode nothing. Answers of a repetition
    that was begun after the result are left as they are.

    Args:
        path: of answers.jsonl, which need not be there.

    Raises:
        UserError: the file cannot be read or written, or a record has a wrong shape.
    """
    try:
        if not path.exists() or _has_end(path):
            return
        content = read_content(path)
        header = content.header or {}
        if content.damaged or header.get("fingerprint") != result.fingerprint:
            return
        sessions, chunks = records_of(path, content)
        is_whole = sum(len(chunk.answers) for chunk in chunks.values()) == result.n_requests
        if not is_whole or any(session.started > result.timestamp for session in sessions):
            return
        with path.open("r+b", buffering=0) as stream:
            stream.truncate(content.size)
            stream.seek(0, os.SEEK_END)
            AnswerLog(path, stream).append_end()
    except OSError as error:
        raise cannot("mark", path, error) from None


def _has_end(path: Path) -> bool:
    """Whether the last line is an end; the others, which may be many, are not read."""
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - _LONGEST))
        lines = stream.read().splitlines()
    return bool(lines) and lines[-1].startswith(b'{"record": "end"')
