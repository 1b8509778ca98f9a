"""answers.jsonl: what survives a kill, and what never gets mixed."""

import dataclasses
import errno
import json
from pathlib import Path

import pytest

from fastdllm.common.errors import UserError
from fastdllm.decoding.sequence import PassCounts
from fastdllm.runs.answer_records import SCHEMA_VERSION, Answer, Chunk, Header, Session
from fastdllm.runs.answers import AnswerLog, open_answers

HEADER = Header(fingerprint="a" * 64, plan_digest="p", dtype="float32", decides={"seed": 0})
OTHER = dataclasses.replace(HEADER, fingerprint="b" * 64)
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
        committed_at=(0, 1),
        input_changes=((1, 0.25), (2, None), (3, 1.0)),
        finish_reason="stop",
        passes=PassCounts(full_block=1, layer_forwards_computed=6),
        latency_s=0.5,
    )
    return Chunk(
        index,
        seconds=1.0,
        recording_s=0.25,
        prompt_tokens=3,
        peak_memory_gib=0.1,
        batch_size=4,
        smallest_batch_size=2,
        out_of_memory=1,
        answers=(answer,),
        confidence_counts=(1, 0, 1),
    )


def write_two_chunks(path: Path) -> bytes:
    log = open_answers(path, HEADER)
    log.append_session(SESSION)
    for index in (0, 1):
        log.append_chunk(chunk(index))
    log.close()
    return path.read_bytes()


def finish(path: Path, header: Header = HEADER, chunks: int = 2) -> bytes:
    log = open_answers(path, header)
    log.append_session(SESSION)
    for index in range(chunks):
        log.append_chunk(chunk(index))
    log.append_end()
    log.close()
    return path.read_bytes()


def reopened(path: Path, header: Header = HEADER, *, reuse: bool = True) -> AnswerLog:
    log = open_answers(path, header, reuse=reuse)
    log.close()
    return log


def kept_aside(path: Path) -> list[str]:
    """Kinds of the files kept aside: fingerprint or `damaged`."""
    return sorted(p.name.split(".")[1] for p in path.parent.glob("answers.*.jsonl"))


def test_finished_chunks_are_read_back_exactly(tmp_path: Path) -> None:
    write_two_chunks(tmp_path / "answers.jsonl")
    log = open_answers(tmp_path / "answers.jsonl", HEADER)
    assert log.chunks == {0: chunk(0), 1: chunk(1)}
    assert log.sessions == [SESSION]
    log.close()


@pytest.mark.parametrize("torn", [b'{"record": "chunk", "ind', b"\0" * 50, b"\0\0\n", b"\n"])
def test_torn_end_is_dropped(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "answers.jsonl"
    content = write_two_chunks(path)
    path.write_bytes(content + torn)
    log = open_answers(path, HEADER)
    assert sorted(log.chunks) == [0, 1]
    log.append_chunk(chunk(2))
    log.close()
    assert path.read_bytes().startswith(content)
    assert len(path.read_bytes().splitlines()) == 5
    assert kept_aside(path) == []


def test_every_cut_leaves_whole_chunks_only(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    content = write_two_chunks(path)
    for size in range(0, len(content), 7):
        path.write_bytes(content[:size])
        log = open_answers(path, HEADER)
        complete = content[:size].count(b"\n") - 2
        assert sorted(log.chunks) == list(range(max(0, complete))), f"cut at byte {size}"
        log.close()


@pytest.mark.parametrize("key", ["fingerprint", "plan_digest", "dtype", "code_digest"])
def test_other_answers_are_kept_aside_not_mixed(tmp_path: Path, key: str) -> None:
    path = tmp_path / "answers.jsonl"
    before = write_two_chunks(path)
    log = open_answers(path, dataclasses.replace(HEADER, **{key: "other"}))
    assert log.chunks == {}
    assert log.set_aside is not None
    assert log.set_aside.name.startswith("answers.aaaaaaaa.")
    assert log.set_aside.read_bytes() == before
    log.close()


@pytest.mark.parametrize("damage", [b'{"record": "chu\n', b"\xff\xfe\n", b"\0\0{}\n"])
def test_damage_in_the_middle_keeps_the_file_and_uses_what_stands_before_it(
    tmp_path: Path, damage: bytes
) -> None:
    path = tmp_path / "answers.jsonl"
    lines = write_two_chunks(path).splitlines(keepends=True)
    damaged = b"".join([*lines[:3], damage, lines[3]])
    path.write_bytes(damaged)
    log = reopened(path)
    assert sorted(log.chunks) == [0]
    assert log.set_aside is not None and log.set_aside.name.startswith("answers.damaged.")
    assert log.set_aside.read_bytes() == damaged
    assert path.read_bytes() == b"".join(lines[:3])
    assert reopened(path).set_aside is None, "it is kept once"


@pytest.mark.parametrize("first", [b"{broken\n", b'{"record": "session"}\n', b"[]\n"])
def test_damaged_first_line_loses_nothing(tmp_path: Path, first: bytes) -> None:
    path = tmp_path / "answers.jsonl"
    lines = write_two_chunks(path).splitlines(keepends=True)
    path.write_bytes(first + b"".join(lines[1:]))
    log = reopened(path)
    assert log.chunks == {}
    assert log.set_aside is not None and log.set_aside.name.startswith("answers.damaged.")
    assert log.set_aside.read_bytes() == first + b"".join(lines[1:])


def test_no_room_to_keep_a_damaged_file_leaves_it_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "answers.jsonl"
    damaged = write_two_chunks(path) + b"damage\n"
    path.write_bytes(damaged)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("fastdllm.runs.answers.shutil.copyfileobj", full)
    with pytest.raises(UserError, match="No space left on device"):
        open_answers(path, HEADER)
    assert path.read_bytes() == damaged
    assert kept_aside(path) == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"record": "chunk", "index": 0}, "seconds: field required"),
        ({"record": "chnk"}, "record is 'chnk', not session, chunk or end"),
        ({"a": 1}, "record is None"),
        ([1], "record is None"),
        ("chunk with a key too many", "colour: unexpected keyword argument"),
        ("chunk with an index of text", "index: input should be a valid integer"),
    ],
)
def test_record_of_a_wrong_shape_names_file_and_line(
    tmp_path: Path, line: object, message: str
) -> None:
    path = tmp_path / "answers.jsonl"
    lines = write_two_chunks(path).splitlines(keepends=True)
    if isinstance(line, str):
        line = json.loads(lines[3])
        line |= {"index": "x"} if "index" in message else {"colour": "red"}
    content = b"".join([*lines[:3], json.dumps(line).encode() + b"\n", lines[3]])
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"answers.jsonl, line 4: {message}.*; correct the line"):
        open_answers(path, HEADER)
    assert path.read_bytes() == content


