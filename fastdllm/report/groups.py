"""Runs by experiment and task, each compared with the baseline of its task.

An experiment is one question, so its comparisons on a task, with the baseline and with the
controls, are one family, corrected together. Tables, page, CSV and READMEs all show these.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from fastdllm.records.summary import DECODING, PARAMETERS, Summary
from fastdllm.report.controls import CONTROL_EXPERIMENT, control_for, controls_of
from fastdllm.settings import DecodingSettings
from fastdllm.statistics.comparison import (
    Comparison,
    compare,
    corrected,
    is_same_computation,
    why_other_items,
)
from fastdllm.statistics.costs import speed_conditions
from fastdllm.workflow.project.computations import is_plain

# Settings that a task or a model dictates; changing them is not an idea of an experiment.
NO_IDEA = frozenset(["max_new_tokens", "seed", "mask_id", "stop_token"])
PASS_KINDS = ("prefill", "full_block", "sub_block", "commit", "reused")

# Keys: task, limit; experiment, task, limit, config.
TaskKey = tuple[str, int | None]
RunKey = tuple[str, str, int | None, str]


@dataclass(frozen=True)  # without slots, for what is counted once
class Group:
    """Runs of one experiment on one task (and limit), in the order given.

    baseline: the task's, which may be a run of another experiment. comparisons: of each run with
    it; None for the baseline itself. to_controls: of each run with the control that it has to
    beat; None for controls, what is the same as one, and without any.
    """

    experiment: str
    task: str
    limit: int | None
    baseline: Summary
    summaries: tuple[Summary, ...]
    comparisons: tuple[Comparison | None, ...]
    to_controls: tuple[Comparison | None, ...]

    @property
    def title(self) -> str:
        return self.summaries[0].task_title

    @property
    def compared(self) -> list[tuple[Summary, Comparison | None]]:
        """Each run with its comparison."""
        return list(zip(self.summaries, self.comparisons, strict=True))

    @cached_property
    def n_tests(self) -> int:
        """How many different comparisons were corrected together."""
        tests = [c for c in (*self.comparisons, *self.to_controls) if c is not None and c.paired]
        return len({(t.paired.lost, t.paired.gained, id(t.baseline)) for t in tests if t.paired})

    @cached_property
    def is_generation(self) -> bool:
        """Whether answers were generated; otherwise only likelihoods of options were compared."""
        return any(summary.passes is not None for summary in self.summaries)

    @cached_property
    def usual_conditions(self) -> tuple[str, ...]:
        """The speed conditions that most of the runs share."""
        return Counter(map(speed_conditions, self.summaries)).most_common(1)[0][0]


def grouped(summaries: Sequence[Summary]) -> list[Group]:
    """Group and compare summaries; groups and runs are in the order of first appearance."""
    groups: dict[tuple[str, TaskKey], list[Summary]] = {}
    tasks: dict[TaskKey, list[Summary]] = {}
    for summary in summaries:
        experiment, task, limit, _ = key_of(summary)
        groups.setdefault((experiment, (task, limit)), []).append(summary)
        tasks.setdefault((task, limit), []).append(summary)
    baselines = {task: baseline_of(runs) for task, runs in tasks.items()}
    controls = {task: controls_of(runs) for task, runs in tasks.items()}
    return [
        Group(
            experiment,
            *task,
            baselines[task],
            tuple(runs),
            *_family(experiment, runs, baselines[task], controls[task]),
        )
        for (experiment, task), runs in groups.items()
    ]


def by_task(groups: Sequence[Group]) -> dict[TaskKey, list[Group]]:
    """Groups of all experiments by task and limit, in their order."""
    tasks: dict[TaskKey, list[Group]] = {}
    for group in groups:
        tasks.setdefault((group.task, group.limit), []).append(group)
    return tasks


def _family(
    experiment: str, runs: Sequence[Summary], baseline: Summary, controls: Sequence[Summary]
) -> tuple[tuple[Comparison | None, ...], tuple[Comparison | None, ...]]:
    """Compare each run with the baseline and with its control, as one family of tests."""
    pairs = [(baseline, run) for run in runs if run is not baseline]
    places = {id(run): index for index, (_, run) in enumerate(pairs)}
    against = [_control_to_beat(experiment, run, baseline, controls) for run in runs]
    own_controls = [(c, run) for c, run in zip(against, runs, strict=True) if c is not None]
    tests = corrected([compare(a, b) for a, b in (*pairs, *own_controls)])
    to_controls = iter(tests[len(pairs) :])
    return (
        tuple(None if run is baseline else tests[places[id(run)]] for run in runs),
        tuple(None if control is None else next(to_controls) for control in against),
    )


def _control_to_beat(
    experiment: str, run: Summary, baseline: Summary, controls: Sequence[Summary]
) -> Summary | None:
    if experiment == CONTROL_EXPERIMENT or run.passes is None or why_other_items(baseline, run):
        return None
    if any(is_same_computation(run, other) for other in (baseline, *controls)):
        return None
    return control_for(run, controls)


def key_of(summary: Summary) -> RunKey:
    """Return what identifies a run in a project."""
    limit = summary.eval_params.get("limit")
    as_number = limit if isinstance(limit, int) else None
    return summary.experiment, summary.task, as_number, summary.config


def run_name(summary: Summary) -> str:
    """Return the name of a run for people who know the task."""
    return f"{summary.experiment} / {summary.config}"


def baseline_of(summaries: Sequence[Summary]) -> Summary:
    """Return the run of one task that the others are compared with: plain decoding, as published.

    Without it, the run with the fewest deviations from it. Of several, the first that was decoded
    itself, controls first.
    """

    def order(run: Summary) -> tuple[int, bool, bool]:
        return len(deviations(run)), run.same_as is not None, run.experiment != CONTROL_EXPERIMENT

    return min(summaries, key=order)


def deviations(summary: Summary) -> dict[str, Any]:
    """Return the settings that take effect in a run and are not the default.

    Empty for plain decoding. Parameters of a policy always count, and so does one that may decide
    otherwise than plain decoding.
    """
    settings = settings_of(summary)
    without_effect = set(NO_IDEA)
    if settings.get("reuse_k", 1) == 1:
        without_effect.add("layer_subset")
    if not settings.get("lookahead_depth", 0):
        without_effect.add("lookahead_threshold")
    if not settings.get("temperature", 0.0):
        without_effect.add("top_p")
    fields = DecodingSettings.model_fields
    changed = {
        name: value
        for name, value in settings.items()
        if name in fields and name not in without_effect and value != fields[name].default
    }
    policy, computation = summary.decides.get("policy"), summary.computation
    if policy and computation and summary.passes and not is_plain(summary.decides, computation):
        changed["policy"] = policy
    return changed | parameters_of(summary)


def settings_of(summary: Summary) -> dict[str, Any]:
    """The decoding settings of a run by name."""
    return _deciding(summary, DECODING)


def parameters_of(summary: Summary) -> dict[str, Any]:
    """The parameters of a run's policy by name."""
    return _deciding(summary, PARAMETERS)


def _deciding(summary: Summary, prefix: str) -> dict[str, Any]:
    return {
        key.removeprefix(prefix): value
        for key, value in summary.decides.items()
        if key.startswith(prefix)
    }


def passes_per_answer(summary: Summary) -> dict[str, float]:
    """Mean passes of each kind per answer; empty for log-likelihood runs."""
    if summary.passes is None:
        return {}
    return {kind: getattr(summary.passes, kind) / summary.n_answers for kind in PASS_KINDS}


def layer_forwards_saved(summary: Summary) -> float | None:
    """Share of the layer-forwards that the policy skipped, in 0..1."""
    if summary.passes is None:
        return None
    skipped = summary.passes.layer_forwards_skipped
    every = skipped + summary.passes.layer_forwards_computed
    return skipped / every if every else None


def is_dirty(summary: Summary) -> bool:
    """Whether the run was made with uncommitted changes in the project."""
    return summary.git is not None and summary.git.dirty
