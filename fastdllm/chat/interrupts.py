"""Ctrl-C while an answer is decoded: it ends the answer after the pass at work, nothing else."""

from __future__ import annotations

import signal
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event


@contextmanager
def stop_on_interrupt() -> Iterator[Event]:
    """Yield an event that Ctrl-C sets, in place of the exception that could hit any line.

    SIGTERM ends the program, but not before the terminal is as it was.
    """
    stop = Event()
    earlier = signal.signal(signal.SIGINT, lambda *_: stop.set())
    earlier_end = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, earlier)
        signal.signal(signal.SIGTERM, earlier_end)


@contextmanager
def no_echo() -> Iterator[None]:
    """Keep what is typed meanwhile, such as ^C, out of the answer; the next line gets it."""
    stream = sys.stdin.fileno()
    earlier = termios.tcgetattr(stream)
    silent = [*earlier]
    silent[3] &= ~termios.ECHO
    termios.tcsetattr(stream, termios.TCSANOW, silent)
    try:
        yield
    finally:
        termios.tcsetattr(stream, termios.TCSANOW, earlier)
