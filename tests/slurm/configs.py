"""The configuration files of a lab: a small PACE on one machine, with made-up GPUs.

Nodes share this host and differ by port; they pretend to have more processors and memory than it
has. No cgroups and no systemd, so that a container is enough.
"""

from __future__ import annotations

import getpass
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Node:
    """A made-up compute node: two GPUs of one kind."""

    name: str
    gpu: str
    n_gpus: int = 2

    @property
    def gres(self) -> str:
        return f"gpu:{self.gpu}:{self.n_gpus}"


NODES = (Node("g1", "RTX_6000"), Node("g2", "RTX_6000"), Node("g3", "V100"))
# The first is the default.
PARTITIONS = {"gpu-rtx6000": "g1,g2", "gpu-v100": "g3", "cpu-small": "g1,g2,g3"}
ACCOUNTS = ("gts-lab", "gts-lab-paid")
# Seconds that a process has between SIGTERM and SIGKILL; SLURM's own default is 30.
KILL_WAIT_S = 10
# A requeued job starts this many seconds later, plus one; the default is 120.
REQUEUE_AFTER_S = 5

SLURM = """\
ClusterName=lab
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire={requeue_after}
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
MpiDefault=none
SwitchType=switch/none
SchedulerType=sched/backfill
# A job starts as soon as it is there, and the next one as soon as a GPU is free.
SchedulerParameters=batch_sched_delay=0,sched_interval=2,sched_min_interval=0,bf_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
SlurmdParameters=config_overrides
ReturnToService=2
# Tests look at jobs that ended long ago, on a busy machine.
MinJobAge=3600
KillWait={kill_wait}
# A slow machine is no dead node: tests say themselves when a node is down.
SlurmdTimeout=300
SlurmctldTimeout=300
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={database_port}
AccountingStoragePass={folder}/munge.socket
AccountingStorageEnforce=associations,limits,qos
AccountingStorageTRES=gres/gpu
PriorityType=priority/multifactor
PriorityWeightQOS=1000
PreemptType=preempt/qos
PreemptMode=REQUEUE
"""
NODE = """\
NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=16 RealMemory=256000 \
Gres={gres} State=UNKNOWN
"""
PARTITION = """\
PartitionName={name} Nodes={nodes} Default={default} MaxTime=3-00:00:00 DefaultTime=60 \
DefMemPerCPU=512 State=UP
"""
GRES = "NodeName={name} Name=gpu Type={gpu} File={folder}/dev/{name}-[0-{last}] AutoDetect=off\n"
SLURMDBD = """\
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={database_port}
SlurmUser={user}
LogFile={folder}/log/slurmdbd.log
PidFile={folder}/run/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser={user}
StorageLoc=accounting
"""
MARIADB = """\
[mariadbd]
datadir={folder}/database
socket={folder}/database.socket
# Two labs that start together would meet in /tmp.
tmpdir={folder}/run
pid-file={folder}/run/mariadbd.pid
user={user}
# Reached by the socket alone, which lies in a private folder.
skip-networking
skip-grant-tables
innodb-buffer-pool-size=64M
innodb-log-file-size=16M
innodb-lock-wait-timeout=900
# The lab lives for minutes: no waiting for a disk.
innodb-flush-log-at-trx-commit=0
innodb-doublewrite=0
"""


def write_configs(folder: Path, ports: Iterable[int]) -> None:
    """Write etc/ of a lab; takes a port for the controller, the accounting and each node."""
    numbers = iter(ports)
    words = {
        "folder": folder,
        "host": socket.gethostname().partition(".")[0],
        "user": getpass.getuser(),
        "controller_port": next(numbers),
        "database_port": next(numbers),
        "kill_wait": KILL_WAIT_S,
        "requeue_after": REQUEUE_AFTER_S,
    }
    slurm = SLURM.format(**words)
    gres = ""
    for node in NODES:
        slurm += NODE.format(name=node.name, gres=node.gres, port=next(numbers), **words)
        gres += GRES.format(name=node.name, gpu=node.gpu, last=node.n_gpus - 1, **words)
        for index in range(node.n_gpus):
            # SLURM wants a device, and looks no closer.
            (folder / "dev" / f"{node.name}-{index}").symlink_to("/dev/null")
    for name, nodes in PARTITIONS.items():
        default = "YES" if name == next(iter(PARTITIONS)) else "NO"
        slurm += PARTITION.format(name=name, nodes=nodes, default=default)
    files = {
        "slurm.conf": slurm,
        "gres.conf": gres,
        "cgroup.conf": "CgroupAutomount=no\n",
        "slurmdbd.conf": SLURMDBD.format(**words),
        "mariadb.cnf": MARIADB.format(**words),
    }
    for name, text in files.items():
        path = folder / "etc" / name
        path.touch(mode=0o600)
        path.write_text(text)
