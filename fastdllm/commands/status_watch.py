"""`fastdllm status --watch`: the states of the runs, drawn again every few seconds.

Ends when nothing runs or waits. Draws on the terminal's alternate screen, so that its content comes
back afterwards, with the last picture below it.
"""

from __future__ import annotations

import math
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from fastdllm.commands.status_text import URGENT, clock_time, reasons, styled, totals
from fastdllm.commands.status_view import View
from fastdllm.common.console import duration
from fastdllm.common.errors import INTERRUPTED_EXIT_CODE, UserError
from fastdllm.tasks.plan import planned_sizes
from fastdllm.workflow.status.run_progress import is_number, item_counts
from fastdllm.workflow.status.run_status import RunStatus, State

LEAST_S = 1.0
BAR_WIDTH = 20


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
    console = Console(file=stream)
    screen = Live(
        console=console,
        screen=True,
        auto_refresh=False,
        redirect_stdout=False,
        redirect_stderr=False,
    )
    lines: list[Text] = []
    code = 0
    try:
        with _exit_on_sigterm(), screen:
            while True:
                view = look()
                lines = picture(view, now=datetime.now())
                screen.update(Group(*_fitting(lines, console.height)), refresh=True)
                if is_over(view):
                    break
                time.sleep(every_s)
    except KeyboardInterrupt:
        code = INTERRUPTED_EXIT_CODE
    if lines:
        console.print(Group(*lines))
    return code


@contextmanager
def _exit_on_sigterm() -> Iterator[None]:
    """Leave by an exception, so that the terminal is restored."""

    def leave(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    earlier = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, earlier)


def _fitting(lines: Sequence[Text], height: int) -> list[Text]:
    """Return the lines that fit the screen; the last ones say what to type next."""
    room = max(height - 1, 4)
    if len(lines) <= room:
        return list(lines)
    return [*lines[: room - 3], _line(f"... {len(lines) - room + 1} lines more"), *lines[-2:]]


def is_over(view: View) -> bool:
    """Whether nothing runs or waits, and no Snakemake is about to submit more."""
    busy = (State.RUNNING, State.QUEUED)
    is_main_alive = any(main.is_living for main in view.mains)
    return not is_main_alive and not any(status.state in busy for status in view.statuses)


def picture(view: View, *, now: datetime) -> list[Text]:
    """Return the lines to draw: totals, what is at work, what waits, what needs a person."""
    statuses = view.statuses
    running = [status for status in statuses if status.state is State.RUNNING]
    n_done = sum(status.state.has_result for status in statuses)
    bar = _bar(n_done, len(statuses), 2 * BAR_WIDTH)
    width = max((len(status.run.name) for status in running), default=0)
    others = reasons([s for s in statuses if s.state in URGENT and s.state is not State.RUNNING])
    return [
        _line(totals(statuses, color=False)),
        _line(f"{bar} {_outlook(statuses, now)}".rstrip()),
        _line(),
        *(_line(_running(status, width), "running  ", State.RUNNING) for status in running),
        *(_line(rest, f"{title}  ", state) for state, title, rest in others),
        *(_line("", text, State.FAILED) for text in (*view.alarms, *view.notes)),
        _line(),
        *(_line(f"main: {main.words}") for main in view.mains if main.is_living),
        _line(f"{now:%H:%M:%S}  next: {view.next_command}"),
    ]


def _line(rest: str = "", head: str = "", state: State | None = None) -> Text:
    """Return one line; its head has the colour of a state, and its end is truncated to fit."""
    text = Text(no_wrap=True, overflow="ellipsis")
    if state is not None:
        text.append_text(Text.from_ansi(styled(head, state, color=True)))
    return text.append(rest)


def _outlook(statuses: Sequence[RunStatus], now: datetime) -> str:
    left_s = seconds_left(statuses)
    if left_s is None:
        return ""
    end = clock_time(now + timedelta(seconds=left_s), now)
    return f"all that runs and waits is done in about {duration(left_s)} ({end}) at this speed"


def _running(status: RunStatus, width: int) -> str:
    """Return the line of a run at work: bar, items, speed, time left, and where it is."""
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
    parts += [status.earlier_in_words] if status.earlier else []
    parts += [f"job {j.job.id} on {j.job.node}" for j in status.jobs if j.is_at_work][:3]
    return "  ".join(parts)


def _bar(done: int, total: int, width: int) -> str:
    full = width * min(done, total) // total if total > 0 else 0
    return f"[{'#' * full}{'-' * (width - full)}]"


def seconds_left(statuses: Sequence[RunStatus]) -> float | None:
    """Return the seconds until all runs at work or waiting are done, None while unknown.

    The items of those that wait are shared out at the speed of those at work, as if as many as now
    were going to be at work all the time.
    """
    running = [status for status in statuses if status.state is State.RUNNING]
    waiting = [status for status in statuses if status.state is State.QUEUED]
    reported_s = [(status.progress or {}).get("time_left_s") for status in running]
    left_s = [seconds for seconds in reported_s if is_number(seconds)]
    if not running or len(left_s) < len(running):
        return None
    if not waiting:
        return max(left_s)
    totals = _planned_items(waiting)
    items = [_items_left(status, totals) for status in (*running, *waiting)]
    if None in items:
        return None
    items_known = [count for count in items if count is not None]
    at_work = zip(items_known, left_s, strict=False)
    items_per_s = sum(count / seconds for count, seconds in at_work if seconds > 0)
    return max(*left_s, sum(items_known) / items_per_s) if items_per_s > 0 else None


def _planned_items(statuses: Sequence[RunStatus]) -> Mapping[Path, int]:
    """The items of the tasks of these runs, by the folder of the plan, where it is made."""
    folders = {status.run.plan_folder for status in statuses}
    totals = {folder: sum(planned_sizes(folder) or ()) for folder in folders}
    return {folder: total for folder, total in totals.items() if total}


def _items_left(status: RunStatus, totals: Mapping[Path, int]) -> int | None:
    counts = item_counts(status.progress)
    return counts[1] - counts[0] if counts is not None else totals.get(status.run.plan_folder)
