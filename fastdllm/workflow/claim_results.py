"""Claims and their results: whether all configs are done, claims.json, and which tables wait.

What is claimed is shown only when all of its configs have all items, so that nobody stops early, or
chooses, by what is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path

from fastdllm.common.errors import UserError
from fastdllm.common.files import write_if_changed
from fastdllm.common.paths import ARTIFACTS
from fastdllm.machine.process import git_state
from fastdllm.records.claim_kinds import Claim, Faster
from fastdllm.records.claims_record import (
    CLAIMS_FILE,
    ClaimResult,
    ClaimsRecord,
    read_claims,
)
from fastdllm.records.signed_record import signed_text
from fastdllm.records.speed_record import SpeedRecord, read_speed
from fastdllm.records.summary import Git, Summary
from fastdllm.statistics.claims import Evidence, results_of
from fastdllm.workflow.project.artifacts import SummaryReader, current_summary, published
from fastdllm.workflow.project.registered_claims import RegisteredClaims
from fastdllm.workflow.project.runs import Project, Run, runs_on
from fastdllm.workflow.project.selection import keep
from fastdllm.workflow.project.speeds import SpeedMeasurement, speed_measurements
from fastdllm.workflow.registration import Registration, find_registration

# Gives the valid summary of a run; None if it has none.
Done = Callable[[Run], Summary | None]


def claims_path(experiment: str) -> Path:
    """Return the path of an experiment's claims.json."""
    return ARTIFACTS / experiment / CLAIMS_FILE


def published_results(project: Project, read: SummaryReader | None = None) -> Done:
    """Return the summaries in artifacts/."""
    read = read or SummaryReader()

    @cache
    def valid() -> set[str]:
        # Not before the first question: a project without claims asks none.
        return {run.name for run in published(project.all_runs, read)}

    return lambda run: read(run.artifact_path).summary if run.name in valid() else None


def current_results(project: Project, read: SummaryReader | None = None) -> Done:
    """Return the summaries in results/, or else in artifacts/."""
    read = read or SummaryReader()
    by_name = {run.name: run for run in project.all_runs}

    def summary_of(run: Run) -> Summary | None:
        stored = current_summary(run, by_name, read)
        return stored.summary if stored is not None else None

    return summary_of


def withheld(project: Project, done: Done) -> dict[str, str]:
    """Return the tasks that nothing is shown of yet, each with the line to show in its place.

    Of limited runs nothing is ever shown: they are the first items of the same ones.
    """
    lines = {}
    for registered in project.claims:
        for task in registered.tasks:
            if line := _waits(project, registered, task, done):
                lines[task] = line
    return lines


def doubts(project: Project, runs: Iterable[Run]) -> str:
    """Say of claims that results of these runs, if made now, will not confirm; a line each."""
    digests = {digest for run in runs for digest in run.claims}
    concerned = [registered for registered in project.claims if registered.digest in digests]
    state = git_state() if concerned else None
    git = Git.model_validate(state) if state is not None and "commit" in state else None
    lines = ""
    for registered in concerned:
        commits = () if git is None else (git.commit,)
        registration = find_registration(project, registered, commits)
        if problem := registration.problem_of("what this call makes", git):
            lines += f"fastdllm: {registered.experiment} will confirm no claim: {problem}\n"
    return lines


def claims_record(project: Project, registered: RegisteredClaims, done: Done) -> ClaimsRecord:
    """Test the claims of an experiment with the results there are.

    Raises:
        UserError: a result is damaged, or was edited by hand.
    """
    if waits := _all_wait(project, registered, done):
        registration = find_registration(project, registered, ())
        return ClaimsRecord(
            experiment=registered.experiment,
            digest=registered.digest,
            registered=registration.commit,
            problem=registration.problem,
            planned=registered.planned,
            waits=waits,
            results=[
                ClaimResult(claim=claim, verdict="not measured", controls=[])
                for claim in registered.claims
            ],
            made_from={},
        )
    summaries, speeds = _summaries(project, registered, done), _speeds(project, registered)
    states = [summary.git for summary in summaries.values()]
    states += [sitting.git for speed in speeds.values() for sitting in speed.sittings]
    registration = find_registration(
        project, registered, {state.commit for state in states if state is not None}
    )
    evidence = {
        task: Evidence(
            {name: summary for (of, name), summary in summaries.items() if of == task},
            speeds.get(task),
        )
        for task in registered.tasks
    }
    problems = {
        claim.id: problem
        for claim in registered.claims
        if (problem := _problem(claim, registered, evidence, registration)) is not None
    }
    return ClaimsRecord(
        experiment=registered.experiment,
        digest=registered.digest,
        registered=registration.commit,
        problem=registration.problem,
        planned=registered.planned,
        results=results_of(
            registered.claims, lambda claim: evidence[registered.task_of(claim)], problems
        ),
        made_from=_made_from(registered, summaries, speeds),
    )


def write_claims(project: Project, done: Done) -> list[Path]:
    """Write claims.json of all experiments with claims; return those that changed.

    Raises:
        UserError: a result is damaged, or a file cannot be written.
    """
    changed = []
    for registered in project.claims:
        path, record = claims_path(registered.experiment), claims_record(project, registered, done)
        if record.registered is None and _tells_more(project, registered, path, done):
            continue
        if write_if_changed(path, signed_text(record)):
            changed.append(path)
    return changed


