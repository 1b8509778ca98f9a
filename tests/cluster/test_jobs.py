"""Which SLURM job works on what, and how jobs end, poll by poll; no clock, no SLURM."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from fastdllm.cluster.jobs import (
    COMPLETING_PATIENCE_S,
    GONE,
    SECOND_LOOK_S,
    UNKNOWN_PATIENCE_S,
    JobFollower,
    comment_of,
    end_in_words,
    live_jobs,
    may_hold,
)
from fastdllm.cluster.slurm import LIVE, Job, JobState
from tests.support.fakes import FakeAccounts

VALUES = ("00_baseline", "words", "k1_first")
COMMENT = "rule_eval_wildcards_00_baseline_words_k1_first"


def test_the_comment_is_the_one_of_the_plugin() -> None:
    assert comment_of("eval", VALUES) == COMMENT
    assert comment_of("shard", (*VALUES, "1/2")) == f"rule_shard_wildcards_{'_'.join(VALUES)}_1_2"
    assert comment_of("train") == "rule_train"


def test_only_live_jobs_of_this_folder_count(tmp_path: Path) -> None:
    jobs = [
        Job(id="1", state="CANCELLED", comment=COMMENT, work_dir=str(tmp_path)),
        Job(id="2", state="RUNNING", comment=COMMENT, work_dir=str(tmp_path / "other")),
        Job(id="3", state="RUNNING", comment="", work_dir=str(tmp_path)),
        Job(id="4", state="PENDING", comment=COMMENT, work_dir=str(tmp_path)),
    ]
    assert live_jobs(jobs, tmp_path) == {COMMENT: jobs[3]}


def test_a_folder_has_several_names(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    job = Job(id="1", state="RUNNING", comment=COMMENT, work_dir=str(tmp_path / "link"))
    assert live_jobs([job], tmp_path / "real") == {COMMENT: job}


BEGUN = "2026-11-29T12:00:00+00:00"


def local(hour: int) -> str:
    """A time on the day of BEGUN as squeue prints it."""
    return datetime(2026, 11, 29, hour, tzinfo=UTC).astimezone().replace(tzinfo=None).isoformat()


@pytest.mark.parametrize(
    ("values", "is_possible"),
    [
        ({"state": "RUNNING"}, True),
        ({"state": "RUNNING", "start": local(11)}, True),
        ({"state": "COMPLETING", "start": local(11)}, True),
        # The id was given anew, or the job started once more, after the process began.
        ({"state": "RUNNING", "start": local(13)}, False),
        ({"state": "PENDING"}, False),
        ({"state": "COMPLETED"}, False),
    ],
)
def test_an_id_alone_does_not_show_where_a_process_works(
    values: dict[str, str], is_possible: bool
) -> None:
    assert may_hold(Job("1", **values), since=BEGUN) is is_possible
    assert may_hold(Job("1", **values), since="") is (values["state"] in ("RUNNING", "COMPLETING"))


@pytest.mark.parametrize("order", [1, -1])
def test_of_two_jobs_the_one_that_runs_counts_then_the_older(order: int) -> None:
    nine, ten, eleven = (
        Job(id=i, state=s, comment=COMMENT, work_dir="/p")
        for i, s in (("9", "PENDING"), ("10", "PENDING"), ("11", "RUNNING"))
    )
    assert live_jobs([nine, ten, eleven][::order], Path("/p")) == {COMMENT: eleven}
    assert live_jobs([nine, ten][::order], Path("/p")) == {COMMENT: nine}


def job(state: str, **values: object) -> Job:
    return Job(id="1", state=state, **values)  # type: ignore[arg-type]


def states(follower: JobFollower, *polls: tuple[float, list[Job]]) -> list[str | None]:
    """What each poll says about job 1: the state it ended in, or None."""
    found = []
    for now_s, queue in polls:
        ending = follower.ended(["1"], queue, now_s).get("1")
        found.append(ending.state if ending else None)
    return found


@pytest.mark.parametrize("state", sorted(LIVE))
def test_a_live_job_goes_on(state: str) -> None:
    accounts = FakeAccounts()
    polls = [(t, [job(state)]) for t in (0.0, 10.0, 300.0)]
    assert states(JobFollower(accounts), *polls) == [None] * 3
    assert accounts.calls == 0


@pytest.mark.parametrize(
    "state",
    [
        *("COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE"),
        *("REVOKED", "A_STATE_OF_THE_FUTURE"),
    ],
)
def test_any_other_state_is_the_end(state: str) -> None:
    assert states(JobFollower(FakeAccounts()), (0.0, [job(state)])) == [state]


@pytest.mark.parametrize("state", ["PREEMPTED", "NODE_FAIL"])
def test_a_state_on_the_way_back_into_the_queue_is_looked_at_twice(state: str) -> None:
    follower = JobFollower(FakeAccounts())
    late = 10.0 + SECOND_LOOK_S
    polls = [(0.0, [job(state)]), (1.0, [job("PENDING")]), (10.0, [job(state)])]
    assert states(follower, *polls, (late, [job(state)])) == [None, None, None, state]


def test_a_job_that_left_squeue_is_looked_up_at_once() -> None:
    accounts = FakeAccounts(JobState("1", "COMPLETED", 0))
    assert states(JobFollower(accounts), (0.0, [])) == ["COMPLETED"]
    accounts = FakeAccounts(JobState("1", "PREEMPTED", 0))
    assert states(JobFollower(accounts), (0.0, [])) == ["PREEMPTED"]


def test_one_call_of_sacct_serves_all_jobs() -> None:
    accounts = FakeAccounts(JobState("1", "FAILED", 2), JobState("2", "COMPLETED", 0))
    ends = JobFollower(accounts).ended(["1", "2", "3"], [], 0.0)
    assert ends == {"1": JobState("1", "FAILED", 2), "2": JobState("2", "COMPLETED", 0)}
    assert accounts.calls == 1
    assert end_in_words(ends["1"]) == "failed (exit code 2)"


@pytest.mark.parametrize("account", [None, JobState("1", "RUNNING", 0)])
@pytest.mark.parametrize("is_down", [False, True])
def test_a_job_that_nobody_knows_is_given_up(account: JobState | None, is_down: bool) -> None:
    accounts = FakeAccounts(*([account] if account else []))
    accounts.is_down = is_down
    before, after = 100.0 + UNKNOWN_PATIENCE_S - 1, 100.0 + UNKNOWN_PATIENCE_S
    polls = [(100.0, []), (before, []), (after, [])]
    assert states(JobFollower(accounts), *polls) == [None, None, GONE]


def test_a_job_that_comes_back_was_never_gone() -> None:
    late = UNKNOWN_PATIENCE_S * 2
    polls = [(0.0, []), (10.0, [job("RUNNING")]), (late, []), (late + 10, [])]
    assert states(JobFollower(FakeAccounts()), *polls) == [None] * 4


def test_a_job_that_does_not_get_through_with_its_end_is_given_up() -> None:
    polls = [(0.0, [job("COMPLETING")]), (COMPLETING_PATIENCE_S, [job("COMPLETING")])]
    assert states(JobFollower(FakeAccounts()), *polls) == [None, "COMPLETING"]
    accounts = FakeAccounts(JobState("1", "COMPLETED", 0))
    assert states(JobFollower(accounts), *polls) == [None, "COMPLETED"]


def test_only_the_jobs_asked_for_are_told() -> None:
    follower = JobFollower(FakeAccounts())
    queue = [job("FAILED"), Job(id="2", state="RUNNING", reason="JobHeldUser", restarts=3)]
    assert follower.ended([], queue, 0.0) == {}
    assert follower.notices([], queue) == []


def test_a_return_to_the_queue_is_told_once() -> None:
    follower = JobFollower(FakeAccounts())
    notices = []
    for restarts in (0, 1, 1, 2):
        queue = [job("PENDING", restarts=restarts)]
        follower.ended(["1"], queue, 0.0)
        notices.append(follower.notices(["1"], queue))
    line = "SLURM put job 1 back into the queue; it resumes from there"
    assert notices == [[], [line], [], [line]]


def test_the_past_of_an_adopted_job_is_no_news() -> None:
    follower = JobFollower(FakeAccounts())
    queue = [job("RUNNING", restarts=2)]
    follower.adopt(queue[0], 0.0)
    follower.ended(["1"], queue, 1.0)
    assert follower.notices(["1"], queue) == []


@pytest.mark.parametrize(
    "held",
    [
        job("PENDING", reason="JobHeldAdmin"),
        job("PENDING", reason="launch_failed_requeued_held"),
        job("REQUEUE_HOLD"),
        job("SPECIAL_EXIT"),
    ],
)
def test_a_job_that_waits_for_a_person_is_told_once(held: Job) -> None:
    follower = JobFollower(FakeAccounts())
    notices = []
    for _ in range(3):
        follower.ended(["1"], [held], 0.0)
        notices += follower.notices(["1"], [held])
    (line,) = notices
    assert line.startswith("SLURM job 1 does not start: ")
    assert "`scontrol release 1`" in line


def test_waiting_for_its_turn_is_not_told() -> None:
    follower = JobFollower(FakeAccounts())
    queue = [job("PENDING", reason="Priority")]
    follower.ended(["1"], queue, 0.0)
    assert follower.notices(["1"], queue) == []


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("CANCELLED", "cancelled"),
        ("TIMEOUT", "stopped by its time limit"),
        ("NODE_FAIL", "its node failed"),
        (GONE, "no longer known to SLURM"),
        ("A_STATE_OF_THE_FUTURE", "ended as A_STATE_OF_THE_FUTURE"),
    ],
)
def test_an_ending_is_told_in_words(state: str, words: str) -> None:
    assert end_in_words(JobState("1", state)) == words
