"""A project in a folder, with finished runs of a few items: the shipped experiments and tasks."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import chdir
from pathlib import Path

from fastdllm.cli import main
from fastdllm.common.files import to_json, write_if_changed
from fastdllm.workflow.project.runs import load_project
from fastdllm.workflow.project.selection import Selection

ROOT = Path(__file__).parents[2]
TASK = "word_problems"


def make_project(folder: Path, configs: Sequence[str], *, limit: int) -> None:
    """Decode and score configs (`experiment/config`) in a new project, as the workflow does."""
    for name in ("models", "tasks", "experiments"):
        shutil.copytree(ROOT / name, folder / name)
    shutil.copy(ROOT / "workflow_config.yaml", folder)
    with chdir(folder):
        project = load_project(Selection(tasks=(TASK,), limit=limit))
        for plan in project.plans:
            write_if_changed(plan.spec_path, to_json(plan.spec()))
        assert main(["plan", "--task", TASK, "--limit", str(limit)]) == 0
        for run in project.runs:
            if f"{run.experiment}/{run.config}" in configs:
                write_if_changed(run.spec_path, to_json(run.spec()))
                assert main(["eval", str(run.spec_path), "--threads", "1"]) == 0