def seen_on(
    project: Project, registered: RegisteredClaims, task: str, done: Done
) -> dict[str, Summary]:
    """Return results of the claims' configs on another task, of whichever experiment has them.

    Raises:
        UserError: the task is not enabled, or one of those of the claims.
    """
    if task in registered.tasks:
        raise UserError(
            f"{task} is what the claims are about; its results are not known before the plan is"
        )
    named = dict.fromkeys((name, place) for (_, name), place in registered.places.items())
    keep("task", [task], project.config.tasks)
    experiments = dict.fromkeys(place[0] for _, place in named)
    wanted = {
        (run.experiment, run.config): run.computation
        for experiment in experiments
        for run in runs_on(project, experiment, task)
    }
    found = {}
    for name, (experiment, _, config) in named:
        computation = wanted[experiment, config]
        runs = (r for r in project.all_runs if r.task == task and r.computation == computation)
        summary = next(filter(None, map(done, runs)), None)
        if summary is not None:
            found[name] = summary
    return found


def _tells_more(project: Project, registered: RegisteredClaims, path: Path, done: Done) -> bool:
    """Whether what is published is of the same claims and results, and names their commit.

    So a clone without the whole history, or a changed comment, takes nothing back.
    """
    try:
        record = read_claims(path)
    except UserError:
        return False
    return record.registered is not None and _is_current(project, registered, record, done)


def claims_of(project: Project, done: Done) -> dict[str, ClaimsRecord]:
    """Return the records in artifacts/ that are of the claims and results there are now.

    Raises:
        UserError: one is damaged, or was edited by hand.
    """
    records = {}
    for registered in project.claims:
        path = claims_path(registered.experiment)
        if path.exists() and _is_current(project, registered, record := read_claims(path), done):
            records[registered.experiment] = record
    return records


def claims_are_current(project: Project, done: Done) -> bool:
    """Whether all claims.json are there, of the claims and results there are now."""
    try:
        return len(claims_of(project, done)) == len(project.claims)
    except UserError:
        return False


def _is_current(
    project: Project, registered: RegisteredClaims, record: ClaimsRecord, done: Done
) -> bool:
    waits, made_from = _all_wait(project, registered, done), {}
    if waits is None:
        made_from = _made_from(
            registered, _summaries(project, registered, done), _speeds(project, registered)
        )
    return (record.digest, record.waits, record.made_from) == (registered.digest, waits, made_from)


def _all_wait(project: Project, registered: RegisteredClaims, done: Done) -> str | None:
    """Return what some tasks of the claims wait for; None if all is done."""
    lines = [_waits(project, registered, task, done) for task in registered.tasks]
    return "; ".join(dict.fromkeys(line for line in lines if line)) or None


def _waits(project: Project, registered: RegisteredClaims, task: str, done: Done) -> str | None:
    """Return what to show of a task while some of its configs are not done; None if all are."""
    places = set(registered.places.values())
    needed = [
        run
        for run in project.all_runs
        if run.task == task
        and (
            run.experiment == registered.experiment
            or (run.experiment, run.task, run.config) in places
        )
    ]
    ready = sum(done(run) is not None for run in needed)
    if any(run.limit is not None for run in needed):
        return (
            f"{ready} of {len(needed)} configs done over the first items; of claims "
            f"({registered.experiment}) nothing is shown before all items of all configs are done"
        )
    if ready == len(needed):
        return None
    return f"{ready} of {len(needed)} configs done; nothing is shown before all are"


def _summaries(
    project: Project, registered: RegisteredClaims, done: Done
) -> dict[tuple[str, str], Summary]:
    runs = {(run.experiment, run.task, run.config): run for run in project.all_runs}
    found = {key: done(runs[place]) for key, place in registered.places.items()}
    return {key: summary for key, summary in found.items() if summary is not None}


def _speeds(project: Project, registered: RegisteredClaims) -> dict[str, SpeedRecord]:
    speeds = {}
    if any(isinstance(claim, Faster) for claim in registered.claims):
        # Whatever is selected: what is claimed stands on all of its results.
        for measurement in speed_measurements(replace(project, runs=project.all_runs)):
            path = _valid_speed(measurement)
            if measurement.experiment == registered.experiment and path is not None:
                speeds[measurement.task] = read_speed(path)
    return speeds


def _valid_speed(measurement: SpeedMeasurement) -> Path | None:
    places = (measurement.artifact_path, measurement.record_path)
    return next(filter(measurement.is_of, places), None)


def _problem(
    claim: Claim,
    registered: RegisteredClaims,
    evidence: dict[str, Evidence],
    registration: Registration,
) -> str | None:
    """Return why a claim's result can only be exploratory; None if it may be confirmed."""
    if registration.problem is not None:
        return registration.problem
    of_task = evidence[registered.task_of(claim)]
    if isinstance(claim, Faster):
        sittings = of_task.speed.sittings if of_task.speed is not None else []
        checked = (registration.problem_of(f"sitting {s.number}", s.git) for s in sittings)
        return next(filter(None, checked), None)
    for name in (claim.config, *claim.controls):
        summary = of_task.summaries[name]
        if problem := registration.problem_of(name, summary.git):
            return problem
        if registered.digest not in (summary.claims or ()):
            return f"{name} was planned before these claims; fastdllm status, then decode it again"
    return None


def _made_from(
    registered: RegisteredClaims,
    summaries: dict[tuple[str, str], Summary],
    speeds: dict[str, SpeedRecord],
) -> dict[str, str]:
    results = {
        "/".join(registered.places[key]): f"{summary.fingerprint[:16]} {summary.timestamp}"
        for key, summary in summaries.items()
    }
    return results | {
        speed.name: f"{speed.fingerprint[:16]} {speed.sittings[-1].ended}"
        for speed in speeds.values()
    }
