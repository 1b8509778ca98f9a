"""A process that was stopped and continued while it decoded has answers, and no speed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastdllm.cli import main
from fastdllm.results.summary import read_summary
from tests.runs.test_evaluate import answers_in

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
