"""attempts.jsonl: who worked on a run and how that ended, whatever became of the file."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from fastdllm.runs.attempts import NAME, Attempt, attempt, is_stuck, read_attempts
from fastdllm.runs.stopping import Stopped
from fastdllm.version import DECODER_VERSION


@pytest.fixture(autouse=True)
def outside_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)


def end(folder: Path, error: BaseException | None, *, chunks: int = 0, shard: str | None = None):
    """One attempt that ends in `error`."""
    try:
        with attempt(folder, shard=shard) as journal:
            journal.chunks = chunks
            if error is not None:
                raise error
    except BaseException as raised:
        if raised is not error:
            raise


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (None, "done"),
        (ValueError("boom"), "failed"),
        (KeyboardInterrupt(), "interrupted"),
        (Stopped(signal.SIGTERM), "SIGTERM"),
        (Stopped(signal.SIGUSR1), "time limit"),
    ],
)
def test_journal_says_how_an_attempt_ended(
    tmp_path: Path, error: BaseException | None, why: str
) -> None:
    end(tmp_path, error, chunks=3)
    (recorded,) = read_attempts(tmp_path)
    assert (recorded.why, recorded.chunks, recorded.pid) == (why, 3, os.getpid())
    assert recorded.ended is not None and recorded.slurm_job is None


def test_attempt_that_runs_or_was_killed_has_no_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    with attempt(tmp_path, shard="2-of-5", pack="p") as journal:
        journal.add(device="a GPU")
        (recorded,) = read_attempts(tmp_path)
    assert recorded == Attempt(
        time=recorded.time,
        host=recorded.host,
        pid=os.getpid(),
        commit=recorded.commit,
        decoder_version=DECODER_VERSION,
        slurm_job="17",
        restart=2,
        device="a GPU",
        shard="2-of-5",
        pack="p",
    )


def test_torn_and_damaged_lines_take_no_other_along(tmp_path: Path) -> None:
    end(tmp_path, None)
    with (tmp_path / NAME).open("ab") as stream:
        stream.write(b'\xff\n[1]\n{"attempt": 1}\n{"attempt": "x", "pid": "y", "why": 3}\n{"att')
    end(tmp_path, ValueError())
    assert [found.why for found in read_attempts(tmp_path)] == ["done", "", "failed"]
    assert read_attempts(tmp_path / "nowhere") == []


def test_two_lines_an_attempt(tmp_path: Path) -> None:
    end(tmp_path, None)
    start, stop = map(json.loads, (tmp_path / NAME).read_text().splitlines())
    assert start["attempt"] == stop["attempt"] and "why" not in start


def test_stuck_is_who_twice_met_the_limit_without_a_chunk(tmp_path: Path) -> None:
    limit = Stopped(signal.SIGUSR1)
    end(tmp_path, limit)
    assert not is_stuck(tmp_path), "once may be bad luck"
    end(tmp_path, limit, shard="1-of-2")
    assert not is_stuck(tmp_path), "another shard's"
    end(tmp_path, limit)
    assert is_stuck(tmp_path)
    end(tmp_path, limit, chunks=1)
    end(tmp_path, limit)
    assert not is_stuck(tmp_path), "one chunk in between"
    end(tmp_path, Stopped(signal.SIGTERM), chunks=1)
    end(tmp_path, limit)
    assert not is_stuck(tmp_path), "the one before got somewhere until it was preempted"
    end(tmp_path, Stopped(signal.SIGTERM))
    end(tmp_path, limit)
    assert is_stuck(tmp_path), "preempted in between, which says nothing"
