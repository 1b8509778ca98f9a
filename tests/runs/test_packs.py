"""Packs: several runs in one process give what each gives alone."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastdllm.cli import main
from fastdllm.common.errors import UserError
from fastdllm.records.summary import read_summary
from fastdllm.runs import loaded_model as kept_model
from fastdllm.runs.attempts import Stuck, read_attempts
from fastdllm.runs.lock import run_lock
from fastdllm.runs.packs import BrokenDevice, evaluate_pack
from fastdllm.runs.spec import read_spec
from fastdllm.runs.stopping import Stop, Stopped
from tests.runs.test_evaluate import answers_in, finish


@pytest.fixture
def member(make_spec: Any, make_plan_on_disk: Any) -> Callable[..., Path]:
    """The spec of a run in a folder of its own."""
    make_plan_on_disk()

    def write(config: str, **decoding: Any) -> Path:
        spec = json.loads(make_spec(**decoding).read_text())
        path = Path("results/trial/sums") / config / "spec.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(spec | {"config": config}))
        return path

    return write


def pack(*specs: Path) -> Path:
    members = Path("results/_packs/two/members.json")
    members.parent.mkdir(parents=True, exist_ok=True)
    members.write_text(json.dumps({"schema_version": 1, "specs": [str(spec) for spec in specs]}))
    return members


def report(members: Path) -> list[tuple[str, str, str]]:
    record = json.loads(members.with_name("report.json").read_text())
    return [
        (Path(m["spec"]).parent.name, m["state"], m.get("reason", "")) for m in record["members"]
    ]


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Models that are loaded."""
    loaded: list[str] = []
    load = kept_model.load_model

    def counted(path: str, **options: Any) -> Any:
        loaded.append(path)
        return load(path, **options)

    monkeypatch.setattr(kept_model, "load_model", counted)
    return loaded


def test_pack_gives_what_each_run_gives_alone_with_one_load(
    member: Callable[..., Path], loads: list[str]
) -> None:
    specs = [member("a"), member("b", temperature=0.7, block_size=16), member("c", threshold=0.3)]
    members = pack(*specs)
    assert main(["pack", str(members), "--threads", "1"]) == 0
    assert report(members) == [(name, "done", "") for name in "abc"]
    assert len(loads) == 1
    summaries = [read_summary(spec.parent / "summary.json") for spec in specs]
    assert [summary.load_time_s is None for summary in summaries] == [False, True, True]
    assert all(summary.warm_up_s > 0 and not summary.resumed for summary in summaries)
    for spec in specs:
        packed = answers_in(spec.parent)
        log = read_spec(spec).log_path.read_text()
        assert "10/10 items" in log and "summary.json" in log
        (attempt,) = read_attempts(spec.parent)
        assert (attempt.pack, attempt.why) == ("two", "done")
        finish(spec, again=True)
        assert answers_in(spec.parent) == packed


