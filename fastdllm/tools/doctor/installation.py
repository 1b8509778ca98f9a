"""Checks of what runs start from: Python and its packages, caches, the project, the shell."""

from __future__ import annotations

import os
import platform
import resource
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from fastdllm.cluster.archive import find_archive
from fastdllm.cluster.build import CACHES
from fastdllm.cluster.venv import cache_folders, problems
from fastdllm.common.errors import UserError
from fastdllm.common.paths import expanded
from fastdllm.launch import ARCHIVE_VARIABLE
from fastdllm.machine.process import git_state, user_name
from fastdllm.runs.needs import (
    require_model,
    require_permission,
    require_whole_folder,
)
from fastdllm.tasks.task_files import find_task_files
from fastdllm.tools.doctor.finding import DoctorFinding, ok, problem, warn
from fastdllm.workflow.project.config_files import WorkflowConfig, load_workflow_config

# Weights in many shards, data sets, libraries and pipes are open at a time.
LEAST_OPEN_FILES = 1024


def look_at_python() -> list[DoctorFinding]:
    """Report the interpreter."""
    return [ok("python", f"{platform.python_version()}, {sys.executable}")]


def look_at_environment() -> list[DoctorFinding]:
    """Check that all packages of this project are installed; and their archive, if used."""
    if sys.prefix == sys.base_prefix:
        return [problem("environment", "none: Python's own packages", "make setup-cluster")]
    venv = Path(sys.prefix)
    place = venv.resolve()
    shown = str(venv) if place == venv else f"{venv} -> {place}"
    fix = "make setup-cluster" if Path(".venv").is_symlink() else "make setup"
    try:
        findings = [problem("environment", line, fix) for line in problems(venv, Path())]
    except UserError as error:
        findings = [warn("environment", shown, f"not compared: {error}")]
    return [*(findings or [ok("environment", f"{shown}, complete")]), *_archive(venv)]


def _archive(venv: Path) -> list[DoctorFinding]:
    wanted = os.environ.get(ARCHIVE_VARIABLE)
    if not wanted:
        return []
    if find_archive(venv) != Path(wanted):
        text = f"{wanted} is not the archive of this environment, so jobs do not use it"
        return [warn("archive", text, f"fastdllm env --pack, or unset {ARCHIVE_VARIABLE}")]
    return [ok("archive", f"{wanted}, unpacked by jobs")]


def look_at_user() -> list[DoctorFinding]:
    """Check that the user has a name, a home, and a place for temporary files."""
    findings = []
    if user_name() is None:
        text = f"id {os.getuid()} has no name here, as in a container without an entry in passwd"
        fix = "export USER=<name>: Snakemake does not start without"
        findings.append(problem("user", text, fix))
    home = expanded("~")
    if not _can_write(home):
        fix = "export HOME=<a folder of yours>: programs keep settings there"
        findings.append(warn("home", f"{home} cannot be written", fix))
    try:
        tempfile.gettempdir()
    except OSError as error:
        fix = "export TMPDIR=<a folder of yours>: nothing can be planned or scored without"
        findings.append(problem("tmp", str(error.strerror), fix))
    return findings


def look_at_caches() -> list[DoctorFinding]:
    """Check that caches, which grow by gigabytes, can be written, and are not in a small home."""
    folders = cache_folders()
    text = ", ".join(f"{name} {folder}" for name, (folder, _) in folders.items())
    refused = [name for name, (folder, _) in folders.items() if not _can_write(folder)]
    if refused:
        text = ", ".join(f"{name} {folders[name][0]}" for name in refused)
        # Snakemake makes its own folder there before it reads anything.
        stops = "XDG_CACHE_HOME" in refused
        fix = f"export {refused[0]}=<a folder of yours>"
        fix += ": Snakemake does not start without" if stops else ""
        return [(problem if stops else warn)("caches", f"cannot be written: {text}", fix)]
    unset = [name for name, (_, is_set) in folders.items() if not is_set]
    variables = Path(sys.prefix) / CACHES
    if unset and variables.is_file():
        return [warn("caches", f"{', '.join(unset)} not set here", f"source {variables}")]
    scratch = Path.home() / "scratch"
    in_home = [
        name for name, (folder, _) in folders.items() if _device(folder) == _device(Path.home())
    ]
    if in_home and scratch.is_dir() and _device(scratch) != _device(Path.home()):
        fix = f"export XDG_CACHE_HOME={scratch}/.cache in ~/.bashrc, or make setup-cluster"
        return [warn("caches", f"{', '.join(in_home)} in the home, which has little room", fix)]
    return [ok("caches", text)]


