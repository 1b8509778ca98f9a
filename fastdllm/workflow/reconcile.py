"""Date files by what the fingerprints say, so that Snakemake plans the right jobs.

For each run: write spec.json when its content changed, restore a finished run from artifacts/, and
date the spec to the epoch when the result is valid, or after the result when the run is to be made.
Safe in dry runs and idempotent; only the main Snakemake process may call it, and it leaves alone
what another one is making. No result is ever deleted: what does not belong to the current settings
is kept aside under the first letters of its fingerprint when something has to take its place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from fastdllm.common.errors import UserError
from fastdllm.common.files import (
    EPOCH_S,
    cannot,
    date,
    date_after,
    json_object,
    stamp,
    to_json,
    write_if_changed,
    write_text_atomically,
)
from fastdllm.common.paths import RESULTS
from fastdllm.records.result_files import keep_aside, keep_result_aside
from fastdllm.runs.lock import run_lock
from fastdllm.tasks.plan import planned_digest
from fastdllm.workflow.claim_results import claims_are_current, published_results
from fastdllm.workflow.project.artifacts import SummaryReader, stored_summary, tables_are_current
from fastdllm.workflow.project.digests import FileDigests
from fastdllm.workflow.project.runs import Project, Run, TaskPlan
from fastdllm.workflow.shared_computations import assign_leaders
from fastdllm.workflow.status.queue import Queue
from fastdllm.workflow.status.run_status import RunStatus, State, inspect

# The reason of a run whose job has read a spec that was changed since.
EARLIER_SETTINGS = "works with earlier settings"
# Output of `aggregate` for Snakemake; newer than every summary when all of them are published.
PUBLISHED_STAMP = RESULTS / ".published"


def reconcile(
    project: Project,
    *,
    jobs: Queue | None = None,
    restore: bool = True,
    is_repeated: Callable[[Run], bool] = lambda _: False,
    is_wanted: Callable[[Run], bool] = lambda _: True,
    held: frozenset[str] = frozenset(),
    is_dry_run: bool = False,
) -> list[RunStatus]:
    """Reconcile all runs and plans of a project; return the states, in the order of the runs.

    Args:
        jobs: what SLURM knows of this project, where there is a SLURM.
        restore: restore finished runs from artifacts/; otherwise they count as missing.
        is_repeated: whether a run is to be made even with a valid result.
        is_wanted: whether a run is among the targets.
        held: files that another Snakemake is making; their runs and plans are only looked at.
        is_dry_run: keep a plan that was made from something else, since nothing makes it again.

    Raises:
        UserError: results/ cannot be written.
    """

    def look(run: Run) -> RunStatus:
        status = _of_these_settings(inspect(run, jobs=jobs, read=read))
        if str(run.summary_path) not in held:
            status = replace(status, earlier=())  # what waits gets those of now
        is_kept = restore or str(run.summary_path) in held or not status.state.has_result
        if is_kept or _is_decoded_here(status):
            return status
        return RunStatus(run, State.MISSING, "published, but not decoded here")

    def look_at_selected(run: Run) -> RunStatus:
        status = look(run)
        # A live job has already been asked for any repeat.
        is_free = status.state is not State.RUNNING and not status.jobs
        return replace(status, is_repeated=True) if is_free and is_repeated(run) else status

    digests, read = FileDigests.load(), SummaryReader()
    try:
        for plan in project.plans:
            if str(plan.plan_path) not in held:
                _reconcile_plan(plan, digests, is_dry_run=is_dry_run)
        selected = [look_at_selected(run) for run in project.runs]
        statuses = assign_leaders(selected, project, look=look, is_wanted=is_wanted)
        for status in statuses:
            if str(status.run.summary_path) not in held:
                _reconcile_run(status)
        if str(PUBLISHED_STAMP) not in held:
            _date_stamp(project, statuses, read)
    except OSError as error:
        raise cannot("write", error.filename or RESULTS, error) from None
    digests.save()
    return statuses


def _is_decoded_here(status: RunStatus) -> bool:
    # An eval writes results.json just before the summary; a restored run has none.
    return not status.is_only_published and (status.run.folder / "results.json").exists()


def _reconcile_plan(plan: TaskPlan, digests: FileDigests, *, is_dry_run: bool) -> None:
    """Delete a plan that is damaged or made from something else; a run that needs it remakes it.

    The date of its spec therefore stays at the epoch.
    """
    text = to_json(plan.spec())
    write_if_changed(plan.spec_path, text)
    if plan.plan_path.exists() and not is_dry_run and not _is_plan_of(plan, text, digests):
        with run_lock(plan.plan_path.parent, wait=True, work="plan"):
            # Another clone with the same results/ may have planned anew meanwhile.
            if not _is_plan_of(plan, text, digests):
                plan.plan_path.unlink(missing_ok=True)
    date(plan.spec_path, EPOCH_S)


def _is_plan_of(plan: TaskPlan, spec_text: str, digests: FileDigests) -> bool:
    try:
        requests = digests.of(plan.plan_path.with_name("requests.jsonl"))
        made_from = plan.made_from_path.read_text(encoding="utf-8")
    except (UserError, OSError, UnicodeDecodeError):
        return False
    return planned_digest(plan.plan_path.parent) == requests and made_from == spec_text


def _of_these_settings(status: RunStatus) -> RunStatus:
    """Return the status, without jobs that make a result of other settings."""
    at_work = [job.job.id for job in status.jobs if job.is_at_work]
    if not at_work or not status.is_adopted or not status.earlier:
        return status
    ids, edits = " ".join(at_work), ", ".join(str(change) for change in status.earlier)
    reason = f"job {ids} {EARLIER_SETTINGS} ({edits}); wait for it, or end it: scancel {ids}"
    return replace(status, state=State.RUNNING, reason=reason, jobs=(), earlier=())


def _reconcile_run(status: RunStatus) -> None:
    """Write the spec of a run and date it by what is to be done."""
    run = status.run
    if status.state is State.RUNNING:
        # Its eval is reading and writing here; a later call reconciles what it leaves.
        return
    spec = run.spec()
    if json_object(run.spec_path) != spec:
        write_text_atomically(run.spec_path, to_json(spec), is_flushed=False)
    if status.is_only_published:
        _restore(run)
    if not status.is_to_be_made:
        date(run.spec_path, EPOCH_S)
    elif run.summary_path.exists():
        if stored_summary(run.summary_path).record is None:
            keep_aside(run.summary_path, "damaged")
        else:
            date_after(run.spec_path, run.summary_path)


def _restore(run: Run) -> None:
    """Restore the summary of a finished run from artifacts/."""
    if run.summary_path.exists():
        keep_result_aside(run.folder)
    text = run.artifact_path.read_text(encoding="utf-8")
    write_text_atomically(run.summary_path, text, is_flushed=False)


def _date_stamp(project: Project, statuses: Sequence[RunStatus], read: SummaryReader) -> None:
    """Date or remove the output of `aggregate`, so that Snakemake knows whether to run it."""
    full = [status for status in statuses if status.run.limit is None]
    if not full:
        return
    experiments = dict.fromkeys(status.run.experiment for status in full)
    is_published = all(
        status.state is State.DONE and status.run.summary_path.exists() for status in full
    )
    is_published = is_published and tables_are_current(project.all_runs, experiments, read)
    if project.claims and is_published:
        is_published = claims_are_current(project, published_results(project, read))
    if not is_published:
        PUBLISHED_STAMP.unlink(missing_ok=True)
        return
    stamp(PUBLISHED_STAMP, (status.run.summary_path for status in full))
