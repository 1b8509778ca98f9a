"""answers.jsonl: what survives a kill, and what never gets mixed."""

import json
from pathlib import Path

import pytest

from fastdllm.errors import UserError
from fastdllm.evaluation.answers import Answer, Chunk, Header, Session, open_answers
from fastdllm.evaluation.lock import run_lock
from fastdllm.trace import PassCounts

HEADER = Header(fingerprint="a" * 64, plan_digest="p", dtype="float32", decides={"seed": 0})
SESSION = Session(
    device="cpu",
    device_name="a CPU",
    threads=1,
    host="here",
    pid=1,
    started="2026-01-01T00:00:00+00:00",
    load_s=0.1,
    warm_up_s=0.1,
    versions={},
)


def chunk(index: int) -> Chunk:
    answer = Answer(
        id=f"r{index}",
        token_ids=(1, 2),
        finish_reason="stop",
        passes=PassCounts(full_block=1, layer_forwards_computed=6),
        latency_s=0.5,
    )
    return Chunk(index, seconds=1.0, prompt_tokens=3, peak_memory_gib=0.1, answers=(answer,))


def write_two_chunks(path: Path) -> bytes:
    log = open_answers(path, HEADER)
    log.append_session(SESSION)
    for index in (0, 1):
        log.append_chunk(chunk(index))
    log.close()
    return path.read_bytes()


def test_finished_chunks_are_read_back_exactly(tmp_path: Path) -> None:
    write_two_chunks(tmp_path / "answers.jsonl")
    log = open_answers(tmp_path / "answers.jsonl", HEADER)
    assert log.chunks == {0: chunk(0), 1: chunk(1)}
    assert log.sessions == [SESSION]
    log.close()


@pytest.mark.parametrize(
    "torn", [b'{"record": "chunk", "ind', b"\0" * 50, b"\0\0\n", b'{"a": 1}\n']
)
def test_torn_end_is_dropped(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "answers.jsonl"
    whole = write_two_chunks(path)
    path.write_bytes(whole + torn)
    log = open_answers(path, HEADER)
    assert sorted(log.chunks) == [0, 1]
    log.append_chunk(chunk(2))
    log.close()
    assert path.read_bytes().startswith(whole)
    assert len(path.read_bytes().splitlines()) == 5


def test_every_cut_leaves_whole_chunks_only(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    whole = write_two_chunks(path)
    for size in range(0, len(whole), 7):
        path.write_bytes(whole[:size])
        log = open_answers(path, HEADER)
        complete = whole[:size].count(b"\n") - 2
        assert sorted(log.chunks) == list(range(max(0, complete))), f"cut at byte {size}"
        log.close()


@pytest.mark.parametrize("key", ["fingerprint", "plan_digest", "dtype"])
def test_other_answers_are_kept_aside_not_mixed(tmp_path: Path, key: str) -> None:
    path = tmp_path / "answers.jsonl"
    before = write_two_chunks(path)
    values = {
        name: getattr(HEADER, name) for name in ("fingerprint", "plan_digest", "dtype", "decides")
    }
    log = open_answers(path, Header(**{**values, key: "other"}))
    assert log.chunks == {}
    assert log.set_aside is not None
    assert log.set_aside.name.startswith("answers.aaaaaaaa.")
    assert log.set_aside.read_bytes() == before
    log.close()


def test_finished_run_starts_anew(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    write_two_chunks(path)
    log = open_answers(path, HEADER)
    log.append_end()
    log.close()
    again = open_answers(path, HEADER)
    assert again.chunks == {} and again.set_aside is not None
    again.close()


def test_second_holder_of_a_lock_is_told_pid_and_host(tmp_path: Path) -> None:
    with run_lock(tmp_path):
        holder = json.loads((tmp_path / "lock").read_text())
        expected = f"process {holder['pid']} on host {holder['host']}"
        with pytest.raises(UserError, match=expected), run_lock(tmp_path):
            pass
    with run_lock(tmp_path):
        pass


def test_full_disk_leaves_no_half_line(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    write_two_chunks(path)
    with Path("/dev/full").open("r+b", buffering=0) as full:
        log = open_answers(path, HEADER)
        log.stream.close()
        log.stream = full
        with pytest.raises(UserError, match="No space left on device"):
            log.append_chunk(chunk(2))
        assert 2 not in log.chunks
