"""Signals sent to real processes: they stop well, and the same command resumes."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastdllm.cli import main
from fastdllm.common.errors import UserError
from fastdllm.runs.attempts import read_attempts
from fastdllm.runs.evaluation import Evaluation
from fastdllm.runs.spec import read_spec
from fastdllm.runs.stopping import SIGNALS, Stop, Stopped, end_of, until_stopped
from tests.runs.test_evaluate import answers_in, check
from tests.support.own_forks import fork_fastdllm
from tests.support.run_project import PATIENCE_S, silent, start_fastdllm


@pytest.fixture
def scontrol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pretended scontrol in a pretended SLURM job: the file that holds what it was asked."""
    asked = tmp_path / "asked"
    program = tmp_path / "bin/scontrol"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >> {asked}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    return asked


@pytest.fixture
def long_run(project: Path, make_spec: Any, make_plan_on_disk: Any) -> Path:
    """A run that decodes for some seconds: ten chunks."""
    data = project / "tasks/data/sums.jsonl"
    lines = [{"question": f"What is {i} + 1? " * 12, "answer": "1"} for i in range(30)]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    yaml = project / "tasks/sums.yaml"
    yaml.write_text(yaml.read_text().replace("max_gen_toks: 24", "max_gen_toks: 64"))
    make_plan_on_disk()
    return make_spec(threshold=1.0)


def wait_until(condition: Callable[[], bool], process: Any) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.005)


def chunks(path: Path) -> int:
    return path.read_bytes().count(b'{"record": "chunk"') if path.exists() else 0


@pytest.fixture
def start(running: list[Any]) -> Callable[..., Any]:
    """Start an eval, given its spec and arguments."""

    def start(spec: Path, *arguments: str) -> Any:
        arguments = ("eval", str(spec), "--threads", "1", *arguments)
        running.append(fork_fastdllm(*arguments, cwd=spec.parent.parents[3]))
        return running[-1]

    return start


def signal_where_it_stands(process: Any, number: int, answers: Path) -> int:
    """Freeze a process, signal it, let it go on; the chunks that it had by then."""
    os.kill(process.pid, signal.SIGSTOP)
    # Only now nothing is decoded any more, however late this process is scheduled.
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    before = chunks(answers)
    process.send_signal(number)
    os.kill(process.pid, signal.SIGCONT)
    return before


def end(process: Any) -> tuple[int, str]:
    _, err = process.communicate(timeout=PATIENCE_S)
    return process.returncode, err


@pytest.mark.slow
def test_sigterm_drops_the_chunk_in_flight_and_the_same_command_goes_on(
    project: Path, long_run: Path, running: list[Any]
) -> None:
    folder = long_run.parent
    answers = folder / "answers.jsonl"
    # Not forked as in the other tests: with its imports, and what else a command does of its own.
    process = start_fastdllm("eval", str(long_run), "--threads", "1", cwd=project)
    running.append(process)
    wait_until(lambda: chunks(answers) >= 2, process)
    before = signal_where_it_stands(process, signal.SIGTERM, answers)
    code, err = end(process)
    done = chunks(answers)
    assert code == 75, err
    assert err.splitlines()[-1] == (
        f"fastdllm: stopped by SIGTERM with {done} of 10 chunks done; the same command resumes"
    )
    assert before >= 2 and done in (before, before + 1), "one that ends within 2 s is finished"
    assert not (folder / "failed.json").exists()
    progress = json.loads((folder / "progress.json").read_text())
    assert (progress["state"], progress["why"]) == ("stopped", "SIGTERM")
    assert progress["items_done"] >= progress["items_stored"] == 3 * done
    kept = answers_in(folder)
    assert main(["eval", str(long_run), "--threads", "1"]) == 0
    after = answers_in(folder)
    assert {index: after[index] for index in kept} == kept and len(after) == 10
    first, second = read_attempts(folder)
    assert (first.why, first.chunks) == ("SIGTERM", done)
    assert (second.why, second.chunks) == ("done", 10 - done)
    assert first.device == second.device is not None


@pytest.mark.slow
def test_time_limit_ahead_begins_no_chunk_and_requeues_the_job(
    long_run: Path, start: Any, scontrol: Path
) -> None:
    answers = long_run.parent / "answers.jsonl"
    process = start(long_run)
    wait_until(lambda: chunks(answers) >= 2, process)
    before = signal_where_it_stands(process, signal.SIGUSR1, answers)
    code, err = end(process)
    assert code == 75, err
    done = chunks(answers)
    assert done in (before, before + 1), "at most the chunk in flight is finished"
    *_, stopped, requeued = err.splitlines()
    assert f"stopped by SIGUSR1 (time limit ahead) with {done} of 10 chunks done" in stopped
    assert "SLURM job 7 goes back into the queue" in requeued
    assert scontrol.read_text() == "requeue 7\n"
    (attempt,) = read_attempts(long_run.parent)
    assert (attempt.why, attempt.slurm_job) == ("time limit", "7")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_nothing_is_requeued_after_sigterm_or_before_the_work_began(
    scontrol: Path, number: int
) -> None:
    stopped = Stopped(number)
    assert end_of(stopped, was_terminated=False) == 75
    assert not scontrol.exists()
    end_of(stopped.with_chunks(0, 1), was_terminated=True)
    assert not scontrol.exists()
    end_of(stopped.with_chunks(0, 1), was_terminated=False)
    assert scontrol.exists() == (number == signal.SIGUSR1)


