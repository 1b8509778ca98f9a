"""A process that was stopped or frozen while it decoded has answers, and no speed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fastdllm.cli import main
from fastdllm.records.summary import read_summary
from fastdllm.runs import pauses
from fastdllm.runs.answers import open_answers
from fastdllm.runs.chunks import decode_missing
from fastdllm.runs.progress import Progress
from tests.runs.test_chunks import HEADER, a_session, plan_of
from tests.runs.test_evaluate import answers_in
from tests.support import fakes
from tests.support.fakes import FakeClock, FakeEngine
from tests.support.run_project import silent

# Continues itself in each denoising step, as a shell and SLURM do after a pause.
PAUSED = """\
import os
import signal

from fastdllm.policy import Policy


class Plain(Policy):
    def accept(self, predictions, states):
        if "IS_PAUSED" in os.environ:
            os.kill(os.getpid(), signal.SIGCONT)
        return super().accept(predictions, states)
"""


def test_a_paused_run_reports_its_answers_and_no_speed(
    project: Path, make_spec: Any, make_plan_on_disk: Any, monkeypatch: Any
) -> None:
    (project / "experiments/trial/generation_functions.py").write_text(PAUSED)
    make_plan_on_disk()
    spec = make_spec()
    assert main(["eval", str(spec)]) == 0
    timed, answers = read_summary(spec.parent / "summary.json"), answers_in(spec.parent)
    monkeypatch.setenv("IS_PAUSED", "1")
    assert main(["eval", str(spec), "--again"]) == 0
    paused = read_summary(spec.parent / "summary.json")
    assert timed.throughput is not None and timed.latency_s is not None and timed.decoding_s
    assert (paused.throughput, paused.latency_s, paused.decoding_s) == (None, None, None)
    assert (paused.items, paused.passes) == (timed.items, timed.passes)
    assert answers_in(spec.parent) == answers


class ClockAtWork(FakeClock):
    """A clock that another thread can ask for the time of the decoding thread."""

    def pthread_getcpuclockid(self, thread: int) -> int:
        return thread

    def clock_gettime(self, _clock: int) -> float:
        return self.thread_time()


@pytest.mark.parametrize(
    ("seconds", "share", "is_paused"),
    [
        (60.0, 0.0, True),  # frozen: the clock went on, and nothing ran
        (60.0, 0.8, True),  # frozen for the last 12 of 60 seconds
        (60.0, 1.0, False),  # one long call that let no other thread run
        (5.0, 0.0, False),  # a busy machine
    ],
)
def test_a_process_frozen_by_its_cgroup_is_noticed_without_a_signal(
    tmp_path: Path, monkeypatch: Any, seconds: float, share: float, is_paused: bool
) -> None:
    clock = ClockAtWork(share)
    for module in (pauses, fakes):
        monkeypatch.setattr(module, "time", clock)

    class Frozen(FakeEngine):
        def warm_up(self, requests: Any) -> None:
            clock.sleep(600.0)  # a pause before a chunk is none of the chunk's

        def answer(self, requests: Any, flight: Any) -> Any:
            self.seconds = seconds if requests[0].id == "r2" else 0.0
            return super().answer(requests, flight)

    log = open_answers(tmp_path / "answers.jsonl", HEADER)
    progress = Progress(tmp_path / "progress.json", silent(), total=6)
    decode_missing(plan_of(6), log, Frozen(0.0), start_session=a_session, progress=progress)
    log.close()
    assert [log.chunks[i].was_paused for i in range(3)] == [None, is_paused or None, None]
