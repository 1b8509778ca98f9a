"""Shards: the answers of a run do not depend on how it was cut, nor on when it was interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastdllm.common.errors import UserError
from fastdllm.runs import evaluation
from fastdllm.runs.answer_records import Session
from fastdllm.runs.evaluation import Evaluation
from fastdllm.runs.lock import Locked, holders, run_lock, shard_lock
from fastdllm.runs.result import Outcome, ShardOutcome, result_dated_after
from fastdllm.runs.shards import Shard, lock_path, parse_shard, stamp_path
from fastdllm.runs.spec import RunSpec, read_spec
from fastdllm.runs.stopping import Stop, Stopped
from fastdllm.tasks.plan import read_plan
from fastdllm.workflow.project.digests import FileDigests, check_sources
from tests.runs.test_evaluate import answers_in, finish
from tests.support.fakes import FakeScorer
from tests.support.run_project import silent


def check(spec: RunSpec) -> None:
    check_sources(spec, FileDigests())


def evaluation_of(spec: Path, **options: Any) -> Evaluation:
    return Evaluation(read_spec(spec), spec.parent, silent(), check, **options)


def shard(spec: Path, part: str, **options: Any) -> ShardOutcome:
    return evaluation_of(spec).evaluate_shard(parse_shard(part), **options)


def finishing(spec: Path) -> Any:
    return evaluation_of(spec).finish()


@pytest.fixture
def spec(make_spec: Any, make_plan_on_disk: Any) -> Path:
    """A run over four chunks."""
    make_plan_on_disk()
    path = make_spec(temperature=0.7)
    os.utime(path, (0, 0))
    return path


@pytest.fixture
def whole(spec: Path) -> tuple[dict[int, Any], Any]:
    """What one process makes of it: answers by chunk, and the summary; then nothing is left."""
    summary = finish(spec).summary
    answers = answers_in(spec.parent)
    for path in spec.parent.iterdir():
        if path != spec:
            path.unlink()
    return answers, summary


def essence(summary: Any) -> dict[str, Any]:
    """A summary without times and memory."""
    record = summary.model_dump()
    for key in (
        *("timestamp", "throughput", "latency_s", "load_time_s", "warm_up_s", "peak_memory"),
        *("resumed", "decoding_s"),
    ):
        del record[key]
    return record


@pytest.mark.parametrize("count", [2, 5])
def test_answers_do_not_depend_on_the_number_of_shards(
    spec: Path, whole: tuple[dict[int, Any], Any], count: int
) -> None:
    parts = [shard(spec, f"{i}/{count}") for i in range(count, 0, -1)]
    assert [part.run is not None for part in parts] == [False] * (count - 1) + [True]
    assert sum(part.n_decoded for part in parts) == 4
    assert answers_in(spec.parent) == whole[0]
    summary = parts[-1].run.summary
    assert essence(summary) == essence(whole[1])
    assert [chunk for chunk, _ in summary.throughput.chunks] == [
        chunk for chunk, _ in whole[1].throughput.chunks
    ], "the chunks are in the order of the plan"
    names = sorted(path.name for path in (spec.parent / "shards").iterdir())
    stamps = [f"{i}-of-{count}.json" for i in range(1, count + 1)]
    assert names == sorted([*stamps, *(name.replace("json", "lock") for name in stamps)])


def test_merged_file_is_that_of_one_process_but_for_sessions_and_times(spec: Path) -> None:
    def shape(path: Path) -> list[Any]:
        kinds = []
        for line in path.read_text().splitlines():
            record = json.loads(line)
            if record["record"] == "chunk":
                for key in ("session", "seconds", "processor_s", "peak_memory_gib"):
                    record.pop(key, None)
                for answer in record["answers"]:
                    del answer["latency_s"]
            kinds.append(record if record["record"] in ("chunk", "header") else record["record"])
        return kinds

    for part in ("1/2", "2/2"):
        shard(spec, part)
    merged = shape(spec.parent / "answers.jsonl")
    finish(spec, again=True)
    alone = shape(spec.parent / "answers.jsonl")
    assert [kind for kind in merged if kind != "session"] == [k for k in alone if k != "session"]


@pytest.fixture
def pretended(spec: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run without a model and without scoring: only its files are real."""
    session = Session("cpu", "a CPU", 1, "here", 1, "2026", 0.0, 0.0, {})
    monkeypatch.setattr(evaluation, "load_engine", lambda *_, **__: (FakeScorer(), 0.0))
    monkeypatch.setattr(evaluation, "session_of", lambda *_, **__: session)
    scored: Any = Outcome(summary=None)
    monkeypatch.setattr(Evaluation, "_score", lambda _: scored)
    monkeypatch.setattr(evaluation, "load_plan_tokenizer", lambda *_: None)
    return spec


