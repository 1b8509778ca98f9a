"""Make the dates of files say what the fingerprints say, so that Snakemake plans the right jobs.

For each run: write spec.json when its content changed, take a finished run back from artifacts/,
and date the spec to the epoch when the result is valid, or after the result when it is not. Safe
in dry runs and idempotent; only the main Snakemake process may call it. No result is ever deleted:
what does not belong to the current settings is kept aside under the first letters of its
fingerprint when something has to take its place.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from fastdllm.files import cannot, to_json, write_text_atomically
from fastdllm.workflow.artifacts import stored_summary
from fastdllm.workflow.runs import ARTIFACTS, RESULTS, Plan, Project, Run
from fastdllm.workflow.status import RunStatus, State, inspect

# Output of `aggregate` for Snakemake; newer than every summary when all of them are published.
PUBLISHED_STAMP = RESULTS / ".published"
EPOCH_S = 0
RESULT_FILES = ("summary.json", "results.json", "samples.jsonl")


def reconcile(
    project: Project,
    *,
    restore: bool = True,
    is_repeated: Callable[[Run], bool] = lambda _: False,
) -> list[RunStatus]:
    """Reconcile all runs and plans of a project; return the states, in the order of the runs.

    Args:
        restore: take finished runs back from artifacts/; otherwise they count as missing.
        is_repeated: whether a run is to be made even with a valid result.

    Raises:
        UserError: results/ cannot be written.
    """
    try:
        for plan in project.plans:
            _reconcile_plan(plan)
        statuses = [
            _reconcile_run(run, restore=restore, is_repeated=is_repeated(run))
            for run in project.runs
        ]
        _date_stamp(statuses)
    except OSError as error:
        raise cannot("write", error.filename or RESULTS, error) from None
    return statuses


def _reconcile_plan(plan: Plan) -> None:
    """Drop a plan that was made from something else; it is made again when a run needs it.

    So its spec's date has nothing to say: it stays at the epoch.
    """
    text = to_json(plan.spec())
    _write_if_changed(plan.spec_path, text)
    if plan.made_from_path.exists() and plan.made_from_path.read_text(encoding="utf-8") != text:
        plan.plan_path.unlink(missing_ok=True)
    _date_to_epoch(plan.spec_path)


def _date_to_epoch(path: Path) -> None:
    if path.stat().st_mtime != EPOCH_S:
        os.utime(path, (EPOCH_S, EPOCH_S))


def _reconcile_run(run: Run, *, restore: bool, is_repeated: bool) -> RunStatus:
    status = inspect(run)
    if status.is_only_published and not restore:
        status = RunStatus(run, State.MISSING, "published, but not decoded here")
    _write_if_changed(run.spec_path, to_json(run.spec()))
    if status.state is State.RUNNING:
        # Its eval is writing here; a later call settles the dates.
        return status
    if status.is_only_published:
        _restore(run)
    if status.state.has_result and not is_repeated:
        _date_to_epoch(run.spec_path)
    elif run.summary_path.exists():
        if stored_summary(run.summary_path).record is None:
            _keep_aside(run.summary_path, "damaged")
        else:
            _date_after(run.spec_path, run.summary_path)
    return status


def _restore(run: Run) -> None:
    """Take the summary of a finished run back from artifacts/."""
    old = stored_summary(run.summary_path)
    if run.summary_path.exists():
        mark = "damaged" if old.record is None else str(old.record["fingerprint"])[:8]
        for name in RESULT_FILES:
            _keep_aside(run.folder / name, mark)
    write_text_atomically(run.summary_path, run.artifact_path.read_text(encoding="utf-8"))


def _keep_aside(path: Path, mark: str) -> None:
    if path.exists():
        path.replace(path.with_name(f"{path.stem}.{mark}{path.suffix}"))


def _date_after(spec: Path, output: Path) -> None:
    output_s = output.stat().st_mtime
    if spec.stat().st_mtime <= output_s:
        # The clock of another machine may have dated the output to our future.
        later_s = max(time.time(), output_s + 1)
        os.utime(spec, (later_s, later_s))


def _date_stamp(statuses: Sequence[RunStatus]) -> None:
    """Tell Snakemake whether `aggregate` has anything to do."""
    full = [status for status in statuses if status.run.limit is None]
    if not full:
        return
    is_published = all(status.state is State.DONE for status in full) and not missing_tables(
        [status.run for status in full]
    )
    if not is_published:
        PUBLISHED_STAMP.unlink(missing_ok=True)
        return
    newest_s = max(status.run.summary_path.stat().st_mtime for status in full)
    if not PUBLISHED_STAMP.exists():
        write_text_atomically(PUBLISHED_STAMP, "")
    if PUBLISHED_STAMP.stat().st_mtime < newest_s:
        os.utime(PUBLISHED_STAMP, (newest_s, newest_s))


def missing_tables(runs: Sequence[Run]) -> list[Path]:
    """The tables of the runs' experiments that are not in artifacts/."""
    tables = [ARTIFACTS / name / "table.md" for name in dict.fromkeys(r.experiment for r in runs)]
    return [table for table in tables if not table.exists()]


def _write_if_changed(path: Path, text: str) -> None:
    try:
        if path.read_text(encoding="utf-8") == text:
            return
    except (FileNotFoundError, UnicodeDecodeError):
        pass
    except OSError as error:
        raise cannot("read", path, error) from None
    write_text_atomically(path, text)
