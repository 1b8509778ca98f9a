"""A real SLURM of three nodes on this machine, with accounts, QOS and preemption.

`python -m tests.slurm` starts one to try things by hand.
"""

from __future__ import annotations

import getpass
import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.slurm import supervisor
from tests.slurm.configs import ACCOUNTS, NODES, write_configs
from tests.slurm.daemons import (
    Daemons,
    clean_up_the_dead,
    kill,
    new_folder,
    processes_in,
)
from tests.slurm.packages import program
from tests.slurm.ports import reserved_ports

# Ends a hang; what is waited for takes seconds, on a busy machine some more.
PATIENCE_S = 300.0
# Variables of the session around the lab that commands in it must not see.
FOREIGN = ("SLURM", "SBATCH", "SALLOC", "SNAKEMAKE", "PYTEST", "FASTDLLM")
ACCOUNTING = """\
add cluster lab
add qos embers Priority=0 MaxWall=8:00:00 MaxSubmitJobsPerUser=50 PreemptMode=requeue
add qos inferno Priority=250000 MaxJobsPerUser=500 Preempt=embers
add account {accounts} Cluster=lab Description=lab Organization=gt
add user {user} Account={accounts} QOS=inferno,embers DefaultQOS=inferno
"""


@dataclass(frozen=True)
class Lab:
    """A running SLURM; `start` makes one.

    environment: what a command needs to talk to it (SLURM_CONF), and nothing of any other SLURM.
    """

    folder: Path
    environment: dict[str, str]
    daemons: Daemons

    @classmethod
    def start(cls) -> Lab:
        """Start a SLURM, which takes some seconds; return when all nodes are idle."""
        clean_up_the_dead()
        folder = new_folder()
        kept = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN)}
        environment = kept | {
            "SLURM_CONF": str(folder / "etc/slurm.conf"),
            "MYSQL_UNIX_PORT": str(folder / "database.socket"),
            # Answers of squeue are cached there.
            "XDG_CACHE_HOME": str(folder / "cache"),
        }
        client = environment | {supervisor.CLIENT: str(folder)}
        with reserved_ports() as ports:
            lab = cls(folder, client, Daemons(folder, environment, ports))
        try:
            write_configs(folder, ports.numbers)
            lab._start_daemons()
        except BaseException:
            lab.stop()
            raise
        return lab

    def stop(self) -> None:
        """End everything; the folder is removed."""
        self.daemons.end()

    def run(
        self, *command: str | Path, cwd: Path | None = None, timeout: float = PATIENCE_S
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in this SLURM, capture its output, leave its exit code to the caller."""
        words = [str(word) for word in command]
        with subprocess.Popen(
            words,
            cwd=cwd or self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                out, err = process.communicate(timeout=timeout)
            except BaseException:
                # With what it started: a Snakemake would go on to submit jobs.
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                raise
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def ask(self, *command: str | Path) -> str:
        """Return what a command of SLURM prints; it has to succeed."""
        done = self.run(*command)
        if done.returncode:
            self.daemons.check()
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def submit(self, script: str, *options: str, account: str = ACCOUNTS[0]) -> str:
        """Submit a line of shell as a job, and return its id."""
        log = self.folder / "log/job-%j.out"
        words = ("sbatch", "--parsable", f"--account={account}", f"--output={log}", *options)
        return self.ask(*words, f"--wrap={script}")

    def jobs(self) -> dict[str, dict[str, str]]:
        """Return what SLURM still knows, by job: state, reason, node, comment, restarts, folder."""
        fields = "JobID:|,State:|,Reason:|,NodeList:|,Comment:200|,RestartCnt:|,WorkDir:300"
        rows = self.ask("squeue", "--noheader", "--states=all", "-O", fields).splitlines()
        keys = ("id", "state", "reason", "node", "comment", "restarts", "folder")
        found = [dict(zip(keys, map(str.strip, row.split("|")), strict=True)) for row in rows]
        return {job["id"]: job for job in found}

    def state(self, job: str) -> str:
        """Return the state of a job as squeue prints it."""
        return self.jobs()[job]["state"]

    def accounted(self, job: str) -> str:
        """Return the state of a job as sacct prints it."""
        return self.ask("sacct", "-X", "-n", "-P", f"--jobs={job}", "--format=State")

    def wait_until(
        self, holds: Callable[[], Any], *, timeout: float = PATIENCE_S, what: str
    ) -> Any:
        """Wait for a condition and return its value; fail with the queue after `timeout` s."""
        deadline = time.monotonic() + timeout
        while not (found := holds()):
            self.daemons.check()
            if time.monotonic() > deadline:
                queue = self.run("squeue", "--states=all").stdout
                raise AssertionError(f"no {what} within {timeout:.0f} s\n{queue}")
            time.sleep(0.2)
        return found

    def wait_for_state(self, job: str, *states: str, timeout: float = PATIENCE_S) -> str:
        """Wait until a job is in one of the states."""
        return self.wait_until(
            lambda: (now := self.state(job)) in states and now,
            timeout=timeout,
            what=f"job {job} {' or '.join(states)}",
        )

    def end_in(self, job: str, *, seconds: int) -> None:
        """Set a job's time limit to end soon; SLURM checks every 30 s and counts in minutes."""
        self.ask("scontrol", "update", f"jobid={job}", f"EndTime=now+{seconds}seconds")

    def node_down(self, name: str) -> None:
        """Kill a node with all that runs there, and tell SLURM at once."""
        self.daemons.kill(name)
        self.ask("scontrol", "update", f"nodename={name}", "state=down", "reason=test")
        # Last: on a real node, slurmstepd dies too; here it would report the jobs as failed.
        for pid in processes_in(self.folder, node=name):
            kill(pid)

    def node_up(self, name: str) -> None:
        """Bring a node back, idle."""
        if name not in self.daemons:
            self.daemons.start("slurmd", "-D", "-N", name, name=name)
        self.run("scontrol", "update", f"nodename={name}", "state=resume")
        self.wait_until(lambda: self._is_up(name), what=f"node {name}")

    def clear(self) -> None:
        """End all jobs and wait until they are gone; bring back nodes that are down.

        Commands that still submit jobs are ended first.
        """
        supervisor.kill_clients(self.folder)
        for node in NODES:
            if node.name not in self.daemons or not self._is_up(node.name):
                self.node_up(node.name)
        self.wait_until(self._is_empty, what="empty queue")

    def _is_empty(self) -> bool:
        if not self.ask("squeue", "--noheader"):
            return True
        self.ask("scancel", f"--user={getpass.getuser()}")
        return False

    def _start_daemons(self) -> None:
        self._start_munge()
        self._start_database()
        self.daemons.start("slurmdbd", "-D")
        self.daemons.wait_until(
            lambda: self.run("sacctmgr", "list", "cluster").returncode == 0, "slurmdbd"
        )
        commands = ACCOUNTING.format(accounts=",".join(ACCOUNTS), user=getpass.getuser())
        for line in commands.splitlines():
            self.ask("sacctmgr", "-i", *line.split())
        self.daemons.start("slurmctld", "-D")
        for node in NODES:
            self.daemons.start("slurmd", "-D", "-N", node.name, name=node.name)
        self.daemons.wait_until(lambda: all(self._is_up(node.name) for node in NODES), "nodes")

    def _start_munge(self) -> None:
        key, reached_at = self.folder / "etc/munge.key", self.folder / "munge.socket"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(1024))
        words = ["--foreground", "--force", f"--key-file={key}", f"--socket={reached_at}"]
        words += [f"--{name}-file={self.folder}/run/munged.{name}" for name in ("pid", "seed")]
        self.daemons.start("munged", *words, f"--log-file={self.folder}/log/munged.log")
        self.daemons.wait_until(reached_at.exists, "munged")

    def _start_database(self) -> None:
        defaults = f"--defaults-file={self.folder}/etc/mariadb.cnf"
        # Accounting keeps procedures in the system tables, else an empty folder would do.
        self.ask(program("mariadb-install-db"), defaults, "--skip-test-db")
        self.daemons.start("mariadbd", defaults)
        self.daemons.wait_until((self.folder / "database.socket").exists, "mariadbd")

    def _is_up(self, name: str) -> bool:
        done = self.run("sinfo", "--noheader", f"--nodes={name}", "--format=%T")
        return done.returncode == 0 and set(done.stdout.split()) <= {"idle", "mixed", "allocated"}
