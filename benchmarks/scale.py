"""How long `fastdllm status` and `snakemake -n` take with 1,000 runs: `python -m benchmarks.scale`.

Builds a project of 1,000 runs in a temporary folder (half of them finished), and takes the median
of whole processes. Once more, 200 of the others are queued: a script in place of squeue says so,
whose own time does not count for a controller's. In the end each run is cut into two shards.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from benchmarks.record import ROOT, record
from fastdllm.cluster.jobs import comment_of
from fastdllm.records.result_files import DIGEST, NAMES, content_digest

RUNS, REPEATS, QUEUED = 1000, 5, 200
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
    file.write_text(yaml.safe_dump(experiment))


def cut_in_two(folder: Path) -> None:
    """Set every run to be made by two shards, each its own job."""
    file = folder / "workflow_config.yaml"
    config = yaml.safe_load(file.read_text())
    for task in config["tasks"].values():
        task["shards"] = 2
    file.write_text(yaml.safe_dump(config, sort_keys=False))


def finish_half(folder: Path) -> None:
    """Write a summary with its own fingerprint for every second run."""
    template = next((ROOT / "artifacts").glob("*/*/*/summary.json"), None)
    base = json.loads(template.read_text()) if template else {}
    for key in ("same_as", DIGEST):
        base.pop(key, None)
    for spec in sorted(folder.glob("results/*/*/*/spec.json"))[::2]:
        content = json.loads(spec.read_text())
        summary = base | {name: content[name] for name in ("fingerprint", "decides", *NAMES)}
        summary[DIGEST] = content_digest(summary)
        (spec.parent / "summary.json").write_text(json.dumps(summary))


def queue_some(folder: Path) -> dict[str, str]:
    """Fake a squeue in which some of the missing runs are queued; return the environment with it.

    The cache of its answers is off, so that each process asks.
    """
    fields = ("PENDING", "Priority", "2030-01-01T00:00:00", "", "8:00:00", "0", "run")
    missing = sorted(folder.glob("results/*/*/*/spec.json"))[1::2]
    comments = [comment_of("eval", spec.parts[-4:-1]) for spec in missing[:QUEUED]]
    jobs = [
        "\x1f".join([str(number), *fields, comment, str(folder.resolve())])
        for number, comment in enumerate(comments, 1)
    ]
    bin_folder = folder / "bin"
    bin_folder.mkdir()
    (bin_folder / "jobs").write_text("".join(f"{job}\x1e\n" for job in jobs))
    (bin_folder / "squeue").write_text('#!/bin/sh\necho >> "$0.calls"\nexec cat "${0%/*}/jobs"\n')
    (bin_folder / "squeue").chmod(0o755)
    path = f"{bin_folder}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": path, "XDG_CACHE_HOME": "/dev/null"}


def check_queue(folder: Path, environment: dict[str, str]) -> None:
    """Hold the measured command against what it promises: all jobs seen, one call of squeue."""
    calls = folder / "bin" / "squeue.calls"
    calls.unlink(missing_ok=True)
    told = json.loads(run(folder, "fastdllm", "status", "--json", environment=environment))
    asked = len(calls.read_text().splitlines())
    if told["totals"]["queued"] != QUEUED or asked != 1:
        raise SystemExit(f"{told['totals']}, {asked} calls of squeue")


def run(folder: Path, *command: str, environment: dict[str, str] | None = None) -> str:
    """Run a module of Python in the project; its messages are shown when it fails."""
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}:\n{done.stdout}{done.stderr}")
    return done.stdout


def median_s(folder: Path, *command: str, environment: dict[str, str] | None = None) -> float:
    """Median wall time of whole processes, after one that is not counted."""
    times = []
    for _ in range(REPEATS + 1):
        started = time.perf_counter()
        run(folder, *command, environment=environment)
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
        status = ("fastdllm", "status")
        whole_s = median_s(folder, *plan)
        figures = {
            f"`snakemake -n`, {RUNS} runs": f"{whole_s:.2f} s",
            f"`fastdllm status`, {RUNS} runs": f"{median_s(folder, *status):.2f} s",
        }
        cluster = queue_some(folder)
        check_queue(folder, cluster)
        queued_s = median_s(folder, *status, environment=cluster)
        figures[f"`fastdllm status`, {QUEUED} of {RUNS} runs queued"] = f"{queued_s:.2f} s"
        cut_in_two(folder)
        figures[f"`snakemake -n`, {RUNS} runs of 2 shards"] = f"{median_s(folder, *plan):.2f} s"
    record("scale", command=COMMAND, figures=figures)
    for figure, value in figures.items():
        sys.stdout.write(f"{figure}: {value}\n")


if __name__ == "__main__":
    main()
