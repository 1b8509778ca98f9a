"""`fastdllm fetch`: bring model, tokenizer and data to where jobs without network find them.

Run on a node with network. Files that are here already are compared and not fetched again; an
interrupted download resumes. results/_fetched.json records what was fetched.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from fastdllm.commands.options import print_now
from fastdllm.common.files import now

if TYPE_CHECKING:
    from fastdllm.runs.needs import Fetched
    from fastdllm.tasks.task_source import TaskSource
    from fastdllm.workflow.project.config_files import WorkflowConfig


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--task", action="append", help="only this task of workflow_config.yaml (may be repeated)"
    )


def run(args: argparse.Namespace) -> int:
    from fastdllm.common.files import write_json_atomically
    from fastdllm.machine.hub_cache import data_cache, hub_cache
    from fastdllm.runs.needs import FETCHED, read_fetched, require
    from fastdllm.tools.fetching.proof import prove_offline
    from fastdllm.workflow.project.config_files import load_workflow_config
    from fastdllm.workflow.project.selection import keep

    config = load_workflow_config()
    tasks = keep("task", args.task, config.tasks, where="workflow_config.yaml")
    earlier = read_fetched()
    record: dict[str, Any] = {
        "schema_version": 1,
        "model": _model(config, earlier),
        "tasks": {name: entry for name, entry in earlier.tasks.items() if name in config.tasks},
        "caches": {"hub": str(hub_cache()), "data": str(data_cache())},
    }
    write_json_atomically(FETCHED, record)
    record["tasks"] |= _data([config.task_source(task) for task in tasks])
    write_json_atomically(FETCHED, record)
    for task in tasks:
        require(config.model.path, config.model.revision, config.task_source(task))
        prove_offline(task)
        print_now(f"task {task}: is planned and scored without a network")
    sys.stdout.write(f"everything that {len(tasks)} tasks need is here -> {FETCHED}\n")
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


def _data(tasks: list[TaskSource]) -> dict[str, dict[str, Any]]:
    from fastdllm.tasks.lm_eval_setup import data_is_local, lm_eval_environment

    remote = []
    for task in tasks:
        if data_is_local(task):
            print_now(f"task {task.name}: reads local files, nothing to fetch")
        else:
            remote.append(task)
    fetched: dict[str, dict[str, Any]] = {}
    if not remote:
        return {}
    with lm_eval_environment(offline=False, private_cache=False):
        from fastdllm.tools.fetching.data_sets import fetch_data

        for task in remote:
            files = fetch_data(task)
            size_mb = sum(file["bytes"] for file in files) / 1e6
            print_now(f"task {task.name}: {len(files)} files of data, {size_mb:.1f} MB")
            fetched[task.name] = {"files": files, "time": now()}
    return fetched
