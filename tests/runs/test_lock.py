"""The lock of a run's folder: one holder, whatever the disk says, and patience with a look."""

from __future__ import annotations

import fcntl
import json
import os
import threading
from pathlib import Path

import pytest

from fastdllm.common.errors import UserError
from fastdllm.runs import lock
from fastdllm.runs.lock import FINISHING, Locked, holders, run_lock, shard_lock


@pytest.mark.usefixtures("impatient")
def test_second_holder_is_told_pid_and_host(tmp_path: Path) -> None:
    with run_lock(tmp_path):
        holder = json.loads((tmp_path / "lock").read_text())
        expected = f"process {holder['pid']} on host {holder['host']}"
        with pytest.raises(UserError, match=expected), run_lock(tmp_path):
            pass
    with run_lock(tmp_path):
        pass


def test_name_is_gone_after_a_failure(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="boom"), run_lock(tmp_path):
        raise ValueError("boom")
    assert (tmp_path / "lock").read_text() == ""


def test_full_disk_takes_the_name_not_the_lock(tmp_path: Path) -> None:
    # Every write to this device ends with "No space left on device".
    (tmp_path / "lock").symlink_to("/dev/full")
    with run_lock(tmp_path):
        pass


def test_a_look_at_the_lock_does_not_refuse_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "PATIENCE_S", 60.0)  # a busy machine is late to end the look
    (tmp_path / "lock").touch()
    looking = os.open(tmp_path / "lock", os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH | fcntl.LOCK_NB)
    has_ended = threading.Event()

    def end_the_look() -> None:
        has_ended.set()
        os.close(looking)

    threading.Timer(0.2, end_the_look).start()
    with run_lock(tmp_path):
        assert has_ended.is_set()


@pytest.mark.usefixtures("impatient")
def test_who_finishes_a_run_is_waited_for(tmp_path: Path) -> None:
    is_held, is_finished = threading.Event(), threading.Event()

    def finish() -> None:
        with run_lock(tmp_path, work=FINISHING):
            is_held.set()
            is_finished.wait()

    thread = threading.Thread(target=finish)
    thread.start()
    is_held.wait()
    with pytest.raises(Locked), run_lock(tmp_path, awaits_finish=False):
        pass
    # Longer than a holder of another kind would be waited for.
    threading.Timer(3 * lock.PATIENCE_S, is_finished.set).start()
    with shard_lock(tmp_path, tmp_path / "shards/1-of-2.lock"):
        assert holders(tmp_path) == [lock_words("shard 1-of-2: ", tmp_path / "shards/1-of-2.lock")]
    thread.join()


def lock_words(before: str, path: Path) -> str:
    holder = json.loads(path.read_text())
    since = holder["since"][:19]
    return f"{before}process {holder['pid']} on host {holder['host']} (since {since} UTC)"


@pytest.mark.usefixtures("impatient")
def test_name_that_a_killed_holder_left_is_not_taken_for_that_of_a_shard(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text('{"work": "finish"}')
    with (
        shard_lock(tmp_path, tmp_path / "shards/1-of-2.lock"),
        pytest.raises(Locked, match="shard 1-of-2"),
        run_lock(tmp_path),
    ):
        pass
