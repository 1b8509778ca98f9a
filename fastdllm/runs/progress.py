"""How far a run is (progress.json), and why it, or a shard of it, failed (failed.json).

Both files are for `fastdllm status` and for people. progress.json is replaced as a whole, at most
once a second, and removed when the run has succeeded. Rates are those of this process; answers of
an earlier one only count as done.

Counting costs nothing and happens while a chunk is timed; showing and writing happen in a thread,
so that a slow disk does not slow a chunk down and a long chunk still shows progress.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from threading import Event, Thread
from typing import Any

from fastdllm.common.console import Display, ProgressNumbers
from fastdllm.common.errors import UserError, error_line
from fastdllm.common.files import (
    cannot,
    json_object,
    now,
    write_json_atomically,
)
from fastdllm.machine.process import host_name
from fastdllm.runs.answer_records import Answer, Chunk
from fastdllm.runs.shards import JobFiles
from fastdllm.runs.stopping import slurm_job

TICK_S = 1.0
# What the file system of a node may say while those of others work.
OF_A_NODE = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT)


class Progress:
    """Counts answers; `items` here are requests to the model.

    code: digest of the code that decodes them.
    """

    def __init__(self, path: Path, display: Display, total: int, code: str | None = None) -> None:
        self._path, self._display, self._total = path, display, total
        self._done = self._stored = self._here = self._tokens = self._forwards = 0
        self._started = time.monotonic()
        self._display_open = True
        self._identity = {"pid": os.getpid(), "host": host_name(), "code_digest": code}

    def loading(self, earlier: Iterable[Chunk]) -> None:
        """Report that the model is being loaded; `earlier` chunks were answered before."""
        self._done = self._stored = sum(len(chunk.answers) for chunk in earlier)
        self._report("loading")

    def expect(self, more: int) -> None:
        """Count answers that were not known of before."""
        self._total += more

    def decoding(self) -> None:
        """Report that decoding starts."""
        self._started = time.monotonic()
        self._report("decoding")

    @contextmanager
    def ticking(self) -> Iterator[None]:
        """Show and write the numbers once a second, whatever the caller does meanwhile."""
        stop = Event()
        thread = Thread(target=self._tick, args=(stop,), name="progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def scoring(self) -> None:
        """Report that everything is decoded; the display ends here."""
        self._end_display(self.numbers())
        self._report("scoring")

    def answered(self, answer: Answer) -> None:
        """Count one complete answer."""
        self._done += 1
        self._here += 1
        if answer.passes is not None and answer.token_ids is not None:
            self._tokens += len(answer.token_ids)
            self._forwards += answer.passes.forwards

    def stored(self) -> None:
        """Record that everything counted so far is safe in the answers."""
        self._stored = self._done

    def stopped(self, why: str) -> None:
        """Report that a signal ended this process; the file stays and records why."""
        self._end_display(None)
        self._report("stopped", why)

    def note(self, text: str) -> None:
        """Show a line that stays."""
        self._display.note(text)

    def remove(self) -> None:
        """Remove the file: the run has ended with a summary or a failed.json."""
        self._path.unlink(missing_ok=True)

    def close(self) -> None:
        """Release the terminal; does nothing after `scoring`, or a second time."""
        self._end_display(None)

    def numbers(self) -> ProgressNumbers:
        elapsed_s = time.monotonic() - self._started
        remaining = self._total - self._done
        return ProgressNumbers(
            items_done=self._done,
            items_total=self._total,
            tokens_per_s=self._tokens / elapsed_s if self._tokens and elapsed_s > 0 else None,
            tokens_per_forward=self._tokens / self._forwards if self._forwards else None,
            time_left_s=elapsed_s / self._here * remaining if self._here and remaining else None,
        )

    def _tick(self, stop: Event) -> None:
        while not stop.wait(TICK_S):
            try:
                self._report("decoding")
            except (UserError, OSError):
                continue  # a full disk fails the answers as well; a closed terminal does not matter

    def _end_display(self, numbers: ProgressNumbers | None) -> None:
        if self._display_open:
            self._display_open = False
            self._display.close(numbers)

    def _report(self, state: str, why: str = "") -> None:
        numbers = self.numbers()
        if self._display_open:
            self._display.show(numbers)
        record = {
            "state": state,
            "items_done": numbers.items_done,
            "items_stored": self._stored,
            "items_total": numbers.items_total,
            "updated": now("auto"),
            **self._identity,
        }
        if why:
            record["why"] = why
        for name in ("tokens_per_s", "tokens_per_forward", "time_left_s"):
            value = getattr(numbers, name)
            if value is not None:
                record[name] = round(value, 2)
        write_json_atomically(self._path, record)


@contextmanager
def failure_record(files: JobFiles, *, log: Path | None = None) -> Iterator[None]:
    """Write failed.json if the work fails, and remove the one of an earlier attempt.

    Interrupted or stopped work has not failed: its progress.json stays, as after a kill.

    log: where the workflow keeps what this process prints; by default that of `files`.
    """
    log = log or files.log
    remove(files.failure)
    try:
        yield
    except Exception as error:
        with suppress(UserError):  # the error itself is what matters
            remove(files.progress)
        record: dict[str, Any] = {"reason": error_line(error), "time": now("auto")}
        record["is_mistake"] = _is_mistake(error)
        if job := slurm_job():
            record["slurm_job"] = job
        if log.is_file():
            record["log"] = str(log)
        with suppress(UserError):  # a full disk is often the cause
            write_json_atomically(files.failure, record)
        raise


def _is_mistake(error: Exception) -> bool:
    """Whether an error stays until a person does something; on another node a disk may answer."""
    return isinstance(error, UserError) and getattr(error.__context__, "errno", 0) not in OF_A_NODE


def mistake_of_job(path: Path, slurm_job: str, *, earliest: datetime) -> str | None:
    """Return the reason in a failed.json if it is a mistake that a SLURM job met, else None.

    earliest: an older failure is of another job, as ids may be given anew.
    """
    values = json_object(path)
    if values.get("slurm_job") != slurm_job or values.get("is_mistake") is not True:
        return None
    try:
        is_its_own = datetime.fromisoformat(str(values.get("time"))) >= earliest
    except (ValueError, TypeError):
        return None  # no time, or one without its zone: nothing that we have written
    return str(values.get("reason")) if is_its_own else None


def read_failure(path: Path) -> str | None:
    """Return the reason in a failed.json, with its log; None without the file."""
    values = json_object(path)
    if not values and not path.exists():
        return None
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
