"""answers.jsonl: what a run has decoded so far, appended chunk by chunk.

Records, one JSON object a line: a `header` (what the answers depend on), a `session` for each
process that worked on the run, a `chunk` with its answers as soon as it is finished, and an `end`
once the run was scored and its summary written. A chunk is there as a whole or not at all, so a
killed run loses at most the chunk in flight; what else is not used any more is kept aside in the
same folder. Knows no model and no task.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from fastdllm.errors import UserError
from fastdllm.files import cannot
from fastdllm.trace import PassCounts

SCHEMA_VERSION = 2
# A misspelt key would otherwise be an answer without that value.
STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, slots=True)
class Header:
    """What all answers of a file share; another value of any key means another file."""

    fingerprint: str
    plan_digest: str
    dtype: str
    decides: Mapping[str, Any]

    def agrees_with(self, record: Mapping[str, Any]) -> bool:
        keys = ("fingerprint", "plan_digest", "dtype")
        return record.get("schema_version") == SCHEMA_VERSION and all(
            record.get(key) == getattr(self, key) for key in keys
        )


@dataclass(frozen=True, slots=True)
class Session:
    """One process that worked on the run: where, with what, and what it cost before decoding."""

    __pydantic_config__ = STRICT

    device: str
    device_name: str
    threads: int | None
    host: str
    pid: int
    started: str
    load_s: float
    warm_up_s: float
    versions: Mapping[str, str]
    dtype_reason: str | None = None

    @property
    def hardware(self) -> tuple[str, int | None]:
        """What a throughput is comparable within."""
        return self.device_name, self.threads


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one request; generation fills the first group, log-likelihood the second.

    latency_s: from when the request entered a slot until this answer was complete.
    """

    id: str
    token_ids: tuple[int, ...] | None = None
    finish_reason: str | None = None
    passes: PassCounts | None = None
    latency_s: float | None = None
    logprob: float | None = None
    is_greedy: bool | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """The answers of one chunk and what it cost, without loading and warm-up.

    recording_s: seconds, not among `seconds`, in which a GPU recorded shapes of passes at their
    first use.
    batch_size: most sequences decoded at once (inputs in memory at once, for log-likelihoods).
    smallest_batch_size: the same in the end; fewer where memory lacked. out_of_memory: how often.
    """

    __pydantic_config__ = STRICT

    index: int
    seconds: float
    recording_s: float
    prompt_tokens: int
    peak_memory_gib: float
    batch_size: int
    smallest_batch_size: int
    out_of_memory: int
    answers: tuple[Answer, ...]
    session: int = 0


@dataclass(slots=True)
class AnswerLog:
    """An open answers.jsonl: what it holds, and how to append to it.

    ended: the run was scored after its last chunk. set_aside: where answers went that were here
    before. taken_up: the file kept aside that is this one now.
    """

    path: Path
    stream: IO[bytes]
    sessions: list[Session] = field(default_factory=list)
    chunks: dict[int, Chunk] = field(default_factory=dict)
    ended: bool = False
    set_aside: Path | None = None
    taken_up: Path | None = None

    def append_session(self, session: Session) -> None:
        self._append("session", asdict(session))
        self.sessions.append(session)

    def append_chunk(self, chunk: Chunk) -> None:
        record = asdict(chunk)
        del record["session"]
        record["answers"] = [
            {key: value for key, value in answer.items() if value is not None}
            for answer in record["answers"]
        ]
        self._append("chunk", record)
        self.chunks[chunk.index] = chunk

    def append_end(self) -> None:
        """Mark the run as finished; a mark that stands there already is enough."""
        if not self.ended:
            self._append("end", {"time": datetime.now(UTC).isoformat()})

    def append_header(self, header: Header) -> None:
        self._append("header", {"schema_version": SCHEMA_VERSION, **asdict(header)})

    def _append(self, record: str, values: Mapping[str, Any]) -> None:
        line = json.dumps({"record": record, **values}, ensure_ascii=False) + "\n"
        start = self.stream.tell()
        try:
            rest = memoryview(line.encode())
            while rest:  # a nearly full disk takes a part and refuses the rest
                rest = rest[self.stream.write(rest) :]
            os.fsync(self.stream.fileno())
        except OSError as error:
            self._cut_back(start)
            raise cannot("write", self.path, error) from None
        self.ended = record == "end"

    def _cut_back(self, size: int) -> None:
        try:
            os.ftruncate(self.stream.fileno(), size)
        except OSError:
            return  # opening the file again drops the torn line as well

    def close(self) -> None:
        self.stream.close()


