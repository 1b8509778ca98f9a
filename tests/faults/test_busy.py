"""The speed of a run that was kept from its processor is shown, and compared with no other."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fastdllm.cli import main
from fastdllm.records.summary import Summary, read_summary
from fastdllm.report.content import build_report
from fastdllm.report.groups import grouped
from fastdllm.report.page import render_page
from fastdllm.report.sentences import answer_of
from fastdllm.report.text_tables import terminal_table
from fastdllm.runs import chunks
from fastdllm.runs.answers import open_answers
from fastdllm.runs.chunks import decode_missing
from fastdllm.runs.progress import Progress
from fastdllm.statistics.busy import TIMED_APART, was_busy
from tests.runs.test_chunks import HEADER, a_session, plan_of
from tests.support import fakes
from tests.support.fakes import FakeClock, FakeEngine
from tests.support.run_project import silent


class HalfWaiting:
    """In the place of the module `time`: a second per look, half of it on a processor."""

    def __init__(self) -> None:
        self.perf_counter = itertools.count(0.0, 1.0).__next__
        self.thread_time = itertools.count(0.0, 0.5).__next__


def timed(summary: Summary, share: float | None, **fields: Any) -> Summary:
    assert summary.throughput is not None
    speed = summary.throughput.model_copy(update={"processor_share": share})
    return summary.model_copy(update={"throughput": speed, **fields})


@pytest.mark.parametrize(("device", "processor_s"), [("cpu", 6.0), ("cuda", None)])
def test_a_chunk_keeps_its_seconds_on_a_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, processor_s: float | None
) -> None:
    clock = FakeClock(share=0.75)
    for module in (chunks, fakes):
        monkeypatch.setattr(module, "time", clock)
    log = open_answers(tmp_path / "answers.jsonl", HEADER)
    progress = Progress(tmp_path / "progress.json", silent(), total=4)
    decode_missing(
        plan_of(4),
        log,
        FakeEngine(8.0),
        start_session=lambda warm_up_s: replace(a_session(warm_up_s), device=device),
        progress=progress,
    )
    log.close()
    found = open_answers(tmp_path / "answers.jsonl", HEADER).chunks.values()
    assert [(chunk.seconds, chunk.processor_s) for chunk in found] == [(8.0, processor_s)] * 2


def test_a_summary_has_the_share_if_every_chunk_recorded_it(
    make_plan_on_disk: Any, make_spec: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_plan_on_disk()
    spec = make_spec()
    monkeypatch.setattr(chunks, "time", HalfWaiting())
    assert main(["eval", str(spec)]) == 0
    speed = read_summary(spec.with_name("summary.json")).throughput
    assert speed is not None and speed.processor_share == 0.5
    answers = spec.with_name("answers.jsonl")
    *lines, last_chunk, end = answers.read_text().splitlines()
    older = {k: v for k, v in json.loads(last_chunk).items() if k != "processor_s"}
    answers.write_text("\n".join([*lines, json.dumps(older), end]) + "\n")
    spec.with_name("summary.json").unlink()
    assert main(["eval", str(spec)]) == 0
    again = read_summary(spec.with_name("summary.json")).throughput
    assert again == speed.model_copy(update={"processor_share": None})


@pytest.mark.parametrize(
    ("share", "marked"),
    [(None, False), (1.0, False), (0.9, False), (0.8999, True), (0.3, True)],
)
def test_a_run_below_nine_tenths_is_marked(
    a_summary: Summary, share: float | None, *, marked: bool
) -> None:
    runs = [timed(a_summary, 1.0, config="k1_first"), timed(a_summary, share, config="k2_last")]
    assert was_busy(runs[1]) is marked
    table = terminal_table(grouped(runs), width=200)
    assert ("1,234~" in table) is marked
    assert ("~ 1 of 2 runs timed on a busy machine, `k2_last` most" in table) is marked
    page = render_page(build_report(runs))
    assert ('<span class="mark">busy machine</span>' in page) is marked
    assert ("1 of 2 runs timed on a busy machine" in page) is marked
    assert ("1 of 2 runs timed on a busy machine" in answer_of("00_baseline", runs, [])) is marked


def test_runs_timed_apart_are_said_to_be(a_summary: Summary) -> None:
    a = timed(a_summary, 1.0, config="k1_first")
    b = timed(a_summary, 1.0, config="k2_last", fingerprint="c" * 32, timestamp="another")
    assert f"tok/s: {TIMED_APART}." in terminal_table(grouped([a, b]))
    assert TIMED_APART in render_page(build_report([a, b]))
