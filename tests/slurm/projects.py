"""A copy of this project, with the real model and rules, whose runs take seconds.

Every run of 00_baseline is decoded, though many are the same computation: nine jobs for nine
configs.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.slurm.configs import ACCOUNTS
from tests.slurm.lab import Lab

ROOT = Path(__file__).parents[2]
COPIED = ["Snakefile", "rules", "profiles", "tasks", "experiments", "fastdllm"]
COPIED += ["snakemake_executor_plugin_fastdllm_slurm", "models"]
EXPERIMENT, TASK = "00_baseline", "word_problems"
CONFIGS = [f"k{k}_{subset}" for k in (1, 2, 3) for subset in ("first", "middle", "last")]
CONFIG = """\
model: {{path: models/tiny, dtype: float32}}
experiments: [00_baseline]
tasks:
  word_problems: {{apply_chat_template: true, chunk_size: {chunk_size}, \
batch_size: {chunk_size}, shards: {shards}, group: {group}}}
decoding: {{threshold: 0.9, max_new_tokens: 96}}
"""
# Twelve chunks, enough to be hit between two of them.
N_ITEMS, CHUNK_SIZE = 24, 2
# The made-up nodes share the processors of one machine, and their SLURM may be asked often.
IN_LAB = (
    "--set-threads",
    "eval=1",
    "shard=1",
    "pack=1",
    "sitting=1",
    "--seconds-between-status-checks",
    "1",
)
# One job that decodes nothing.
ONE_JOB = """\
rule run:
    input: "spec.json"
    output: update("summary.json")
    resources: slurm_account={account!r}, qos="inferno", runtime=5, mem_mb=100
    shell: {shell!r}
