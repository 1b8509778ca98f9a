"""Why jobs wait, and which of them a person is told about."""

from __future__ import annotations

import pytest

from fastdllm.cluster.jobs import JobFollower
from fastdllm.cluster.slurm import Job
from fastdllm.cluster.states import waiting_reason
from fastdllm.workflow.status.queue import reason_in_words


@pytest.mark.parametrize(
    ("state", "reason", "words"),
    [
        (
            *("PENDING", "launch_failed_requeued_held"),
            "held, as SLURM could not start it: scontrol release 12",
        ),
        ("REQUEUE_HOLD", "BeginTime", "held after a failure: scontrol release 12"),
        ("PENDING", "BadConstraints", "waits forever, as no node has what it asks for"),
        ("PENDING", "QOSMaxMemoryPerJob", "asks for more memory than the QOS allows"),
    ],
)
def test_status_and_main_process_tell_the_same_of_jobs_that_need_a_person(
    state: str, reason: str, words: str
) -> None:
    job = Job("12", state, reason)
    assert reason_in_words(job) == words
    follower = JobFollower(lambda _: {})
    follower.ended(["12"], [job], 0.0)
    (line,) = follower.notices(["12"], [job])
    assert line.startswith(f"SLURM job 12 does not start: {words.partition(':')[0]}; ")


@pytest.mark.parametrize("reason", ["Priority", "QOSMaxJobsPerUserLimit", "Dragons", ""])
def test_others_start_by_themselves(reason: str) -> None:
    assert not waiting_reason("PENDING", reason).needs_person
