"""What a long run shows a person: a bar on a terminal, a line now and then in a log.

Knows numbers and streams only; imports rich only where there is a terminal.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import Any, Protocol, TextIO

# A log is read afterwards: often enough to see that a run lives, rare enough to read.
LOG_INTERVAL_S = 30.0


@dataclass(frozen=True, slots=True)
class ProgressNumbers:
    """Where a run is; None where there is nothing to measure yet (or ever)."""

    items_done: int
    items_total: int
    tokens_per_s: float | None = None
    tokens_per_forward: float | None = None
    time_left_s: float | None = None

    def rates(self) -> str:
        """The rates as text, such as `812 tokens/s, 3.1 tokens per forward`."""
        parts = []
        if self.tokens_per_s is not None:
            parts.append(f"{self.tokens_per_s:,.0f} tokens/s")
        if self.tokens_per_forward is not None:
            parts.append(f"{self.tokens_per_forward:.2f} tokens per forward")
        return ", ".join(parts)


class Display(Protocol):
    """Where progress is shown."""

    def show(self, numbers: ProgressNumbers) -> None: ...

    def close(self, numbers: ProgressNumbers) -> None: ...


def duration(seconds: float) -> str:
    """Seconds as `45 s`, `3 min 05 s` or `2 h 07 min`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def open_display(label: str, stream: TextIO | None = None) -> Display:
    """A display on `stream` (default: stderr) that suits a terminal or a log."""
    stream = stream or sys.stderr
    return TerminalBar(label, stream) if stream.isatty() else LogLines(label, stream)


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

    def close(self, numbers: ProgressNumbers) -> None:
        self._line(numbers, f"in {duration(time.monotonic() - self._started)}")

    def _line(self, numbers: ProgressNumbers, ending: str) -> None:
        share = f"{numbers.items_done}/{numbers.items_total} items"
        parts = [part for part in (share, numbers.rates(), ending) if part]
        print(f"{self._label}: {', '.join(parts)}", file=self._stream, flush=True)


class TerminalBar:
    """A live bar; it stays on the screen, filled, when the run has ended."""

    def __init__(self, label: str, stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rates]}"),
            console=Console(file=stream),
        )
        self._task: Any = self._progress.add_task(label, total=None, rates="")
        self._progress.start()

    def show(self, numbers: ProgressNumbers) -> None:
        left = numbers.time_left_s
        rates = ", ".join(
            part for part in (numbers.rates(), f"{duration(left)} left" if left else "") if part
        )
        self._update(numbers, rates)

    def close(self, numbers: ProgressNumbers) -> None:
        self._update(numbers, numbers.rates())
        self._progress.stop()

    def _update(self, numbers: ProgressNumbers, rates: str) -> None:
        self._progress.update(
            self._task, completed=numbers.items_done, total=numbers.items_total, rates=rates
        )
