"""Snakemake executor `fastdllm-slurm`: the SLURM plugin without the defects named in executor.py.

Snakemake finds the plugin by the name of this package. Its options are those of the SLURM plugin:
`fastdllm-slurm-logdir` in a profile, and so on. tests/plugin/test_pinned_plugins.py fails once the
pinned version of the SLURM plugin no longer has a defect; then use `slurm` itself.
"""

from __future__ import annotations

from snakemake_executor_plugin_slurm import common_settings

from snakemake_executor_plugin_fastdllm_slurm.executor import Executor
from snakemake_executor_plugin_fastdllm_slurm.settings import ExecutorSettings

__all__ = ["Executor", "ExecutorSettings", "common_settings"]
