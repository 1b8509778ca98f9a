"""Snakemake executor `fastdllm-slurm`: the SLURM plugin without the defects in docs/upstream.md.

Snakemake finds the plugin by the name of this package. Its options are those of the SLURM plugin
that have an effect here: `fastdllm-slurm-logdir` in a profile, and so on.
tests/plugin/test_pinned_plugins.py fails once the pinned version of the SLURM plugin no longer has
a defect; then use `slurm` itself.
"""

# Snakemake reads the types of the options: no postponed annotations here, and no `str | None`.
# ruff: noqa: UP045, RUF009
import sys
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Optional

from snakemake_executor_plugin_slurm import ExecutorSettings as SlurmSettings
from snakemake_executor_plugin_slurm import common_settings
from snakemake_executor_plugin_slurm.validation import validate_executor_settings
from snakemake_interface_executor_plugins.settings import ExecutorSettingsBase

from fastdllm.common.console import notice
from fastdllm.common.errors import USER_ERROR_EXIT_CODE
from snakemake_executor_plugin_fastdllm_slurm.executor import Executor

__all__ = ["Executor", "ExecutorSettings", "common_settings"]

_OF_SLURM = {option.name: option for option in fields(SlurmSettings)}
# Options that would break a grid, with what to do instead.
REFUSED = {
    "array_jobs": "a run is found again by the comment of its job, which an array has only once; "
    "with `group: n` of a task, n runs share a job",
    "qos": "its limits are checked before anything is submitted, so it is chosen with "
    "`--config qos=...`, or under `cluster:` in workflow_config.yaml",
}


def _as_there(name: str) -> Any:
    """An option with the default and the help that it has in the SLURM plugin."""
    return field(default=_OF_SLURM[name].default, metadata=_OF_SLURM[name].metadata)


def _refused(name: str) -> Any:
    return field(default=None, metadata={"help": f"Refused: {REFUSED[name]}."})


@dataclass
class ExecutorSettings(ExecutorSettingsBase):
    """Settings of the executor plugin fastdllm-slurm."""

    logdir: Optional[Path] = _as_there("logdir")
    keep_successful_logs: bool = _as_there("keep_successful_logs")
    delete_logfiles_older_than: Optional[int] = _as_there("delete_logfiles_older_than")
    requeue: bool = _as_there("requeue")
    no_requeue: bool = _as_there("no_requeue")
    exclude_failed_nodes: Optional[str] = _as_there("exclude_failed_nodes")
    partition_config: Optional[Path] = _as_there("partition_config")
    efficiency_report: bool = _as_there("efficiency_report")
    efficiency_report_path: Optional[Path] = _as_there("efficiency_report_path")
    efficiency_threshold: Optional[float] = _as_there("efficiency_threshold")
    jobname_prefix: Optional[str] = _as_there("jobname_prefix")
    reservation: Optional[str] = _as_there("reservation")
    pass_command_as_script: bool = _as_there("pass_command_as_script")
    array_jobs: Optional[str] = _refused("array_jobs")
    qos: Optional[str] = _refused("qos")

    # Not offered, as they have no effect here; the SLURM plugin reads them nevertheless.
    array_limit = _OF_SLURM["array_limit"].default
    disable_memory_fudge = _OF_SLURM["disable_memory_fudge"].default
    init_seconds_before_status_checks = _OF_SLURM["init_seconds_before_status_checks"].default
    no_account = _OF_SLURM["no_account"].default
    status_attempts = _OF_SLURM["status_attempts"].default
    status_command = None

    def __post_init__(self) -> None:
        """End Snakemake with one line if an option is refused, wherever it was given."""
        for name, instead in REFUSED.items():
            if getattr(self, name) is not None:
                notice(f"--fastdllm-slurm-{name.replace('_', '-')}: not possible here: {instead}")
                sys.exit(USER_ERROR_EXIT_CODE)
        # The profiles ask for requeueing; who types the opposite means it.
        self.requeue = self.requeue and not self.no_requeue
        validate_executor_settings(self)