def _can_write(folder: Path) -> bool:
    """Whether files can be made in a folder, or the folder itself if it is still missing."""
    place = next(place for place in (folder, *folder.parents) if place.exists())
    return place.is_dir() and os.access(place, os.W_OK | os.X_OK)


def _device(folder: Path) -> int | None:
    """Return the file system of a folder, or of the nearest one above that exists."""
    for place in (folder, *folder.parents):
        try:
            return place.stat().st_dev
        except OSError:
            continue
    return None


def read_config() -> tuple[WorkflowConfig | None, list[DoctorFinding]]:
    """Return workflow_config.yaml, or a finding that says what is wrong with it."""
    try:
        return load_workflow_config(), []
    except UserError as error:
        return None, [problem("config", str(error), "no run can start until this is fixed")]


def look_at_model(config: WorkflowConfig) -> list[DoctorFinding]:
    """Check that jobs without a network find the model and the data of each task."""
    findings: dict[str, DoctorFinding] = {}  # by message, as two checks may miss the same file
    model = partial(require_model, config.model.path, config.model.revision)
    whole = partial(require_whole_folder, config.model.path)
    checks: list[tuple[str, Callable[[], object]]] = [("model", model), ("model", whole)]
    sources = [config.task_source(task) for task in config.tasks]
    checks += [("data", partial(find_task_files, source)) for source in sources]
    allows_code = partial(bool, config.allow_code_execution)
    checks += [("code", partial(require_permission, source, allows_code)) for source in sources]
    for name, check in checks:
        try:
            check()
        except UserError as error:
            what, _, fix = str(error).rpartition("; ")
            found = problem(name, what or str(error), fix if what else "")
            findings.setdefault(str(error), found)
    if findings:
        return list(findings.values())
    return [ok("model", f"{config.model.path} and the data of {len(config.tasks)} tasks are here")]


def look_at_git() -> list[DoctorFinding]:
    """Check which commit results will record."""
    state = git_state()
    if state is None:
        return [
            warn(
                "git", "not a git repository", "results will name no commit: git clone the project"
            )
        ]
    if "unknown" in state:
        text = f"commit unknown, and so recorded in results ({state['unknown']})"
        owned = "dubious ownership" in state["unknown"]
        add = f"git config --global --add safe.directory {Path().absolute()}"
        return [warn("git", text, add if owned else "git status shows what is wrong")]
    if state["dirty"]:
        text = f"commit {state['commit'][:10]} with changes that are not committed"
        return [warn("git", text, "results will be marked so: git commit")]
    return [ok("git", f"commit {state['commit'][:10]}, clean")]


def look_at_limits() -> list[DoctorFinding]:
    """Check the limits of the shell on a process."""
    findings = []
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files != resource.RLIM_INFINITY and files < LEAST_OPEN_FILES:
        findings.append(
            warn("limits", f"{files} open files at a time", f"ulimit -n {LEAST_OPEN_FILES}")
        )
    cpu, _ = resource.getrlimit(resource.RLIMIT_CPU)
    if cpu != resource.RLIM_INFINITY:
        text = f"a process is killed after {cpu / 60:.0f} minutes of computing here"
        findings.append(warn("limits", text, "let the main process run as a job: fastdllm submit"))
    for name, which in (("memory", resource.RLIMIT_AS), ("file size", resource.RLIMIT_FSIZE)):
        most, _ = resource.getrlimit(which)
        if most != resource.RLIM_INFINITY:
            findings.append(
                warn(
                    "limits",
                    f"{name} at most {most / 2**30:.1f} GiB",
                    "ulimit shows all; ask your site",
                )
            )
    return findings or [ok("limits", f"{files} open files, no limit on time or memory")]
