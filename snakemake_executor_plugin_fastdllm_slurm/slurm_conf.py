"""SLURM_CONF, which Snakemake's SLURM plugins lose inside a SLURM job."""

from __future__ import annotations

import os
from pathlib import Path

import fastdllm.cluster

BIN = Path(fastdllm.cluster.__file__).parent / "bin"


def keep_slurm_conf() -> None:
    """Let SLURM_CONF reach the jobs, and the job steps in them.

    In a SLURM job the parent drops all SLURM_* variables, so that options of that job do not become
    those of the jobs it submits; this leaves it nothing to drop. In the jobs Snakemake's jobstep
    plugin drops it once more, for srun; the wrapper in `BIN` brings it back.
    """
    if "SLURM_JOB_ID" in os.environ:
        for name in list(os.environ):
            if name.startswith("SLURM_") and name != "SLURM_CONF":
                del os.environ[name]
    conf = os.environ.get("SLURM_CONF")
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    if conf and str(BIN) not in folders:
        os.environ["FASTDLLM_SLURM_CONF"] = conf
        os.environ["PATH"] = os.pathsep.join([str(BIN), *folders])
