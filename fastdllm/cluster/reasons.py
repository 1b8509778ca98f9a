"""Why a job waits, in words: SLURM's reasons, as people meet them.

One table for `fastdllm status` and for the main process, which tells of those that need a person.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a job waits.

    fix: what to type, with {id} for the job; may be empty.
    needs_person: whether it does not start until a person does something.
    """

    words: str
    fix: str = ""
    needs_person: bool = False


_REASONS = {
    "": Reason("waits to be looked at"),
    "Priority": Reason("waits behind jobs of higher priority"),
    "Resources": Reason("waits for free resources"),
    "BeginTime": Reason("waits for its begin time"),
    "Dependency": Reason("waits for another job"),
    "DependencyNeverSatisfied": Reason(
        "waits for ever, as its dependency failed", "scancel {id}", needs_person=True
    ),
    "JobHeldUser": Reason("held by its owner", "scontrol release {id}", needs_person=True),
    "JobHeldAdmin": Reason("held by SLURM or an administrator", needs_person=True),
    "JobHoldMaxRequeue": Reason(
        "held after too many requeues", "scontrol release {id}", needs_person=True
    ),
    "launch failed requeued held": Reason(
        "held, as SLURM could not start it", "scontrol release {id}", needs_person=True
    ),
    "QOSMaxJobsPerUserLimit": Reason("the QOS lets no more of your jobs run at a time"),
    "QOSMaxSubmitJobPerUserLimit": Reason("the QOS takes no more of your jobs"),
    "QOSMaxWallDurationPerJobLimit": Reason(
        "asks for more time than the QOS gives", needs_person=True
    ),
    "QOSMaxGRESPerUser": Reason("the QOS gives you no more GPUs at a time"),
    "QOSMaxGRESPerJob": Reason("asks for more GPUs than the QOS gives", needs_person=True),
    "QOSMaxMemoryPerJob": Reason("asks for more memory than the QOS gives", needs_person=True),
    "QOSNotAllowed": Reason("the partition does not take this QOS", needs_person=True),
    "AssocGrpBillingMinutes": Reason("the budget of the account is used up", needs_person=True),
    "AssocGrpGRESMinutes": Reason("the account's budget of GPU time is used up", needs_person=True),
    "InvalidAccount": Reason("the account is not valid any more", needs_person=True),
    "InvalidQOS": Reason("the QOS is not valid any more", needs_person=True),
    "BadConstraints": Reason("waits for ever, as no node has what it asks for", needs_person=True),
    "PartitionTimeLimit": Reason("asks for more time than the partition gives", needs_person=True),
    "PartitionNodeLimit": Reason("asks for more nodes than the partition gives", needs_person=True),
    "PartitionDown": Reason("the partition is down"),
    "PartitionInactive": Reason("the partition is switched off"),
    "ReqNodeNotAvail": Reason("its nodes are down, or reserved"),
    "Reservation": Reason("waits for its reservation"),
    "NodeDown": Reason("its node is down"),
    "Licenses": Reason("waits for a licence"),
}
# Of a job that is held by its state, whatever its reason is.
_HELD_STATES = ("REQUEUE_HOLD", "SPECIAL_EXIT")
_HELD = Reason("held after a failure", "scontrol release {id}", needs_person=True)


def reason_of(state: str, reason: str) -> Reason:
    """The reason for which a job waits; one that the table lacks is told by SLURM's own word."""
    if state in _HELD_STATES:
        return _HELD
    # squeue adds details behind a comma, and writes some reasons with an underscore.
    name = reason.partition(",")[0].strip().replace("_", " ")
    kind = {"QOS": "a limit of the QOS", "Ass": "a limit of the account"}.get(name[:3], "waits")
    return _REASONS.get(name) or Reason(f"{kind} ({name})")
