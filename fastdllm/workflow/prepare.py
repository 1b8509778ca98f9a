"""Choose and check what the jobs of a call ask for, before it submits any.

The resources in the profiles are environment variables, which Snakemake expands job by job, so that
account and GPU are given once: in workflow_config.yaml, or with `--config`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from fastdllm.cluster.checks import check_account, check_folder, check_partition, check_sbatch
from fastdllm.cluster.choice import Choice, choose
from fastdllm.cluster.command_line import EXECUTOR, STOCK_EXECUTOR, CommandLine
from fastdllm.cluster.fitting import ModelNeeds, known_config
from fastdllm.cluster.site import SITE_FILE, ClusterOptions, Site, load_site
from fastdllm.common.errors import UserError
from fastdllm.common.paths import RESULTS
from fastdllm.runs.needs import require_model
from fastdllm.tasks.generation import largest_budget
from fastdllm.tasks.task_files import find_task_files
from fastdllm.tasks.task_source import TaskSource
from fastdllm.validation import validated
from fastdllm.workflow.project.config_files import WorkflowConfig


def prepare(
    config: WorkflowConfig,
    cluster_words: Mapping[str, str],
    arguments: Sequence[str],
    *,
    is_dry_run: bool,
    folder: Path,
    other_jobs: int = 0,
    tasks: Iterable[str] | None = None,
) -> Choice | None:
    """Choose and check what the jobs ask for, and set FASTDLLM_ACCOUNT and so on for the profile.

    Args:
        cluster_words: keys of `--config` that win over `cluster:` in workflow_config.yaml.
        arguments: of `snakemake`, without its name.
        is_dry_run: SLURM is not asked, and a missing account is only a note.
        folder: the project, where the results go.
        other_jobs: the number of jobs in the queue besides those of Snakemake.
        tasks: those selected; None for all.

    Returns:
        None where no jobs go to SLURM, or the profile has no site.yaml.

    Raises:
        UserError: whatever would make the jobs fail, in one line.
    """
    command = CommandLine.read(arguments)
    if command.executor == STOCK_EXECUTOR:
        raise UserError(
            f"--executor {STOCK_EXECUTOR}: would submit runs a second time whose jobs wait or run; "
            f"use --executor {EXECUTOR}, which is that of the profile"
        )
    if not command.submits:
        return None
    site = load_site(command.folders[0])
    values = {**config.cluster.model_dump(exclude_none=True), **cluster_words}
    options = validated(ClusterOptions, values, "cluster")
    choice = choose(site, options, _model(config, tasks))
    _check_limits(command, choice, site, other_jobs)
    if not is_dry_run:
        check_sbatch()
        check_folder(folder)
        if (folder / RESULTS).is_dir():
            # Often a link to another file system.
            check_folder(folder / RESULTS)
        require_model(config.model.path, config.model.revision)
        check_account(choice, site)
        choice = check_partition(choice, site)
    os.environ.update(choice.environment())
    return choice


def gpu_of(profile: Path, config: WorkflowConfig, tasks: Iterable[str] | None = None) -> str | None:
    """Return the kind of GPU that the jobs of a profile ask for, None for any.

    tasks: those selected; None for all.

    Raises:
        UserError: the profile has no site.yaml, or none of its GPUs fits.
    """
    if not (profile / SITE_FILE).is_file():
        raise UserError(
            f"--profile {profile}: has no {SITE_FILE}, which names its GPUs; give the kind of GPU "
            "with --gpu, or another profile"
        )
    return choose(load_site(profile), config.cluster, _model(config, tasks)).gpu


def _model(config: WorkflowConfig, tasks: Iterable[str] | None) -> ModelNeeds:
    model = config.model
    # The budgets of the tasks, as `decoding: max_new_tokens` is none of them.
    budgets = [
        _budget(config.task_source(task)) for task in (config.tasks if tasks is None else tasks)
    ]
    return ModelNeeds(
        name=model.path,
        dtype=model.dtype,
        device=model.device,
        config=known_config(model.path, model.revision),
        max_new_tokens=max(budgets, default=0),
    )


def _budget(task: TaskSource) -> int:
    """Return the most tokens of an answer; a broken file is no error here, but where it is read."""
    try:
        return largest_budget(find_task_files(task).layers)
    except UserError:
        return 0


def _check_limits(command: CommandLine, choice: Choice, site: Site, other_jobs: int) -> None:
    """Refuse numbers on the command line that the QOS does not allow."""
    most = choice.max_minutes
    for rule, minutes in command.minutes.items():
        if most is not None and minutes > most:
            raise UserError(
                f"runtime of {f'rule {rule}' if rule else 'jobs'}: {minutes} minutes, but "
                f"{limiter(choice)} allows {most}; ask for less: a job that reaches its limit "
                "resumes automatically"
            )
    qos = site.qos[choice.qos] if site.qos is not None and choice.qos is not None else None
    if qos is None or qos.max_jobs is None or command.jobs is None:
        return
    places = qos.max_jobs - other_jobs
    if command.jobs > places:
        main = ", and the main process is one" if other_jobs else ""
        raise UserError(
            f"--jobs {command.jobs}: {limiter(choice)} takes {qos.max_jobs} jobs of one person"
            f"{main}; --jobs {places} keeps the others until there is room"
        )


def limiter(choice: Choice) -> str:
    """Return what sets the limits: the QOS or the site."""
    return f"QOS {choice.qos}" if choice.qos is not None else choice.site
