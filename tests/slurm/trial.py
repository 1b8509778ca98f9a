"""One grid on the cluster, hit by faults in a given order, and what became of it."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from fastdllm.cluster.slurm import LIVE
from tests.slurm.faults import FAULTS, Attack, send
from tests.slurm.projects import CONFIGS, ClusterProject

MAIN_KILLED = "main killed"
# In this order Snakemake's second call sees the jobs that a person cancels, and lets them be.
EVERY_FAULT = (MAIN_KILLED, *FAULTS)
# One run for each fault that hits a run, and one that none hits.
ATTACKED = CONFIGS[: len(FAULTS) + 1]
# Ends a hang.
TRIAL_S = 900.0
# Most calls of the command until the grid is complete; a cancelled run needs a second one.
MOST_CALLS = 3
LOOK_EVERY_S = 2.0


@dataclass
class Trial:
    """The result of a trial.

    named_s: by fault, seconds until `fastdllm status` told what happened; None: it never did.
    late_s: those of them after SLURM had said that the job ended; 0 where status was first.
    told: by fault, the last words of status before that. calls: how often the command was typed.
    missing: configs without a result. wrong: with other answers than the reference.
    lost: by config, finished chunks that were seen and are not in the end result.
    twice: by config, chunks that were finished twice.
    doubles: comments of which two SLURM jobs lived at the same time.
    jobs: SLURM jobs of each config.
    """

    named_s: dict[str, float | None] = field(default_factory=dict)
    late_s: dict[str, float] = field(default_factory=dict)
    told: dict[str, str] = field(default_factory=dict)
    victims: dict[str, str] = field(default_factory=dict)
    calls: int = 1
    missing: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    lost: Counter[str] = field(default_factory=Counter)
    twice: Counter[str] = field(default_factory=Counter)
    doubles: set[str] = field(default_factory=set)
    jobs: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0


def run_trial(
    project: ClusterProject, faults: Sequence[str], reference: Mapping[str, bytes]
) -> Trial:
    """Make the runs of some configs under these faults, each on a run of its own.

    Args:
        reference: the answers of each of these configs, decoded in peace.
    """
    trial, attack, todo = Trial(), Attack(project), list(faults)
    chosen = f"config={','.join(reference)}"
    started, looked, log_before = time.monotonic(), 0.0, 0
    with ExitStack() as stack:
        main = stack.enter_context(project.started(chosen, qos="embers"))
        while main.poll() is None:
            if time.monotonic() - started > TRIAL_S:
                log = project.main_log()[-3000:]
                raise AssertionError(f"still {todo}, {attack.victims}\n{log}")
            if todo:
                attack.hold()
            if todo and todo[0] == MAIN_KILLED and attack.held:
                main.kill()
                main.wait()
                log_before = len(project.main_log())
                main = stack.enter_context(project.started(chosen, qos="embers"))
                todo.pop(0)
            elif (
                todo
                and todo[0] != MAIN_KILLED
                and _has_all_jobs(project, log_before, reference)
                and attack.hit(todo[0])
            ):
                todo.pop(0)
            if not todo:
                attack.release()
            attack.thaw()
            # It waits until status was asked: what it submits again is queued, no longer failed.
            send([main.pid], signal.SIGSTOP if attack.waiting() else signal.SIGCONT)
            _count_doubles(project, trial)
            if time.monotonic() - looked > LOOK_EVERY_S:
                attack.look()
                looked = time.monotonic()
    attack.look()
    assert not todo, f"no {todo} as the grid ended: {attack.victims}\n{project.main_log()[-3000:]}"
    while not all(map(project.is_finished, reference)) and trial.calls < MOST_CALLS:
        trial.calls += 1
        project.snakemake(chosen, qos="embers")
    _count_doubles(project, trial)
    _judge(trial, attack, reference)
    trial.seconds = time.monotonic() - started
    return trial


def _has_all_jobs(project: ClusterProject, log_before: int, configs: Iterable[str]) -> bool:
    """Whether this Snakemake follows a job of each run; one that ended before is none of its."""
    said = project.main_log()[log_before:]
    jobs = said.count("has been submitted with SLURM") + said.count("not submitted again")
    return jobs >= sum(not project.is_finished(config) for config in configs)


def _count_doubles(project: ClusterProject, trial: Trial) -> None:
    jobs = project.jobs().values()
    live = Counter(job["comment"] for job in jobs if job["state"] in LIVE)
    trial.doubles |= {comment for comment, n in live.items() if n > 1}


def _judge(trial: Trial, attack: Attack, reference: Mapping[str, bytes]) -> None:
    project = attack.project
    for victim in attack.victims:
        trial.named_s[victim.fault] = None
        if victim.named_at:
            trial.named_s[victim.fault] = victim.named_at - victim.hit_at
            ended_at = victim.ended_at or victim.named_at
            trial.late_s[victim.fault] = victim.named_at - ended_at
        trial.told[victim.fault] = victim.told
        trial.victims[victim.fault] = victim.config
    for config in reference:
        if not project.is_finished(config):
            trial.missing.append(config)
        elif project.answers(config) != reference[config]:
            trial.wrong.append(config)
        lines = project.chunk_lines(config)
        trial.lost[config] = len(set(attack.kept.get(config, [])) - set(lines))
        counts = Counter(chunk["index"] for chunk in project.chunks(config))
        trial.twice[config] = sum(n - 1 for n in counts.values())
    configs = (project.config_of(job["comment"]) for job in project.jobs().values())
    trial.jobs = Counter(config for config in configs if config is not None)
