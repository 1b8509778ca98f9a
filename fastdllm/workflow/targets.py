"""The targets of a Snakemake command line: which runs, and which of them are forced.

Snakemake knows its targets only after the rules are read, too late for one-line errors and for the
table of a dry run; so they are read from the command line with Snakemake's own parser.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fastdllm.common.errors import UserError, nearest_name
from fastdllm.common.paths import PLANS, split_task_folder
from fastdllm.records.speed_record import SPEED_FILE
from fastdllm.speed.speed_spec import SPEED_FOLDER
from fastdllm.workflow.project.runs import Project, Run
from fastdllm.workflow.project.speeds import SpeedMeasurement

EVAL_RULE, PLAN_RULE = "eval", "plan"
# Rules that stand for every selected run; most of them for what is published.
PUBLISHING_RULES = ("aggregate", "report")
WHOLE_RULES = ("all", *PUBLISHING_RULES)
# A rule that needs no run at all.
TRAIN_RULE = "train"
# Measures speeds; needs no run, and none needs it.
SPEED_RULE, SITTING_RULE = "speed", "sitting"


@dataclass(frozen=True, slots=True)
class Targets:
    """The targets and forced names of one Snakemake call; no name means everything.

    words: the values of `--config` as typed; Snakemake takes 2024_05_01 for a number.
    `--forcerun` without a name forces nothing in Snakemake; here it means every run.
    """

    names: tuple[str, ...] = ()
    forced: tuple[str, ...] = ()
    is_all_forced: bool = False
    are_targets_forced: bool = False
    is_forced_without_names: bool = False
    words: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_command_line(cls, arguments: Sequence[str], command: str = "snakemake") -> Targets:
        """Read the arguments of `snakemake` or of another command, without its name.

        Raises:
            UserError: a target stands behind `--config`.
        """
        from snakemake.cli import get_argument_parser

        parsed, _ = get_argument_parser().parse_known_args(list(arguments))
        return cls(
            names=tuple(sorted(parsed.targets)),
            forced=tuple(sorted(parsed.forcerun or ())),
            is_all_forced=bool(parsed.forceall),
            are_targets_forced=bool(parsed.force),
            is_forced_without_names=not parsed.forcerun
            and any(argument in ("-R", "--forcerun") for argument in arguments),
            words=_words(parsed.config or (), arguments, command),
        )

    @property
    def is_training_only(self) -> bool:
        """Whether only the model is to be made, which must work without one."""
        return self.names == (TRAIN_RULE,)

    def wants(self, run: Run) -> bool:
        """Whether the run is among the targets."""
        accepted = (*WHOLE_RULES, str(run.summary_path))
        return not self.names or any(name in self.names for name in accepted)

    @property
    def asks_for_speeds(self) -> bool:
        """Whether a speed is among the targets or forced."""
        asked = [Path(word) for word in (*self.names, *self.forced)]
        return any(
            str(path) in (SPEED_RULE, SITTING_RULE)
            or path.name == SPEED_FILE
            or path.parent.name == SPEED_FOLDER
            for path in asked
        )

    def measures(self, speed: SpeedMeasurement) -> bool:
        """Whether the measurement is among the targets; without any, none is."""
        made = {SPEED_RULE, str(speed.record_path), *map(str, speed.sitting_paths)}
        return not made.isdisjoint((*self.names, *self.forced))

    def forces_speed(self, speed: SpeedMeasurement) -> bool:
        """Whether the measurement is to be made anew even with a valid result."""
        paths = {str(speed.record_path), *map(str, speed.sitting_paths)}
        is_named = not {SPEED_RULE, SITTING_RULE, *paths}.isdisjoint(self.forced)
        is_target = self.are_targets_forced and not paths.isdisjoint(self.names)
        return self.is_all_forced or self.is_forced_without_names or is_named or is_target

    def forces(self, run: Run) -> bool:
        """Whether the run is to be repeated even with a valid result."""
        path = str(run.summary_path)
        is_named = EVAL_RULE in self.forced or path in self.forced
        is_target = self.are_targets_forced and path in self.names
        is_every_run_forced = self.is_all_forced or self.is_forced_without_names
        return is_every_run_forced or is_named or is_target


def _words(words: Sequence[str], arguments: Sequence[str], command: str) -> dict[str, str]:
    """Return keys and values of `--config`, which takes every word that follows."""
    strays = [word for word in words if "=" not in word]
    if strays:
        start = arguments.index(words[0]) if words[0] in arguments else 0
        others = [*arguments[:start], *(word for word in arguments[start:] if word not in strays)]
        raise UserError(
            f"--config takes every word that follows, and {strays[0]!r} is no key=value; targets "
            f"stand before it: {command} {shlex.join([*strays, *others])}"
        )
    return dict(word.split("=", 1) for word in words)


def check_targets(
    targets: Targets, project: Project, speeds: Sequence[SpeedMeasurement] = ()
) -> None:
    """Refuse a target that no rule makes.

    Raises:
        UserError: with the nearest name, where Snakemake would report a missing input; or the
            target publishes, but the runs are limited.
    """
    runs = {str(run.summary_path) for run in project.runs}
    made = {*WHOLE_RULES, TRAIN_RULE, *runs}
    if speeds:
        made |= {SPEED_RULE, *(str(p) for s in speeds for p in (*s.sitting_paths, s.record_path))}
    elif SPEED_RULE in (*targets.names, *targets.forced):
        raise UserError(
            f"target {SPEED_RULE}: no selected experiment has `speed:` in its experiment.yaml and "
            "a task that generates; docs/speed.md shows what to write there"
        )
    limit = project.runs[0].limit if project.runs else None
    unlimited = next((name for name in targets.names if name in PUBLISHING_RULES), None)
    if limit is not None and unlimited is not None:
        raise UserError(
            f"target {unlimited}: is about published runs, and limited ones are never published; "
            f"leave limit out, or look at them: fastdllm table --limit {limit}"
        )
    # A rule that makes one file of many is no target, but all its files can be forced.
    forced = made | {EVAL_RULE, PLAN_RULE, SITTING_RULE}
    for names, allowed in ((targets.names, made), (targets.forced, forced)):
        for name in names:
            if name not in allowed and not Path(name).is_relative_to(PLANS):
                raise _unknown_target(name, project)


def _unknown_target(target: str, project: Project) -> UserError:
    if Path(target).is_absolute():
        return UserError(f"target {target}: name files from the project's folder: results/...")
    if target in (EVAL_RULE, PLAN_RULE):
        return UserError(
            f"target {target}: this rule makes one file; name it, or type snakemake alone for all"
        )
    parts = Path(target).parts
    limit = split_task_folder(parts[2])[1] if len(parts) > 2 else None
    if limit is not None and not any(run.limit == limit for run in project.runs):
        return UserError(f"target {target}: add its limit to the command: --config limit={limit}")
    summaries = [str(run.summary_path) for run in project.runs]
    names = [*WHOLE_RULES, TRAIN_RULE, *summaries]
    nearest = nearest_name(target, names)
    hint = f"did you mean {nearest}" if nearest else "`fastdllm status` lists the runs"
    return UserError(f"target {target}: no selected run makes this; {hint}")
