"""`fastdllm` in a real pseudo-terminal: what is typed reaches it, and its screen can be read."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import termios
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import pyte
import pytest

from tests.support.forks import Forked

# Only for a program that hangs; a busy machine is slow.
DEADLINE_S = 60.0


class Screen(pyte.HistoryScreen):
    """A screen that answers when it is asked where its cursor is, as terminals do."""

    def __init__(self, columns: int, lines: int, reply_to: int) -> None:
        super().__init__(columns, lines, history=10_000)
        self._reply_to = reply_to

    def write_process_input(self, data: str) -> None:
        os.write(self._reply_to, data.encode())


class Terminal:
    """A `fastdllm` and the terminal that it runs in."""

    def __init__(
        self, arguments: Sequence[str], *, env: dict[str, str], columns: int = 100, lines: int = 30
    ) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.screen = Screen(columns, lines, self._master)
        self._stream = pyte.ByteStream(self.screen)
        self.output = b""
        self.process = Forked(
            "fastdllm",
            arguments,
            folder=Path.cwd(),
            environment=env,
            files=[os.ttyname(slave)] * 3,
        )
        os.close(slave)

    def type(self, text: str) -> None:
        """Press keys; "\\r" is Enter, "\\x03" Ctrl-C."""
        os.write(self._master, text.encode())

    def text(self) -> str:
        """All lines, those that scrolled off included, without spaces at their ends."""
        rows = [*self.screen.history.top, *map(self.screen.buffer.__getitem__, self._rows())]
        columns = range(self.screen.columns)
        return "\n".join("".join(row[x].data for x in columns).rstrip() for row in rows).rstrip()

    def _rows(self) -> range:
        return range(self.screen.lines)

    def wait_for(self, text: str, times: int = 1) -> str:
        """Read until `text` was written that often; return all lines."""
        return self._read_until(lambda: self.text().count(text) >= times, f"{times} x {text!r}")

    def wait_for_end_of(self, text: str) -> str:
        """Read until `text` is the last that stands on the screen; return all lines."""
        return self._read_until(lambda: self.text().endswith(text), f"{text!r} at the end")

    @property
    def has_echo(self) -> bool:
        """Whether the terminal shows what is typed, as shells expect it to."""
        return bool(termios.tcgetattr(self._master)[3] & termios.ECHO)

    def wait_for_end(self) -> int:
        """Read until the program ends; return its exit code."""
        self._read_until(lambda: self.process.poll() is not None, "the end")
        return self.process.wait()

    def read_rest(self) -> None:
        """Read what a program that has ended wrote last."""
        while select.select([self._master], [], [], 0)[0]:
            try:
                data = os.read(self._master, 65536)
            except OSError:  # nothing is left, and nobody writes any more
                return
            self.output += data
            self._stream.feed(data)

    def _read_until(self, is_reached, what: str) -> str:
        deadline = time.monotonic() + DEADLINE_S
        while not is_reached():
            if time.monotonic() > deadline:
                pytest.fail(f"waited for {what}; the screen is\n{self.text()}")
            if select.select([self._master], [], [], 0.1)[0]:
                with suppress(OSError):  # the program has closed its side
                    data = os.read(self._master, 65536)
                    self.output += data
                    self._stream.feed(data)
            elif self.process.poll() is not None and not is_reached():
                pytest.fail(f"ended before {what}; the screen is\n{self.text()}")
        return self.text()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        os.close(self._master)
