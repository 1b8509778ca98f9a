"""The executor: jobs that are adopted, followed and ended, and the end of the call."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from fastdllm.cluster.slurm import JobState
from snakemake_executor_plugin_fastdllm_slurm.executor import was_only_stopped
from tests.plugin.rig import FakeJob, Rig, logged
from tests.support.fakes import COMMENT


def test_a_job_is_submitted_followed_and_finished(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    del rig.job.resources["mem_mb"]
    rig.submit()
    rig.slurm.say(("77", "PENDING"))
    rig.polls()
    rig.slurm.say(("77", "RUNNING"))
    rig.polls()
    assert rig.scheduler.finished == []
    rig.slurm.say(("77", "COMPLETED"))
    rig.wait(lambda: rig.scheduler.finished == [rig.job])
    assert rig.job.registered == "77"
    assert logged(caplog, "memory") == []
    (call,) = rig.slurm.calls("sbatch")
    assert f"--comment {COMMENT} " in call
    assert f"{rig.slurm.folder}/project/logs/slurm/rule_eval/demo_words_k1/%j.log" in call


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("TIMEOUT", "SLURM job 77: stopped by its time limit. "),
        ("FAILED", "SLURM job 77: failed. "),
        ("NODE_FAIL", "SLURM job 77: its node failed. "),
    ],
)
def test_a_job_that_ended_badly_is_told_once_and_may_be_tried_again(
    rig: Rig, state: str, words: str
) -> None:
    rig.submit()
    rig.slurm.say(("77", state))
    rig.wait(lambda: rig.scheduler.failed == [rig.job])
    (told,) = rig.job.told
    assert told.startswith(words)
    folder = rig.slurm.folder / "project/logs/slurm/rule_eval/demo_words_k1"
    assert rig.job.logs == [f"{folder}/77.log"]
    assert rig.job.attempt <= rig.job.restart_times


def test_what_a_job_that_ended_made_is_told_by_the_journals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run, pack = Path("results/e/t/k1"), Path("results/_packs/p1")
    (run / "shards").mkdir(parents=True)
    pack.mkdir(parents=True)
    members = {"schema_version": 1, "specs": [str(run / "spec.json")]}
    (pack / "members.json").write_text(json.dumps(members))
    records = [
        {"attempt": "1", "slurm_job": "5", "why": "time limit"},
        {"attempt": "2", "slurm_job": "6", "why": "time limit", "shard": "1-of-2"},
        {"attempt": "3", "slurm_job": "7", "why": "time limit"},
        {"attempt": "4", "slurm_job": "7", "why": "failed"},
    ]
    (run / "attempts.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    whole, shard = run / "summary.json", run / "shards/1-of-2.json"

    def stopped(job: str, output: Path, state: str = "FAILED") -> bool:
        return was_only_stopped(JobState(job, state), [output])

    assert stopped("5", whole) and stopped("5", pack / "report.json") and stopped("6", shard)
    assert not stopped("5", shard) and not stopped("6", whole)
    assert not stopped("7", whole), "it came back, and failed then"
    assert not any(stopped("5", whole, s) for s in ("CANCELLED", "TIMEOUT", "OUT_OF_MEMORY"))
    assert stopped("9", whole, "PREEMPTED") and not stopped("9", whole, "NODE_FAIL")
    (pack / "members.json").write_text("torn")
    assert not stopped("5", pack / "report.json")


@pytest.mark.parametrize("state", ["PREEMPTED", "FAILED"])
def test_a_job_that_was_only_stopped_goes_on_in_another_as_often_as_it_takes(
    rig: Rig, caplog: pytest.LogCaptureFixture, state: str
) -> None:
    why = "SIGTERM" if state == "PREEMPTED" else "time limit"
    journal = Path(rig.job.output[0]).with_name("attempts.jsonl")
    record = {"attempt": "1", "slurm_job": "77", "why": why, "chunks": 1}
    journal.write_text(json.dumps(record) + "\n")
    rig.submit()
    for count in range(1, 5):
        rig.wait(lambda count=count: len(rig.slurm.calls("sbatch")) == count)
        rig.slurm.say(("77", "RUNNING"))
        rig.polls()
        rig.slurm.say(("77", state))
    rig.wait(lambda: len(rig.slurm.calls("sbatch")) == 5)
    assert (rig.scheduler.failed, rig.job.attempt) == ([], 1)
    assert any("another job continues it" in line for line in logged(caplog, "77"))


def test_a_job_that_a_person_cancelled_is_not_tried_again(rig: Rig) -> None:
    rig.submit()
    rig.slurm.say(("77", "CANCELLED by 1000"))
    rig.wait(lambda: rig.scheduler.failed == [rig.job])
    (told,) = rig.job.told
    assert told.startswith("SLURM job 77: cancelled; this call does not submit it again. ")
    assert rig.job.attempt > rig.job.restart_times


def test_a_live_job_of_an_earlier_call_is_adopted(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    rig.slurm.say(("12", "RUNNING"))
    rig.submit()
    assert rig.slurm.calls("sbatch") == []
    line = "SLURM job 12 of an earlier snakemake continues; not submitted again"
    assert logged(caplog, "12") == [line]
    rig.polls()
    assert rig.scheduler.finished == []
    rig.slurm.say(("12", "COMPLETED"))
    rig.wait(lambda: rig.scheduler.finished == [rig.job])


def test_a_job_for_something_else_is_not_adopted(rig: Rig) -> None:
    rig.slurm.say(("12", "RUNNING"), comment="rule_eval_wildcards_demo_words_k2")
    rig.submit()
    assert rig.job.registered == "77"


def test_a_job_that_was_ending_already_is_waited_for_and_replaced(rig: Rig) -> None:
    rig.slurm.say(("12", "COMPLETING"))
    rig.submit()
    assert rig.job.registered == "12"
    rig.slurm.say(("12", "CANCELLED"))
    rig.wait(lambda: rig.job.registered == "77")
    assert rig.scheduler.failed == []
    assert rig.job.attempt == 1


def test_a_job_that_came_back_from_its_end_is_a_job_like_others(rig: Rig) -> None:
    rig.slurm.say(("12", "COMPLETING"))
    rig.submit()
    rig.slurm.say(("12", "PENDING"))
    rig.polls()
    rig.slurm.say(("12", "CANCELLED"))
    rig.wait(lambda: rig.scheduler.failed or rig.slurm.calls("sbatch"))
    assert rig.scheduler.failed == [rig.job]
    assert rig.job.told[0].startswith("SLURM job 12: cancelled; this call does not submit it")
    assert rig.slurm.calls("sbatch") == []


def test_nothing_is_submitted_again_once_the_call_ends(rig: Rig) -> None:
    rig.slurm.say(("12", "COMPLETING"))
    rig.submit()
    rig.executor._stop_submitting()
    rig.slurm.say(("12", "CANCELLED"))
    rig.wait(lambda: "12" in rig.executor._ended)
    rig.executor.shutdown()
    assert rig.scheduler.problems == []
    assert rig.slurm.calls("sbatch") == []


def test_a_second_attempt_does_not_adopt_the_first(rig: Rig) -> None:
    rig.submit()
    rig.slurm.say(("77", "TIMEOUT"))
    rig.wait(lambda: rig.scheduler.failed)
    # Where squeue is behind the truth.
    rig.slurm.say(("77", "RUNNING"))
    rig.submit()
    rig.wait(lambda: len(rig.slurm.calls("sbatch")) == 2)


@pytest.mark.parametrize("is_complete", [True, False])
def test_a_job_that_slurm_forgot_is_judged_by_the_mark_on_its_output(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, is_complete: bool
) -> None:
    monkeypatch.setattr("fastdllm.cluster.jobs.UNKNOWN_PATIENCE_S", 0.1)
    rig.submit()
    Path(rig.job.output[0]).touch()
    if is_complete:
        (rig.slurm.folder / "is_complete").touch()
    rig.wait(lambda: rig.scheduler.finished or rig.scheduler.failed)
    assert (rig.scheduler.finished == [rig.job]) is is_complete
    if not is_complete:
        assert rig.job.told[0].startswith("SLURM job 77: no longer known to SLURM. ")


def test_a_forgotten_job_that_never_began_is_not_taken_for_the_maker_of_an_earlier_result(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastdllm.cluster.jobs.UNKNOWN_PATIENCE_S", 0.1)
    (rig.slurm.folder / "is_complete").touch()
    Path(rig.job.output[0]).touch()
    os.utime(rig.job.output[0], (0, 0))
    Path(rig.job.input[0]).touch()  # as the workflow dates the spec of a run that is to be made
    rig.submit()
    rig.wait(lambda: rig.scheduler.finished or rig.scheduler.failed)
    assert rig.scheduler.failed == [rig.job]


@pytest.mark.parametrize("is_made", [True, False])
@pytest.mark.parametrize("state", ["RUNNING", "COMPLETED", "CANCELLED"])
@pytest.mark.parametrize("place", ["elsewhere", "project"])
def test_another_job_of_the_same_id_is_not_taken_for_ours(
    rig: Rig, state: str, place: str, is_made: bool
) -> None:
    rig.submit()
    rig.slurm.say(("77", "RUNNING"))
    rig.polls()
    # A look between the submission and the line above found no job, and asked.
    asked = rig.slurm.calls("sacct")
    Path(rig.job.output[0]).touch()
    if is_made:
        (rig.slurm.folder / "is_complete").touch()
    other = COMMENT if place == "elsewhere" else "rule_eval_wildcards_demo_words_k2"
    rig.slurm.say(("77", state), comment=other, place=place)
    rig.wait(lambda: rig.scheduler.finished or rig.scheduler.failed)
    assert (rig.scheduler.finished == [rig.job]) is is_made
    if not is_made:
        assert rig.job.told[0].startswith("SLURM job 77: no longer known to SLURM. ")
    assert rig.slurm.calls("sacct") == asked, "it would tell of the other job"


def test_a_lost_job_whose_id_the_next_one_got_leaves_that_alone(rig: Rig) -> None:
    rig.submit()
    lost, rig.job = rig.job, FakeJob(Path("other.json"))
    rig.job.wildcards = ("demo", "words", "k2")
    rig.submit()
    rig.slurm.say(("77", "RUNNING"), comment="rule_eval_wildcards_demo_words_k2")
    rig.wait(lambda: rig.scheduler.failed == [lost])
    rig.slurm.say(("77", "COMPLETED"), comment="rule_eval_wildcards_demo_words_k2")
    rig.wait(lambda: rig.scheduler.finished == [rig.job])


def test_an_outage_is_told_once_and_waited_out(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.submit()
    down = rig.slurm.break_down("squeue", "Unable to contact slurm controller\n")
    rig.polls()
    rig.polls()
    down.unlink()
    rig.slurm.say(("77", "COMPLETED"))
    rig.wait(lambda: rig.scheduler.finished == [rig.job])
    assert logged(caplog, "squeue") == [
        "squeue: Unable to contact slurm controller; jobs continue, trying again every 0 s"
    ]
    assert logged(caplog, "answers") == ["SLURM answers again"]


def test_an_interrupt_cancels_all_jobs_and_submits_no_more(rig: Rig) -> None:
    rig.slurm.say(("12", "RUNNING"))
    rig.submit()
    other = FakeJob(Path("other.json"))
    other.wildcards = ("demo", "words", "k2")
    down = rig.slurm.break_down("squeue", "no controller\n")
    rig.executor.run_jobs([other])
    rig.polls()
    rig.executor.cancel()
    down.unlink()
    assert rig.slurm.calls("scancel") == [f"--name={rig.executor.run_uuid}", "--name=x 12"]
    assert rig.slurm.calls("sbatch") == []
    assert rig.scheduler.problems == []
    assert not Path(rig.executor.tmpdir).exists()


def test_a_submission_that_an_interrupt_met_on_its_way_is_cancelled_as_well(rig: Rig) -> None:
    rig.submit()
    own = rig.executor.run_uuid
    rig.slurm.say(("77", "RUNNING", own), ("78", "PENDING", own), ("80", "RUNNING"))
    rig.executor.cancel()
    assert rig.slurm.calls("scancel") == [f"--name={own}"]


def test_jobs_that_outlive_the_call_find_the_folder_that_they_wait_for(rig: Rig) -> None:
    rig.submit()
    rig.slurm.say(("77", "PENDING"))
    rig.executor.shutdown()
    assert Path(rig.executor.tmpdir).is_dir()
    assert rig.slurm.calls("scancel") == []


# A failed.json, of a time that is still to come.
MISTAKE = {
    "reason": "out of luck",
    "is_mistake": True,
    "slurm_job": "77",
    "time": "9000-01-01T00:00:00+00:00",
}


@pytest.mark.parametrize("shard", [None, "1-of-2"])
def test_a_mistake_that_is_to_be_mended_first_is_not_tried_again(
    rig: Rig, shard: str | None
) -> None:
    folder = Path(rig.job.output[0]).parent
    name = "failed.json" if shard is None else f"shards/{shard}.failed.json"
    if shard is not None:
        rig.job.output = [str(folder / f"shards/{shard}.json")]
        (folder / "shards").mkdir()
    reason = "task 'words': no max_gen_toks"
    (folder / name).write_text(json.dumps(MISTAKE | {"reason": reason}))
    rig.submit()
    rig.slurm.say(("77", "FAILED"))
    rig.wait(lambda: rig.scheduler.failed == [rig.job])
    assert rig.job.told[0].startswith(
        "SLURM job 77: failed (task 'words': no max_gen_toks); this call does not submit it again. "
    )
    assert rig.job.attempt > rig.job.restart_times


@pytest.mark.parametrize(
    "other", [{"is_mistake": False}, {"slurm_job": "76"}, {"time": "2020-01-01T00:00:00+00:00"}]
)
def test_what_is_no_mistake_or_not_of_this_job_may_be_tried_again(
    rig: Rig, other: dict[str, object]
) -> None:
    path = Path(rig.job.output[0]).with_name("failed.json")
    path.write_text(json.dumps(MISTAKE | other))
    rig.submit()
    rig.slurm.say(("77", "FAILED"))
    rig.wait(lambda: rig.scheduler.failed == [rig.job])
    assert rig.job.attempt <= rig.job.restart_times


@pytest.mark.parametrize("state", ["NODE_FAIL", "BOOT_FAIL", "FAILED"])
def test_a_node_that_failed_is_left_out_from_then_on(rig: Rig, state: str) -> None:
    rig.submit()
    rig.slurm.say(("77", "RUNNING"), node="gpu-7")
    rig.polls()
    rig.slurm.say(("77", state))
    rig.wait(lambda: rig.scheduler.failed == [rig.job])
    rig.submit()
    rig.wait(lambda: len(rig.slurm.calls("sbatch")) == 2)
    first, second = rig.slurm.calls("sbatch")
    assert "--exclude" not in first
    assert (" --exclude=gpu-7 " in second) is (state != "FAILED")
