"""What happens to jobs on a cluster, done on purpose to runs that are half decoded."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.slurm.daemons import kill, processes_in
from tests.slurm.projects import CONFIGS, ClusterProject

# Chunks that a process has finished when its run is held: there is something to lose, and to do.
HELD_AFTER = 2
# Time between two looks at the files of runs, and at processes and the queue.
LOOK_S, SEARCH_S = 0.05, 1.0
# How long after the end of a job status may take to report what happened.
GIVE_UP_S = 120.0
# While a job is cleaned up, it has not ended.
AT_WORK = {"RUNNING", "COMPLETING"}


@dataclass(frozen=True)
class Fault:
    """One kind of fault.

    words: what `fastdllm status` has to say about it, a regular expression.
    is_slow: SLURM looks every 30 s; meanwhile other runs are hit.
    hits_node: all jobs of the node are hit, so that no earlier victim may be there any more.
    """

    inflict: Callable[[ClusterProject, Victim], None]
    words: str
    is_slow: bool = False
    hits_node: bool = False


@dataclass
class Victim:
    """A run that was held, and then hit.

    ended_at: when SLURM said that the job ended, or left its node to run again; 0 until then.
    named_at: when status told what happened; 0 until then. told: its last words.
    """

    config: str
    job: str
    node: str
    pids: list[int]
    fault: str = ""
    restarts: str = "0"
    hit_at: float = 0.0
    ended_at: float = 0.0
    named_at: float = 0.0
    told: str = ""


@dataclass
class Attack:
    """Holds runs of a project when they are half decoded, and hits them one after the other.

    begun_with: by process, the finished chunks of its run when it was first seen.
    kept: all finished chunks that were seen at any time, by config, as they stand in the file.
    """

    project: ClusterProject
    victims: list[Victim] = field(default_factory=list)
    held: dict[str, Victim] = field(default_factory=dict)
    paused: list[Victim] = field(default_factory=list)
    begun_with: dict[int, int] = field(default_factory=dict)
    kept: dict[str, list[str]] = field(default_factory=dict)

    def waiting(self) -> list[Victim]:
        """Return the victims that status has not reported yet, and still may."""
        now = time.monotonic()
        return [
            victim
            for victim in self.victims
            if not victim.named_at and not 0 < victim.ended_at < now - GIVE_UP_S
        ]

    def hit(self, fault: str) -> bool:
        """Hit a run that is held, if there is one whose node may be hit.

        One after the other: what a fault does may be seen for some seconds only, until Snakemake
        submits the run again.
        """
        waiting = self.waiting()
        if not all(FAULTS[victim.fault].is_slow for victim in waiting):
            return False
        waiting_at = {victim.node for victim in waiting}
        for victim in list(self.held.values()):
            if FAULTS[fault].hits_node and victim.node in waiting_at:
                continue
            del self.held[victim.config]
            victim.restarts = self.project.jobs()[victim.job]["restarts"]
            victim.fault, victim.hit_at = fault, time.monotonic()
            FAULTS[fault].inflict(self.project, victim)
            self.victims.append(victim)
            return True
        return False

    def hold(self, seconds: float = SEARCH_S) -> None:
        """Freeze runs that become half decoded within this time, and were never hit.

        Others are paused until the next call: none may finish while nobody looks.
        """
        running = self._running()
        self.held = {v.config: v for v in self.held.values() if v.job in running}
        hit = {victim.config for victim in self.victims}
        found = []
        for job, (config, node) in running.items():
            if config not in self.held and config not in hit:
                found.append(Victim(config, job, node, eval_processes(self.project, job)))
        self.paused = [victim for victim in found if victim.pids]
        for victim in self.paused:
            self.begun_with.setdefault(victim.pids[0], self._chunks(victim))
            send(victim.pids, signal.SIGCONT)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for victim in list(self.paused):
                if self._chunks(victim) >= self.begun_with[victim.pids[0]] + HELD_AFTER:
                    send(victim.pids, signal.SIGSTOP)
                    self.held[victim.config] = victim
                    self.paused.remove(victim)
            time.sleep(LOOK_S)
        for victim in self.paused:
            send(victim.pids, signal.SIGSTOP)

    def release(self) -> None:
        """Release all held runs."""
        for victim in (*self.held.values(), *self.paused):
            send(victim.pids, signal.SIGCONT)
        self.held.clear()
        self.paused.clear()

    def thaw(self) -> None:
        """Release a victim that has got SIGUSR1; SLURM sends it up to half a minute late."""
        for victim in self.waiting():
            if not any(map(is_undisturbed, victim.pids)):
                send(victim.pids, signal.SIGCONT)

    def look(self) -> None:
        """Keep what is decoded; ask SLURM and status what happened to the victims."""
        for config in CONFIGS:
            if lines := self.project.chunk_lines(config):
                self.kept[config] = lines
        if not self.waiting():
            return
        jobs, told = self.project.jobs(), self.project.status()
        now = time.monotonic()
        for victim in self.waiting():
            job, run = jobs[victim.job], told[victim.config]
            if job["state"] not in AT_WORK or job["restarts"] != victim.restarts:
                victim.ended_at = victim.ended_at or now
            victim.told = f"{run['state']}: {run.get('reason', '')}"
            if re.search(FAULTS[victim.fault].words, victim.told, flags=re.IGNORECASE):
                victim.named_at = now

    def _chunks(self, victim: Victim) -> int:
        return len(self.project.chunk_lines(victim.config))

    def _running(self) -> dict[str, tuple[str, str]]:
        """The running jobs that make one run of the project: its config, their node."""
        return {
            job["id"]: (config, job["node"])
            for job in self.project.jobs().values()
            if job["state"] == "RUNNING"
            and (config := self.project.config_of(job["comment"])) is not None
        }


def cancel(project: ClusterProject, victim: Victim) -> None:
    """A person changes their mind."""
    project.lab.ask("scancel", victim.job)


def kill_eval(_project: ClusterProject, victim: Victim) -> None:
    """The out-of-memory killer, or an impatient administrator."""
    for pid in victim.pids:
        kill(pid)


def warn(project: ClusterProject, victim: Victim) -> None:
    """The time limit is ahead, and SLURM says so; the run stays frozen until it does."""
    project.lab.end_in(victim.job, seconds=100)


def meet_time_limit(project: ClusterProject, victim: Victim) -> None:
    """The time limit is there, and nothing was said before."""
    project.lab.end_in(victim.job, seconds=1)


def preempt(project: ClusterProject, victim: Victim) -> None:
    """Somebody pays for the GPUs of the node."""
    options = ("--qos=inferno", f"--nodelist={victim.node}", "--gres=gpu:RTX_6000:2")
    project.lab.submit("sleep 1", *options)


def lose_node(project: ClusterProject, victim: Victim) -> None:
    """The node dies, and comes back once SLURM has taken its jobs away."""
    lab = project.lab
    lab.node_down(victim.node)
    lab.wait_until(lambda: lab.jobs()[victim.job]["node"] != victim.node, what="requeue")
    lab.node_up(victim.node)


# Those that hit a node come before the slow ones, whose victims would keep it from being hit.
FAULTS = {
    "killed": Fault(kill_eval, "killed"),
    "preempted": Fault(preempt, "preempted", hits_node=True),
    "node lost": Fault(lose_node, "requeued|node failed", hits_node=True),
    "time limit ahead": Fault(warn, "out of time|time limit", is_slow=True),
    "time limit met": Fault(meet_time_limit, "out of time|time limit", is_slow=True),
    "cancelled": Fault(cancel, "cancelled"),
}


def eval_processes(project: ClusterProject, job: str) -> list[int]:
    """The processes of `fastdllm` itself in a SLURM job."""
    found = []
    for pid in processes_in(project.lab.folder, job=job):
        with suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if words[1:3] == [b"-m", b"fastdllm"]:
                found.append(pid)
    return found


def send(pids: Iterable[int], number: signal.Signals) -> None:
    """Send a signal to processes that may have ended by themselves."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def is_undisturbed(pid: int) -> bool:
    """Whether a frozen process is still frozen, and no SIGUSR1 waits for it."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return False
    values = dict(line.split(":", 1) for line in lines)
    pending = int(values["SigPnd"], 16) | int(values["ShdPnd"], 16)
    return values["State"].strip().startswith("T") and not pending & 1 << (signal.SIGUSR1 - 1)
