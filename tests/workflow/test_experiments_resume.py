"""All experiments with the embedded model, cut short by kill -9 and taken up again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.support.forks import run_snakemake
from tests.support.run_project import PATIENCE_S
from tests.support.small_project import edit

ROOT = Path(__file__).parents[2]
LIMIT = 2
CALL = ("--cores", "1", "--config", f"limit={LIMIT}", "restore=false")
# Enough of each grid to meet every policy at work.
KEPT = {"reuse_k": 2, "lookahead_depth": 2}


def short_project(folder: Path) -> Path:
    """The project with one value of most grid keys; the package is the installed one."""
    for name in ("Snakefile", "rules", "profiles", "tasks", "experiments", "workflow_config.yaml"):
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, folder / name)
    (folder / "models").symlink_to(ROOT / "models")
    for path in (folder / "experiments").glob("[0-9]*/experiment.yaml"):
        experiment = yaml.safe_load(path.read_text())
        for part in experiment.get("grids", [experiment]):
            part["grid"] = {k: v[: KEPT.get(k, 1)] for k, v in part["grid"].items()}
        experiment["tasks"] = ["word_problems"]
        for key in ("speed", "claims", "planned"):
            experiment.pop(key, None)  # they name configs that are cut
        path.write_text(yaml.safe_dump(experiment))
    return folder


def summaries(folder: Path) -> dict[str, dict]:
    paths = (folder / "results").glob(f"*/word_problems_limit_{LIMIT}/*/summary.json")
    return {str(p.relative_to(folder / "results").parent): json.loads(p.read_text()) for p in paths}


@pytest.mark.slow
def test_all_experiments_survive_a_kill(tmp_path: Path) -> None:
    folder = short_project(tmp_path)
    # Runs share one process: each import of torch and lm-eval takes seconds.
    edit(folder / "workflow_config.yaml", "group: 1", "group: 20")
    edit(folder / "workflow_config.yaml", "max_new_tokens: 96", "max_new_tokens: 40")
    with subprocess.Popen(
        [sys.executable, "-m", "snakemake", *CALL],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as first:
        deadline = time.monotonic() + PATIENCE_S
        while not summaries(folder) and first.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        assert first.poll() is None
        os.killpg(first.pid, signal.SIGKILL)
    before = summaries(folder)
    assert before

    second = run_snakemake(*CALL, folder=folder)
    assert second.returncode == 0, second.stderr

    after = summaries(folder)
    experiments = {name.split("/")[0] for name in after}
    assert experiments == {p.parent.name for p in ROOT.glob("experiments/[0-9]*/experiment.yaml")}
    # What was finished before the kill was not decoded again.
    assert all(after[name] == summary for name, summary in before.items())
    decoded = [summary for summary in after.values() if "same_as" not in summary]
    assert len(decoded) < len(after)
    assert len({summary["computation"] for summary in decoded}) == len(decoded)
    assert any(summary["passes"]["layer_forwards_skipped"] for summary in decoded)
