"""The rounds of a sitting that is under way: kept one by one, so that a killed one goes on.

A file of lines: what the rounds share (node, hardware, code, fingerprint), then a line per round.
Another node, code or spec begins a new sitting: a ratio across two nodes would compare the nodes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from fastdllm.common.errors import UserError
from fastdllm.common.files import cannot, write_text_atomically
from fastdllm.records.result_files import keep_aside
from fastdllm.records.speed_record import BatchRounds, Halves
from fastdllm.validation import StrictModel, validated


class Conditions(StrictModel):
    """What all rounds of a sitting must share."""

    fingerprint: str
    host: str
    device: str
    name: str
    threads: int | None
    dtype: str
    code_digest: str
    environment: dict[str, str]


class Round(StrictModel):
    """One round at one batch size, by config."""

    batch_size: int
    items: int
    seconds: dict[str, Halves]
    cpu_seconds: dict[str, Halves]
    tokens: dict[str, int]


class RoundLog:
    """The rounds of one sitting in a file; opened with what they share.

    started, processes: of the sitting. why_anew: why rounds that were there do not count.
    """

    def __init__(self, path: Path, conditions: Conditions, *, started: str) -> None:
        """Take up the rounds in a file, or begin anew where they were measured otherwise.

        Raises:
            UserError: it cannot be read or written.
        """
        self.path, self.rounds = path, list[Round]()
        self.started, self.processes = started, 1
        self.why_anew: str | None = None
        header, rounds = _read(path)
        if header is not None and header.conditions == conditions:
            self.rounds, self.started = rounds, header.started
            self.processes = header.processes + 1
        elif header is not None:
            self.why_anew = _difference(header.conditions, conditions)
            keep_aside(path, "other")
        head = SittingHeader(conditions=conditions, started=self.started, processes=self.processes)
        text = "".join(f"{line.model_dump_json()}\n" for line in (head, *self.rounds))
        write_text_atomically(path, text)

    def append(self, measured: Round) -> None:
        """Keep a round.

        Raises:
            UserError: it cannot be written; what was there stays.
        """
        line = measured.model_dump_json() + "\n"
        try:
            with self.path.open("ab", buffering=0) as stream:
                stream.write(line.encode())
                os.fsync(stream.fileno())
        except OSError as error:
            raise cannot("write", self.path, error) from None
        self.rounds.append(measured)

    def of(self, batch_size: int) -> list[Round]:
        """The rounds at a batch size, in order."""
        return [measured for measured in self.rounds if measured.batch_size == batch_size]

    def columns(self, batch_size: int) -> BatchRounds:
        """The rounds at a batch size as the record has them; there must be one."""
        rounds = self.of(batch_size)
        configs = list(rounds[0].seconds)
        return BatchRounds(
            batch_size=batch_size,
            items=rounds[0].items,
            seconds={name: [r.seconds[name] for r in rounds] for name in configs},
            cpu_seconds={name: [r.cpu_seconds[name] for r in rounds] for name in configs},
            tokens={name: [r.tokens[name] for r in rounds] for name in configs},
        )


class SittingHeader(StrictModel):
    """The first line: what the rounds share, and how often the sitting was taken up."""

    conditions: Conditions
    started: str
    processes: int = Field(ge=1)


def _read(path: Path) -> tuple[SittingHeader | None, list[Round]]:
    """Read what is whole: a line that was torn by a kill ends the rounds."""
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return None, []
    except OSError as error:
        raise cannot("read", path, error) from None
    values = list(_whole(lines))
    try:
        if not values:
            return None, []
        header = validated(SittingHeader, values[0], str(path))
        return header, [validated(Round, value, str(path)) for value in values[1:]]
    except UserError:
        return None, []  # of another version; kept aside by nobody, as it is no result


def _whole(lines: list[bytes]) -> Iterator[Any]:
    for line in lines:
        try:
            yield json.loads(line)
        except ValueError:
            return


def _difference(old: Conditions, new: Conditions) -> str:
    before: Mapping[str, Any] = old.model_dump()
    after: Mapping[str, Any] = new.model_dump()
    key = next(name for name in before if before[name] != after[name])
    if key in ("fingerprint", "code_digest", "environment"):
        return f"{key.replace('_', ' ')} changed"
    return f"{key} was {before[key]}, and is {after[key]}"
