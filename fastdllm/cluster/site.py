"""The options of the user and the facts of a site, as data. Knows nothing of models or of jobs.

`cluster:` in workflow_config.yaml, or words of `--config`, say whom jobs are charged to and what
they run on. `site.yaml` beside the `config.yaml` of a Snakemake profile says what can be had: kinds
of GPU, queues, their limits. A site without kinds of GPU (`gpus: null`) takes any name as it is.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from fastdllm.common.yaml_files import read_yaml_mapping
from fastdllm.validation import StrictModel, validated

SITE_FILE = "site.yaml"
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
Gib = Annotated[int, Field(gt=0)]


class ClusterOptions(StrictModel):
    """Whom a job is charged to and what it runs on; none of it makes a result stale."""

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


class GpuKind(StrictModel):
    """One kind of GPU: how to request it, and its properties."""

    gres: SlurmName | None = Field(
        None, description="Its type in --gres=gpu:<type>:1; null: the name of the kind."
    )
    memory_gib: Gib | list[Gib] = Field(
        description="Memory of the card in GiB; a list if it exists in several sizes."
    )
    constraints: dict[Gib, SlurmName] = Field(
        default={},
        description="The constraint that selects a size (sbatch -C), by its GiB; used if the model "
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
        """The sizes in which it exists, smallest first."""
        sizes = self.memory_gib
        return (sizes,) if isinstance(sizes, int) else tuple(sorted(sizes))

    @property
    def words(self) -> str:
        """Memory and number format, by which users choose."""
        sizes = " or ".join(map(str, self.sizes_gib))
        return f"{sizes} GiB" + ("" if self.bfloat16 else ", no bfloat16")


class Qos(StrictModel):
    """One quality of service: time limit, number of jobs, price."""

    max_hours: float = Field(gt=0, description="Longest time limit of a GPU job.")
    preempted_after_h: float | None = Field(
        None, ge=0, description="Hours after which a job may be preempted; null: never."
    )
    charged: bool = Field(description="Whether the account is charged for its jobs.")
    max_jobs: int | None = Field(
        None, gt=0, description="Most jobs of one user, waiting ones included; null: not known."
    )

    @property
    def words(self) -> str:
        """Price, time and interruptions, by which users choose."""
        price = "charged" if self.charged else "free"
        stop = self.preempted_after_h
        stopped = "" if stop is None else f", may be stopped after {stop:g} h"
        return f"{price}, at most {self.max_hours:g} h{stopped}"


class Site(StrictModel):
    """site.yaml: one cluster."""

    name: str = Field(min_length=1, description="Its name in messages.")
    gpus: dict[SlurmName, GpuKind] | None = Field(
        None,
        min_length=1,
        description="Kinds of GPU; the first is the default. null: any name is used as written, "
        "and without one any GPU will do.",
    )
    qos: dict[SlurmName, Qos] | None = Field(
        None,
        min_length=1,
        description="Queues; the first is the default. null: none is requested.",
    )
    account_required: bool = Field(
        False, description="Whether SLURM refuses jobs that name no account."
    )
    accounts_command: str | None = Field(
        None, description="The site's own command that lists a user's accounts."
    )
    cpu_partition: SlurmNames | None = Field(
        None, description="Partition of small jobs without a GPU; null: SLURM's default."
    )
    max_hours: float | None = Field(
        None, gt=0, description="Longest time limit, if no QOS sets one."
    )


def load_site(folder: Path) -> Site:
    """Read the site of a profile folder.

    Raises:
        UserError: there is none, or a value is not allowed; names the file and the key.
    """
    path = folder / SITE_FILE
    return validated(Site, read_yaml_mapping(path, what="the facts of a cluster"), str(path))
