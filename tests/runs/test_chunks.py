"""The loop of a run with a pretended engine: what is timed, what is told meanwhile."""

from __future__ import annotations

import io
import json
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastdllm.common.console import LogLines
from fastdllm.common.errors import UserError
from fastdllm.runs import chunk_in_flight, chunks, stopping
from fastdllm.runs import progress as progress_module
from fastdllm.runs.answer_records import Answer, Chunk, Header, Session
from fastdllm.runs.answers import AnswerLog, open_answers
from fastdllm.runs.chunk_engine import Answered
from fastdllm.runs.chunk_in_flight import ChunkInFlight
from fastdllm.runs.chunks import decode_missing, missing_chunks
from fastdllm.runs.progress import Progress
from fastdllm.runs.stopping import Stop, Stopped
from fastdllm.tasks.plan import Plan, PlannedRequest
from tests.support import fakes
from tests.support.fakes import FakeClock, FakeEngine, InterruptedEngine, fake_plan
from tests.support.run_project import PATIENCE_S, silent

HEADER = Header(fingerprint="a" * 64, plan_digest="p", dtype="float32", decides={})


def plan_of(n: int) -> Plan:
    requests = [
        PlannedRequest(f"r{i}", "generate_until", f"t:{i}", prompt_ids=(1,), args=("",))
        for i in range(n)
    ]
    return fake_plan(requests, chunk_size=2)


def a_session(warm_up_s: float) -> Session:
    return Session("cpu", "a CPU", 1, "here", 1, "now", 0.0, warm_up_s, {})


@pytest.fixture
def log(tmp_path: Path) -> Iterator[AnswerLog]:
    log = open_answers(tmp_path / "answers.jsonl", HEADER)
    yield log
    log.close()


@pytest.fixture(autouse=True)
def quick_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_module, "TICK_S", 0.02)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    """The time of the loop, of its engine and of signals."""
    clock = FakeClock()
    for module in (chunks, chunk_in_flight, stopping, fakes):
        monkeypatch.setattr(module, "time", clock)
    return clock


def test_writing_the_progress_is_not_in_a_chunks_seconds(
    log: AnswerLog, tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    progress = Progress(tmp_path / "progress.json", silent(), total=4)
    written = []

    def slow_disk() -> None:
        clock.sleep(30.0)
        written.append(clock.now)

    monkeypatch.setattr(progress, "stored", slow_disk)
    decode_missing(
        plan_of(4), log, FakeEngine(seconds=10.0), start_session=a_session, progress=progress
    )
    assert [log.chunks[index].seconds for index in (0, 1)] == [10.0, 10.0]
    assert len(written) == 2


@pytest.mark.usefixtures("clock")
def test_recording_shapes_is_not_in_a_chunks_seconds(log: AnswerLog, tmp_path: Path) -> None:
    progress = Progress(tmp_path / "progress.json", silent(), total=2)
    engine = FakeEngine(seconds=3.0, recording_s=2.5)
    decode_missing(plan_of(2), log, engine, start_session=a_session, progress=progress)
    assert (log.chunks[0].recording_s, log.chunks[0].seconds) == (2.5, 0.5)


def test_long_chunk_is_not_silent(log: AnswerLog, tmp_path: Path) -> None:
    stream = io.StringIO()

    class Long(FakeEngine):
        def answer(self, requests: list[PlannedRequest], flight: ChunkInFlight) -> Answered:
            answered, deadline = super().answer(requests, flight), time.monotonic() + PATIENCE_S
            while len(stream.getvalue().splitlines()) < 3:
                assert time.monotonic() < deadline, "nothing is printed while a chunk is decoded"
                time.sleep(0.01)
            return answered

    display = LogLines("run", stream, interval_s=0.05)
    progress = Progress(tmp_path / "progress.json", display, total=2)
    decode_missing(plan_of(2), log, Long(0.0), start_session=a_session, progress=progress)
    assert json.loads((tmp_path / "progress.json").read_text())["items_done"] == 2


def test_nothing_is_written_any_more_after_a_failure(log: AnswerLog, tmp_path: Path) -> None:
    class Broken(FakeEngine):
        def answer(self, *_: object) -> Answered:
            raise RuntimeError("boom")

    progress = Progress(tmp_path / "progress.json", silent(), total=2)
    with pytest.raises(RuntimeError, match="boom"):
        decode_missing(plan_of(2), log, Broken(0.0), start_session=a_session, progress=progress)
    assert "progress" not in [thread.name for thread in threading.enumerate()]


def test_full_disk_is_told_by_the_answers_not_by_the_progress(
    log: AnswerLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise UserError("No space left on device")

    monkeypatch.setattr(progress_module, "write_json_atomically", full)
    progress = Progress(tmp_path / "progress.json", silent(), total=2)
    decode_missing(
        plan_of(2), log, FakeEngine(seconds=0.1), start_session=a_session, progress=progress
    )
    assert len(log.chunks) == 1


@pytest.mark.parametrize("index", [-1, 7])
def test_chunk_that_the_plan_lacks_is_refused(log: AnswerLog, index: int) -> None:
    log.append_session(a_session(0.0))
    log.append_chunk(Chunk(index, 1.0, 0.0, 1, 0.1, 1, 1, 0, (Answer(id="r0"),)))
    with pytest.raises(UserError, match=f"chunk {index} answers other requests than the plan"):
        missing_chunks(plan_of(2), log)


@pytest.mark.parametrize(
    ("number", "request_id", "finished"),
    [
        (signal.SIGUSR1, "r0", [0]),  # nothing is known of its end, and time is left
        (signal.SIGUSR1, "r3", [0, 1]),
        (signal.SIGTERM, "r0", []),
        (signal.SIGTERM, "r3", [0, 1]),  # by the chunk before, it ends at once
    ],
)
def test_signal_lets_the_chunk_in_flight_end_where_it_can(
    log: AnswerLog, tmp_path: Path, number: int, request_id: str, finished: list[int]
) -> None:
    progress = Progress(tmp_path / "progress.json", silent(), total=6)
    stop = Stop()
    engine = InterruptedEngine(stop, number, request_id)
    with pytest.raises(Stopped):
        decode_missing(
            plan_of(6), log, engine, start_session=a_session, progress=progress, stop=stop
        )
    assert sorted(log.chunks) == finished


def test_chunk_that_takes_longer_than_the_time_left_is_dropped(
    log: AnswerLog, tmp_path: Path, clock: FakeClock
) -> None:
    class Slow(InterruptedEngine):
        def answer(self, requests: list[PlannedRequest], flight: ChunkInFlight) -> Answered:
            if requests[0].id == "r0":
                clock.sleep(50.0)
            return super().answer(requests, flight)

    progress = Progress(tmp_path / "progress.json", silent(), total=4)
    stop = Stop(warning_s=60.0)  # of which 15 s are reserved for writing
    engine = Slow(stop, signal.SIGUSR1, "r3")
    with pytest.raises(Stopped):
        decode_missing(
            plan_of(4), log, engine, start_session=a_session, progress=progress, stop=stop
        )
    assert sorted(log.chunks) == [0], "by the chunk before, it takes another 50 s"
