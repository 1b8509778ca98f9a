"""A small project in git whose claims are registered, and results made in its commits."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastdllm.workflow.project.runs import load_project
from tests.support.fakes import fake_summary
from tests.support.small_project import REUSE, SmallProject

CLAIMS = """\
tasks: [words]
claims:
  - {id: C1, kind: noninferior, config: k2_first, against: k1_first, margin: 0.9}
  - {id: C2, kind: better, config: k2_first, against: k1_first}
planned: {n: 2, power: 0.9, from: a guess}
"""
GRID = "experiments/demo/experiment.yaml"


def git(*arguments: str) -> str:
    identity = ("-c", "user.name=n", "-c", "user.email=e@example.org")
    done = subprocess.run(
        ["git", *identity, *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def commit(message: str = "a commit") -> str:
    git("add", "-A")
    git("commit", "-q", "--allow-empty", "-m", message)
    return git("rev-parse", "HEAD")


@pytest.fixture
def claimed(project: SmallProject) -> Iterator[str]:
    """A project whose claims are committed, and a commit behind; yields the one with the claims."""
    Path(".gitignore").write_text("results/\nlogs/\n__pycache__/\n")
    git("init", "-q")
    (project.path / "experiments/demo/generation_functions.py").write_text(REUSE)
    commit("before")
    with Path(GRID).open("a") as stream:
        stream.write(CLAIMS)
    registering = commit("claims")
    commit("later")
    yield registering


def decode(*configs: str, dirty: bool = False, at: str | None = None, **changes: Any) -> None:
    """Publish results of the configs, made in a commit (HEAD)."""
    made_in = {"commit": at or git("rev-parse", "HEAD"), "dirty": dirty}
    for run in load_project().runs:
        if run.config in (configs or ("k1_first", "k2_first")):
            summary = {**fake_summary(run.spec()), "git": made_in, **changes}
            run.artifact_path.parent.mkdir(parents=True, exist_ok=True)
            run.artifact_path.write_text(json.dumps(summary))
