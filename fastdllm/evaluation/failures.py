"""failed.json: why a run, or a shard of it, failed; for `fastdllm status` and for people."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from fastdllm.common.errors import UserError
from fastdllm.common.files import cannot, read_json, to_json, write_text_atomically
from fastdllm.evaluation.shards import Places

MOST_LETTERS = 500


@contextmanager
def failure_record(places: Places, *, log: Path | None = None) -> Iterator[None]:
    """Leave failed.json when the work fails, and remove the one of an earlier try.

    Work that is interrupted or stopped has not failed: its progress.json stays instead, as after a
    kill.

    log: where the workflow keeps what this process prints; by default that of `places`.
    """
    log = log or places.log
    remove(places.failure)
    try:
        yield
    except Exception as error:
        with suppress(UserError):  # the error itself is what matters
            remove(places.progress)
        record = {"reason": reason_of(error), "time": datetime.now(UTC).isoformat()}
        if log.is_file():
            record["log"] = str(log)
        _write_if_possible(places.failure, to_json(record))
        raise


def reason_of(error: Exception) -> str:
    """An error in one line."""
    reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    return " ".join(reason.split())[:MOST_LETTERS]


def read_failure(path: Path) -> str | None:
    """The reason that a failed.json tells, with its log; None where there is none."""
    try:
        record = read_json(path)
    except UserError:
        if not path.exists():
            return None
        record = {}
    values = record if isinstance(record, dict) else {}
    reason = " ".join(str(values.get("reason") or "no reason recorded").split())
    return f"{reason} (log: {values['log']})" if values.get("log") else reason


def remove(path: Path) -> None:
    """Remove a file, if it is there.

    Raises:
        UserError: the folder cannot be written.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise cannot("remove", path, error) from None


def _write_if_possible(path: Path, text: str) -> None:
    try:
        write_text_atomically(path, text)
    except UserError:
        return  # a full disk is often the reason of the failure itself, which is raised anyway
