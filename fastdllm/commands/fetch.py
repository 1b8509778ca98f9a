"""`fastdllm fetch`: bring model, tokenizer and data to where jobs without network find them.

Run on a node with network. Files that are here already are compared and not fetched again; an
interrupted download resumes. A task that fails is named, and the others go on.
results/_fetched.json records what was fetched.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from fastdllm.commands.options import print_now
from fastdllm.common.files import now

if TYPE_CHECKING:
    from fastdllm.runs.needs import Fetched
    from fastdllm.tasks.task_source import TaskSource
    from fastdllm.workflow.project.config_files import WorkflowConfig


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--task",
        action="append",
        help="only this task, enabled in workflow_config.yaml or not (may be repeated)",
    )


def run(args: argparse.Namespace) -> int:
    from fastdllm.common.console import counted, notice
    from fastdllm.common.errors import UserError
    from fastdllm.common.files import write_json_atomically
    from fastdllm.machine.hub_cache import hub_cache
    from fastdllm.runs.needs import FETCHED, read_fetched, require, require_permission
    from fastdllm.tasks.lm_eval_setup import lm_eval_environment
    from fastdllm.tasks.task_source import TaskSource
    from fastdllm.tools.fetching.proof import prove_offline
    from fastdllm.workflow.project.config_files import load_workflow_config, with_task

    config = load_workflow_config()
    tasks = list(dict.fromkeys(args.task or config.tasks))
    for task in tasks:
        config = with_task(config, task)
    earlier, allows_code = read_fetched(), config.allow_code_execution
    record: dict[str, Any] = {
        "schema_version": 1,
        "model": _model(config, earlier),
        "tasks": {
            name: entry
            for name, entry in earlier.tasks.items()
            if TaskSource.named(name).file.is_file()
        },
        "caches": {"hub": str(hub_cache())},
    }
    write_json_atomically(FETCHED, record)
    failed = []
    with lm_eval_environment(offline=False, private_cache=False, allows_code=allows_code):
        for task in tasks:
            source = config.task_source(task)
            try:
                entry = _data(source, earlier.tasks.get(task, {}))
                if entry is not None:
                    record["tasks"][task] = entry
                    write_json_atomically(FETCHED, record)
                require_permission(source, partial(bool, allows_code))
                require(config.model.path, config.model.revision, source)
                prove_offline(task)
            except UserError as error:
                if len(tasks) == 1:
                    raise
                name = f"task {task!r}: "
                notice(name * (not str(error).startswith(name)) + str(error))
                failed.append(task)
            else:
                print_now(f"task {task}: is planned and scored without a network")
    if failed:
        raise UserError(
            f"{len(failed)} of {len(tasks)} tasks cannot be run yet, as the lines above say: "
            f"{', '.join(failed)}"
        )
    sys.stdout.write(f"everything for {counted(len(tasks), 'task')} is here -> {FETCHED}\n")
    return 0


def _model(config: WorkflowConfig, earlier: Fetched) -> dict[str, Any] | None:
    from fastdllm.model.checkpoint import local_folder
    from fastdllm.runs.needs import require_whole_folder
    from fastdllm.workflow.project.digests import FileDigests

    folder = local_folder(config.model.path)
    if folder is not None:
        require_whole_folder(config.model.path)
        print_now(f"model {folder}: a folder here, nothing to fetch")
        return None
    from fastdllm.machine.hub_cache import is_commit
    from fastdllm.tools.fetching.model import fetch_model

    digests = FileDigests.load()
    model = fetch_model(config.model.path, config.model.revision, digests=digests, note=print_now)
    size_gb = sum(file["bytes"] for file in model.files.values()) / 1e9
    print_now(f"model {model.id}: {len(model.files)} files, {size_gb:.2f} GB, as on the hub")
    if not is_commit(model.revision):
        old = earlier.model or {}
        is_same = (old.get("id"), old.get("revision")) == (model.id, model.revision)
        if is_same and old["commit"] != model.commit:
            print_now(
                f"warning: {model.revision} moved from {old['commit']} to {model.commit}; nothing "
                "would distinguish results of both"
            )
        print_now(f"pin it in workflow_config.yaml: model: revision: {model.commit}")
    record = asdict(model)
    del record["folder"]
    return {**record, "time": now()}


def _data(task: TaskSource, before: Mapping[str, Any]) -> dict[str, Any] | None:
    """Fetch the files of a task; return what is recorded of them, None if nothing is fetched.

    before: the record of the last fetch.
    """
    from fastdllm.tasks.lm_eval_setup import is_here
    from fastdllm.tasks.task_files import find_task_files
    from fastdllm.tasks.task_metadata import hub_files
    from fastdllm.tools.fetching.source_files import are_as_fetched, fetch_files

    files = hub_files(task) if task.data is None else {}
    if not files:
        find_task_files(task)  # which says what is to be named instead
        print_now(f"task {task.name}: reads local files, nothing to fetch")
        return None
    if are_as_fetched(files, before):
        print_now(f"task {task.name}: {len(files)} files, as they were fetched")
        return None
    if not before and is_here(task):
        print_now(f"task {task.name}: its files are here already, nothing to fetch")
        return None
    entry = fetch_files(files, before, print_now)
    size_mb = sum(file["bytes"] for file in entry["files"]) / 1e6
    print_now(f"task {task.name}: {len(files)} files of data, {size_mb:.1f} MB")
    return {**entry, "time": now()}
