"""`fastdllm plan`: write the requests of a task, tokenised and split into chunks.

The options of the task and the model come from workflow_config.yaml. Needs no GPU; reaches the
network only for a model or a data set that is not here yet. Two that plan the same task at once, as
clones with one results/ do, work one after the other; the second replaces only what differs.

failed.json says why the last attempt failed, for `fastdllm status`.

A task with Python helpers is planned once more, by a process that orders sets otherwise.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from fastdllm.common.errors import UserError

if TYPE_CHECKING:
    from fastdllm.workflow.project.config_files import WorkflowConfig


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--task", required=True, help="a task of tasks/")
    parser.add_argument("--limit", type=int, help="plan the first N items only")
    parser.add_argument("--output", type=Path, help="folder (default: results/_plans/<task>)")
    parser.add_argument(
        "--config", type=Path, help="file in place of workflow_config.yaml, as JSON or YAML"
    )


def run(args: argparse.Namespace) -> int:
    from fastdllm.common.paths import LOGS, PLANS, task_folder
    from fastdllm.runs.lock import run_lock
    from fastdllm.runs.needs import require_permission
    from fastdllm.runs.progress import failure_record
    from fastdllm.runs.shards import JobFiles
    from fastdllm.workflow.project.config_files import (
        WORKFLOW_CONFIG,
        load_workflow_config,
        with_task,
    )

    if args.limit is not None and args.limit < 1:
        raise UserError(f"--limit {args.limit}: must be at least 1; leave it out for all items")
    config = with_task(load_workflow_config(args.config or WORKFLOW_CONFIG), args.task)
    folder = args.output or PLANS / task_folder(args.task, args.limit)
    files = JobFiles(
        answers=folder / "requests.jsonl",
        progress=folder / "progress.json",
        failure=folder / "failed.json",
        log=LOGS / "plan" / f"{folder.name}.log",
    )
    with run_lock(folder, wait=True, work="plan"), failure_record(files):
        require_permission(
            config.task_source(args.task), partial(bool, config.allow_code_execution)
        )
        _plan(args, config, folder)
    return 0


def _plan(args: argparse.Namespace, config: WorkflowConfig, folder: Path) -> None:
    from fastdllm.common.console import counted
    from fastdllm.common.files import to_json
    from fastdllm.tasks.lm_eval_setup import lm_eval_environment, runs_code
    from fastdllm.workflow.project.runs import task_plan

    options, source = config.task_options(args.task), config.task_source(args.task)
    allows_code = config.allow_code_execution
    offline = Path(config.model.path).is_dir()
    with lm_eval_environment(offline=offline, allows_code=allows_code and runs_code(source)):
        from fastdllm.model.checkpoint import commit_of, find_checkpoint
        from fastdllm.model.config import read_config
        from fastdllm.model.tokenizer import load_tokenizer
        from fastdllm.tasks.plan import write_plan
        from fastdllm.tasks.planning import PlanOptions, make_plan
        from fastdllm.tasks.task_files import find_task_files

        # Read before the rest: what changes meanwhile makes the plan outdated, not wrong.
        spec = task_plan(config, args.task, args.limit).spec()
        checkpoint = find_checkpoint(config.model.path, config.model.revision)
        model = read_config(checkpoint)
        of_template: list[str] = []
        tokenizer = load_tokenizer(
            config.model.path, config.model.revision, tell=of_template.append
        )
        if tokenizer.chat_template and "apply_chat_template" not in options.model_fields_set:
            raise UserError(
                f"task {args.task!r}: the model has a chat template; give the task "
                "apply_chat_template: true in workflow_config.yaml to write prompts by it, as "
                "`fastdllm generate` does, or false for prompts as the task has them"
            )
        plan = make_plan(
            tokenizer,
            PlanOptions(
                task=source,
                limit=args.limit,
                chunk_size=options.chunk_size,
                num_fewshot=options.num_fewshot,
                apply_chat_template=options.apply_chat_template,
                max_positions=model.max_positions,
                vocab_size=model.vocab_size,
                mask_id=model.mask_id,
                model_commit=commit_of(config.model.path, checkpoint),
                allows_code=allows_code,
            ),
            of_template if options.apply_chat_template else (),
        )
        if find_task_files(source).helpers:
            _check_order(args, plan.header.item_digests)
        write_plan(folder, plan, made_from=to_json(spec))
    header = plan.header
    sizes = ", ".join((counted(header.n_items, "item"), counted(header.n_requests, "request")))
    chunks = counted(len(header.chunks), "chunk")
    sys.stdout.write(f"planned {args.task}: {sizes} in {chunks} -> {folder}\n")


def _check_order(args: argparse.Namespace, digests: Mapping[str, Sequence[str]]) -> None:
    """Refuse a task that asks otherwise in each process, as by a set that a helper prints.

    Each process orders sets of texts anew, unless PYTHONHASHSEED says how; then it is so for all.

    digests: of the items as this process plans them.

    Raises:
        UserError: naming the first item that differs.
    """
    from fastdllm.common.files import temporary_folder
    from fastdllm.tasks.plan import read_plan

    if os.environ.get("PYTHONHASHSEED", "random") != "random":
        return
    with temporary_folder("fastdllm-plan-") as folder:
        command = [sys.executable, "-m", "fastdllm", "plan", "--task", args.task]
        options = {"--output": folder, "--limit": args.limit, "--config": args.config}
        given = [word for name, value in options.items() if value for word in (name, str(value))]
        completed = subprocess.run(
            [*command, *given],
            env={**os.environ, "PYTHONHASHSEED": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        if completed.returncode:
            lines = completed.stderr.strip().splitlines() or [f"exit code {completed.returncode}"]
            reason = lines[-1].removeprefix("fastdllm: ")
            raise UserError(f"task {args.task!r}: cannot be planned once more: {reason}")
        again = read_plan(Path(folder), args.task).header.item_digests
    for name, of_items in digests.items():
        for item, (digest, other) in enumerate(zip_longest(of_items, again.get(name, ()))):
            if digest != other:
                raise UserError(
                    f"task {name!r}, item {item}: another process asks or expects something else, "
                    "as where a helper prints a set in its own order; let it sort the set"
                )
