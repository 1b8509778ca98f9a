"""Checks of the project: configuration, model and data, git; and the limits of the shell."""

from __future__ import annotations

import resource
from collections.abc import Callable
from functools import partial

from fastdllm.common.errors import UserError
from fastdllm.machine.provenance import git_state
from fastdllm.runs.needs import require_data, require_model
from fastdllm.tools.doctor.finding import DoctorFinding, ok, problem, warn
from fastdllm.workflow.project.config_files import WorkflowConfig, load_workflow_config, task_file

# Weights in many shards, data sets, libraries and pipes are open at a time.
LEAST_OPEN_FILES = 1024


def read_config() -> tuple[WorkflowConfig | None, list[DoctorFinding]]:
    """Return workflow_config.yaml, or a finding that says what is wrong with it."""
    try:
        return load_workflow_config(), []
    except UserError as error:
        return None, [problem("config", str(error), "no run can start until this is fixed")]


def look_at_model(config: WorkflowConfig) -> list[DoctorFinding]:
    """Check that jobs without a network find the model and the data of each task."""
    findings = []
    model = partial(require_model, config.model.path, config.model.revision)
    checks: list[tuple[str, Callable[[], None]]] = [("model", model)]
    checks += [("data", partial(require_data, task_file(task))) for task in config.tasks]
    for name, check in checks:
        try:
            check()
        except UserError as error:
            what, _, fix = str(error).rpartition("; ")
            findings.append(problem(name, what or str(error), fix if what else ""))
    if not findings:
        findings.append(
            ok("model", f"{config.model.path} and the data of {len(config.tasks)} tasks are here")
        )
    return findings


def look_at_git() -> list[DoctorFinding]:
    """Check which commit results will record."""
    state = git_state()
    if state is None:
        return [
            warn(
                "git", "not a git repository", "results will name no commit: git clone the project"
            )
        ]
    if state["dirty"]:
        text = f"commit {state['commit'][:10]} with changes that are not committed"
        return [warn("git", text, "results will be marked so: git commit")]
    return [ok("git", f"commit {state['commit'][:10]}, clean")]


def look_at_limits() -> list[DoctorFinding]:
    """Check the limits of the shell on a process."""
    found = []
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files != resource.RLIM_INFINITY and files < LEAST_OPEN_FILES:
        found.append(
            warn("limits", f"{files} open files at a time", f"ulimit -n {LEAST_OPEN_FILES}")
        )
    cpu, _ = resource.getrlimit(resource.RLIMIT_CPU)
    if cpu != resource.RLIM_INFINITY:
        text = f"a process is killed after {cpu / 60:.0f} minutes of computing here"
        found.append(warn("limits", text, "let the main process run as a job: fastdllm submit"))
    for name, which in (("memory", resource.RLIMIT_AS), ("file size", resource.RLIMIT_FSIZE)):
        most, _ = resource.getrlimit(which)
        if most != resource.RLIM_INFINITY:
            found.append(
                warn(
                    "limits",
                    f"{name} at most {most / 2**30:.1f} GiB",
                    "ulimit shows all; ask your site",
                )
            )
    return found or [ok("limits", f"{files} open files, no limit on time or memory")]
