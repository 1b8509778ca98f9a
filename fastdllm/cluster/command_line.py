"""What a Snakemake command line says about the cluster: profile, executor, limits.

Read with Snakemake's own parser, profiles included, so nothing that Snakemake accepts is missed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastdllm.cluster.site import SITE_FILE

# The executor that follows jobs of an earlier call, and the one that submits them a second time.
EXECUTOR, STOCK_EXECUTOR = "fastdllm-slurm", "slurm"


@dataclass(frozen=True, slots=True)
class CommandLine:
    """folders: of the profiles with a site.yaml, in order of precedence; without one the rest is
    not read. jobs: most jobs at a time; None if not given.

    minutes: time limits given as numbers, by rule; "" for every rule.
    """

    folders: tuple[Path, ...] = ()
    executor: str | None = None
    jobs: int | None = None
    minutes: Mapping[str, int] = field(default_factory=dict)

    @property
    def submits(self) -> bool:
        """Whether jobs go to SLURM, and those of an earlier call are followed."""
        return self.executor == EXECUTOR

    @classmethod
    def read(cls, arguments: Sequence[str]) -> CommandLine:
        """Read the arguments of `snakemake`, without its name."""
        from snakemake.cli import get_argument_parser, get_profile_dir

        words = list(arguments)
        named, _ = get_argument_parser().parse_known_args(words)
        profiles = [profile for profile in named.profile or () if profile != "none"]
        read = [place for profile in profiles if (place := get_profile_dir(profile)) is not None]
        folders = tuple(folder for folder, _ in reversed(read) if (folder / SITE_FILE).exists())
        if not folders:
            return cls()
        parsed, _ = get_argument_parser(profiles=profiles).parse_known_args(words)
        return cls(
            folders=folders,
            executor=parsed.executor,
            jobs=parsed.jobs if isinstance(parsed.jobs, int) else None,
            minutes=_minutes({"": parsed.default_resources or {}, **(parsed.set_resources or {})}),
        )


def _minutes(resources: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    minutes = {}
    for rule, values in resources.items():
        runtime = values.get("runtime")
        # An expression has a value only for a job; SLURM checks that one.
        if runtime is not None and not runtime.is_evaluable() and isinstance(runtime.value, int):
            minutes[rule] = runtime.value
    return minutes
