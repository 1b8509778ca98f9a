"""`fastdllm fetch`: bring model, tokenizer and data to where jobs without network find them.

Run on a node with network. Files that are here already are compared and not fetched again; an
interrupted download resumes. results/_fetched.json records what was fetched.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
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
    from fastdllm.common.console import counted
    from fastdllm.common.files import write_json_atomically
    from fastdllm.machine.hub_cache import data_cache, hub_cache
    from fastdllm.runs.needs import FETCHED, read_fetched, require, require_permission
    from fastdllm.tasks.task_source import TaskSource
    from fastdllm.tools.fetching.proof import prove_offline
    from fastdllm.workflow.project.config_files import load_workflow_config, with_task

    config = load_workflow_config()
    tasks = list(dict.fromkeys(args.task or config.tasks))
    for task in tasks:
        config = with_task(config, task)
    earlier = read_fetched()
    record: dict[str, Any] = {
        "schema_version": 1,
        "model": _model(config, earlier),
        "tasks": {
            name: entry
            for name, entry in earlier.tasks.items()
            if TaskSource.named(name).file.is_file()
        },
        "caches": {"hub": str(hub_cache()), "data": str(data_cache())},
    }
    write_json_atomically(FETCHED, record)
    sources = [config.task_source(task) for task in tasks]
    for name, entry in _data(sources, earlier, allows_code=config.allow_code_execution):
        record["tasks"][name] = entry
        write_json_atomically(FETCHED, record)
    for task in tasks:
        require_permission(config.task_source(task), partial(bool, config.allow_code_execution))
        require(config.model.path, config.model.revision, config.task_source(task))
        prove_offline(task)
        print_now(f"task {task}: is planned and scored without a network")
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


def _data(
    tasks: list[TaskSource], earlier: Fetched, *, allows_code: bool
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Fetch the data of tasks; yield what is recorded of each."""
    from fastdllm.tasks.lm_eval_setup import data_is_local, is_here, lm_eval_environment
    from fastdllm.tasks.task_metadata import hub_files

    with lm_eval_environment(offline=False, private_cache=False, allows_code=allows_code):
        from fastdllm.tools.fetching.source_files import are_as_fetched, fetch_files

        for task in tasks:
            files = hub_files(task) if task.data is None else {}
            before = earlier.tasks.get(task.name, {})
            if files and are_as_fetched(files, before):
                print_now(f"task {task.name}: {len(files)} files, as they were fetched")
                continue
            if files and not before and is_here(task):
                print_now(f"task {task.name}: its files are here already, nothing to fetch")
                continue
            if files:
                entry = fetch_files(files, before, print_now)
            elif data_is_local(task):
                print_now(f"task {task.name}: reads local files, nothing to fetch")
                continue
            else:
                from fastdllm.tools.fetching.data_sets import fetch_data

                entry = {"files": fetch_data(task)}
            size_mb = sum(file["bytes"] for file in entry["files"]) / 1e6
            print_now(f"task {task.name}: {len(entry['files'])} files of data, {size_mb:.1f} MB")
            yield task.name, {**entry, "time": now()}
