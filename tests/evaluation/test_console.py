"""What a log and a terminal show of a long run."""

from __future__ import annotations

import io
import json
from pathlib import Path

from fastdllm.console import LogLines, ProgressNumbers, TerminalBar, duration
from fastdllm.evaluation.answers import Answer
from fastdllm.evaluation.progress import Progress
from fastdllm.trace import PassCounts
from tests.evaluation.conftest import silent

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


def test_terminal_bar_ends_with_the_last_numbers() -> None:
    stream = io.StringIO()
    bar = TerminalBar("run", stream)
    bar.show(NUMBERS)
    bar.close(NUMBERS)
    assert "3/10" in stream.getvalue()


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
    progress.loading()
    assert json.loads(path.read_text())["state"] == "loading"
    progress.decoding(earlier=[])
    progress.answered(
        Answer(id="a", token_ids=(1, 2, 3), passes=PassCounts(full_block=1), finish_reason="stop")
    )
    assert json.loads(path.read_text())["items_done"] == 0, "written at most once a second"
    progress.scoring()
    record = json.loads(path.read_text())
    assert (record["state"], record["items_done"], record["items_total"]) == ("scoring", 1, 4)
    assert record["tokens_per_forward"] == 3.0
    progress.remove()
    assert not path.exists()
