"""A small project with the real Snakefile and rules, whose eval writes a summary at once.

The project shadows the package with its own `__main__`, so that no model is needed; everything else
is the real fastdllm.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.forks import run_snakemake

ROOT = Path(__file__).parents[2]

CONFIG = """\
model: {path: models/tiny, dtype: float32}
experiments: [demo]
tasks:
  words: {chunk_size: 2}
  choices:
decoding: {threshold: 0.9}
"""
EXPERIMENT = """\
title: Demo
question: Does it run?
grid:
  reuse_k: [1, 2]
  layer_subset: [first]
config_name: "k{reuse_k}_{layer_subset}"
"""
POLICY = '''\
"""Docstring."""

from fastdllm.policy import Policy


class Demo(Policy):
    """Docstring of the class."""

    keeps_proposals = True
'''
REUSE = """\
from fastdllm.policy import OutputReuse


class Reuse(OutputReuse):
    @classmethod
    def computation(cls, settings, parameters):
        return super().computation(settings, parameters)
"""
NINE = """\
grid: {reuse_k: [1, 2, 3], layer_subset: [first, middle, last]}
config_name: "k{reuse_k}_{layer_subset}"
"""
TASK = """\
task: {name}
dataset_path: json
dataset_kwargs:
  data_files: {{test: tasks/data/{name}.jsonl}}
doc_to_text: "{{{{q}}}}"
"""
SHADOW_INIT = """\
__path__.append({package!r})
"""
SHADOW_MAIN = """\
import hashlib, json, os, signal, sys
from pathlib import Path

sys.path.append({root!r})

from fastdllm.records.result_files import table_mark
from tests.support.fakes import WRONG_THEN_RIGHT, fake_summary

command, *arguments = sys.argv[1:]
if command == "plan":
    from fastdllm.tasks.plan import SCHEMA_VERSION

    task, limit = arguments[1], arguments[3:4]
    folder = Path("results/_plans", "_limit_".join([task, *limit]))
    (folder / "requests.jsonl").write_text("")
    digest = hashlib.sha256(b"").hexdigest()
    (folder / "made_from.json").write_text((folder / "spec.json").read_text())
    plan = {{"digest": digest, "schema_version": SCHEMA_VERSION}}
    (folder / "plan.json").write_text(json.dumps(plan))
    print("planned")
    if Path("odd_" + task).exists():
        print("fastdllm: odd items of " + task, file=sys.stderr)
elif command in ("eval", "pack"):
    specs = [arguments[0]]
    if command == "pack":
        specs = json.loads(Path(arguments[0]).read_text())["specs"]
    for path in specs:
        spec, folder = json.loads(Path(path).read_text()), Path(path).parent
        name = spec["task"] + " " + spec["config"]
        if Path("fail_" + spec["config"]).exists():
            if command == "eval":
                sys.exit(1)
            continue
        if Path("kill_" + spec["config"]).exists():
            (folder / "progress.json").write_text('{{"items_done": 1, "items_total": 2}}')
            os.kill(os.getpid(), signal.SIGKILL)
        if "--shard" in arguments:
            shard = arguments[arguments.index("--shard") + 1].replace("/", "-of-")
            name += " " + shard
            (folder / "shards").mkdir(exist_ok=True)
            (folder / "shards" / (shard + ".jsonl")).touch()
            stamp = {{"fingerprint": spec["fingerprint"]}}
            (folder / "shards" / (shard + ".json")).write_text(json.dumps(stamp))
        is_odd = Path("turn_" + spec["config"]).exists()
        record = fake_summary(spec, **({{"correct_bits": WRONG_THEN_RIGHT}} if is_odd else {{}}))
        (folder / "results.json").write_text("{{}}")
        (folder / "progress.json").unlink(missing_ok=True)
        if "--shard" not in arguments:
            (folder / "summary.json").write_text(json.dumps(record))
        with open("evals.txt", "a") as stream:
            stream.write(name + "\\n")
    if command == "pack":
        with open("evals.txt", "a") as stream:
            stream.write("pack of " + str(len(specs)) + "\\n")
        Path(arguments[0]).with_name("report.json").write_text("{{}}")
elif command == "finish":
    spec, folder = json.loads(Path(arguments[0]).read_text()), Path(arguments[0]).parent
    summary = folder / "summary.json"
    if any((folder / "shards").glob("*.jsonl")):
        summary.write_text(json.dumps(fake_summary(spec)))
    if spec["fingerprint"] not in (summary.read_text() if summary.exists() else ""):
        sys.exit(1)
    summary.touch()
elif command == "speed" and "--sitting" in arguments:
    from tests.support.fakes import fake_sitting

    assert "OMP_NUM_THREADS" not in os.environ, "the model decides how many threads it takes"
    path, number = Path(arguments[0]), int(arguments[2])
    if Path("fail_sitting_" + str(number)).exists():
        sys.exit(1)
    sitting = fake_sitting(json.loads(path.read_text()), number)
    path.with_name(f"sitting-{{number}}.json").write_text(json.dumps(sitting))
    with open("evals.txt", "a") as stream:
        stream.write("sitting " + str(number) + "\\n")
