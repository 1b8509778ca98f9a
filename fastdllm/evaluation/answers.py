"""answers.jsonl: what a run has decoded so far, appended chunk by chunk.

Records, one JSON object a line: a `header` (what the answers depend on), a `session` for each
process that worked on the run, a `chunk` with its answers as soon as it is finished, and an `end`
once the run was scored and its summary written. A chunk is there as a whole or not at all, so a
killed run loses at most the chunk in flight. Knows no model and no task.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from fastdllm.errors import UserError
from fastdllm.files import cannot
from fastdllm.trace import PassCounts

SCHEMA_VERSION = 1


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

    device: str
    device_name: str
    threads: int | None
    host: str
    pid: int
    started: str
    load_s: float
    warm_up_s: float
    versions: Mapping[str, str]

    @property
    def hardware(self) -> tuple[str, int | None]:
        """What a throughput is comparable within."""
        return self.device_name, self.threads


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one request; generation fills the first group, log-likelihood the second.

    latency_s: from the start of the chunk until this answer was complete.
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
    """The answers of one chunk and what it cost, without loading and warm-up."""

    index: int
    seconds: float
    prompt_tokens: int
    peak_memory_gib: float
    answers: tuple[Answer, ...]
    session: int = 0


@dataclass(slots=True)
class AnswerLog:
    """An open answers.jsonl: what it holds, and how to append to it."""

    path: Path
    stream: IO[bytes]
    sessions: list[Session] = field(default_factory=list)
    chunks: dict[int, Chunk] = field(default_factory=dict)
    set_aside: Path | None = None

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
        """Mark the run as finished: the next `eval` of it decodes everything again."""
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

    def _cut_back(self, size: int) -> None:
        try:
            os.ftruncate(self.stream.fileno(), size)
        except OSError:
            return  # opening the file again drops the torn line as well

    def close(self) -> None:
        self.stream.close()


def open_answers(path: Path, header: Header) -> AnswerLog:
    """Open the answers of a run to go on with them, or start a new file.

    A torn last line is dropped. A file with another fingerprint, plan or dtype, and one whose run
    was already finished, is kept aside as answers.<its fingerprint>.<time>.jsonl.

    Raises:
        UserError: the file or its folder cannot be written.
    """
    set_aside = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        records, size = _read_records(path)
        going_on = (
            bool(records)
            and records[0]["record"] == "header"
            and header.agrees_with(records[0])
            and records[-1]["record"] != "end"
        )
        if records and not going_on:
            set_aside = _keep_aside(path, str(records[0].get("fingerprint", "unknown")))
        # Unbuffered: a line that a full disk refused must not be tried again on closing.
        stream = path.open("r+b" if going_on else "w+b", buffering=0)
        stream.truncate(size if going_on else 0)
        stream.seek(0, os.SEEK_END)
    except OSError as error:
        raise cannot("write", path, error) from None
    log = AnswerLog(path=path, stream=stream, set_aside=set_aside)
    if not going_on:
        log.append_header(header)
        return log
    for record in records[1:]:
        kind = record.pop("record")
        if kind == "session":
            log.sessions.append(Session(**record))
        elif kind == "chunk":
            chunk = _chunk(record, session=len(log.sessions) - 1)
            log.chunks[chunk.index] = chunk
    return log


def _read_records(path: Path) -> tuple[list[dict[str, Any]], int]:
    """All whole records from the start, and the size in bytes that they take.

    What follows the first record that cannot be read is lost: a torn last line after a kill, or
    blocks of zeros after a power cut.
    """
    if not path.exists():
        return [], 0
    records, size = [], 0
    with path.open("rb") as stream:
        for line in stream:
            try:
                record = json.loads(line)
            except ValueError:
                break
            if not line.endswith(b"\n") or not isinstance(record, dict) or "record" not in record:
                break
            records.append(record)
            size += len(line)
    return records, size


def _keep_aside(path: Path, fingerprint: str) -> Path:
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%fZ")
    target = path.with_name(f"answers.{fingerprint[:8]}.{stamp}.jsonl")
    path.replace(target)
    return target


def _chunk(record: dict[str, Any], session: int) -> Chunk:
    answers = []
    for values in record.pop("answers"):
        if "passes" in values:
            values["passes"] = PassCounts(**values["passes"])
            values["token_ids"] = tuple(values["token_ids"])
        answers.append(Answer(**values))
    if session < 0:
        raise UserError("answers.jsonl: a chunk stands before any session; move the file away")
    return Chunk(**record, answers=tuple(answers), session=session)
