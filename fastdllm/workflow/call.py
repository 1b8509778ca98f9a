"""One Snakemake call as the rules see it: its runs, and how each summary is going to be made."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fastdllm.common.paths import PLANS, RESULTS
from fastdllm.workflow.cuts import Cuts
from fastdllm.workflow.plans import planned_chunks
from fastdllm.workflow.runs import Run

# A regular expression that nothing matches.
NEVER = "(?!)"
# What a job asks for where neither an estimate nor a queue says anything: 8 hours.
DEFAULT_MINUTES = 480

# Minutes that a job on these runs needs, for that share of their items, in the n-th attempt; None:
# nothing is known.
Minutes = Callable[[Sequence[Run], float, int], int | None]


@dataclass(frozen=True, slots=True)
class Call:
    """One Snakemake call: its runs, and the summaries that it is going to make.

    A run that somebody else is making right now is not among them, unless it is a SLURM job of this
    folder, which is followed. planned is None in the process of a single job, which makes whatever
    it was told to make.

    leaders: for the summary of each run that is made from another's, the folder of that one.
    decoded: the runs to be decoded, by their specs.
    cuts: which of them are cut into shards, or packed.
    parts: for the summary of each of these, the files that tell that its parts are done.
    minutes_of: estimates; most_minutes: the longest time that the queue gives a job.
    """

    runs: tuple[Run, ...] = ()
    planned: frozenset[str] | None = frozenset()
    leaders: Mapping[str, Path] = field(default_factory=dict)
    decoded: Mapping[str, Run] = field(default_factory=dict)
    cuts: Cuts = field(default_factory=Cuts)
    parts: Mapping[str, Sequence[str]] = field(default_factory=dict)
    minutes_of: Minutes | None = None
    most_minutes: int = DEFAULT_MINUTES

    def is_planned(self, summary: str) -> bool:
        """Whether a summary is going to be made, and so needs the plan of its task."""
        return self.planned is None or summary in self.planned

    def leader(self, summary: str) -> str:
        """The folder of the run that a summary is made from."""
        return str(self.leaders[summary])

    def awaited(self, summary: str) -> list[str]:
        """The leader's summary, where it has to be made first."""
        leader = str(self.leaders[summary] / "summary.json")
        return [leader] if self.planned and {leader, summary} <= self.planned else []

    def copies_pattern(self) -> str:
        """A regular expression of the runs (experiment/task/config) that are made from another."""
        return _pattern(Path(summary).parent for summary in self.leaders)

    def cut_pattern(self) -> str:
        """A regular expression of the runs that are cut into shards or packed."""
        return _pattern(Path(summary).parent for summary in self.parts)

    def plans_of(self, specs: Iterable[str]) -> list[str]:
        """The plans that the runs of a pack need, by the specs of these runs."""
        folders = [Path(spec).parent for spec in specs]
        needed = [folder for folder in folders if self.is_planned(str(folder / "summary.json"))]
        return [str(PLANS / task / "plan.json") for task in sorted({f.parts[2] for f in needed})]

    def minutes(self, specs: Sequence[str], attempt: int) -> int:
        """The time to ask SLURM for, for a job that works on the runs of these specs."""
        runs = [self.decoded[spec] for spec in specs if spec in self.decoded]
        if self.minutes_of is None or not runs:
            return self.most_minutes
        share = max(_share(run, self.cuts.shards.get(run.name, 1)) for run in runs)
        known = self.minutes_of(runs, share, attempt)
        return self.most_minutes if known is None else min(known, self.most_minutes)


def _share(run: Run, shards: int) -> float:
    """The largest part of a run that one of its shards decodes: of 5 chunks, one of 4 takes 2."""
    chunks = planned_chunks(run.plan_folder) if shards > 1 else None
    return math.ceil(chunks / shards) / chunks if chunks else 1 / shards


def _pattern(folders: Iterable[Path]) -> str:
    by_task: dict[Path, list[str]] = {}
    for folder in sorted(folder.relative_to(RESULTS) for folder in folders):
        by_task.setdefault(folder.parent, []).append(re.escape(folder.name))
    parts = [f"{re.escape(str(task))}/(?:{'|'.join(configs)})" for task, configs in by_task.items()]
    return "|".join(parts) or NEVER
