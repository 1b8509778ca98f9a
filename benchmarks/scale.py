"""How long the commands take in a project of many runs: `python -m benchmarks.scale [--runs N]`.

Builds a project in a temporary folder: one experiment on two tasks, where half of the runs that
generate, and nearly all of the others, are the same computation as another. Takes the median of
whole processes at each stage: nothing done; half done; then with a fifth queued (a script in place
of squeue says so, whose own time does not count for a controller's) or all cut into two shards; all
done; all published. The results are made up from published ones: other items are right in each.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from benchmarks.record import ROOT, record
from fastdllm.cluster.jobs import comment_of
from fastdllm.records.bits import packed, unpacked
from fastdllm.records.result_files import DIGEST, NAMES, content_digest

RUNS, REPEATS = 1000, 3
# Configs of one threshold, on two tasks each.
REUSE_K, SEEDS = [1, 2, 3, 4, 5], [0, 1]
PER_THRESHOLD = 2 * len(REUSE_K) * len(SEEDS)
# This share of the items is right in a made-up run and wrong in the published one, or the reverse.
FLIPPED = 0.03
PLAN = ("snakemake", "-n", "--quiet", "all")
STATUS, TABLE, AGGREGATE, REPORT = (
    ("fastdllm", name) for name in ("status", "table", "aggregate", "report")
)


def build_project(folder: Path, runs: int) -> None:
    """Copy the workflow into `folder`, with one experiment of so many runs on two tasks."""
    for name in ("Snakefile", "rules", "profiles", "tasks", "models", "experiments", "training"):
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, folder / name)
    (folder / "fastdllm").symlink_to(ROOT / "fastdllm")
    config = yaml.safe_load((ROOT / "workflow_config.yaml").read_text())
    config |= {
        "experiments": ["00_baseline"],
        "tasks": {name: config["tasks"][name] for name in ("word_problems", "choice_problems")},
    }
    (folder / "workflow_config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    file = folder / "experiments" / "00_baseline" / "experiment.yaml"
    experiment = yaml.safe_load(file.read_text())
    n = runs // PER_THRESHOLD
    thresholds = [round(0.5 + 0.5 * i / n, 5) for i in range(n)]
    experiment["grid"] = {
        "threshold": thresholds,
        "reuse_k": REUSE_K,
        "layer_subset": ["middle"],
        "seed": SEEDS,
    }
    experiment["config_name"] = "t{threshold}_k{reuse_k}_s{seed}"
    file.write_text(yaml.safe_dump(experiment))


def cut_into(shards: int, folder: Path) -> None:
    """Set every run to be made by so many jobs."""
    file = folder / "workflow_config.yaml"
    config = yaml.safe_load(file.read_text())
    for task in config["tasks"].values():
        task["shards"] = shards
    file.write_text(yaml.safe_dump(config, sort_keys=False))


def finish(folder: Path, *, every: int = 1) -> None:
    """Write the summary of every run, or every second one; copies name the one they are made of."""
    published = ROOT / "artifacts" / "00_baseline"
    base = {
        path.parent.parent.name: json.loads(path.read_text())
        for path in published.glob("*/k1_first/summary.json")
    }
    decoded: dict[str, dict[str, Any]] = {}
    for number, spec in enumerate(specs_of(folder)[::every]):
        content = json.loads(spec.read_text())
        own = {name: content[name] for name in ("fingerprint", "decides", *NAMES)}
        computation = content["run"]["computation"]
        first = decoded.get(computation)
        if first is None:
            summary = made_up(base[content["task"]], number) | own | {"computation": computation}
            decoded[computation] = summary
        else:
            summary = first | own
            summary["same_as"] = {name: first[name] for name in ("fingerprint", *NAMES)}
        text = json.dumps(summary | {DIGEST: content_digest(summary)})
        (spec.parent / "summary.json").write_text(text)


def made_up(base: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Return a published summary with some items right instead of wrong, and the reverse."""
    chance = random.Random(seed)
    summary = {key: value for key, value in base.items() if key not in ("same_as", DIGEST)}
    items = summary["items"]
    right = unpacked(items["n"], items["correct_bits"])
    right = [is_right != (chance.random() < FLIPPED) for is_right in right]
    accuracy = sum(right) / len(right)
    metrics = [
        metric | ({"value": accuracy} if metric["primary"] else {}) for metric in summary["metrics"]
    ]
    items = items | {"correct_bits": packed(right)}
    return summary | {"items": items, "accuracy": accuracy, "metrics": metrics}


