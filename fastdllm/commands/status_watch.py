"""`fastdllm status --watch`: the states of the runs, drawn again every few seconds.

Ends by itself when nothing runs or waits. Draws on the terminal's second screen, so that what stood
there before comes back, and leaves the last picture below it.
"""

from __future__ import annotations

import math
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import TextIO

from fastdllm.commands.status_text import URGENT, clock_time, reasons, styled, totals
from fastdllm.commands.status_view import View
from fastdllm.common.console import duration
from fastdllm.common.errors import INTERRUPTED_EXIT_CODE, UserError
from fastdllm.tasks.plan import planned_sizes
from fastdllm.workflow.status.progress import is_number, item_counts
from fastdllm.workflow.status.run_status import RunStatus, State

LEAST_S = 1.0
BAR_WIDTH = 20
# The second screen without a cursor, and back; the upper left corner; what is left of line, screen.
ENTER, LEAVE = "\033[?1049h\033[?25l", "\033[?25h\033[?1049l"
HOME, CLEAR_LINE, CLEAR_BELOW = "\033[H", "\033[K", "\033[J"


@dataclass(frozen=True, slots=True)
class Line:
    """A line to draw; its head has the colour of a state."""

    rest: str = ""
    head: str = ""
    state: State | None = None

    def drawn(self, width: int) -> str:
        """The line in at most `width` characters, escape codes not counted."""
        text = f"{self.head}{self.rest}"
        if len(text) > width:
            text = f"{text[: width - 1]}…"
        if self.state is None:
            return text
        head = text[: len(self.head)]
        return f"{styled(head, self.state, color=True)}{text[len(head) :]}"


def watch(look: Callable[[], View], *, every_s: float, stream: TextIO | None = None) -> int:
    """Draw what `look` sees every `every_s` seconds; return the exit code.

    Raises:
        UserError: no terminal, or no such interval.
    """
    stream = stream or sys.stdout
    if not stream.isatty():
        raise UserError(
            "--watch draws on a terminal, and this is none; leave it out, or use --json"
        )
    if not LEAST_S <= every_s < math.inf:
        raise UserError(f"--watch {every_s:g}: should be {LEAST_S:g} or more seconds")
    lines: list[Line] = []
    code = 0
    try:
        with _second_screen(stream):
            while True:
                view = look()
                lines = picture(view, now=datetime.now())
                _draw(stream, lines)
                if is_over(view):
                    break
                time.sleep(every_s)
    except KeyboardInterrupt:
        code = INTERRUPTED_EXIT_CODE
    width = shutil.get_terminal_size().columns
    stream.write("".join(f"{line.drawn(width)}\n" for line in lines))
    return code


def is_over(view: View) -> bool:
    """Whether nothing is at work and nothing waits, and no Snakemake is about to submit more."""
    busy = (State.RUNNING, State.QUEUED)
    return not view.is_main_alive and not any(status.state in busy for status in view.statuses)


def picture(view: View, *, now: datetime) -> list[Line]:
    """The lines to draw: totals, what is at work, what waits, what needs a person."""
    statuses = view.statuses
    running = [status for status in statuses if status.state is State.RUNNING]
    done = sum(status.state.has_result for status in statuses)
    bar = _bar(done, len(statuses), 2 * BAR_WIDTH)
    width = max((len(status.run.name) for status in running), default=0)
    others = reasons([s for s in statuses if s.state in URGENT and s.state is not State.RUNNING])
    return [
        Line(totals(statuses, color=False)),
        Line(f"{bar} {_outlook(statuses, now)}".rstrip()),
        Line(),
        *(Line(_running(status, width), "running  ", State.RUNNING) for status in running),
        *(Line(rest, f"{title}  ", state) for state, title, rest in others),
        *(Line("", text, State.FAILED) for text in (*view.alarms, *view.notes)),
        Line(),
        Line(f"{now:%H:%M:%S}  next: {view.next_command}"),
    ]