@pytest.mark.usefixtures("impatient")
def test_failing_locked_and_finished_members_do_not_stop_the_others(
    member: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    done, busy, other, broken, good = (
        *(member("done"), member("busy"), member("other", chunk_size=2)),
        *(member("broken", threshold=0.5), member("good", threshold=0.4)),
    )
    finish(done)
    made = (done.parent / "summary.json").read_bytes()
    gone = Path("results/trial/sums/gone/spec.json")
    members = pack(done, busy, other, gone, broken, good)
    from fastdllm.runs import evaluation

    load = evaluation.load_engine

    def fails(spec: Any, *rest: Any, **options: Any) -> Any:
        if spec.config == "broken":
            raise RuntimeError("boom")
        return load(spec, *rest, **options)

    monkeypatch.setattr(evaluation, "load_engine", fails)
    with run_lock(busy.parent):
        assert main(["pack", str(members)]) == 0
    assert (done.parent / "summary.json").read_bytes() == made
    outcomes = report(members)
    assert [state for _, state, _ in outcomes] == [
        *("done", "locked", "failed", "failed", "failed", "done")
    ]
    assert f"process {os.getpid()}" in outcomes[1][2]
    assert "chunk_size" in outcomes[2][2] and "no such file" in outcomes[3][2]
    assert outcomes[4][2] == "RuntimeError: boom"
    log = read_spec(broken).log_path.read_text()
    assert "Traceback" in log
    failure = json.loads((broken.parent / "failed.json").read_text())
    assert failure["log"] == str(read_spec(broken).log_path)
    assert not (busy.parent / "answers.jsonl").exists()
    assert main(["finish", str(good)]) == 0
    assert main(["finish", str(broken)]) == 2, "it says why"


def test_stopped_pack_goes_on_with_the_run_in_hand(
    member: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    first, second = member("first"), member("second", threshold=0.3)
    members = pack(first, second)
    from fastdllm.runs.answers import AnswerLog

    append = AnswerLog.append_chunk

    def stops(log: AnswerLog, chunk: Any) -> None:
        append(log, chunk)
        if log.path.parent.name == "second" and chunk.index == 1:
            os.kill(os.getpid(), signal.SIGUSR1)

    with monkeypatch.context() as patch:
        patch.setattr(AnswerLog, "append_chunk", stops)
        assert main(["pack", str(members)]) == 75
    out, err = capfd.readouterr()
    assert "1 of 2 runs done" in out
    assert "stopped by SIGUSR1 (time limit ahead) with 2 of 4 chunks done" in err
    assert not members.with_name("report.json").exists()
    assert not (second.parent / "failed.json").exists()
    assert main(["pack", str(members)]) == 0
    assert report(members) == [("first", "done", ""), ("second", "done", "")]
    assert [attempt.chunks for attempt in read_attempts(second.parent)] == [2, 2]
    assert len(read_attempts(first.parent)) == 1


def evaluate(specs: list[Path], work: Callable[[str, Stop], None], stop: Stop) -> list[Any]:
    """A pack whose members do `work`, given their names."""

    def member(spec: Any, _: Path) -> list[str]:
        work(spec.config, stop)
        return []

    return evaluate_pack(specs, member, stop=stop, say=lambda _: None, forget_model=lambda: None)


def warn(stop: Stop) -> None:
    """SIGUSR1 while something defers it."""
    with stop.deferred(signal.SIGUSR1):
        stop.handle(signal.SIGUSR1)


def test_pack_that_made_nothing_itself_is_no_reason_for_another_turn(
    member: Callable[..., Path],
) -> None:
    done, first, second = member("done"), member("first"), member("second")
    finish(done)

    def hangs(at: str) -> Callable[[str, Stop], None]:
        return lambda config, stop: stop.handle(signal.SIGUSR1) if config == at else None

    with pytest.raises(Stopped) as stopped:
        evaluate([done, first, second], hangs("first"), Stop())
    assert not stopped.value.has_begun, "the first one was there before"
    with pytest.raises(Stopped) as stopped:
        evaluate([done, first, second], hangs("second"), Stop())
    assert stopped.value.has_begun


def test_member_that_fails_after_the_warning_fails_alone_unless_it_is_stuck(
    member: Callable[..., Path],
) -> None:
    specs = [member("first"), member("second")]

    def fails(error: Exception) -> Callable[[str, Stop], None]:
        def work(_: str, stop: Stop) -> None:
            warn(stop)
            raise error

        return work

    with pytest.raises(Stopped, match="SIGUSR1"):
        evaluate(specs, fails(UserError("the disk is full")), Stop())
    with pytest.raises(Stuck):
        evaluate(specs, fails(Stuck("no chunk")), Stop())


@pytest.mark.parametrize(
    ("error", "is_broken"),
    [
        (RuntimeError("CUDA error: device-side assert triggered"), True),
        (RuntimeError("CUDA error: out of memory"), False),
        (RuntimeError("shapes cannot be multiplied"), False),
        (ValueError("CUDA error"), False),
    ],
)
def test_only_what_breaks_the_gpu_ends_the_pack(
    member: Callable[..., Path], error: Exception, is_broken: bool
) -> None:
    def work(config: str, _: Stop) -> None:
        if config == "first":
            raise error

    specs = [member("first"), member("second")]
    if is_broken:
        with pytest.raises(BrokenDevice, match="first"):
            evaluate(specs, work, Stop())
    else:
        states = [found.state for found in evaluate(specs, work, Stop())]
        assert states == ["failed", "done"]


def test_gpu_that_is_broken_ends_the_pack_and_the_next_try_begins_with_the_others(
    member: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    bad, good = member("bad"), member("good", threshold=0.4)
    members = pack(bad, good)
    from fastdllm.runs import evaluation

    load = evaluation.load_engine

    def fails(spec: Any, *rest: Any, **options: Any) -> Any:
        if spec.config == "bad":
            raise RuntimeError("CUDA error: an illegal memory access was encountered\nmore")
        return load(spec, *rest, **options)

    monkeypatch.setattr(evaluation, "load_engine", fails)
    assert main(["pack", str(members)]) == 1
    assert capfd.readouterr().err.count("\n") == 1
    assert not (good.parent / "failed.json").exists()
    assert main(["pack", str(members)]) == 1
    assert (good.parent / "summary.json").exists()
    assert not members.with_name("report.json").exists()
    assert "illegal memory access" in json.loads((bad.parent / "failed.json").read_text())["reason"]


def test_peak_of_a_run_is_not_that_of_the_one_before(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resets: list[Any] = []
    monkeypatch.setattr(kept_model, "reset_peak_memory", resets.append)
    models = kept_model.KeptModel()

    def get(dtype: str) -> None:
        models.get(str(model_folder), digest="", revision=None, dtype=dtype, device="cpu")

    get("float32")
    get("float32")
    models.drop()
    get("float32")
    get("bfloat16")
    assert len(resets) == 4


def test_summary_of_a_packed_run_is_newer_than_the_report(member: Callable[..., Path]) -> None:
    spec = member("a")
    members = pack(spec)
    assert main(["pack", str(members)]) == 0
    summary, report_path = spec.parent / "summary.json", members.with_name("report.json")
    assert summary.stat().st_mtime_ns < report_path.stat().st_mtime_ns
    assert main(["finish", str(spec)]) == 0
    assert summary.stat().st_mtime_ns > report_path.stat().st_mtime_ns


@pytest.mark.usefixtures("project")
def test_members_that_are_none_are_one_line(capsys: Any) -> None:
    members = pack()
    members.write_text('{"schema_version": 1, "spec": []}')
    assert main(["pack", str(members)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
