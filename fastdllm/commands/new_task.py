"""`fastdllm new-task NAME`: copy a task of lm-eval into tasks/ and print the next steps."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastdllm.tasks.lm_eval_copies import TaskCopy


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="a task, a group or a tag of lm-eval, such as arc_challenge")


def run(args: argparse.Namespace) -> int:
    """Write tasks/<name>.yaml, and what else it needs into tasks/<name>/."""
    from importlib.metadata import version

    from fastdllm.commands.options import print_now
    from fastdllm.common.paths import TASKS
    from fastdllm.tasks.lm_eval_setup import lm_eval_environment
    from fastdllm.workflow.project.config_files import WORKFLOW_CONFIG

    refuse_taken(args.name)
    print_now("reading the tasks of lm-eval (about ten seconds)")
    with lm_eval_environment(offline=True):
        from fastdllm.tasks.lm_eval_copies import copy_task, lm_eval_index

        copy = copy_task(args.name, lm_eval_index())
    write_copy(copy)
    tasks = f", {len(copy.names)} tasks and groups" if len(copy.names) > 1 else ""
    sys.stdout.write(
        f"made {TASKS / args.name}.yaml as in lm-eval {version('lm_eval')}{tasks}\n"
        + "1. look at what was added: "
        + "; ".join(copy.notes)
        + f"\n2. bring its data, on a node with network: fastdllm fetch --task {args.name}\n"
        f"3. write `{args.name}:` under tasks: in {WORKFLOW_CONFIG}, then see what would run: "
        f"snakemake -n --config task={args.name}\n"
    )
    return 0


def refuse_taken(*names: str) -> None:
    """Raise a UserError for a name that is none, or that a task of the project has."""
    from fastdllm.common.errors import UserError
    from fastdllm.common.paths import TASKS, check_task_name
    from fastdllm.tasks.task_files import Folder

    if not TASKS.is_dir():
        raise UserError(
            f"{TASKS}: no such folder; type this in the project's folder, or give --directory"
        )
    there = Folder(TASKS)
    for name in names:
        try:
            check_task_name(name)
        except ValueError as error:
            raise UserError(f"new-task: {error}") from None
        for file in [TASKS / f"{name}.yaml", *there.files_of(name)]:
            if file.exists():
                raise UserError(f"{file}: has a task {name!r} already; remove it first")


def write_copy(copy: TaskCopy) -> None:
    """Write the files of a copy; its own file, by which it is found, comes last.

    Raises:
        UserError: a name is taken already, or tasks/ cannot be written.
    """
    from fastdllm.common.errors import UserError
    from fastdllm.common.files import cannot, write_text_atomically
    from fastdllm.common.paths import TASKS

    refuse_taken(*copy.names)
    own = Path(f"{copy.name}.yaml")
    others = {path: text for path, text in copy.files.items() if path != own}
    folder = next((TASKS / path.parent for path in others), None)
    if folder is not None and folder.exists():
        raise UserError(f"{folder}: exists already; remove it first")
    if folder is not None:
        try:
            with tempfile.TemporaryDirectory(prefix=f".{copy.name}.", dir=TASKS) as scratch:
                for path, text in others.items():
                    write_text_atomically(Path(scratch) / path, text)
                (Path(scratch) / folder.name).rename(folder)
        except OSError as error:
            raise cannot("write", folder, error) from None
    write_text_atomically(TASKS / own, copy.files[own])