def _outlook(statuses: Sequence[RunStatus], now: datetime) -> str:
    left_s = seconds_left(statuses)
    if left_s is None:
        return ""
    end = clock_time(now + timedelta(seconds=left_s), now)
    return f"all that runs and waits is done in about {duration(left_s)} ({end}) at this speed"


def _running(status: RunStatus, width: int) -> str:
    """One line of a run at work: bar, items, speed, time left, and where it is."""
    progress = status.progress or {}
    counts = item_counts(progress)
    parts = [status.run.name.ljust(width)]
    if counts is not None:
        parts.append(f"{_bar(*counts, BAR_WIDTH)} {counts[0]}/{counts[1]}")
    if is_number(progress.get("tokens_per_s")):
        parts.append(f"{progress['tokens_per_s']:,.0f} tokens/s")
    if is_number(progress.get("time_left_s")):
        parts.append(f"{duration(progress['time_left_s'])} left")
    if progress.get("state") not in (None, "decoding"):
        parts.append(str(progress["state"]))
    if status.shards is not None:
        parts.append(str(status.shards))
    parts += [f"job {j.job.id} on {j.job.node}" for j in status.jobs if j.is_at_work][:3]
    return "  ".join(parts)


def _bar(done: int, total: int, width: int) -> str:
    full = width * min(done, total) // total if total > 0 else 0
    return f"[{'#' * full}{'-' * (width - full)}]"


def _draw(stream: TextIO, lines: Sequence[Line]) -> None:
    size = shutil.get_terminal_size()
    room = max(size.lines - 1, 4)
    shown = list(lines)
    if len(shown) > room:
        # The last lines say what to type.
        shown = [*shown[: room - 3], Line(f"... {len(shown) - room + 1} lines more"), *shown[-2:]]
    text = "".join(f"{line.drawn(size.columns)}{CLEAR_LINE}\n" for line in shown)
    stream.write(f"{HOME}{text}{CLEAR_BELOW}")
    stream.flush()


@contextmanager
def _second_screen(stream: TextIO) -> Iterator[None]:
    """Draw on the second screen, and give the first one back however it ends."""

    def stop(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    earlier = signal.signal(signal.SIGTERM, stop)
    stream.write(ENTER)
    try:
        yield
    finally:
        stream.write(LEAVE)
        stream.flush()
        signal.signal(signal.SIGTERM, earlier)


# When all runs that wait or are at work are expected to be done, at the present speed.


def seconds_left(statuses: Sequence[RunStatus]) -> float | None:
    """Seconds until the last of them is done; None while that cannot be told.

    The items of those that wait are shared out at the speed of those at work, as if as many as now
    were going to be at work all the time.
    """
    running = [status for status in statuses if status.state is State.RUNNING]
    waiting = [status for status in statuses if status.state is State.QUEUED]
    told_s = [(status.progress or {}).get("time_left_s") for status in running]
    own_s = [seconds for seconds in told_s if is_number(seconds)]
    if not running or len(own_s) < len(running):
        return None
    if not waiting:
        return max(own_s)
    totals = _planned_items(waiting)
    left = [_items_left(status, totals) for status in (*running, *waiting)]
    if None in left:
        return None
    known = [count for count in left if count is not None]
    at_work = zip(known, own_s, strict=False)
    items_per_s = sum(count / seconds for count, seconds in at_work if seconds > 0)
    return max(*own_s, sum(known) / items_per_s) if items_per_s > 0 else None


def _planned_items(statuses: Sequence[RunStatus]) -> Mapping[Path, int]:
    """The items of the tasks of these runs, by the folder of the plan, where it is made."""
    folders = {status.run.plan_folder for status in statuses}
    totals = {folder: sum(planned_sizes(folder) or ()) for folder in folders}
    return {folder: total for folder, total in totals.items() if total}


def _items_left(status: RunStatus, totals: Mapping[Path, int]) -> int | None:
    known = item_counts(status.progress)
    return known[1] - known[0] if known is not None else totals.get(status.run.plan_folder)
