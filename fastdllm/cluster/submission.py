"""What `fastdllm submit` submitted last in this folder, for `fastdllm status`.

The record stays until its job has ended well, or another main process takes over; so a job that has
a record and is not in the queue failed, or was cancelled.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from fastdllm.cluster.jobs import MAIN_LOGS
from fastdllm.common.errors import UserError
from fastdllm.common.files import is_own, json_object, write_json_atomically

RECORD = Path(".snakemake/fastdllm/submitted.json")


@dataclass(frozen=True, slots=True)
class Submission:
    """A main process that was submitted.

    arguments: of `fastdllm submit`, as they were typed.
    is_mine: whether this user did, as squeue shows the jobs of no other one.
    """

    job: str
    arguments: tuple[str, ...]
    is_mine: bool = True

    @property
    def command(self) -> str:
        """What submits it again."""
        return shlex.join(["fastdllm", "submit", *self.arguments])

    @property
    def log(self) -> Path:
        return MAIN_LOGS / f"{self.job}.log"


def record_submission(job: str, arguments: Sequence[str]) -> None:
    """Record a job that has been submitted."""
    with suppress(UserError):  # the job runs, whatever the disk says; status then lacks its words
        write_json_atomically(RECORD, {"job": job, "arguments": list(arguments)})


def read_submission() -> Submission | None:
    """Return what was submitted last and has not ended well, None if there is nothing."""
    record = json_object(RECORD)
    job, arguments = record.get("job"), record.get("arguments")
    if not isinstance(job, str) or not isinstance(arguments, list):
        return None
    return Submission(job, tuple(str(argument) for argument in arguments), is_own(RECORD))


def forget_submission() -> None:
    """Remove the record of a job that has ended well, or whose work another process took over."""
    with suppress(OSError):  # status would then call a job that ended well one that ended
        RECORD.unlink()