Cut = st.integers(1, 5).flatmap(lambda n: st.tuples(st.integers(1, n), st.just(n)))


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(cuts=st.lists(Cut, max_size=6), kills=st.lists(st.integers(0, 2), max_size=6))
def test_any_cut_in_any_order_with_any_interruption(
    pretended: Path, cuts: list[tuple[int, int]], kills: list[int]
) -> None:
    """Each cut decodes one of its shards; a kill leaves so many of its chunks, and a torn line."""
    folder = pretended.parent
    for path in [*folder.glob("*.jsonl"), *(folder / "shards").glob("*")]:
        path.unlink()
    expected = FakeScorer()
    held: set[int] = set()
    for number, (index, count) in enumerate(cuts):
        part = shard(pretended, f"{index}/{count}")
        own = set(range(4)[index - 1 :: count])
        assert part.n_decoded == len(own - held), "a chunk that is there is not decoded again"
        held |= own
        path = folder / "shards" / f"{index}-of-{count}.jsonl"
        if number < len(kills) and path.exists():
            lines = path.read_bytes().splitlines(keepends=True)
            kept = lines[: 2 + kills[number]]
            path.write_bytes(b"".join(kept) + b'{"record": "chu')
            lost = [json.loads(line) for line in lines[len(kept) :]]
            held -= {record["index"] for record in lost if record["record"] == "chunk"}
        assert (part.run is not None) == (not path.exists())
    assert finish(pretended).is_new
    plan = read_plan(Path("results/_plans/sums"), "sums")
    answers = answers_in(folder)
    assert list(answers) == [0, 1, 2, 3], "each chunk once, in the order of the plan"
    for index, found in answers.items():
        answered = expected.answer(plan.chunk(index), None)
        assert [a["logprob"] for a in found] == [a.logprob for a in answered.answers]
    assert not list((folder / "shards").glob("*.jsonl"))


@pytest.mark.parametrize("counts", [(2, 5), (3, 1)])
def test_another_number_of_shards_half_way_decodes_no_chunk_twice(
    spec: Path, whole: tuple[dict[int, Any], Any], counts: tuple[int, int]
) -> None:
    before, after = counts
    shard(spec, f"2/{before}")
    parts = [shard(spec, f"{i}/{after}") for i in range(1, after + 1)]
    decoded = len(Shard(2, before).chunks(4))
    assert sum(part.n_decoded for part in parts) == 4 - decoded
    assert answers_in(spec.parent) == whole[0]


def test_repeat_ignores_finished_answers_and_goes_on_with_its_own(spec: Path) -> None:
    finish(spec)
    first = (spec.parent / "answers.jsonl").read_bytes()
    assert shard(spec, "1/2").n_decoded == 0, "it is done"
    os.utime(spec)
    for part, decoded in (("1/2", 2), ("1/2", 0), ("2/2", 2), ("2/2", 0)):
        assert shard(spec, part).n_decoded == decoded
    (aside,) = spec.parent.glob("answers.*.jsonl")
    assert aside.read_bytes() == first
    os.utime(spec, (0, 0))
    assert shard(spec, "1/2", again=True).n_decoded == 2
    assert shard(spec, "2/2", again=True).run.is_new


