"""Stopping a run from outside: SIGUSR1 means that the time limit is near, SIGTERM the end.

SLURM sends both; an orderly stop loses at most the chunk in flight, and its exit
code says that the same command resumes. While a run decodes, the first signal is only noted, and
checked between the steps (`Stop.deferred`); while it scores, so is SIGUSR1, as scoring takes only
seconds. At any other time (while a model is loaded, say) and for a second signal, `Stopped` is
raised at once. SIGTERM outweighs SIGUSR1, whichever comes first: the job was preempted or
cancelled, and must not requeue itself. After the time limit the job goes back into SLURM's queue,
unless that would never end. Knows nothing of runs. Imports no torch.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from fastdllm.cluster.slurm import SlurmError, requeue
from fastdllm.common.console import notice
from fastdllm.common.errors import RESUME_EXIT_CODE, UserError

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
TIME_LIMIT = "time limit"
# Seconds before the time limit at which SIGUSR1 comes, unless FASTDLLM_WARNING_S is set.
WARNING_S = 120.0
# Seconds of them that are reserved for writing and requeueing.
RESERVE_S = 15.0
# A chunk that needs no longer is finished after SIGTERM; SIGKILL may follow within seconds.
TERM_S = 2.0
# The same signal may come from several senders: from SLURM to all processes, and from a parent.
ECHO_S = 1.0


class Stopped(BaseException):
    """The run was stopped by a signal, and the same command resumes it.

    Not an Exception, since nothing failed: handlers of failures must let it through.

    why: "time limit" or "SIGTERM". done, total: chunks of the run (or of the shard), if known.
    has_begun: whether the process began to work on a run, so that the next attempt has less to do,
        or counts as the second one without progress (see `guarded_attempt`).
    """

    def __init__(self, number: int, *, done: int | None = None, total: int | None = None) -> None:
        self.number, self.done, self.total = number, done, total
        self.has_begun = total is not None
        super().__init__(self.sentence)

    @property
    def is_time_limit(self) -> bool:
        return self.number == signal.SIGUSR1

    @property
    def why(self) -> str:
        return TIME_LIMIT if self.is_time_limit else signal.Signals(self.number).name

    @property
    def cause(self) -> str:
        """The signal in words: `SIGUSR1 (time limit ahead)`."""
        ahead = " (time limit ahead)" if self.is_time_limit else ""
        return f"{signal.Signals(self.number).name}{ahead}"

    @property
    def sentence(self) -> str:
        share = "" if self.total is None else f" with {self.done or 0} of {self.total} chunks done"
        return f"stopped by {self.cause}{share}; the same command resumes"

    def with_chunks(self, done: int, total: int) -> Stopped:
        """Return the same stop, with the number of chunks done by then."""
        return Stopped(self.number, done=done, total=total)


class Stop:
    """Whether a signal came, and what that means for the current work.

    was_terminated: SIGTERM came, even if all work was done by then. was_paused: the process had
    been stopped (Ctrl-Z, a suspended job) or frozen (see pauses.py) and continued, so that what is
    timed means nothing.
    """

    def __init__(self, warning_s: float = WARNING_S) -> None:
        self.was_terminated = self.was_paused = False
        self._warning_s = warning_s
        self._number: int | None = None
        self._at = 0.0
        self._deferred: tuple[int, ...] = ()
        self._is_over = self._is_settled = False

    @contextmanager
    def deferred(self, *numbers: int) -> Iterator[None]:
        """Only note a first signal of these numbers, while the context lasts.

        Raises:
            Stopped: another one came before.
        """
        if self._number is not None and self._number not in numbers:
            raise self._over()
        self._is_settled = False
        previous, self._deferred = self._deferred, numbers
        try:
            yield
        finally:
            self._deferred = previous

    def settle(self) -> None:
        """Mark the work as done: a signal is only noted until something new begins."""
        self._is_settled = True

    def check(self, remaining_s: Callable[[], float | None]) -> None:
        """Stop between two steps of a chunk after a signal, unless there is time to finish it.

        remaining_s: seconds that the chunk still takes, None if unknown. Such a chunk continues as
        long as the time limit allows, and is dropped after SIGTERM.

        Raises:
            Stopped: there is no time.
        """
        if self._number is None:
            return
        waited_s = time.monotonic() - self._at
        needed_s = remaining_s()
        if self._number == signal.SIGUSR1:
            left_s = self._warning_s - min(RESERVE_S, self._warning_s / 2) - waited_s
            if left_s > 0 and (needed_s is None or needed_s <= left_s):
                return
        elif needed_s is not None and waited_s + needed_s <= TERM_S:
            return
        raise self._over()

    def check_between(self) -> None:
        """Stop before something new begins.

        Raises:
            Stopped: a signal came.
        """
        self._is_settled = False
        if self._number is not None:
            raise self._over()

    def handle(self, number: int, _frame: FrameType | None = None) -> None:
        """Handle either signal.

        Raises:
            Stopped: work is under way, and the signal is not deferred or not the first one.
        """
        now = time.monotonic()
        is_terminated = number == signal.SIGTERM
        self.was_terminated = self.was_terminated or is_terminated
        if self._is_over or (number == self._number and now - self._at < ECHO_S):
            return
        is_first = self._number is None
        if is_first or is_terminated:
            self._number, self._at = number, now
        if not (self._is_settled or (is_first and number in self._deferred)):
            raise self._over()

    def handle_continue(self, _number: int, _frame: FrameType | None = None) -> None:
        """Handle SIGCONT, which follows a pause."""
        self.was_paused = True

    def _over(self) -> Stopped:
        # Writing on the way out must not be cut short by another signal.
        self._is_over = True
        assert self._number is not None
        return Stopped(self._number)


@contextmanager
def stopped_by_signals() -> Iterator[Stop]:
    """Handle SIGTERM, SIGUSR1 and SIGCONT as long as the context lasts; then restore the handlers.

    Raises:
        UserError: FASTDLLM_WARNING_S is no positive number.
    """
    stop = Stop(_warning_s())
    handlers = {**dict.fromkeys(SIGNALS, stop.handle), signal.SIGCONT: stop.handle_continue}
    earlier = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield stop
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def _warning_s() -> float:
    text = os.environ.get("FASTDLLM_WARNING_S", "")
    try:
        seconds = float(text) if text else WARNING_S
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise UserError(
            f"FASTDLLM_WARNING_S={text!r}: should be the seconds between SIGUSR1 and the time "
            "limit, more than 0; unset it to use 120"
        )
    return seconds


def until_stopped(work: Callable[[Stop], int]) -> int:
    """Return the exit code of `work`, or the one for a stop by a signal.

    To be called first: until then a signal kills the process at once.

    Raises:
        UserError: of the work, or FASTDLLM_WARNING_S is no positive number.
    """
    with stopped_by_signals() as stop:
        try:
            return work(stop)
        except Stopped as stopped:
            # From here on signals are only noted: nothing cuts this short.
            return end_of(stopped, was_terminated=stop.was_terminated)


def end_of(stopped: Stopped, *, was_terminated: bool) -> int:
    """Report that the process was stopped, requeue its SLURM job if that is due; the exit code.

    Only the time limit leads to a requeue: after a preemption or a dead node SLURM requeues the job
    itself, and a job that a person cancelled stays cancelled, whenever SIGTERM came
    (`was_terminated`). A job that met the limit before its run began is not requeued either, as
    that could go on forever. SLURM ends the job at once.
    """
    notice(stopped.sentence)
    job = slurm_job()
    if stopped.is_time_limit and not was_terminated and job and stopped.has_begun:
        notice(f"SLURM job {job} goes back into the queue")
        try:
            requeue(job)
        except SlurmError as error:
            notice(f"SLURM refuses ({error}); the same command submits it again")
    return RESUME_EXIT_CODE


def slurm_job() -> str:
    return os.environ.get("SLURM_JOB_ID", "")