"""
# A grid takes a minute on two processors of one's own.
GRID_S = 900.0


@dataclass(frozen=True)
class ClusterProject:
    """A project folder whose commands talk to the lab.

    n_items: of each run. chunk_size: most items of a chunk.
    """

    path: Path
    lab: Lab
    n_items: int
    chunk_size: int

    def command(
        self, *more: str, target: str = "", profile: str = "pace", qos: str = "inferno"
    ) -> list[str]:
        """What a user types, with the site values of the lab."""
        cluster = [] if profile == "local" else ["account=gts-lab", "gpu=RTX_6000", f"qos={qos}"]
        words = [sys.executable, "-m", "snakemake", *([target] if target else [])]
        words += ["--profile", f"profiles/{profile}"]
        return [*words, *IN_LAB, *(["--config"] if [*cluster, *more] else []), *cluster, *more]

    def snakemake(self, *more: str, **how: str) -> subprocess.CompletedProcess[str]:
        """Run the command to its end."""
        return self.lab.run(*self.command(*more, **how), cwd=self.path, timeout=GRID_S)

    @contextmanager
    def started(self, *more: str, **how: str) -> Iterator[subprocess.Popen[bytes]]:
        """The command while it runs, which writes to main.log; killed with all it started."""
        with (self.path / "main.log").open("ab") as log:
            main = subprocess.Popen(
                self.command(*more, **how),
                cwd=self.path,
                env=self.lab.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            yield main
        finally:
            with suppress(ProcessLookupError):
                os.killpg(main.pid, signal.SIGKILL)
            main.wait()

    def main_log(self) -> str:
        """What started commands wrote."""
        return (self.path / "main.log").read_text()

    def folder(self, config: str) -> Path:
        """The folder of one run."""
        return self.path / "results" / EXPERIMENT / TASK / config

    def artifact(self, config: str) -> Path:
        """The folder of its published summary."""
        return self.path / "artifacts" / EXPERIMENT / TASK / config

    def status(self) -> dict[str, dict[str, Any]]:
        """What `fastdllm status` tells of each run, by config."""
        words = (sys.executable, "-m", "fastdllm", "status", "--json")
        done = self.lab.run(*words, cwd=self.path)
        assert done.returncode in (0, 1), done.stdout + done.stderr
        return {run["config"]: run for run in json.loads(done.stdout)["runs"]}

    def jobs(self) -> dict[str, dict[str, str]]:
        """The SLURM jobs of this project that SLURM still knows, by id."""
        jobs = self.lab.jobs().items()
        return {key: job for key, job in jobs if job["folder"] == str(self.path)}

    def config_of(self, comment: str) -> str | None:
        """Which run the SLURM job with this comment makes; None where it makes no whole run."""
        prefix = f"rule_eval_wildcards_{EXPERIMENT}_{TASK}_"
        return comment.removeprefix(prefix) if comment.startswith(prefix) else None

    def is_finished(self, config: str) -> bool:
        """Whether a run has its summary."""
        return (self.folder(config) / "summary.json").exists()

    def is_decoded(self, config: str) -> bool:
        """Whether nothing is left to decode."""
        return len(self.chunk_lines(config)) * self.chunk_size >= self.n_items

    def answers(self, config: str) -> bytes:
        """All answers of a run in order, as bytes; without how long they took."""
        answers = []
        for chunk in sorted(self.chunks(config), key=lambda chunk: chunk["index"]):
            answers += [[a["id"], a["token_ids"], a["committed_at"]] for a in chunk["answers"]]
        return json.dumps(answers).encode()

    def chunks(self, config: str) -> list[dict[str, Any]]:
        """The chunks of a run that are finished, as they were decoded."""
        return [json.loads(line) for line in self.chunk_lines(config)]

    def chunk_lines(self, config: str) -> list[str]:
        """The same, as they stand in the file; a line that is being written is left out."""
        path = self.folder(config) / "answers.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [line for line in lines if '"record": "chunk"' in line and line.endswith("\n")]


def make_project(
    path: Path,
    lab: Lab,
    *,
    n_items: int = N_ITEMS,
    chunk_size: int = CHUNK_SIZE,
    shards: int = 1,
    group: int = 1,
) -> ClusterProject:
    """Copy the project into a new folder, with these options of the task."""
    path.mkdir(parents=True)
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            # Compiled files come along, but not those that are being written.
            ignored = shutil.ignore_patterns("*.pyc.*")
            shutil.copytree(source, path / name, ignore=ignored)
        else:
            shutil.copy(source, path / name)
    data = path / f"tasks/data/{TASK}.jsonl"
    data.write_text("".join(data.read_text().splitlines(keepends=True)[:n_items]))
    numbers = {"chunk_size": chunk_size, "shards": shards, "group": group}
    (path / "workflow_config.yaml").write_text(CONFIG.format(**numbers))
    with (path / f"experiments/{EXPERIMENT}/experiment.yaml").open("a") as stream:
        stream.write("replicate: true\n")
    return ClusterProject(path, lab, n_items, chunk_size)


class OneJob(ClusterProject):
    """A folder with one job for the cluster, which takes none of the project's rules."""

    def command(self, *more: str, **_: str) -> list[str]:
        """Make what is missing."""
        words = [sys.executable, "-m", "snakemake", "--executor=fastdllm-slurm", "--jobs=1"]
        return [*words, "--seconds-between-status-checks=1", *more]


def make_one_job(path: Path, lab: Lab, shell: str) -> OneJob:
    """Write the rule of a job that runs this line of shell."""
    shutil.copytree(ROOT / "profiles/default", path / "profiles/default")
    (path / "Snakefile").write_text(ONE_JOB.format(account=ACCOUNTS[0], shell=shell))
    (path / "spec.json").touch()
    return OneJob(path, lab, n_items=0, chunk_size=1)


def make_reference(path: Path, lab: Lab, configs: Sequence[str] = CONFIGS) -> ClusterProject:
    """Decode runs on this machine without SLURM, in one process, unless that is done."""
    if path.exists():
        return ClusterProject(path, lab, N_ITEMS, CHUNK_SIZE)
    project = make_project(path, lab, group=len(configs))
    done = project.snakemake(f"config={','.join(configs)}", profile="local")
    assert done.returncode == 0, done.stdout + done.stderr
    return project


def facts(folder: Path) -> dict[str, Any]:
    """What a summary says of the answers, without times and machine."""
    record = json.loads((folder / "summary.json").read_text())
    keys = ("fingerprint", "decides", "accuracy", "metrics", "items", "passes", "dtype")
    return {key: record[key] for key in keys}


def assert_equal(made: ClusterProject, reference: ClusterProject, config: str) -> None:
    """Answers, samples and figures of a run are those of the reference."""
    assert made.answers(config) == reference.answers(config), config
    samples = [(p.folder(config) / "samples.jsonl").read_bytes() for p in (made, reference)]
    assert samples[0] == samples[1], config
    assert facts(made.folder(config)) == facts(reference.folder(config)), config
