"""Snakemake executor `fastdllm-slurm`: the SLURM plugin, with jobs that end when they end.

Snakemake finds the plugin by the name of this package. Its options are those of the SLURM plugin:
`fastdllm-slurm-logdir` in a profile, and so on. To be replaced by `slurm` once the pinned version
of that no longer has the defects named in executor.py; tests/cluster/test_executor.py tells.
"""

from __future__ import annotations

from snakemake_executor_plugin_slurm import common_settings

from snakemake_executor_plugin_fastdllm_slurm.executor import Executor
from snakemake_executor_plugin_fastdllm_slurm.settings import ExecutorSettings

__all__ = ["Executor", "ExecutorSettings", "common_settings"]
