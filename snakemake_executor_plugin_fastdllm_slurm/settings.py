"""The options of the executor: those of the SLURM plugin, less the choice of a status command.

Snakemake reads the types themselves: no postponed annotations here, and no `str | None`.
"""

from dataclasses import dataclass, field
from typing import Optional

from snakemake_executor_plugin_slurm import ExecutorSettings as SlurmSettings


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
