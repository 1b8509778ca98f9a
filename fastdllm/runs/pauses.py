"""Pauses of the process that no signal tells of: a container or a job frozen by its cgroup.

A frozen process gets no SIGCONT when it goes on, but its clock has gone on without it. So a thread
looks at the clock each second, and a look that comes far too late means a pause, unless the thread
that decodes was at work meanwhile and let no other run. The looks touch no disk: a slow one is no
pause. Imports no torch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread, get_ident

from fastdllm.runs.stopping import Stop

LOOK_S = 1.0
# Seconds without work between two looks that are no pause: a busy machine delays a thread by less.
IDLE_S = 5.0


class PauseWatch:
    """Tells `stop` of pauses between its looks. worked_s: seconds that the decoding thread ran."""

    def __init__(self, stop: Stop, worked_s: Callable[[], float]) -> None:
        self._stop, self._worked_s = stop, worked_s
        self._seen = self._idle_s()

    def look(self) -> None:
        """Mark a pause since the look before; at each end of what is timed, and in between."""
        idle_s = self._idle_s()
        if idle_s - self._seen > LOOK_S + IDLE_S:
            self._stop.was_paused = True
        self._seen = idle_s

    def _idle_s(self) -> float:
        return time.monotonic() - self._worked_s()


@contextmanager
def pauses_watched(stop: Stop) -> Iterator[PauseWatch]:
    """Look for pauses as long as the context lasts, which the thread that decodes enters."""
    watch = PauseWatch(stop, _clock_of_this_thread())
    is_over = Event()

    def keep_looking() -> None:
        while not is_over.wait(LOOK_S):
            watch.look()

    thread = Thread(target=keep_looking, name="pauses", daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        is_over.set()
        thread.join()


def _clock_of_this_thread() -> Callable[[], float]:
    """Return what tells, in any thread, how long this one has run on a processor."""
    if not hasattr(time, "pthread_getcpuclockid"):  # macOS
        return time.process_time
    clock = time.pthread_getcpuclockid(get_ident())
    return lambda: time.clock_gettime(clock)
