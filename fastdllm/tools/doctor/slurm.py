"""SLURM from here: can jobs be submitted, charged to whom, on which GPUs; and the job we are in."""

from __future__ import annotations

import os
import shutil
import time

from fastdllm.cluster.checks import associations, partitions
from fastdllm.cluster.site import ClusterOptions
from fastdllm.cluster.slurm import SlurmError, ask
from fastdllm.tools.doctor.findings import PATIENCE_S, Finding, ok, problem, warn


def look_at_slurm(options: ClusterOptions) -> list[Finding]:
    """Commands, controller, account, QOS and partitions; options: of workflow_config.yaml."""
    lacking = [name for name in ("sbatch", "squeue") if shutil.which(name) is None]
    if len(lacking) == 2:
        return [ok("slurm", "none here: runs go through profiles/local"), *_this_job()]
    if lacking:
        return [problem("slurm", f"no {lacking[0]} here", "log in to another node of the cluster")]
    try:
        ask("squeue", "--noheader", "--me", "--format=%i", patience_s=PATIENCE_S)
    except SlurmError as error:
        # The last of several complaints is what the others led to.
        told = str(error).rpartition("squeue: ")[2]
        return [
            warn("slurm", f"squeue: {told}", "jobs cannot be submitted while it is silent"),
            *_this_job(),
        ]
    findings = [ok("slurm", "the controller answers"), *_this_job()]
    findings += account_findings(associations(patience_s=PATIENCE_S), options)
    return findings + partition_findings(partitions(patience_s=PATIENCE_S), options)


def account_findings(allowed: dict[str, set[str]], options: ClusterOptions) -> list[Finding]:
    """Account and QOS of workflow_config.yaml against those that this user may use.

    allowed: QOS by account; empty where the cluster keeps no accounts.
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
    # SLURM writes accounts in small letters and takes them in any.
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


def partition_findings(there: dict[str, set[str]], options: ClusterOptions) -> list[Finding]:
    """The GPUs that can be had, by partition, against the partition that was asked for."""
    with_gpus = {name: kinds for name, kinds in there.items() if kinds}
    shown = "; ".join(
        f"{name}: {', '.join(sorted(kinds))}" for name, kinds in sorted(with_gpus.items())
    )
    wanted = options.partition
    if wanted is not None and there and not set(wanted.split(",")) <= set(there):
        text = f"{wanted!r} is not here; with GPUs are {shown or 'none'}"
        return [problem("partition", text, "set cluster: partition: in workflow_config.yaml")]
    return [ok("partition", shown)] if shown else []


def _this_job() -> list[Finding]:
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return []
    text = f"{job} on {os.environ.get('SLURMD_NODENAME', 'this node')}"
    end = os.environ.get("SLURM_JOB_END_TIME", "")
    if end.isdigit():
        text += f", {max(0, int(end) - time.time()) / 60:.0f} min left"
    return [ok("job", text)]
