"""`fastdllm new-experiment NAME`: copy the template of an experiment and print the next steps."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

TEMPLATE = "_template"


def configure(parser: argparse.ArgumentParser) -> None:
    """Takes the name of the new folder in experiments/."""
    parser.add_argument("name", help="letters, digits, '_', '.' and '-'; a new folder's name")


def run(args: argparse.Namespace) -> int:
    """Copy experiments/_template; the new folder appears complete or not at all."""
    from fastdllm.workflow.project.config_files import EXPERIMENTS, WORKFLOW_CONFIG

    folder = copy_template(args.name)
    sys.stdout.write(
        f"made {folder} from {EXPERIMENTS / TEMPLATE}\n"
        f"1. edit {folder}/experiment.yaml (question, grid) and {folder}/generation_functions.py "
        f"(what is decided differently)\n"
        f"2. name it in {WORKFLOW_CONFIG} under experiments:, then see what would run: "
        f"snakemake -n --config experiment={args.name}\n"
    )
    return 0


def copy_template(name: str) -> Path:
    """Make experiments/<name> and return it.

    Raises:
        UserError: not a name, taken already, no template, or experiments/ cannot be written.
    """
    from fastdllm.common.errors import UserError
    from fastdllm.common.files import cannot
    from fastdllm.common.paths import check_name
    from fastdllm.workflow.project.config_files import EXPERIMENTS

    try:
        folder = EXPERIMENTS / check_name(name)
    except ValueError as error:
        raise UserError(f"new-experiment: {error}") from None
    template = EXPERIMENTS / TEMPLATE
    if not (template / "experiment.yaml").is_file():
        raise UserError(
            f"{template}: no such folder; type this in the project's folder, or give --directory"
        )
    if folder.exists():
        raise UserError(f"{folder}: exists already; choose another name")
    try:
        with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=EXPERIMENTS) as scratch:
            copy = Path(scratch, name)
            shutil.copytree(template, copy, ignore=shutil.ignore_patterns("__pycache__", ".*"))
            # Fails if the folder was made meanwhile, unless it is empty.
            copy.rename(folder)
    except OSError as error:
        raise cannot("write", folder, error) from None
    return folder
