"""What a person says about a cluster: `cluster:` in workflow_config.yaml, or words of `--config`.

What can be had there (kinds of GPU, queues, their limits) is in the site.yaml of a profile.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from fastdllm.validation import StrictModel

# These words reach command lines and Snakemake's expressions: no blanks, no quotes.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")


def _check_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not allowed; it should be letters, digits and _ . + -")
    return name


def _check_names(names: str) -> str:
    for name in names.split(","):
        _check_name(name)
    return names


SlurmName = Annotated[str, AfterValidator(_check_name)]
SlurmNames = Annotated[str, AfterValidator(_check_names)]


class ClusterOptions(StrictModel):
    """Whom a job is charged to and what it runs on; nothing of it makes a result stale."""

    account: SlurmName | None = Field(
        None, min_length=1, description="Who is charged (sbatch -A); null: the site's default."
    )
    gpu: SlurmName | None = Field(
        None,
        min_length=1,
        description="Kind of GPU, one of the site.yaml; null: the first one listed there.",
    )
    qos: SlurmName | None = Field(
        None,
        min_length=1,
        description="Quality of service (sbatch --qos); null: the first one of the site.yaml.",
    )
    partition: SlurmNames | None = Field(
        None,
        min_length=1,
        description="Partition (sbatch -p); null: the one of the GPU in the site.yaml.",
    )
