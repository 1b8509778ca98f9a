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
    """Yield an event that Ctrl-C sets, in place of the exception that could hit any line."""
    stop = Event()
    earlier = signal.signal(signal.SIGINT, lambda *_: stop.set())
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, earlier)


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