def test_going_back_to_earlier_settings_takes_up_what_its_shards_had(
    spec: Path, make_spec: Any, whole: tuple[dict[int, Any], Any]
) -> None:
    shard(spec, "1/2")
    shard(make_spec(threshold=0.1), "1/2")
    make_spec(temperature=0.7)
    assert shard(spec, "1/3").n_decoded == 1, "chunk 0 is kept, chunk 3 is new"
    assert shard(spec, "2/2").n_decoded == 1, "chunk 1"
    assert answers_in(spec.parent) == whole[0]


def test_finish_names_the_shard_to_run(spec: Path) -> None:
    shard(spec, "1/3")
    with pytest.raises(UserError, match=r"chunks 1, 2 have no answers.* --shard 2/3$"):
        finishing(spec)
    shard(spec, "2/3")
    with pytest.raises(UserError, match=r"chunk 2 has no answers.* --shard 3/3$"):
        finishing(spec)
    assert not (spec.parent / "failed.json").exists(), "nothing failed"
    (spec.parent / "shards/3-of-3.failed.json").write_text('{"reason": "boom", "log": "a.log"}')
    with pytest.raises(UserError, match=r"shard 3-of-3 failed: boom \(log: a.log\)"):
        finishing(spec)


def test_finish_is_not_told_of_a_failure_under_another_cut(spec: Path) -> None:
    shard(spec, "1/2")
    earlier = spec.parent / "shards/2-of-3.failed.json"
    earlier.write_text('{"reason": "boom"}')
    os.utime(earlier, (0, 0))
    with pytest.raises(UserError, match=r"chunks 1, 3 have no answers.* --shard 2/2$"):
        finishing(spec)


