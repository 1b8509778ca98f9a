"""answers.jsonl: what a run (or a shard of it) has decoded so far, appended chunk by chunk.

Records, one JSON object a line: a `header` (what the answers depend on), a `session` for each
process that worked on the run, a `chunk` with its answers as soon as it is finished, and an `end`
once the run was scored and its summary written. A chunk is written whole or not at all, so a
killed run loses at most the chunk in flight. A file is never deleted: one that is no longer used is
kept aside in the same folder. Knows no model and no task.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import IO, Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from fastdllm.common.errors import UserError
from fastdllm.common.files import cannot, now
from fastdllm.machine.process import commit_words
from fastdllm.records.summary import Summary
from fastdllm.runs.answer_records import OTHER_CODE, SCHEMA_VERSION, Chunk, Header, Session

DAMAGED = "with damaged lines"
# Most bytes in the line of an `end`.
_LONGEST_END = 200


@dataclass(slots=True)
class AnswerLog:
    """An open answers.jsonl: its content, and how to append to it.

    ended: the run was scored after its last chunk. set_aside: where earlier answers were moved, and
    why_aside: how they differ. taken_up: the file kept aside that was renamed to this one.
    """

    path: Path
    stream: IO[bytes]
    sessions: list[Session] = field(default_factory=list)
    chunks: dict[int, Chunk] = field(default_factory=dict)
    ended: bool = False
    set_aside: Path | None = None
    why_aside: str = ""
    taken_up: Path | None = None

    def history(self) -> list[str]:
        """The lines to print about earlier answers."""
        lines = []
        if self.set_aside is not None:
            lines.append(f"earlier answers are kept in {self.set_aside}: {self.why_aside}")
        if self.taken_up is not None:
            lines.append(f"answers that were kept in {self.taken_up} are used again")
        return lines

    def append_session(self, session: Session) -> None:
        self._append(session_line(session))
        self.sessions.append(session)

    def append_chunk(self, chunk: Chunk) -> None:
        self._append(chunk_line(chunk, len(self.sessions) - 1))
        self.chunks[chunk.index] = chunk

    def append_end(self) -> None:
        """Mark the run as scored, unless it is marked already."""
        if not self.ended:
            self._append(_line("end", {"time": now("auto")}))
            self.ended = True

    def append_header(self, header: Header) -> None:
        self._append(header_line(header))

    def _append(self, line: str) -> None:
        start = self.stream.tell()
        try:
            rest = memoryview(line.encode())
            while rest:  # a nearly full disk takes a part and refuses the rest
                rest = rest[self.stream.write(rest) :]
            os.fsync(self.stream.fileno())
        except OSError as error:
            self._cut_back(start)
            raise cannot("write", self.path, error) from None
        self.ended = False

    def _cut_back(self, size: int) -> None:
        try:
            os.ftruncate(self.stream.fileno(), size)
        except OSError:
            return  # opening the file again drops the torn line as well

    def close(self) -> None:
        """Close the file."""
        self.stream.close()


def header_line(header: Header) -> str:
    """The first line of a file."""
    return _line("header", {"schema_version": SCHEMA_VERSION, **asdict(header)})


def session_line(session: Session) -> str:
    return _line("session", asdict(session))


def chunk_line(chunk: Chunk, last_session: int) -> str:
    """The line of a chunk; it names its session unless that is the last one before it."""
    record = {key: value for key, value in asdict(chunk).items() if value is not None}
    if chunk.session == last_session:
        del record["session"]
    record["answers"] = [
        {key: value for key, value in answer.items() if value is not None}
        for answer in record["answers"]
    ]
    return _line("chunk", record)


def _line(record: str, values: Mapping[str, Any]) -> str:
    return json.dumps({"record": record, **values}, ensure_ascii=False) + "\n"


Record = TypeVar("Record", Session, Chunk)


def open_answers(path: Path, header: Header, *, reuse: bool = True) -> AnswerLog:
    """Open the answers of a run to add to them, or start a new file.

    A torn last line is dropped. Answers under another header (fingerprint, plan, dtype or code) are
    kept aside as answers.<their fingerprint>.<time>.jsonl, a file with damaged lines as
    answers.damaged.<time>.jsonl; the lines before the damage are still used.

    reuse: scored answers are used as they are, and without any under this header, the newest kept
        aside under it are used again. Without `reuse`, scored answers are kept aside and decoding
        starts again; answers not scored yet are used in any case.

    Raises:
        UserError: the file or its folder cannot be written, or a record has a wrong shape.
    """
    set_aside = taken_up = None
    why_aside = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        content = read_content(path)
        going_on = content.belongs_to(header) and (reuse or not content.ended)
        if not going_on:
            if content.records or content.damaged:
                set_aside, why_aside = move_aside(path, content), why_other(content, header)
            content = Content()
            taken_up = kept_aside(path, header) if reuse else None
            if taken_up is not None:
                taken_up.replace(path)
                content = read_content(path)
        sessions, chunks = records_of(path, content)
        if content.damaged:
            set_aside, why_aside = copy_aside(path), DAMAGED
        # Unbuffered: a line that a full disk refused must not be tried again on closing.
        stream = path.open("r+b" if content.records else "w+b", buffering=0)
        stream.truncate(content.size)
        stream.seek(0, os.SEEK_END)
    except OSError as error:
        raise cannot("write", path, error) from None
    log = AnswerLog(
        path=path,
        stream=stream,
        sessions=sessions,
        chunks=chunks,
        ended=content.ended,
        set_aside=set_aside,
        why_aside=why_aside,
        taken_up=taken_up,
    )
    if not content.records:
        log.append_header(header)
    return log


def why_other(content: Content, header: Header) -> str:
    """Return how answers differ from those under a header, and how they are used all the same."""
    if content.header is None:
        return DAMAGED
    difference = header.difference_from(content.header)
    if difference == OTHER_CODE:
        return f"{difference} ({commit_of(content)}); with that code, this command uses them again"
    return difference or "of a finished run, which is repeated"


def commit_of(content: Content) -> str:
    """The commit that the first process of a file had, in words."""
    first = content.records[1] if len(content.records) > 1 else {}
    git = first.get("git") if isinstance(first, dict) else None
    return f"commit {commit_words(git if isinstance(git, dict) else None) or 'not recorded'}"


def records_of(path: Path, content: Content) -> tuple[list[Session], dict[int, Chunk]]:
    """Return the records after the header of a file: sessions, and chunks by their index.

    Raises:
        UserError: one has a wrong shape; the message names its line.
    """
    sessions: list[Session] = []
    chunks: dict[int, Chunk] = {}
    for number, record in enumerate(content.records[1:], start=2):
        where = f"{path}, line {number}"
        values = dict(record) if isinstance(record, dict) else {}
        kind = values.pop("record", None)
        if kind == "session":
            sessions.append(_validated(_SESSION, values, where))
        elif kind == "chunk":
            if not sessions:
                raise _wrong_shape(where, "a chunk comes before any session")
            chunk = _validated(_CHUNK, {"session": len(sessions) - 1, **values}, where)
            if not 0 <= chunk.session < len(sessions):
                raise _wrong_shape(where, f"session {chunk.session} does not come before it")
            if chunk.index in chunks:
                raise _wrong_shape(where, f"chunk {chunk.index} is there twice")
            chunks[chunk.index] = chunk
        elif kind != "end":
            raise _wrong_shape(where, f"record is {kind!r}, not session, chunk or end")
    return sessions, chunks


# Made once: that takes longer than to check a thousand records.
_SESSION, _CHUNK = TypeAdapter(Session), TypeAdapter(Chunk)


def _validated(validator: TypeAdapter[Record], values: Mapping[str, Any], where: str) -> Record:
    try:
        return validator.validate_python(values)
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(str(part) for part in problem["loc"])
        raise _wrong_shape(where, f"{key}: {problem['msg'].lower()}") from None


def _wrong_shape(where: str, problem: str) -> UserError:
    return UserError(
        f"{where}: {problem}; correct the line, or rename the file to decode everything again"
    )


@dataclass(frozen=True, slots=True)
class Content:
    """The readable part of a file: its records, one a line from the first on, and their bytes.

    damaged: they are followed by more than a torn last line.
    """

    records: tuple[Any, ...] = ()
    size: int = 0
    damaged: bool = False

    @property
    def header(self) -> Mapping[str, Any] | None:
        first = self.records[0] if self.records else None
        return first if isinstance(first, dict) and first.get("record") == "header" else None

    @property
    def ended(self) -> bool:
        last = self.records[-1] if self.records else None
        return isinstance(last, dict) and last.get("record") == "end"

    def belongs_to(self, header: Header) -> bool:
        return self.header is not None and header.agrees_with(self.header)


def read_content(path: Path, lines: int | None = None) -> Content:
    """Read records up to the first line that is not JSON, or is incomplete; `lines`: at most."""
    if not path.exists():
        return Content()
    records, size, rest = [], 0, b""
    with path.open("rb") as stream:
        for line in islice(stream, lines):
            try:
                record = json.loads(line)
            except ValueError:
                record = None
            if record is None or not line.endswith(b"\n"):
                rest = line + stream.read()
                break
            records.append(record)
            size += len(line)
    # A line break shows that a line was once whole. Zeros are what a power cut leaves of a block.
    damaged = b"\n" in rest and bool(rest.strip(b"\0 \r\n"))
    return Content(records=tuple(records), size=size, damaged=damaged)


def move_aside(path: Path, content: Content) -> Path:
    """Rename a file of other answers after their fingerprint, or one without a header."""
    name = str(content.header.get("fingerprint", "unknown"))[:8] if content.header else "damaged"
    target = _aside(path, name)
    path.replace(target)
    return target


def copy_aside(path: Path) -> Path:
    """Copy a damaged file aside, before it is truncated to what can be read."""
    target = _aside(path, "damaged")
    try:
        with path.open("rb") as old, target.open("xb") as new:
            shutil.copyfileobj(old, new)
            new.flush()
            os.fsync(new.fileno())
    except OSError:
        target.unlink(missing_ok=True)
        raise
    return target


def _aside(path: Path, name: str) -> Path:
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%fZ")
    return path.with_name(f"{path.stem}.{name}.{stamp}.jsonl")


def kept_aside(path: Path, header: Header) -> Path | None:
    """Return the newest file kept aside from `path` under exactly this header, None without one."""
    marks = rf"\.{re.escape(header.fingerprint[:8])}\.\d{{8}}T\d+Z\.jsonl"
    pattern = re.compile(re.escape(path.stem) + marks)
    files = sorted((p for p in path.parent.iterdir() if pattern.fullmatch(p.name)), reverse=True)
    return next((p for p in files if read_content(p).belongs_to(header)), None)


def mark_as_scored(path: Path, result: Summary) -> None:
    """Append a missing `end` to the answers of a result, after a kill; the caller holds the lock.

    Without it a repetition would take them for its own and decode nothing. Answers of a repetition
    that began after the result are left as they are.

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
        stream.seek(max(0, path.stat().st_size - _LONGEST_END))
        lines = stream.read().splitlines()
    return bool(lines) and lines[-1].startswith(b'{"record": "end"')