Record = TypeVar("Record", Session, Chunk)


@dataclass(frozen=True, slots=True)
class _Content:
    """What can be read of a file: its records, one a line from the first on, and their bytes.

    damaged: behind them stands more than a torn last line.
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


def open_answers(path: Path, header: Header, *, reuse: bool = True) -> AnswerLog:
    """Open the answers of a run to go on with them, or start a new file.

    A torn last line is dropped. Answers under another header (fingerprint, plan or dtype) are kept
    aside as answers.<their fingerprint>.<time>.jsonl, a file with damaged lines as
    answers.damaged.<time>.jsonl; what stands before the damage is used on.

    reuse: finished answers are taken as they are, and where there are none under this header, the
    newest that were kept aside under it are taken up again. Without `reuse`, finished answers are
    kept aside and decoding starts anew; unfinished ones are gone on with all the same.

    Raises:
        UserError: the file or its folder cannot be written, or a record has a wrong shape.
    """
    set_aside = taken_up = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        content = _read(path)
        going_on = content.belongs_to(header) and (reuse or not content.ended)
        if not going_on:
            if content.records or content.damaged:
                set_aside = _move_aside(path, content)
            content = _Content()
            taken_up = _kept_aside(path.parent, header) if reuse else None
            if taken_up is not None:
                taken_up.replace(path)
                content = _read(path)
        sessions, chunks = _checked(path, content)
        if content.damaged:
            set_aside = _copy_aside(path)
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
        taken_up=taken_up,
    )
    if not content.records:
        log.append_header(header)
    return log


def _read(path: Path) -> _Content:
    """Read records up to the first line that is not JSON, or not whole."""
    if not path.exists():
        return _Content()
    records, size, rest = [], 0, b""
    with path.open("rb") as stream:
        for line in stream:
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
    return _Content(records=tuple(records), size=size, damaged=damaged)


def _checked(path: Path, content: _Content) -> tuple[list[Session], dict[int, Chunk]]:
    """The records as sessions and chunks; each chunk belongs to the session before it."""
    sessions: list[Session] = []
    chunks: dict[int, Chunk] = {}
    for number, record in enumerate(content.records[1:], start=2):
        where = f"{path}, line {number}"
        values = dict(record) if isinstance(record, dict) else {}
        kind = values.pop("record", None)
        if kind == "session":
            sessions.append(_validated(Session, values, where))
        elif kind == "chunk":
            if not sessions:
                raise _wrong_shape(where, "a chunk stands before any session")
            chunk = _validated(Chunk, {**values, "session": len(sessions) - 1}, where)
            chunks[chunk.index] = chunk
        elif kind != "end":
            raise _wrong_shape(where, f"record is {kind!r}, not session, chunk or end")
    return sessions, chunks


def _validated(kind: type[Record], values: Mapping[str, Any], where: str) -> Record:
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(str(part) for part in problem["loc"])
        raise _wrong_shape(where, f"{key}: {problem['msg'].lower()}") from None


def _wrong_shape(where: str, problem: str) -> UserError:
    return UserError(
        f"{where}: {problem}; mend the line, or rename the file, and everything is decoded anew"
    )


def _move_aside(path: Path, content: _Content) -> Path:
    name = str(content.header.get("fingerprint", "unknown"))[:8] if content.header else "damaged"
    target = _aside(path, name)
    path.replace(target)
    return target


def _copy_aside(path: Path) -> Path:
    """Keep a damaged file as it is, before its own is cut to what can be read."""
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
    return path.with_name(f"answers.{name}.{stamp}.jsonl")


def _kept_aside(folder: Path, header: Header) -> Path | None:
    """The newest file kept aside under exactly this header."""
    own = re.compile(rf"answers\.{re.escape(header.fingerprint[:8])}\.\d{{8}}T\d+Z\.jsonl")
    names = sorted((p.name for p in folder.iterdir() if own.fullmatch(p.name)), reverse=True)
    return next((folder / n for n in names if _read(folder / n).belongs_to(header)), None)