elif command == "speed":
    from fastdllm.cli import main

    sys.exit(main(["speed", *arguments]))
elif command == "same":
    from fastdllm.cli import main

    sys.exit(main(["same", *arguments]))
elif command == "report":
    Path("artifacts/plots").mkdir(parents=True, exist_ok=True)
    for name in ("report.html", "comparisons.csv", "plots/demo.svg"):
        Path("artifacts", name).write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
elif command == "aggregate":
    from fastdllm.workflow.claim_results import published_results, write_claims
    from fastdllm.workflow.project.artifacts import publish, stored_summary
    from fastdllm.workflow.project.runs import load_project
    from fastdllm.workflow.project.speeds import speed_measurements
    from fastdllm.workflow.speed_states import publish_speeds

    project = load_project()
    publish(project.runs)
    publish_speeds(speed_measurements(project))
    write_claims(project, published_results(project))
    for name in project.experiments:
        own = [run for run in project.runs if run.experiment == name]
        stored = [(run, stored_summary(run.artifact_path)) for run in own]
        records = [found.record for run, found in stored if found.belongs_to(run)]
        folder = Path("artifacts", name)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "table.md").write_text("# " + name + "\\n" + table_mark(records))
        (folder / "table.csv").write_text("")
"""


@dataclass(frozen=True)
class SmallProject:
    """A project folder, and how to call Snakemake in it."""

    path: Path

    def snakemake(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run_snakemake(*arguments, folder=self.path)

    def evals(self) -> list[str]:
        """The `task config` of the evals since the last call."""
        log = self.path / "evals.txt"
        lines = sorted(log.read_text().split("\n")[:-1]) if log.exists() else []
        log.unlink(missing_ok=True)
        return lines

    def jobs(self, *arguments: str) -> dict[str, int]:
        """How many jobs of each rule a dry run plans."""
        done = self.snakemake("-n", *arguments, "--quiet", "rules")
        assert done.returncode == 0, done.stdout + done.stderr
        return {
            rule: int(count)
            for rule, count in re.findall(r"^(\w+) +(\d+)$", done.stdout + done.stderr, flags=re.M)
            if rule not in ("total", "all", "aggregate", "plan")
        }

    def planned(self, *arguments: str) -> list[list[str]]:
        """The rows that a dry run shows: experiment, task, config, why."""
        done = self.snakemake("-n", "-p", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        rows = [line.split(maxsplit=3) for line in done.stderr.splitlines() if line[:2] == "  "]
        jobs = len(re.findall(r"^Job \d+: (?:eval |\S+ is the same )", done.stdout, flags=re.M))
        rows = [row for row in rows if row[0] not in ("experiment", "...")]
        assert jobs == len(rows), f"table of {len(rows)} runs, but Snakemake plans {jobs}"
        return rows


def make_project(path: Path) -> SmallProject:
    """Write the small project into a new folder."""
    for name in ("Snakefile", "rules", "profiles"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        path.mkdir(parents=True, exist_ok=True)
        copy(ROOT / name, path / name)
    files = {
        "workflow_config.yaml": CONFIG,
        "experiments/demo/experiment.yaml": EXPERIMENT,
        "experiments/demo/generation_functions.py": POLICY,
        "tasks/words.yaml": TASK.format(name="words"),
        "tasks/choices.yaml": TASK.format(name="choices"),
        "tasks/data/words.jsonl": '{"q": 1}\n',
        "tasks/data/choices.jsonl": '{"q": 2}\n',
        "models/tiny/config.json": '{"num_hidden_layers": 14, "bd_size": 32}',
        "models/tiny/model.safetensors": "weights",
        "fastdllm/__init__.py": SHADOW_INIT.format(package=str(ROOT / "fastdllm")),
        "fastdllm/__main__.py": SHADOW_MAIN.format(root=str(ROOT)),
    }
    for name, text in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(text)
    return SmallProject(path)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SmallProject:
    """A fresh small project, which is also the working directory."""
    made = make_project(tmp_path / "project")
    monkeypatch.chdir(made.path)
    return made


def copy_project(project: SmallProject, path: Path) -> SmallProject:
    """Copy a project with all that is made in it; the dates of files stay."""
    return SmallProject(shutil.copytree(project.path, path))


def add_experiment(name: str, grid: str, policy: str = POLICY) -> None:
    """Add and enable an experiment in the current folder; grid: the YAML of its configs."""
    folder = Path("experiments", name)
    folder.mkdir()
    (folder / "experiment.yaml").write_text(f"title: {name}\nquestion: Why?\n{grid}")
    (folder / "generation_functions.py").write_text(policy)
    config = Path("workflow_config.yaml").read_text()
    names = config.partition("experiments: [")[2].partition("]")[0]
    edit("workflow_config.yaml", f"[{names}]", f"[{names}, {name}]")


def edit(path: str | Path, old: str, new: str) -> None:
    """Replace text in a file; the old text must be there."""
    text = Path(path).read_text()
    assert old in text
    Path(path).write_text(text.replace(old, new))
