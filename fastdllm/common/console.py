"""What a terminal gives and takes: text in any encoding, notices, and the progress of a long run.

Progress is a bar on a terminal, a line every 30 s in a log. Knows numbers and streams only; imports
rich only on a terminal.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, Protocol, TextIO

from fastdllm.common.errors import UserError

# Often enough to see that a run is alive, rarely enough for the log to stay readable.
LOG_INTERVAL_S = 30.0
BAR_WIDTH = 10
SHOW_CURSOR = b"\x1b[?25h\n"


def counted(number: int, what: str) -> str:
    """Return a number with its noun, such as `1 GPU job` or `2 GPU jobs`."""
    return f"{number} {what}" + ("" if number == 1 else "s")


@dataclass(frozen=True, slots=True)
class ProgressNumbers:
    """How far a run is; None for what is not measured, or not yet."""

    items_done: int
    items_total: int
    tokens_per_s: float | None = None
    tokens_per_forward: float | None = None
    time_left_s: float | None = None

    def rates(self) -> list[str]:
        """Return the rates as text, such as `812 tokens/s` and `3.14 tokens per forward`."""
        parts = []
        if self.tokens_per_s is not None:
            parts.append(f"{self.tokens_per_s:,.0f} tokens/s")
        if self.tokens_per_forward is not None:
            parts.append(f"{self.tokens_per_forward:.2f} tokens per forward")
        return parts


class Display(Protocol):
    """Where progress is shown; nothing appears before the first `show`.

    `note` adds a line that stays. `close` ends it with the last numbers, if any.
    """

    def show(self, numbers: ProgressNumbers) -> None: ...

    def note(self, text: str) -> None: ...

    def close(self, numbers: ProgressNumbers | None) -> None: ...


def accept_any_encoding() -> None:
    """Let letters that a terminal cannot show be printed escaped, as Python does on stderr.

    Bytes on standard input that are no text arrive as on the command line, for `utf8_text`.
    """
    for stream, errors in ((sys.stdin, "surrogateescape"), (sys.stdout, "backslashreplace")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)


def utf8_text(text: str, what: str) -> str:
    """Return what was typed or piped as text, also where the locale takes it for ASCII.

    Raises:
        UserError: its bytes are not UTF-8.
    """
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        pass  # bytes that Python could not decode are in it
    try:
        return os.fsencode(text).decode()
    except UnicodeError:
        raise UserError(f"{what} is not UTF-8 text; convert it, as with iconv -t UTF-8") from None


def notice(line: str) -> None:
    """Write one line to stderr at once, marked as fastdllm's."""
    sys.stderr.write(f"fastdllm: {line}\n")
    sys.stderr.flush()


def duration(seconds: float) -> str:
    """Format seconds as `45 s`, `3 min 05 s` or `2 h 07 min`."""
    total_s = max(0, round(seconds))
    if total_s < 60:
        return f"{total_s} s"
    minutes, seconds_left = divmod(total_s, 60)
    if minutes < 60:
        return f"{minutes} min {seconds_left:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def open_display(label: str, stream: TextIO | None = None) -> Display:
    """Return a display on `stream` (default: stderr) that suits a terminal or a log."""
    stream = stream or sys.stderr
    return TerminalBar(label, stream) if stream.isatty() else LogLines(label, stream)


@contextmanager
def counting(label: str) -> Iterator[Callable[[int, int], None]]:
    """Show progress on stderr; yields a function to call with the number done and the total."""
    display, last = open_display(label), None

    def show(done: int, total: int) -> None:
        nonlocal last
        last = ProgressNumbers(done, total)
        display.show(last)

    try:
        yield show
    except BaseException:
        display.close(None)
        raise
    display.close(last)


class LogLines:
    """One line every 30 s, and one at the end."""

    def __init__(self, label: str, stream: TextIO, interval_s: float = LOG_INTERVAL_S) -> None:
        self._label, self._stream, self._interval_s = label, stream, interval_s
        self._started = self._last = time.monotonic()

    def show(self, numbers: ProgressNumbers) -> None:
        now = time.monotonic()
        if now - self._last >= self._interval_s:
            self._last = now
            left = numbers.time_left_s
            self._line(numbers, f"about {duration(left)} left" if left is not None else "")

    def note(self, text: str) -> None:
        print(f"{self._label}: {text}", file=self._stream, flush=True)

    def close(self, numbers: ProgressNumbers | None) -> None:
        if numbers is not None:
            self._line(numbers, f"in {duration(time.monotonic() - self._started)}")

    def _line(self, numbers: ProgressNumbers, ending: str) -> None:
        share = f"{numbers.items_done}/{numbers.items_total} items"
        parts = [part for part in (share, *numbers.rates(), ending) if part]
        self.note(", ".join(parts))


class TerminalBar:
    """A live bar, which stays on the screen when the run has ended.

    The line fits the terminal: label, bar and count are always shown, the rest if it fits.
    """

    def __init__(self, label: str, stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn
        from rich.table import Column

        self._label, self._stream = label, stream
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=BAR_WIDTH, table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[count]}"),
            TextColumn("{task.fields[rates]}"),
            console=Console(file=stream),
        )
        self._task: Any = self._progress.add_task("", total=None, count="", rates="")
        self._is_shown = False
        self._earlier_handler: Any = None

    def show(self, numbers: ProgressNumbers) -> None:
        left = numbers.time_left_s
        self._update(numbers, [] if left is None else [f"{duration(left)} left"])

    def note(self, text: str) -> None:
        self._progress.console.print(f"{self._label}: {text}", markup=False, highlight=False)

    def close(self, numbers: ProgressNumbers | None) -> None:
        if numbers is not None:
            self._update(numbers, [])
        if self._is_shown:
            self._progress.stop()
            signal.signal(signal.SIGTERM, self._earlier_handler)
            self._is_shown = False

    def _update(self, numbers: ProgressNumbers, left: list[str]) -> None:
        width = self._progress.console.width
        label = shortened(self._label, width // 4)
        count = f"{numbers.items_done}/{numbers.items_total}"
        room = width - len(label) - BAR_WIDTH - len(count) - 3
        rates = left + numbers.rates()
        while rates and len(", ".join(rates)) > room:
            rates.pop()
        self._progress.update(
            self._task,
            description=label,
            completed=numbers.items_done,
            total=numbers.items_total,
            count=count,
            rates=", ".join(rates),
        )
        if not self._is_shown:
            self._is_shown = True
            self._earlier_handler = signal.signal(signal.SIGTERM, self._on_sigterm)
            self._progress.start()

    def _on_sigterm(self, number: int, frame: FrameType | None) -> None:
        """Show the cursor again, then end by the signal as if there were no bar."""
        os.write(self._stream.fileno(), SHOW_CURSOR)
        signal.signal(number, self._earlier_handler)
        os.kill(os.getpid(), number)


def shortened(label: str, width: int) -> str:
    """Truncate a label to `width` characters from the left: its end distinguishes runs."""
    return label if len(label) <= width else "…" + label[len(label) - width + 1 :]
