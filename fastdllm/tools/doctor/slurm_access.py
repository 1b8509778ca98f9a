"""Checks of SLURM: can jobs be submitted, on which account and GPUs; and the current job."""

from __future__ import annotations

import os
import shutil
import time

from fastdllm.cluster.checks import associations, partitions
from fastdllm.cluster.site import ClusterOptions
from fastdllm.cluster.slurm import SlurmError, ask
from fastdllm.tools.doctor.finding import PATIENCE_S, DoctorFinding, ok, problem, warn


def look_at_slurm(options: ClusterOptions) -> list[DoctorFinding]:
    """Commands, controller, account, QOS and partitions; options: of workflow_config.yaml."""
    lacking = [name for name in ("sbatch", "squeue") if shutil.which(name) is None]
    if len(lacking) == 2:
        return [ok("slurm", "none here: runs go through profiles/local"), *_this_job()]
    if lacking:
        return [problem("slurm", f"no {lacking[0]} here", "log in to another node of the cluster")]
    try:
        ask("squeue", "--noheader", "--me", "--format=%i", patience_s=PATIENCE_S)
    except SlurmError as error:
        # The last of several error lines is the result of the others.
        answer = str(error).rpartition("squeue: ")[2]
        return [
            warn("slurm", f"squeue: {answer}", "jobs cannot be submitted until it answers"),
            *_this_job(),
        ]
    findings = [ok("slurm", "the controller answers"), *_this_job()]
    try:
        findings += account_findings(associations(patience_s=PATIENCE_S), options)
    except SlurmError as error:
        findings += _not_asked("account", error)
    try:
        findings += partition_findings(partitions(patience_s=PATIENCE_S), options)
    except SlurmError as error:
        findings += _not_asked("partition", error)
    return findings


def _not_asked(name: str, error: SlurmError) -> list[DoctorFinding]:
    if "accounting_storage" in str(error):
        return [ok(name, "the cluster keeps no accounts")]
    fix = "ask again later; until then nothing is checked before jobs are submitted"
    return [warn(name, f"could not be asked: {error}", fix)]


def account_findings(allowed: dict[str, set[str]], options: ClusterOptions) -> list[DoctorFinding]:
    """Check account and QOS of workflow_config.yaml against those that this user may use.

    allowed: QOS by account; empty if the cluster keeps no accounts.
    """
    if not allowed:
        return [ok("account", "the cluster lists no accounts of yours")]
    listed = ", ".join(sorted(allowed))
    if options.account is None:
        return [
            warn(
                "account",
                f"none chosen; yours: {listed}",
                "set cluster: account: in workflow_config.yaml",
            )
        ]
    # SLURM writes accounts in lower case and accepts them in any.
    qos = allowed.get(options.account.lower())
    if qos is None:
        text = f"{options.account!r} is none of yours: {listed}"
        return [problem("account", text, "set cluster: account: in workflow_config.yaml")]
    may_use = f"{options.account}, QOS {', '.join(sorted(qos)) or 'as they come'}"
    if options.qos is not None and qos and options.qos not in qos:
        return [
            problem(
                "account",
                f"{may_use}; not {options.qos!r}",
                "set cluster: qos: in workflow_config.yaml",
            )
        ]
    return [ok("account", may_use)]


def partition_findings(gpus: dict[str, set[str]], options: ClusterOptions) -> list[DoctorFinding]:
    """Check the partition asked for, and list the GPUs of each partition."""
    with_gpus = {name: kinds for name, kinds in gpus.items() if kinds}
    shown = "; ".join(
        f"{name}: {', '.join(sorted(kinds))}" for name, kinds in sorted(with_gpus.items())
    )
    wanted = options.partition
    if wanted is not None and gpus and not set(wanted.split(",")) <= set(gpus):
        text = f"{wanted!r} is not here; with GPUs are {shown or 'none'}"
        return [problem("partition", text, "set cluster: partition: in workflow_config.yaml")]
    return [ok("partition", shown)] if shown else []


def _this_job() -> list[DoctorFinding]:
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return []
    text = f"{job} on {os.environ.get('SLURMD_NODENAME', 'this node')}"
    end = os.environ.get("SLURM_JOB_END_TIME", "")
    if end.isdigit():
        text += f", {max(0, int(end) - time.time()) / 60:.0f} min left"
    return [ok("job", text)]
