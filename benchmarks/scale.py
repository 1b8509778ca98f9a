"""How long `fastdllm status` and `snakemake -n` take with 1,000 runs: `python -m benchmarks.scale`.

Builds a project of 1,000 runs in a temporary folder (half of them finished), and takes the median
of whole processes.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from benchmarks.record import ROOT, record

RUNS, REPEATS = 1000, 5
COMMAND = "python -m benchmarks.scale"


def build_project(folder: Path) -> None:
    """Copy the workflow into `folder` and give 00_baseline a grid of 500 configs on two tasks."""
    for name in ("Snakefile", "rules", "profiles", "tasks", "models", "experiments", "training"):
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, folder / name)
    (folder / "fastdllm").symlink_to(ROOT / "fastdllm")
    shutil.copy(ROOT / "workflow_config.yaml", folder)
    file = folder / "experiments" / "00_baseline" / "experiment.yaml"
    experiment = yaml.safe_load(file.read_text())
    experiment["grid"] = {"seed": list(range(RUNS // 2))}
    experiment["config_name"] = "seed{seed}"
    experiment["baseline"] = "seed0"
    file.write_text(yaml.safe_dump(experiment))


def finish_half(folder: Path) -> None:
    """Give every second run a summary with its own fingerprint."""
    template = next((ROOT / "artifacts").glob("*/*/*/summary.json"), None)
    base = json.loads(template.read_text()) if template else {}
    base.pop("same_as", None)
    for spec in sorted(folder.glob("results/*/*/*/spec.json"))[::2]:
        content = json.loads(spec.read_text())
        summary = base | {name: content[name] for name in ("fingerprint", "decides", "config")}
        (spec.parent / "summary.json").write_text(json.dumps(summary))


def run(folder: Path, *command: str) -> None:
    """Run a module of Python in the project; its messages are shown when it fails."""
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, check=False, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}:\n{done.stdout}{done.stderr}")


def median_s(folder: Path, *command: str) -> float:
    """Median wall time of whole processes, after one that is not counted."""
    times = []
    for _ in range(REPEATS + 1):
        started = time.perf_counter()
        run(folder, *command)
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def main() -> None:
    """Measure and record."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build_project(folder)
        plan = ("snakemake", "-n", "--quiet", "all")
        run(folder, *plan)
        finish_half(folder)
        figures = {
            f"`snakemake -n`, {RUNS} runs": f"{median_s(folder, *plan):.2f} s",
            f"`fastdllm status`, {RUNS} runs": f"{median_s(folder, 'fastdllm', 'status'):.2f} s",
        }
    record("scale", command=COMMAND, figures=figures)
    for figure, value in figures.items():
        sys.stdout.write(f"{figure}: {value}\n")


if __name__ == "__main__":
    main()
