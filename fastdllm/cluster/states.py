"""SLURM's words for how a job ended and why one waits, in plain English.

`fastdllm status` and the executor plugin both read these tables.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EndState:
    """How a job ended. resumes: whether the same command continues; otherwise it fails again."""

    words: str
    resumes: bool


# The states that say why a job ended. FAILED says nothing: its log and its exit code do.
END_STATES = {
    "CANCELLED": EndState("cancelled", resumes=True),
    "TIMEOUT": EndState("stopped by its time limit", resumes=True),
    "DEADLINE": EndState("stopped by its deadline", resumes=True),
    "PREEMPTED": EndState("preempted, and not queued again", resumes=True),
    "NODE_FAIL": EndState("its node failed", resumes=True),
    "BOOT_FAIL": EndState("its node did not start", resumes=True),
    "REQUEUED": EndState("put back into the queue, and gone from there", resumes=True),
    "OUT_OF_MEMORY": EndState("out of memory (the job's, not the GPU's)", resumes=False),
}


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a job waits.

    fix: the command that helps, with {id} for the job; may be empty.
    needs_person: whether it will not start until a person does something.
    """

    words: str
    fix: str = ""
    needs_person: bool = False


_REASONS = {
    "": Reason("waits for the scheduler"),
    "Priority": Reason("waits behind jobs of higher priority"),
    "Resources": Reason("waits for free resources"),
    "BeginTime": Reason("waits for its begin time"),
    "Dependency": Reason("waits for another job"),
    "DependencyNeverSatisfied": Reason(
        "waits forever, as its dependency failed", "scancel {id}", needs_person=True
    ),
    "JobHeldUser": Reason("held by its owner", "scontrol release {id}", needs_person=True),
    "JobHeldAdmin": Reason("held by SLURM or an administrator", needs_person=True),
    "JobHoldMaxRequeue": Reason(
        "held after too many requeues", "scontrol release {id}", needs_person=True
    ),
    "launch failed requeued held": Reason(
        "held, as SLURM could not start it", "scontrol release {id}", needs_person=True
    ),
    "QOSMaxJobsPerUserLimit": Reason("your running jobs have reached the limit of the QOS"),
    "QOSMaxSubmitJobPerUserLimit": Reason("your jobs have reached the limit of the QOS"),
    "QOSMaxWallDurationPerJobLimit": Reason(
        "asks for more time than the QOS allows", needs_person=True
    ),
    "QOSMaxGRESPerUser": Reason("your jobs use all the GPUs that the QOS allows"),
    "QOSMaxGRESPerJob": Reason("asks for more GPUs than the QOS allows", needs_person=True),
    "QOSMaxMemoryPerJob": Reason("asks for more memory than the QOS allows", needs_person=True),
    "QOSNotAllowed": Reason("the partition does not allow this QOS", needs_person=True),
    "AssocGrpBillingMinutes": Reason("the budget of the account is used up", needs_person=True),
    "AssocGrpGRESMinutes": Reason("the account's budget of GPU time is used up", needs_person=True),
    "InvalidAccount": Reason("the account is no longer valid", needs_person=True),
    "InvalidQOS": Reason("the QOS is no longer valid", needs_person=True),
    "BadConstraints": Reason("waits forever, as no node has what it asks for", needs_person=True),
    "PartitionTimeLimit": Reason("asks for more time than the partition allows", needs_person=True),
    "PartitionNodeLimit": Reason(
        "asks for more nodes than the partition allows", needs_person=True
    ),
    "PartitionDown": Reason("the partition is down"),
    "PartitionInactive": Reason("the partition is switched off"),
    "ReqNodeNotAvail": Reason("its nodes are down, or reserved"),
    "Reservation": Reason("waits for its reservation"),
    "NodeDown": Reason("its node is down"),
    "Licenses": Reason("waits for a licence"),
}
# States in which a job is held, whatever its reason.
_HELD_STATES = ("REQUEUE_HOLD", "SPECIAL_EXIT")
_HELD = Reason("held after a failure", "scontrol release {id}", needs_person=True)


def waiting_reason(state: str, reason: str) -> Reason:
    """Return why a job waits; a reason that is not in the table keeps SLURM's own word."""
    if state in _HELD_STATES:
        return _HELD
    # squeue adds details behind a comma, and writes some reasons with an underscore.
    name = reason.partition(",")[0].strip().replace("_", " ")
    kind = {"QOS": "a limit of the QOS", "Ass": "a limit of the account"}.get(name[:3], "waits")
    return _REASONS.get(name) or Reason(f"{kind} ({name})")
