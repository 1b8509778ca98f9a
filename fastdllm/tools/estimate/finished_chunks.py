"""How long the finished chunks of a run took, read from its answers without reading the answers.

A line of answers.jsonl may hold thousands of token ids; the numbers of its chunk stand before and
after them, so only these ends are parsed. Imports neither pydantic nor torch, so that
`fastdllm status` is quick.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastdllm.runs.decoder_code import code_digest
from fastdllm.runs.shards import FOLDER, split_name
from fastdllm.tools.estimate.hardware import MeasuredHardware

# How AnswerLog writes a chunk: numbers, answers with one id each, and more numbers.
_ANSWERS, _ID, _END = b', "answers": [', b'{"id": "', b"}], "


@dataclass(frozen=True, slots=True)
class FinishedChunk:
    """One chunk: its number in the plan, and what it cost.

    startup_s: seconds that its process had spent on loading the model and on the warm-up; None
    if the model was loaded already. was_paused: its seconds are no measure of its speed.
    code: digest of the code that decoded it; None in files of older versions.
    """

    index: int
    items: int
    seconds: float
    recording_s: float
    batch_size: int
    hardware: MeasuredHardware
    startup_s: float | None
    was_paused: bool
    code: str | None


def finished_chunks(folder: Path, fingerprint: str) -> list[FinishedChunk]:
    """Return the decoded chunks of a run (or of its shards), in the order of the plan.

    Each is there once, or once for each code that decoded it.

    Args:
        folder: results/<experiment>/<task>/<config>.
        fingerprint: answers with other settings are ignored.
    """
    # Answers of shards set aside under other settings have more parts in their name.
    shards = [p for p in (folder / FOLDER).glob("*.jsonl") if split_name(p.name)[1] == "jsonl"]
    files = [folder / "answers.jsonl", *sorted(shards)]
    chunks: dict[tuple[int, str | None], FinishedChunk] = {}
    for path in files:
        for chunk in chunks_in(path, fingerprint):
            chunks.setdefault((chunk.index, chunk.code), chunk)
    return sorted(chunks.values(), key=lambda chunk: chunk.index)


def used_items(chunks: Iterable[FinishedChunk], items: int) -> int:
    """Return how many items of a run need not be decoded.

    Those that the code here has decoded, unless one code has decoded all: then only their score is
    missing.
    """
    of_code: Counter[str | None] = Counter()
    for chunk in chunks:
        of_code[chunk.code] += chunk.items
    if not of_code or max(of_code.values()) >= items:
        return min(of_code.total(), items)
    return of_code[code_digest()]


def chunks_in(path: Path, fingerprint: str) -> list[FinishedChunk]:
    """Return the finished chunks in a file of answers; none if missing or of other settings."""
    try:
        # What follows the last line break is a line torn by a kill.
        lines = path.read_bytes().split(b"\n")[:-1]
        header = json.loads(lines[0]) if lines else {}
        if header.get("fingerprint") != fingerprint:
            return []
        return list(_chunks(lines[1:], header.get("code_digest")))
    except (OSError, ValueError, AttributeError):
        return []  # an eval repairs or refuses the file; here it counts as empty


def _chunks(lines: Iterable[bytes], code: str | None) -> Iterable[FinishedChunk]:
    sessions: list[Mapping[str, Any]] = []
    for line in lines:
        head, is_chunk, rest = line.partition(_ANSWERS)
        answers, is_more, tail = rest.rpartition(_END)
        try:
            if not is_chunk:
                record = json.loads(line)
                sessions += [record] if record.get("record") == "session" else []
                continue
            record = json.loads(head + b"}") | (json.loads(b"{" + tail) if is_more else {})
            # Merged answers name the session that a chunk belongs to; else it is the last one.
            session = sessions[record.get("session", -1)]
            items = (answers if is_more else rest).count(_ID)
            yield _chunk(record, items, session, code)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            continue  # damaged: counts as not decoded


def _chunk(
    record: Mapping[str, Any], items: int, session: Mapping[str, Any], code: str | None
) -> FinishedChunk:
    load_s = session["load_s"]
    return FinishedChunk(
        index=int(record["index"]),
        items=items,
        seconds=float(record["seconds"]),
        recording_s=float(record["recording_s"]),
        batch_size=int(record["batch_size"]),
        hardware=MeasuredHardware(session["device_name"], session["threads"]),
        startup_s=None if load_s is None else float(load_s) + float(session["warm_up_s"]),
        was_paused=bool(record.get("was_paused")),
        code=code,
    )
