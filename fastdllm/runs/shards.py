"""Shards: which chunks of a run a job decodes, and the files that it writes.

Answers do not depend on shards, so they may change halfway. Imports no torch and no pydantic.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastdllm.common.errors import UserError
from fastdllm.common.files import now, write_json_atomically

if TYPE_CHECKING:
    from fastdllm.runs.answer_records import Header
    from fastdllm.runs.spec import RunSpec

FOLDER = "shards"
_NAME = re.compile(r"(\d+)-of-(\d+)")
# How the name of a file of answers ends; with a fingerprint and a time: kept aside.
_ANSWERS = re.compile(r"(\w{8}\.\d{8}T\d+Z\.)?jsonl")


@dataclass(frozen=True, slots=True)
class Shard:
    """Part `index` (from 1) of `count`."""

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}-of-{self.count}"

    @property
    def words(self) -> str:
        return f"shard {self.index} of {self.count}"

    def chunks(self, total: int) -> list[int]:
        """Return its chunks, out of the `total` of the plan."""
        return list(range(self.index - 1, total, self.count))


def shard_named(name: str) -> Shard | None:
    """Return the shard of a name such as `2-of-5`, None for any other text."""
    match = _NAME.fullmatch(name)
    return Shard(int(match[1]), int(match[2])) if match else None


def split_name(file_name: str) -> tuple[Shard | None, str]:
    """Split `2-of-5.progress.json` into its shard and `progress.json`; no shard: another file."""
    name, _, ending = file_name.partition(".")
    return shard_named(name), ending


@dataclass(frozen=True, slots=True)
class JobFiles:
    """What one job on a run writes, in the run's folder or in `shards/`.

    log: where the workflow keeps what the job prints.
    """

    answers: Path
    progress: Path
    failure: Path
    log: Path


def job_files(folder: Path, spec: RunSpec, shard: Shard | None = None) -> JobFiles:
    """Return the files of a job that decodes a run, or a shard of it."""
    if shard is None:
        return JobFiles(
            answers=folder / "answers.jsonl",
            progress=folder / "progress.json",
            failure=folder / "failed.json",
            log=spec.log_path,
        )
    return JobFiles(
        answers=folder / FOLDER / f"{shard}.jsonl",
        progress=folder / FOLDER / f"{shard}.progress.json",
        failure=folder / FOLDER / f"{shard}.failed.json",
        log=shard_log(spec.log_path, shard),
    )


def shard_log(run_log: Path, shard: Shard) -> Path:
    """Return where the workflow keeps the output of a shard of a run."""
    return run_log.with_suffix(".shards") / f"{shard}.log"


def finish_log(spec: RunSpec) -> Path:
    """Return where the workflow keeps the output of `fastdllm finish`."""
    return spec.log_path.with_suffix(".finish.log")


def lock_path(folder: Path, shard: Shard) -> Path:
    return folder / FOLDER / f"{shard}.lock"


def stamp_path(folder: Path, shard: Shard) -> Path:
    """Return the file that tells Snakemake that a shard is done."""
    return folder / FOLDER / f"{shard}.json"


def write_stamp(
    folder: Path, shard: Shard, spec: RunSpec, chunks: Sequence[int], header: Header | None = None
) -> Path:
    """Record that the chunks of a shard are decoded; header: of its answers, if it has some.

    Raises:
        UserError: it cannot be written.
    """
    path = stamp_path(folder, shard)
    record: dict[str, Any] = {
        "fingerprint": spec.fingerprint,
        "chunks": list(chunks),
        "time": now(),
    }
    if header is not None:
        record |= {"dtype": header.dtype, "code_digest": header.code_digest}
    write_json_atomically(path, record)
    return path


def stamps(folder: Path) -> list[Path]:
    """Return the stamps of a run, however it was split."""
    return [path for path, _, kind in _files(folder) if kind == "json"]


def answer_files(folder: Path) -> list[Path]:
    """Return the answer files of a run's shards, however it was split; those kept aside last."""
    answers = [file for file in _files(folder) if _ANSWERS.fullmatch(file[2])]
    answers.sort(key=lambda file: (file[2] != "jsonl", file[2], file[1].count, file[1].index))
    return [path for path, *_ in answers]


def newest_count(folder: Path) -> int | None:
    """Return into how many shards a run was last split, by its newest file; None if never."""
    dated_counts = [
        (path.stat().st_mtime_ns, shard.count)
        for path, shard, kind in _files(folder)
        if kind in ("json", "failed.json") or _ANSWERS.fullmatch(kind)
    ]
    return max(dated_counts)[1] if dated_counts else None


def _files(folder: Path) -> list[tuple[Path, Shard, str]]:
    """The files of a run's shards, each with its shard and how its name ends."""
    split = [(path, *split_name(path.name)) for path in (folder / FOLDER).glob("*-of-*.*")]
    return [(path, shard, kind) for path, shard, kind in split if shard is not None]


def parse_shard(text: str) -> Shard:
    """Read `I/N`.

    Raises:
        UserError: it is no such pair, or I is not in 1..N.
    """
    index, slash, count = text.partition("/")
    if slash and index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count):
        return Shard(int(index), int(count))
    raise UserError(f"--shard {text}: should be I/N with I from 1 to N, such as 2/5")


def chunks_in_words(chunks: Iterable[int]) -> str:
    """`chunk 3` or `chunks 3, 5, 8 and 12 more`."""
    numbers = sorted(chunks)
    shown = ", ".join(str(number) for number in numbers[:8])
    more = f" and {len(numbers) - 8} more" if len(numbers) > 8 else ""
    return f"chunk{'s' if len(numbers) > 1 else ''} {shown}{more}"