def test_finish_scores_what_nobody_scored(
    spec: Path, whole: tuple[dict[int, Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    shard(spec, "1/2")
    with pytest.raises(OSError, match="killed"), monkeypatch.context() as patch:
        patch.setattr("fastdllm.runs.answer_sources.remove", killed)
        shard(spec, "2/2")
    assert len(answers_in(spec.parent)) == 4, "merged, and the shards' files are still there"
    assert len(list((spec.parent / "shards").glob("*.jsonl"))) == 2
    outcome = finishing(spec)
    assert answers_in(spec.parent) == whole[0]
    assert essence(outcome.summary) == essence(whole[1])
    assert not (spec.parent / "failed.json").exists()


def test_failure_while_finishing_names_the_log_of_the_command_at_work(
    spec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = read_spec(spec).log_path
    logs = [path, path.with_suffix(".shards") / "2-of-2.log", path.with_suffix(".finish.log")]
    for log in logs:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.touch()
    monkeypatch.setattr("fastdllm.runs.evaluation.merge", killed)
    shard(spec, "1/2")
    for work, log in ((lambda s: shard(s, "2/2"), logs[1]), (finishing, logs[2])):
        with pytest.raises(OSError, match="killed"):
            work(spec)
        assert json.loads((spec.parent / "failed.json").read_text())["log"] == str(log)


def test_last_shard_finishes_the_run_when_the_warning_comes_behind_its_chunks(
    pretended: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard(pretended, "1/2")
    stop = Stop()
    write = evaluation.write_stamp

    def warned(*arguments: Any, **options: Any) -> Path:
        stamp = write(*arguments, **options)
        stop.handle(signal.SIGUSR1)
        return stamp

    monkeypatch.setattr(evaluation, "write_stamp", warned)
    part = evaluation_of(pretended, stop=stop).evaluate_shard(Shard(2, 2))
    with pytest.raises(Stopped):
        stop.check_between()
    assert part.run is not None


def killed(*_: object, **__: object) -> None:
    raise OSError("killed")


def test_equal_answers_to_a_chunk_count_once_and_different_ones_are_an_error(spec: Path) -> None:
    shard(spec, "1/2")
    path = spec.parent / "shards/1-of-2.jsonl"
    twin = path.with_name("1-of-4.jsonl")
    twin.write_bytes(path.read_bytes())
    records = [json.loads(line) for line in path.read_text().splitlines()]
    records[-1]["answers"][0]["token_ids"][0] ^= 1
    other = path.with_name("3-of-4.jsonl")
    other.write_text("".join(json.dumps(record) + "\n" for record in records))
    message = r"1-of-2.jsonl and .*3-of-4.jsonl: chunk 2 has different answers"
    with pytest.raises(UserError, match=message):
        shard(spec, "2/2")
    assert "chunk 2" in json.loads((spec.parent / "failed.json").read_text())["reason"]
    other.unlink()
    assert finishing(spec).is_new


def test_answers_in_two_dtypes_are_not_merged(spec: Path) -> None:
    shard(spec, "1/2")
    path = spec.parent / "shards/1-of-2.jsonl"
    path.write_text(path.read_text().replace('"float32"', '"bfloat16"', 1))
    part = shard(spec, "2/2")
    assert part.waits_for == "chunks 0, 2"
    with pytest.raises(UserError, match=r"decoded in .*bfloat16 \(chunks 0, 2\).*never mixed"):
        finishing(spec)
    log = shard(spec, "1/2")
    assert log.n_decoded == 2 and log.run is not None


@pytest.mark.usefixtures("impatient")
def test_shards_and_a_whole_run_keep_each_other_out(spec: Path) -> None:
    folder = spec.parent
    with shard_lock(folder, lock_path(folder, Shard(1, 2))):
        with shard_lock(folder, lock_path(folder, Shard(2, 2))):
            assert len(holders(folder)) == 2
        (holder,) = holders(folder)
        assert holder.startswith("shard 1-of-2: process")
        with pytest.raises(Locked, match="shard 1-of-2: process"):
            finish(spec)
        with pytest.raises(Locked, match="shard 1-of-2: process"):
            shard(spec, "1/2")
        assert shard(spec, "2/2").waits_for.startswith("shard 1-of-2: process")
    with run_lock(folder), pytest.raises(Locked, match="process"):
        shard(spec, "1/2")


def test_summary_is_newer_than_all_that_snakemake_holds_it_against(spec: Path) -> None:
    for part in ("1/2", "2/2"):
        shard(spec, part)
    stamp = stamp_path(spec.parent, Shard(1, 2))
    summary = spec.parent / "summary.json"
    text, made = summary.read_bytes(), summary.stat().st_mtime_ns
    assert result_dated_after(spec, read_spec(spec)) is not None
    assert summary.stat().st_mtime_ns == made, "it was newer anyway"
    os.utime(stamp, ns=(made + 10**9, made + 10**9))
    os.utime(summary, ns=(made - 10**9, made - 10**9))
    os.utime(stamp, ns=(made, made))
    assert result_dated_after(spec, read_spec(spec)) is not None
    assert summary.stat().st_mtime_ns > made and summary.read_bytes() == text
    os.utime(spec, ns=(2**62, 2**62))
    assert result_dated_after(spec, read_spec(spec)) is None, "it is to be repeated"


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/0", "-1/2"])
def test_shard_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=f"--shard {text}"):
        parse_shard(text)


@pytest.mark.slow
def test_shard_without_chunks_is_done_at_once_without_torch(spec: Path) -> None:
    program = (
        "import sys\nfrom fastdllm.cli import main\n"
        f"code = main(['eval', {str(spec)!r}, '--shard', '5/5'])\n"
        "sys.exit(100 if 'torch' in sys.modules else code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "shard 5 of 5: no chunks\n"), done.stderr
    assert json.loads(stamp_path(spec.parent, Shard(5, 5)).read_text())["chunks"] == []
    assert not (spec.parent / "attempts.jsonl").exists()


def test_whole_run_takes_over_what_shards_have(
    spec: Path, whole: tuple[dict[int, Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    shard(spec, "1/2")
    here = evaluation.session_of
    monkeypatch.setattr(  # within a second, both sessions of this process may be equal
        evaluation, "session_of", lambda *a, **options: replace(here(*a, **options), pid=1)
    )
    outcome = evaluation_of(spec).evaluate()
    assert answers_in(spec.parent) == whole[0]
    assert outcome.summary.resumed
