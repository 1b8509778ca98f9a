"""Snakemake executor `fastdllm-slurm`: the SLURM plugin without the defects named in executor.py.

Snakemake finds the plugin by the name of this package. Its options are those of the SLURM plugin,
less the choice of a status command: `fastdllm-slurm-logdir` in a profile, and so on.
tests/plugin/test_pinned_plugins.py fails once the pinned version of the SLURM plugin no longer has
a defect; then use `slurm` itself.
"""

# Snakemake reads the types of the options: no postponed annotations here, and no `str | None`.
from dataclasses import dataclass, field
from typing import Optional

from snakemake_executor_plugin_slurm import ExecutorSettings as SlurmSettings
from snakemake_executor_plugin_slurm import common_settings

from snakemake_executor_plugin_fastdllm_slurm.executor import Executor

__all__ = ["Executor", "ExecutorSettings", "common_settings"]


@dataclass
class ExecutorSettings(SlurmSettings):
    """Settings of the executor plugin fastdllm-slurm."""

    status_command: Optional[str] = field(  # noqa: UP045
        default=None,
        metadata={
            "help": "Without effect: squeue is asked, and sacct about jobs that squeue forgot.",
            "env_var": False,
            "required": False,
        },
    )
