"""What a log and a terminal show of a long run."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fastdllm.common.console import LogLines, ProgressNumbers, TerminalBar, duration, shortened
from fastdllm.decoding.sequence import PassCounts
from fastdllm.runs.answer_records import Answer
from fastdllm.runs.progress import Progress
from tests.support.run_project import PATIENCE_S, silent

NUMBERS = ProgressNumbers(3, 10, tokens_per_s=812.4, tokens_per_forward=3.14, time_left_s=65)


def test_log_gets_a_line_now_and_then_and_one_at_the_end() -> None:
    stream = io.StringIO()
    display = LogLines("run", stream)
    for _ in range(5):
        display.show(NUMBERS)
    assert stream.getvalue() == ""
    eager = LogLines("run", stream, interval_s=0.0)
    eager.show(NUMBERS)
    eager.close(NUMBERS)
    first, last = stream.getvalue().splitlines()
    assert first == (
        "run: 3/10 items, 812 tokens/s, 3.14 tokens per forward, about 1 min 05 s left"
    )
    assert last.startswith("run: 3/10 items") and " in 0 s" in last


@pytest.mark.slow
@pytest.mark.parametrize(("number", "what"), [("ENOSPC", "space"), ("EDQUOT", "quota")])
def test_output_that_finds_no_room_is_one_line(number: str, what: str) -> None:
    program = (
        "import errno, sys\nfrom fastdllm import cli\n"
        "def full(arguments):\n"
        f"    raise OSError(errno.{number}, 'no')\n"
        "cli._run = full\n"
        "sys.exit(cli.main([]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (
        *(2, f"fastdllm: no {what} left to write to; free some, then try again\n"),
    )


def test_a_note_is_a_line_of_its_own_that_stays() -> None:
    log, screen = io.StringIO(), io.StringIO()
    screen.isatty = lambda: True  # type: ignore[method-assign]
    for display in (LogLines("run", log), TerminalBar("run", screen)):
        display.show(NUMBERS)
        display.note("out of memory [8]")
        display.close(NUMBERS)
    assert log.getvalue().startswith("run: out of memory [8]\nrun: 3/10 items")
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue())
    assert "run: out of memory [8]\n" in text


def test_terminal_bar_ends_with_the_last_numbers() -> None:
    stream = io.StringIO()
    bar = TerminalBar("run", stream)
    bar.show(NUMBERS)
    bar.close(NUMBERS)
    assert "3/10" in stream.getvalue()


@pytest.mark.parametrize("columns", [60, 80, 140])
def test_terminal_bar_fits_the_terminal(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    numbers = ProgressNumbers(123_456, 200_000, 11_812.4, 3.14, time_left_s=5665)
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: True)
    bar = TerminalBar("00_baseline/word_problems_limit_100/k1_a_config_with_a_name", stream)
    bar.show(numbers)
    bar.close(numbers)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", stream.getvalue())
    lines = [line for line in re.split(r"[\r\n]+", text) if line]
    assert len(lines) >= 2 and max(map(len, lines)) <= columns
    for line in lines:
        assert "with_a_name" in line and "━━━" in line and "123456/200000" in line
    assert "11,812 tokens/s" in lines[-1]
    assert ("1 h 34 min left, 11,812 tokens/s" in lines[0]) == (columns >= 80)
    assert ("3.14 tokens per forward" in lines[0]) == (columns >= 140)


def test_label_keeps_its_end() -> None:
    assert shortened("trial/sums/plain", 8) == "…s/plain"
    assert shortened("plain", 8) == "plain"


def test_failed_run_gives_the_cursor_back_without_a_last_line(tmp_path: Path) -> None:
    bar_stream, log_stream = io.StringIO(), io.StringIO()
    bar_stream.isatty = lambda: True  # type: ignore[method-assign]
    for display in (TerminalBar("run", bar_stream), LogLines("run", log_stream)):
        progress = Progress(tmp_path / "progress.json", display, total=4)
        progress.loading(earlier=[])
        progress.close()
        progress.close()
    assert bar_stream.getvalue().endswith("\x1b[?25h")
    assert log_stream.getvalue() == ""
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_finished_run_shows_its_last_line_once(tmp_path: Path) -> None:
    stream = io.StringIO()
    progress = Progress(tmp_path / "progress.json", LogLines("run", stream), total=4)
    progress.scoring()
    progress.close()
    assert len(stream.getvalue().splitlines()) == 1


@pytest.mark.slow
def test_terminated_run_gives_the_cursor_back_and_dies_of_the_signal() -> None:
    program = (
        "import os, time; from fastdllm.common.console import ProgressNumbers, open_display\n"
        "open_display('run').show(ProgressNumbers(3, 10))\n"
        "os.write(1, b'shown\\n'); time.sleep(60)"
    )
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=terminal,
        env={**os.environ, "TERM": "xterm"},
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "shown\n"
    process.terminate()
    assert process.wait(timeout=PATIENCE_S) == -signal.SIGTERM
    written = os.read(controller, 100_000)
    assert written.rindex(b"\x1b[?25h") > written.rindex(b"\x1b[?25l")
    process.stdout.close()
    os.close(controller)
    os.close(terminal)


def test_durations_read_naturally() -> None:
    assert [duration(s) for s in (0.2, 59, 185, 7620)] == [
        "0 s",
        "59 s",
        "3 min 05 s",
        "2 h 07 min",
    ]


def test_progress_file_tells_what_is_done(tmp_path: Path) -> None:
    path = tmp_path / "progress.json"
    progress = Progress(path, silent(), total=4)
    progress.loading(earlier=[])
    assert json.loads(path.read_text())["state"] == "loading"
    progress.decoding()
    progress.answered(
        Answer(id="a", token_ids=(1, 2, 3), passes=PassCounts(full_block=1), finish_reason="stop")
    )
    assert json.loads(path.read_text())["items_done"] == 0, "counting writes nothing"
    progress.scoring()
    record = json.loads(path.read_text())
    assert (record["state"], record["items_done"], record["items_total"]) == ("scoring", 1, 4)
    assert record["tokens_per_forward"] == 3.0
    progress.remove()
    assert not path.exists()
