"""What a person says about a cluster: `cluster:` in workflow_config.yaml, or words of `--config`.

What can be had there (kinds of GPU, queues, their limits) is in the site.yaml of a profile.
"""

from __future__ import annotations

from pydantic import Field

from fastdllm.validation import StrictModel


class ClusterOptions(StrictModel):
    """Whom a job is charged to and what it runs on; nothing of it makes a result stale."""

    account: str | None = Field(
        None, min_length=1, description="Who is charged (sbatch -A); null: the site's default."
    )
    gpu: str | None = Field(
        None,
        min_length=1,
        description="Kind of GPU, one of the site.yaml; null: the first one listed there.",
    )
    qos: str | None = Field(
        None,
        min_length=1,
        description="Quality of service (sbatch --qos); null: the first one of the site.yaml.",
    )
    partition: str | None = Field(
        None,
        min_length=1,
        description="Partition (sbatch -p); null: the one of the GPU in the site.yaml.",
    )
