"""`fastdllm plan`: write the requests of a task, tokenised and split into chunks.

The options of the task and the model come from workflow_config.yaml. Needs no GPU; reaches the
network only for a model or a data set that is not here yet. Two that plan the same task at once, as
clones with one results/ do, work one after the other; the second replaces only what differs.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from fastdllm.common.errors import UserError, unknown_name


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--task", required=True, help="a task of workflow_config.yaml")
    parser.add_argument("--limit", type=int, help="plan the first N items only")
    parser.add_argument("--output", type=Path, help="folder (default: results/_plans/<task>)")


def run(args: argparse.Namespace) -> int:
    from fastdllm.common.files import to_json
    from fastdllm.common.paths import PLANS, task_folder
    from fastdllm.runs.lock import run_lock
    from fastdllm.workflow.project.config_files import TASKS, load_workflow_config, task_file
    from fastdllm.workflow.project.runs import task_plan

    if args.limit is not None and args.limit < 1:
        raise UserError(f"--limit {args.limit}: must be at least 1; leave it out for all items")
    config = load_workflow_config()
    if args.task not in config.tasks:
        raise unknown_name("task", args.task, config.tasks, where="workflow_config.yaml")
    options = config.task_options(args.task)
    folder = args.output or PLANS / task_folder(args.task, args.limit)

    from fastdllm.tasks.lm_eval_setup import data_is_local, lm_eval_environment

    data_here = data_is_local(task_file(args.task))
    offline = data_here and Path(config.model.path).is_dir()
    with (
        run_lock(folder, wait=True, work="plan"),
        lm_eval_environment(offline=offline, private_cache=data_here),
    ):
        from fastdllm.model.checkpoint import commit_of, find_checkpoint
        from fastdllm.model.config import read_config
        from fastdllm.model.tokenizer import load_tokenizer
        from fastdllm.tasks.plan import write_plan
        from fastdllm.tasks.planning import PlanOptions, check_lengths_of_options, make_plan

        # Read before the rest: what changes meanwhile makes the plan outdated, not wrong.
        spec = task_plan(config, args.task, args.limit).spec()
        checkpoint = find_checkpoint(config.model.path, config.model.revision)
        model = read_config(checkpoint)
        plan = make_plan(
            load_tokenizer(config.model.path, config.model.revision),
            PlanOptions(
                task=args.task,
                limit=args.limit,
                chunk_size=options.chunk_size,
                num_fewshot=options.num_fewshot,
                apply_chat_template=options.apply_chat_template,
                max_positions=model.max_positions,
                vocab_size=model.vocab_size,
                mask_id=model.mask_id,
                model_commit=commit_of(config.model.path, checkpoint),
                tasks_folder=str(TASKS),
            ),
        )
        if "likelihood_mode" not in options.model_fields_set:
            check_lengths_of_options(plan)
        write_plan(folder, plan, made_from=to_json(spec))
    header = plan.header
    sys.stdout.write(
        f"planned {args.task}: {header.n_items} items, {header.n_requests} requests in "
        f"{len(header.chunks)} chunks -> {folder}\n"
    )
    return 0