@pytest.mark.parametrize("moment", ["in the chunk in flight", "while the last lines are written"])
def test_job_that_is_cancelled_after_its_warning_does_not_come_back(
    scontrol: Path, capfd: Any, moment: str
) -> None:
    def work(stop: Stop) -> int:
        with stop.deferred(*SIGNALS):
            os.kill(os.getpid(), signal.SIGUSR1)
            stop.check(lambda: 100.0)  # the chunk goes on
            try:
                if moment == "in the chunk in flight":
                    os.kill(os.getpid(), signal.SIGTERM)
                stop.check_between()
            except Stopped as stopped:
                if moment != "in the chunk in flight":
                    os.kill(os.getpid(), signal.SIGTERM)
                raise stopped.with_chunks(1, 2) from None
        return 0

    assert until_stopped(work) == 75
    assert not scontrol.exists()
    assert "goes back" not in capfd.readouterr().err


def test_job_whose_run_is_done_when_the_warning_comes_is_done(
    make_spec: Any, make_plan_on_disk: Any, scontrol: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fastdllm.runs import evaluation

    make_plan_on_disk()
    spec = make_spec()
    remove = evaluation.remove_traces

    def warned(folder: Path) -> None:
        remove(folder)
        if (folder / "summary.json").exists():
            os.kill(os.getpid(), signal.SIGUSR1)

    monkeypatch.setattr(evaluation, "remove_traces", warned)
    assert main(["eval", str(spec), "--threads", "1"]) == 0
    assert not scontrol.exists()
    assert [attempt.why for attempt in read_attempts(spec.parent)] == ["done"]


@pytest.mark.slow
def test_signal_before_the_first_chunk_ends_at_once(long_run: Path, start: Any) -> None:
    process = start(long_run)
    wait_until(lambda: bool(read_attempts(long_run.parent)), process)
    answers = long_run.parent / "answers.jsonl"
    before = signal_where_it_stands(process, signal.SIGTERM, answers)
    code, err = end(process)
    assert code == 75, err
    assert "stopped by SIGTERM" in err
    assert chunks(answers) in (before, before + 1)
    assert [attempt.why for attempt in read_attempts(long_run.parent)] == ["SIGTERM"]


def test_job_that_gets_nowhere_fails_instead_of_being_requeued(
    make_spec: Any, make_plan_on_disk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_plan_on_disk()
    spec = make_spec()
    monkeypatch.setenv("SLURM_JOB_ID", "7")

    def attempt() -> None:
        stop = Stop()
        with stop.deferred(*SIGNALS):
            stop.handle(signal.SIGUSR1)
        Evaluation(read_spec(spec), spec.parent, silent(), check, stop=stop).evaluate()

    with pytest.raises(Stopped, match="0 of 4 chunks done"):
        attempt()
    assert not (spec.parent / "failed.json").exists()
    with pytest.raises(UserError, match=r"two attempts in a row .* longer runtime, or set a small"):
        attempt()
    assert "longer runtime" in json.loads((spec.parent / "failed.json").read_text())["reason"]


@pytest.mark.slow
def test_shards_that_run_and_end_side_by_side_finish_the_run_once(
    long_run: Path, start: Any
) -> None:
    folder = long_run.parent
    parts = [start(long_run, "--shard", f"{i}/3") for i in (1, 2, 3)]
    ends = [process.communicate(timeout=PATIENCE_S) for process in parts]
    assert [process.returncode for process in parts] == [0, 0, 0], ends
    assert sum("(already done" not in out and " -> " in out for out, _ in ends) == 1
    assert (folder / "summary.json").exists()
    assert len(answers_in(folder)) == 10
    assert not list((folder / "shards").glob("*.jsonl"))
    assert sorted(str(attempt.shard) for attempt in read_attempts(folder)) == [
        *("1-of-3", "2-of-3", "3-of-3")
    ]


@pytest.mark.slow
def test_stopped_shard_goes_on(long_run: Path, start: Any) -> None:
    folder = long_run.parent
    answers = folder / "shards/1-of-2.jsonl"
    process = start(long_run, "--shard", "1/2")
    wait_until(lambda: chunks(answers) >= 1, process)
    before = signal_where_it_stands(process, signal.SIGTERM, answers)
    code, err = end(process)
    done = chunks(answers)
    assert (code, done in (before, before + 1)) == (75, True), err
    assert f"with {done} of 5 chunks done" in err
    assert not (folder / "shards/1-of-2.json").exists()
    assert main(["eval", str(long_run), "--threads", "1", "--shard", "1/2"]) == 0
    assert chunks(answers) == 5
    assert (folder / "shards/1-of-2.json").exists()
    assert not (folder / "shards/1-of-2.progress.json").exists()
