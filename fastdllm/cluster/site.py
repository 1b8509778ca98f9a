"""A cluster as data: `site.yaml` beside the `config.yaml` of a Snakemake profile.

Which kinds of GPU there are and what they hold, which queues, what they allow. A site that knows no
kinds of GPU (`gpus: null`) takes any name as it is written. Knows nothing of models or of jobs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from fastdllm.cluster.options import SlurmName, SlurmNames
from fastdllm.common.yaml_files import read_yaml_mapping
from fastdllm.validation import StrictModel, validated

SITE_FILE = "site.yaml"

Gib = Annotated[int, Field(gt=0)]


class GpuKind(StrictModel):
    """One kind of GPU: what asks for it, and what it is."""

    gres: SlurmName | None = Field(
        None, description="Its type in --gres=gpu:<type>:1; null: the name of the kind."
    )
    memory_gib: Gib | list[Gib] = Field(
        description="Memory of the card in GiB; a list where it exists in several sizes."
    )
    constraints: dict[Gib, SlurmName] = Field(
        default={},
        description="What asks for one of the sizes (sbatch -C), by its GiB; used where the model "
        "does not fit the smaller ones.",
    )
    bfloat16: bool = Field(description="Whether it computes in bfloat16.")
    architecture: str = Field(
        min_length=1, description="Generation and compute capability, in words."
    )
    partition: SlurmNames | None = Field(
        None, description="Partition whose nodes have it; null: SLURM finds one."
    )
    mem_per_gpu: SlurmName | None = Field(
        None, description="Main memory to ask for with each GPU (sbatch --mem-per-gpu)."
    )

    @model_validator(mode="after")
    def _sizes_are_known(self) -> GpuKind:
        for size in self.constraints:
            if size not in self.sizes_gib:
                raise ValueError(f"constraints: {size} is no size of memory_gib")
        return self

    @property
    def sizes_gib(self) -> tuple[int, ...]:
        """The sizes it exists in, smallest first."""
        sizes = self.memory_gib
        return (sizes,) if isinstance(sizes, int) else tuple(sorted(sizes))

    @property
    def words(self) -> str:
        """What a person chooses by: memory and number format."""
        sizes = " or ".join(map(str, self.sizes_gib))
        return f"{sizes} GiB" + ("" if self.bfloat16 else ", no bfloat16")


class Qos(StrictModel):
    """One quality of service: how long, how many, at what price."""

    max_hours: float = Field(gt=0, description="Longest time limit of a GPU job.")
    preempted_after_h: float | None = Field(
        None, ge=0, description="Hours after which a job may be stopped for another; null: never."
    )
    charged: bool = Field(description="Whether its jobs cost the account something.")
    max_jobs: int | None = Field(
        None, gt=0, description="Most jobs of one user, waiting ones included; null: not known."
    )

    @property
    def words(self) -> str:
        """What a person chooses by: price, time, interruptions."""
        price = "charged" if self.charged else "free"
        stop = self.preempted_after_h
        stopped = "" if stop is None else f", may be stopped after {stop:g} h"
        return f"{price}, at most {self.max_hours:g} h{stopped}"


class Site(StrictModel):
    """site.yaml: one cluster."""

    name: str = Field(min_length=1, description="What people call it.")
    gpus: dict[SlurmName, GpuKind] | None = Field(
        None,
        min_length=1,
        description="Kinds of GPU; the first is taken when none is asked for. null: any name is "
        "taken as written, and none means any GPU.",
    )
    qos: dict[SlurmName, Qos] | None = Field(
        None,
        min_length=1,
        description="Queues; the first is taken when none is asked for. null: none is asked for.",
    )
    account_required: bool = Field(
        False, description="Whether SLURM refuses jobs that name no account."
    )
    accounts_command: str | None = Field(
        None, description="The site's own command that lists one's accounts."
    )
    cpu_partition: SlurmNames | None = Field(
        None, description="Partition of small jobs without a GPU; null: SLURM's default."
    )
    max_hours: float | None = Field(
        None, gt=0, description="Longest time limit, where no QOS says it."
    )


def load_site(folder: Path) -> Site:
    """The site of a profile folder.

    Raises:
        UserError: naming the file, the key and what is allowed; or there is none.
    """
    path = folder / SITE_FILE
    return validated(Site, read_yaml_mapping(path, what="the facts of a cluster"), str(path))