def specs_of(folder: Path) -> list[Path]:
    """Return the specs of all runs, in a fixed order."""
    return sorted(folder.glob("results/*/*/*/spec.json"))


def queue_some(folder: Path, queued: int) -> dict[str, str]:
    """Fake a squeue in which so many runs are queued; return the environment with it.

    The cache of its answers is off, so that each process asks.
    """
    fields = ("PENDING", "Priority", "2030-01-01T00:00:00", "", "8:00:00", "0", "run")
    missing = [spec for spec in specs_of(folder) if not spec.with_name("summary.json").exists()]
    comments = [comment_of("eval", spec.parts[-4:-1]) for spec in missing[:queued]]
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


def check_queue(folder: Path, environment: dict[str, str], queued: int) -> None:
    """Hold the measured command against what it promises: all jobs seen, one call of squeue."""
    calls = folder / "bin" / "squeue.calls"
    calls.unlink(missing_ok=True)
    told = json.loads(run(folder, "fastdllm", "status", "--json", environment=environment))
    asked = len(calls.read_text().splitlines())
    if told["totals"]["queued"] != queued or asked != 1:
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


@dataclass(slots=True)
class Figures:
    """The figures of one project; each is shown as soon as it is measured."""

    folder: Path
    runs: int
    repeats: int
    taken: dict[str, str] = field(default_factory=dict)

    def take(
        self,
        what: str,
        *command: str,
        environment: dict[str, str] | None = None,
        before: Callable[[], object] = lambda: None,
    ) -> None:
        """Take the median wall time of whole processes, and of their processor seconds.

        Args:
            what: the stage of the project. before: what precedes each.
        """
        walls, cpus = [], []
        for _ in range(self.repeats):
            before()
            started, cpu = time.perf_counter(), _cpu_of_children_s()
            run(self.folder, *command, environment=environment)
            walls.append(time.perf_counter() - started)
            cpus.append(_cpu_of_children_s() - cpu)
        wall_s, cpu_s = statistics.median(walls), statistics.median(cpus)
        figure = f"`{' '.join(command[:2])}`, {self.runs:,} runs{what}"
        load = os.getloadavg()[0]
        self.taken[figure] = f"{wall_s:.1f} s ({cpu_s:.1f} s of a processor), load {load:.1f}"
        sys.stdout.write(f"{figure}: {self.taken[figure]}\n")
        sys.stdout.flush()


def _cpu_of_children_s() -> float:
    times = os.times()
    return times.children_user + times.children_system


def measure(folder: Path, runs: int, repeats: int) -> dict[str, str]:
    """Take the figures of all stages in an empty folder."""
    build_project(folder, runs)
    figures = Figures(folder, runs, repeats)

    def forget() -> None:
        for name in ("results", "logs", ".snakemake"):
            shutil.rmtree(folder / name, ignore_errors=True)

    figures.take(", nothing done", *PLAN, before=forget)
    finish(folder, every=2)
    figures.take(", half done", *PLAN)
    figures.take(", half done", *STATUS)
    environment = queue_some(folder, runs // 5)
    check_queue(folder, environment, runs // 5)
    figures.take(", a fifth queued", *STATUS, environment=environment)
    cut_into(2, folder)
    figures.take(", half to be made of 2 shards", *PLAN)
    cut_into(1, folder)
    finish(folder)
    figures.take(
        ", all to publish",
        *AGGREGATE,
        before=lambda: shutil.rmtree(folder / "artifacts", ignore_errors=True),
    )
    figures.take(", nothing changed", *AGGREGATE)
    figures.take("", *TABLE)
    figures.take(", all published", *STATUS)
    figures.take(", all published", *PLAN)
    figures.take("", *REPORT)
    return figures.taken


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=RUNS, help=f"a multiple of {PER_THRESHOLD}")
    parser.add_argument("--repeats", type=int, default=REPEATS, help="the median is taken")
    args = parser.parse_args()
    if args.runs < PER_THRESHOLD or args.runs % PER_THRESHOLD or args.repeats < 1:
        parser.error(f"--runs must be a multiple of {PER_THRESHOLD}, --repeats at least 1")
    with tempfile.TemporaryDirectory() as name:
        figures = measure(Path(name), args.runs, args.repeats)
    command = f"python -m benchmarks.scale --runs {args.runs}"
    record(f"scale_{args.runs}", command=command, figures=figures)


if __name__ == "__main__":
    main()
