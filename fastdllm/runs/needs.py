"""Whether everything a run needs is here: checked before a job is submitted, and first in the job.

A compute node has no network. What is missing is named within milliseconds, before torch is
imported, so that a job fails in its first second. `fastdllm fetch` brings it and writes FETCHED,
which is read here; without that record the cache of models is examined as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastdllm.common.errors import UserError
from fastdllm.common.files import read_json
from fastdllm.common.paths import RESULTS, expanded
from fastdllm.machine.hub_cache import hub_cache, snapshot
from fastdllm.model.checkpoint import lacking
from fastdllm.runs.lock import run_lock, shard_lock
from fastdllm.runs.progress import failure_record
from fastdllm.runs.result import kept_result
from fastdllm.runs.shards import Shard, job_files, lock_path, write_stamp
from fastdllm.runs.spec import RunSpec, check_plan
from fastdllm.tasks.lm_eval_setup import CODE_REFUSED, runs_code
from fastdllm.tasks.plan import planned_sizes, read_plan
from fastdllm.tasks.task_files import find_task_files
from fastdllm.tasks.task_source import TaskSource

FETCHED = RESULTS / "_fetched.json"
_REMEDY = "on a node with network: fastdllm fetch"


@dataclass(frozen=True, slots=True)
class Fetched:
    """What `fastdllm fetch` brought, and where it put it.

    model: id, revision, commit and files (name -> bytes, sha256) of the model; None for a folder.
    tasks: by name, the files (path, bytes, sha256) of those that name a source, and where they
    come from. cache: of the hub's models.
    """

    model: dict[str, Any] | None = None
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    cache: str | None = None


def read_fetched(path: Path = FETCHED) -> Fetched:
    """Return the record of the last fetch, an empty one if there is none that can be read."""
    try:
        record = read_json(path)
        return Fetched(record["model"], record["tasks"], record["caches"]["hub"])
    except (UserError, KeyError, TypeError):
        return Fetched()


def require_fetched(spec: RunSpec) -> None:
    """Refuse a run whose model or data is not here (see `require`)."""
    require(spec.run.model_path, spec.run.model_revision, spec.run.task)


def require(model: str, revision: str | None, task: TaskSource) -> None:
    """Refuse a task whose files are not here, and a model that is neither local nor in the cache.

    Args:
        model: a folder or a hub id; revision: of a hub id, None for main.

    Raises:
        UserError: what is missing, by name, and the command that brings it.
    """
    require_model(model, revision)
    find_task_files(task)


def require_model(model: str, revision: str | None) -> None:
    """The model's part of `require`."""
    if expanded(model).is_dir():
        return
    shown = f"model {model!r}" + (f", revision {revision}" if revision else "")
    folder = snapshot(model, revision)
    if folder is None:
        raise UserError(f"{shown}: is not in the cache {hub_cache()}{_elsewhere()}; {_REMEDY}")
    problem = lacking(folder) or _differs(folder, read_fetched().model)
    if problem is not None:
        raise UserError(f"{shown}: {problem} in the cache ({folder}); {_REMEDY}")


def require_whole_folder(model: str) -> None:
    """Refuse a model folder that lacks a file, or the end of one; a hub id has `require_model`.

    Raises:
        UserError: what is missing, by name.
    """
    folder = expanded(model)
    lack = lacking(folder) if folder.is_dir() else None
    if lack is not None:
        raise UserError(f"model {model!r}: {lack}; copy the folder again")


def require_permission(task: TaskSource, allows_code: Callable[[], bool]) -> None:
    """Refuse a task whose scores come from running the code in answers, unless that is allowed.

    Raises:
        UserError: naming the key of workflow_config.yaml.
    """
    if runs_code(task) and not allows_code():
        raise UserError(f"task {task.name!r}: {CODE_REFUSED}")


def _differs(folder: Path, fetched: dict[str, Any] | None) -> str | None:
    """Return what is wrong with a file that no longer has the size it was fetched with."""
    if fetched is None or fetched.get("commit") != folder.name:
        return None
    for name, file in fetched["files"].items():
        try:
            is_as_fetched = (folder / name).stat().st_size == file["bytes"]
        except OSError:
            is_as_fetched = False
        if not is_as_fetched:
            return f"{name} is missing or has another size"
    return None


def _elsewhere() -> str:
    """Return a hint at the most common cause: the variable that names the cache is not set."""
    fetched_to = read_fetched().cache
    if fetched_to in (None, str(hub_cache())):
        return ""
    return f" (it was fetched to {fetched_to}: is HF_HOME set? source .venv/fastdllm-env.sh)"


def check_needs(
    spec: RunSpec,
    folder: Path,
    shard: Shard | None = None,
    *,
    allows_code: Callable[[], bool],
    again: bool = False,
) -> None:
    """Refuse a run whose model or data is not on this machine, or that may not run code.

    Jobs run without a network.

    A run that has its result needs neither, unless it is to be decoded `again`.

    Raises:
        UserError: what is missing, and what brings it; failed.json records it.
    """
    try:
        require_permission(spec.run.task, allows_code)
        require_fetched(spec)
    except UserError:
        if not again and kept_result(folder, spec) is not None:
            return
        lock = run_lock(folder) if shard is None else shard_lock(folder, lock_path(folder, shard))
        with lock, failure_record(job_files(folder, spec, shard)):
            raise


def stamped_without_chunks(spec: RunSpec, folder: Path, shard: Shard, *, wait: bool) -> bool:
    """Write the stamp of a shard without chunks; return False, and do nothing, if it has some.

    A plan may have fewer chunks than the run has jobs; such a shard loads nothing, and the one that
    decodes the last chunk finishes the run.

    wait: wait for a process that works on the same shard, or on the whole run.

    Raises:
        UserError: the plan is missing or does not fit, or the folder is locked or unwritable.
    """
    sizes = planned_sizes(Path(spec.run.plan_folder))
    if sizes is None or shard.chunks(len(sizes)):
        return False  # a plan that cannot be read is refused where it is read as a whole
    files = job_files(folder, spec, shard)
    with shard_lock(folder, lock_path(folder, shard), wait=wait), failure_record(files):
        check_plan(spec, read_plan(Path(spec.run.plan_folder), spec.task))
        write_stamp(folder, shard, spec, [])
    return True
