"""Every `snakemake` and `fastdllm` command in the documentation works on a copy of this project."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.forks import run_fastdllm, run_snakemake

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", "CONTRIBUTING.md", "experiments/README.md", "tasks/README.md"]
PAGES += ["models/README.md"]
PAGES += [str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").rglob("*.md"))]
COPIED = ["Snakefile", "rules", "profiles", "tasks", "models", "experiments", "artifacts"]
COPIED += ["workflow_config.yaml"]
FENCED = re.compile(r"^```[a-z]*\n(.*?)^```", flags=re.M | re.S)
PYTHON = re.compile(r"^```python\n(.*?)^```", flags=re.M | re.S)
WITH_PYTHON = [p for p in PAGES if PYTHON.search((ROOT / p).read_text(encoding="utf-8"))]
INLINE = re.compile(r"`([^`\n]+)`")
# Typed once, before all others, some of which need it.
NEW_EXPERIMENT = "fastdllm new-experiment my_idea"
OF_THE_ENVIRONMENT = ("fastdllm doctor", "fastdllm env")
# What changes the machine or stands for a name that the reader chooses is left out.
# The last ones need a cluster, a network or a terminal, take minutes, or never end;
# tests/slurm/test_submit.py submits, tests/tools/test_fetch_files.py fetches,
# tests/commands/test_trace.py shows, tests/chat talks, and tests/endpoint and tests/web serve.
LEFT_OUT = re.compile(
    r"[<>]|\.\.\.|COMMAND|--unlock|--workflow-profile|train|--set-threads"
    r"|submit|fetch --task|new-task NAME|--watch|--pack|trace show|fastdllm (chat|serve|web)"
)
# What takes longest is done for fewer items.
SHORTER = {
    "sensitivity": "--items 1 --stride 14",
    "bench": "--batch 1,2 --requests 1 --repeats 1 --max-new-tokens 4",
    "evaluate": "--limit 2",
    "lm-eval run": "--limit 2",
}


def documented_commands(program: str) -> list[str]:
    """Commands of `program` in code blocks and in backticks, each once."""
    commands: dict[str, None] = {}
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        lines = [line for block in FENCED.findall(text) for line in block.splitlines()]
        for code in [*lines, *INLINE.findall(text)]:
            command = code.partition("  #")[0].strip()
            command = re.sub(r"^(\.venv/bin/|python -m )", "", command)
            is_run = re.match(rf"{program} [-a-z]", command) and not LEFT_OUT.search(command)
            if is_run and command != NEW_EXPERIMENT:
                commands[command] = None
    return list(commands)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This project with a second experiment, made as experiments/README.md says."""
    folder = tmp_path_factory.mktemp("docs") / "project"
    folder.mkdir()
    for name in COPIED:
        source = ROOT / name
        if source.exists():
            (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)
    run(folder, NEW_EXPERIMENT)
    config = folder / "workflow_config.yaml"
    config.write_text(config.read_text().replace("- 00_baseline", "- 00_baseline\n  - my_idea"))
    return folder


def run(folder: Path, command: str) -> subprocess.CompletedProcess[str]:
    return run_fastdllm(*shlex.split(command)[1:], *shorter(command), folder=folder)


def shorter(command: str) -> list[str]:
    """Options that make a command as quick as can be, behind those that are documented."""
    for beginning, options in SHORTER.items():
        if command.startswith(f"fastdllm {beginning}"):
            return options.split()
    return []


def test_enough_commands_are_found() -> None:
    assert len(documented_commands("snakemake")) >= 10
    assert len(documented_commands("fastdllm")) >= 5


@pytest.mark.slow
@pytest.mark.parametrize("command", documented_commands("snakemake"))
def test_a_documented_snakemake_command_plans(copy: Path, command: str) -> None:
    done = run_snakemake("-n", *shlex.split(command)[1:], folder=copy)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("command", documented_commands("fastdllm"))
def test_a_documented_fastdllm_command_works(copy: Path, command: str) -> None:
    # The environment runs the code of this project, and says so of any other.
    done = run(ROOT if command in OF_THE_ENVIRONMENT else copy, command)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_PYTHON)
def test_the_python_of_a_page_runs(copy: Path, page: str) -> None:
    if not (copy / "artifacts").exists():
        pytest.skip("no published results in artifacts/, which the page reads")
    code = "".join(PYTHON.findall((ROOT / page).read_text(encoding="utf-8")))
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=copy, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_pages_with_python_are_found() -> None:
    assert {"README.md", "docs/summary-schema.md"} <= set(WITH_PYTHON)