def test_chunk_before_any_session_names_its_line(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    lines = write_two_chunks(path).splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[2])
    with pytest.raises(UserError, match="line 2: a chunk comes before any session"):
        open_answers(path, HEADER)


def test_a_chunk_that_is_there_twice_names_its_line(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    lines = write_two_chunks(path).splitlines(keepends=True)
    path.write_bytes(b"".join([*lines, lines[2]]))
    with pytest.raises(UserError, match=rf"line {len(lines) + 1}: chunk 0 is there twice"):
        open_answers(path, HEADER)


def test_answers_of_an_older_layout_are_kept_aside_and_not_taken_up(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    header, *rest = finish(path).splitlines(keepends=True)
    older = json.dumps(json.loads(header) | {"schema_version": SCHEMA_VERSION - 1}).encode()
    path.write_bytes(b"".join([older, b"\n", *rest]))
    log = reopened(path)
    assert log.chunks == {} and log.set_aside is not None
    assert log.set_aside.name.startswith("answers.aaaaaaaa.")
    path.unlink()
    assert reopened(path).taken_up is None


def test_finished_run_is_reused_and_stays_finished_once(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    content = finish(path)
    log = open_answers(path, HEADER)
    assert sorted(log.chunks) == [0, 1] and log.ended
    log.append_end()
    log.close()
    assert path.read_bytes() == content
    log = open_answers(path, HEADER)
    log.append_chunk(chunk(2))
    log.append_end()
    log.close()
    assert path.read_bytes().count(b'"record": "end"') == 2
    assert sorted(reopened(path).chunks) == [0, 1, 2]


def test_finished_run_starts_anew_when_it_is_repeated(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    before = finish(path)
    log = reopened(path, reuse=False)
    assert log.chunks == {} and log.set_aside is not None
    assert log.set_aside.read_bytes() == before
    assert kept_aside(path) == ["aaaaaaaa"]


def test_killed_repetition_goes_on_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    finish(path)
    log = open_answers(path, HEADER, reuse=False)
    log.append_session(SESSION)
    log.append_chunk(chunk(0))
    log.close()
    for reuse in (False, True):
        assert sorted(reopened(path, reuse=reuse).chunks) == [0]
    assert kept_aside(path) == ["aaaaaaaa"]


def test_going_back_to_earlier_settings_takes_their_answers_up_again(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    content, other = finish(path), finish(path, OTHER)
    log = reopened(path)
    assert sorted(log.chunks) == [0, 1] and log.ended
    assert log.taken_up is not None and log.set_aside is not None
    assert (path.read_bytes(), log.set_aside.read_bytes()) == (content, other)
    assert kept_aside(path) == ["bbbbbbbb"], "a file that was taken up is in one place only"
    path.unlink()
    assert reopened(path, OTHER).ended


def test_newest_answers_are_taken_up(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    finish(path, chunks=2)
    log = open_answers(path, HEADER, reuse=False)
    log.append_session(SESSION)
    for index in range(3):
        log.append_chunk(chunk(index))
    log.close()
    reopened(path, OTHER)
    assert sorted(reopened(path).chunks) == [0, 1, 2]


@pytest.mark.parametrize("key", ["plan_digest", "dtype", "code_digest"])
def test_answers_of_another_plan_or_dtype_are_not_taken_up(tmp_path: Path, key: str) -> None:
    path = tmp_path / "answers.jsonl"
    finish(path)
    changed = dataclasses.replace(HEADER, **{key: "other"})
    assert reopened(path, changed).chunks == {}
    assert reopened(path, dataclasses.replace(HEADER, **{key: "third"})).taken_up is None


def test_repeating_takes_nothing_up(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    finish(path)
    finish(path, OTHER)
    log = reopened(path, reuse=False)
    assert (log.chunks, log.taken_up) == ({}, None)
    assert kept_aside(path) == ["aaaaaaaa", "bbbbbbbb"]


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
