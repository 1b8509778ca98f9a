"""A pack: several runs one after the other in one process, which loads the model once.

Each run has its own lock, progress, log and failure, as if it were alone: one that fails does not
stop the others, and one that is done, or that another process works on, is left as it is. Only an
error that leaves the GPU unusable for this process stops the pack: the rest needs another process.
members.json lists the runs; report.json, written at the end, the outcome of each.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from fastdllm.common.console import notice
from fastdllm.common.errors import UserError, error_line
from fastdllm.common.files import cannot, read_json, to_json, write_json_atomically
from fastdllm.common.paths import RESULTS
from fastdllm.runs.attempts import Stuck
from fastdllm.runs.lock import Locked
from fastdllm.runs.result import kept_result
from fastdllm.runs.spec import RunSpec, read_spec
from fastdllm.runs.stopping import Stop, Stopped
from fastdllm.validation import StrictModel, validated

PACKS = RESULTS / "_packs"
REPORT = "report.json"
SCHEMA_VERSION = 1


class BrokenDevice(Exception):
    """An error of CUDA that makes every later call in the process fail."""


class Members(StrictModel):
    """members.json: the specs of the runs, in the order in which they are decoded."""

    schema_version: Literal[1]
    specs: list[str]


@dataclass(frozen=True, slots=True)
class Member:
    """The outcome of one run of a pack.

    state: "done" (here, or before), "failed", or "locked" if another process works on it.
    reason: why it failed or who holds it; one line.
    """

    spec: str
    state: Literal["done", "failed", "locked"]
    reason: str = ""


def members_path(pack: str) -> Path:
    """Return the file that lists the runs of a pack."""
    return PACKS / pack / "members.json"


def report_path(pack: str) -> Path:
    """The file that tells Snakemake that a pack has finished."""
    return PACKS / pack / REPORT


def members_text(specs: Sequence[Path]) -> str:
    """Return the content of members.json for the specs of a pack's runs."""
    return to_json({"schema_version": SCHEMA_VERSION, "specs": [str(spec) for spec in specs]})


def read_members(path: Path) -> list[Path]:
    """Return the specs of a pack's runs, in the order in which they are decoded.

    Raises:
        UserError: members.json at `path` is missing or damaged.
    """
    try:
        members = validated(Members, read_json(path), str(path))
    except UserError as error:
        raise UserError(f"{error}; type the same snakemake command again") from None
    return [Path(spec) for spec in members.specs]


def member_specs(pack: str) -> list[str]:
    """Return the specs of the runs in a pack as the rules name files.

    Raises:
        UserError: its members.json is missing or damaged.
    """
    return [str(spec) for spec in read_members(members_path(pack))]


def in_order(specs: Sequence[Path]) -> list[Path]:
    """Order the runs, previously failed ones last: one that broke the GPU may do so again."""
    return sorted(specs, key=lambda path: (path.parent / "failed.json").exists())


def evaluate_pack(
    specs: Sequence[Path],
    evaluate: Callable[[RunSpec, Path], Sequence[str]],
    *,
    stop: Stop,
    say: Callable[[str], None],
    forget_model: Callable[[], None],
) -> list[Member]:
    """Evaluate the runs in turn.

    Args:
        evaluate: finishes the run in a folder and returns the lines to print about it.
        say: called when each run begins and ends, with a line to print.
        forget_model: called after an unexpected error, which may have left the model broken.

    Raises:
        Stopped: by a signal; the same call resumes.
        Stuck: a run would be stopped again and again.
        BrokenDevice: the remaining runs need another process.
    """
    members: list[Member] = []
    n_made = 0

    def made(spec: RunSpec, folder: Path) -> Sequence[str]:
        nonlocal n_made
        lines = evaluate(spec, folder)
        n_made += 1
        return lines

    for number, path in enumerate(specs, start=1):
        turn = f"run {number} of {len(specs)}, {path.parent}"
        try:
            stop.check_between()
            say(f"{turn}: begins")
            member = _evaluate_member(path, made, forget_model=forget_model)
        except Stopped as stopped:
            # Results of an earlier job do not justify a requeue, or it could go on forever.
            stopped.has_begun = stopped.has_begun or n_made > 0
            say(f"{len(members)} of {len(specs)} runs done")
            raise
        members.append(member)
        reason = f": {member.reason}" if member.reason else ""
        say(f"{turn}: {member.state}{reason}")
    return members


def write_report(path: Path, members: Sequence[Member]) -> None:
    """Write the outcome of each run; tells Snakemake that the pack has finished."""
    records = [{k: v for k, v in asdict(member).items() if v} for member in members]
    write_json_atomically(path, {"schema_version": SCHEMA_VERSION, "members": records})


def _evaluate_member(
    path: Path,
    evaluate: Callable[[RunSpec, Path], Sequence[str]],
    *,
    forget_model: Callable[[], None],
) -> Member:
    try:
        spec = read_spec(path)
        folder = path.parent
        if kept_result(folder, spec) is not None:
            return Member(str(path), "done")
        with _log_of(spec):
            sys.stdout.write("\n".join(evaluate(spec, folder)) + "\n")
    except Locked as locked:
        return Member(str(path), "locked", locked.holder)
    except Stuck:
        raise
    except UserError as error:
        return Member(str(path), "failed", error_line(error))
    except Exception as error:
        if _breaks_device(error):
            raise BrokenDevice(f"{path.parent}: {error_line(error)}") from error
        # The traceback is in the log of the run; the other runs may still succeed.
        forget_model()
        return Member(str(path), "failed", error_line(error))
    return Member(str(path), "done")


def _breaks_device(error: Exception) -> bool:
    """Whether CUDA answers every later call of this process with the same error."""
    if not (isinstance(error, RuntimeError) and "CUDA error" in str(error)):
        return False
    # Imported here since it imports torch, which is loaded by now.
    from fastdllm.machine.device import is_out_of_memory

    return not is_out_of_memory(error)


@contextmanager
def _log_of(spec: RunSpec) -> Iterator[None]:
    """Append everything that is printed to the run's own log."""
    path = spec.log_path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = path.open("a", encoding="utf-8", buffering=1)
    except OSError as error:
        raise cannot("write", path, error) from None
    with stream, redirect_stdout(stream), redirect_stderr(stream):
        try:
            yield
        except (UserError, Stopped) as error:
            notice(str(error))
            raise
        except Exception:
            traceback.print_exc()
            raise
