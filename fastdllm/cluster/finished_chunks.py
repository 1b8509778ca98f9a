"""How long the finished chunks of a run took, read from its answers without reading the answers.

A line of answers.jsonl may hold thousands of token ids; the numbers of its chunk stand before them,
so only that head is parsed. Knows neither pydantic nor torch: `fastdllm status` is quick.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastdllm.cluster.hardware import Hardware

# How AnswerLog writes a chunk: its numbers, then its answers, each with one id.
_ANSWERS, _ID = b', "answers": [', b'{"id": "'


@dataclass(frozen=True, slots=True)
class FinishedChunk:
    """One chunk: its number in the plan, and what it cost.

    startup_s: seconds that its process had spent on loading the model and on the warm-up.
    """

    index: int
    items: int
    seconds: float
    recording_s: float
    batch_size: int
    hardware: Hardware
    startup_s: float


def finished_chunks(folder: Path, fingerprint: str) -> list[FinishedChunk]:
    """The chunks of a run (or of its shards) that are decoded, each once, in order of the plan.

    Args:
        folder: results/<experiment>/<task>/<config>.
        fingerprint: answers to other settings count as none.
    """
    files = [folder / "answers.jsonl", *sorted((folder / "shards").glob("*-of-*.jsonl"))]
    found: dict[int, FinishedChunk] = {}
    for path in files:
        for chunk in chunks_in(path, fingerprint):
            found.setdefault(chunk.index, chunk)
    return [found[index] for index in sorted(found)]


def chunks_in(path: Path, fingerprint: str) -> list[FinishedChunk]:
    """The finished chunks in one file of answers; none where it is missing or of other settings."""
    try:
        lines = path.read_bytes().splitlines()
        if not lines or json.loads(lines[0]).get("fingerprint") != fingerprint:
            return []
        return list(_chunks(lines[1:]))
    except (OSError, ValueError, AttributeError):
        return []  # an eval mends or refuses the file; here it tells nothing


def _chunks(lines: Iterable[bytes]) -> Iterable[FinishedChunk]:
    session: Mapping[str, Any] = {}
    for line in lines:
        head, is_chunk, answers = line.partition(_ANSWERS)
        try:
            record = json.loads(head + b"}" if is_chunk else line)
            if is_chunk:
                yield _chunk(record, answers.count(_ID), session)
            elif record.get("record") == "session":
                session = record
        except (ValueError, KeyError, TypeError, AttributeError):
            continue  # torn by a kill, or damaged: as good as not decoded


def _chunk(record: Mapping[str, Any], items: int, session: Mapping[str, Any]) -> FinishedChunk:
    return FinishedChunk(
        index=int(record["index"]),
        items=items,
        seconds=float(record["seconds"]),
        recording_s=float(record["recording_s"]),
        batch_size=int(record["batch_size"]),
        hardware=Hardware(session["device_name"], session["threads"]),
        startup_s=float(session["load_s"]) + float(session["warm_up_s"]),
    )
