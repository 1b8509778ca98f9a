"""From a task and settings to a run: its folder, its spec, and its plan.

The folder's name ends with the fingerprint, so that other settings have another one.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import Any

from fastdllm.common.console import notice
from fastdllm.common.errors import UserError
from fastdllm.common.files import cannot, date, json_object, to_json, write_if_changed
from fastdllm.common.paths import RESULTS, task_folder
from fastdllm.records.summary import DECODING, Summary
from fastdllm.runs.result import stored_result
from fastdllm.runs.spec import RunSpec
from fastdllm.settings import DecodingSettings
from fastdllm.tasks.plan import MADE_FROM, planned_digest
from fastdllm.validation import validated
from fastdllm.workflow.project.config_files import (
    DecodingOverrides,
    ExperimentConfig,
    ModelChoice,
    TaskOptions,
    WorkflowConfig,
    load_workflow_config,
    with_task,
)
from fastdllm.workflow.project.digests import FileDigests, digest_of
from fastdllm.workflow.project.fingerprint_keys import plan_decides, read_model, read_task
from fastdllm.workflow.project.runs import Run, TaskPlan, expand_runs

# In place of an experiment's name, which begins with a letter or a digit.
SINGLE = "_single"
POLICY = Path(__file__).with_name("built_in.py")
# Keys of workflow_config.yaml that a plan depends on.
_OF_PLANS = {"model", "experiments", "tasks", "allow_code_execution"}
# How the command line begins its errors.
_OURS = "fastdllm: "
# Of the name of a run, before its fingerprint.
MOST_LETTERS = 60


@dataclass(frozen=True)
class SingleRun:
    """A run without an experiment; plan: what its plan depends on, config: for `fastdllm plan`."""

    run: Run
    plan: TaskPlan
    config: WorkflowConfig

    @cached_property
    def spec(self) -> RunSpec:
        return validated(RunSpec, self.run.spec(), str(self.run.spec_path))

    @property
    def plan_folder(self) -> Path:
        return Path(self.spec.run.plan_folder)

    @property
    def _config_path(self) -> Path:
        return self.plan_folder / "config.json"

    def result(self) -> Summary | None:
        """Return the result that the run has already, if there is one."""
        return stored_result(self.run.folder, self.spec)

    def prepare(self) -> None:
        """Write spec.json, and make the plan if it is not there, or is of something else.

        Raises:
            UserError: the task cannot be planned, or a file cannot be written.
        """
        config = self.config.model_dump(mode="json", include=_OF_PLANS, exclude_unset=True)
        try:
            write_if_changed(self.run.spec_path, to_json(self.run.spec()))
            date(self.run.spec_path, 0)  # a spec that is dated after the result asks to repeat it
            write_if_changed(self._config_path, to_json(config))
        except OSError as error:
            raise cannot("write", error.filename or self.run.folder, error) from None
        if not self._is_planned():
            notice(f"planning {self.run.task_folder}")
            self._make_plan()

    def _is_planned(self) -> bool:
        """Whether the plan is there, undamaged, and of the task and the model as they are."""
        if json_object(self.plan_folder / MADE_FROM) != self.plan.spec():
            return False
        requests = self.plan_folder / "requests.jsonl"
        return requests.is_file() and planned_digest(self.plan_folder) == FileDigests().of(requests)

    def _make_plan(self) -> None:
        command = [sys.executable, "-m", "fastdllm", "plan", "--task", self.run.task]
        limit = [] if self.run.limit is None else ["--limit", str(self.run.limit)]
        places = ["--output", str(self.plan_folder), "--config", str(self._config_path)]
        completed = subprocess.run(
            [*command, *limit, *places], capture_output=True, text=True, check=False
        )
        if completed.returncode:
            raise child_error(completed.stderr, completed.returncode)
        sys.stderr.write(completed.stderr)  # what is odd about the items


def child_error(output: str, code: int) -> UserError:
    """Return the error of a command that ended with an exit code, from what it printed.

    Another process, which the caller had left behind, may have printed its progress there as well.
    """
    lines = [line for line in output.splitlines() if line.strip()] or [f"exit code {code}"]
    named = [line for line in lines if line.startswith(_OURS)]
    return UserError((named or lines)[-1].removeprefix(_OURS))


def single_run(
    task: str,
    *,
    limit: int | None,
    model: Mapping[str, Any],
    options: Mapping[str, Any],
    decoding: Mapping[str, Any],
) -> SingleRun:
    """Return the run of a task with the settings of workflow_config.yaml, but for what is given.

    Args:
        limit: first n items of each subtask; None: all.
        model: path, revision, dtype and device, as far as they are given; with a path, what is not
            given is as of no model in particular.
        options: keys of a task in workflow_config.yaml, such as data or batch_size.
        decoding: settings by name; texts are read as from a command line.

    Raises:
        UserError: an unknown task or setting, or one that is not allowed.
    """
    if limit is not None:
        is_number = isinstance(limit, Integral) and not isinstance(limit, bool)
        if not is_number or limit < 1:
            raise UserError(f"limit {limit!r} is not allowed; it should be a whole number from 1")
        limit = int(limit)  # NumPy has numbers of its own
    given = validated(DecodingOverrides, decoding, "options").given()
    config = with_task(load_workflow_config(), task)
    base = {} if "path" in model else config.model.model_dump()
    of_config = config.task_options(task).model_dump(exclude_unset=True)
    changed = {
        "model": validated(ModelChoice, {**base, **model}, "options"),
        "tasks": {task: validated(TaskOptions, {**of_config, **options}, "options")},
    }
    config = config.model_copy(update=changed)
    experiment = ExperimentConfig(
        title="one evaluation",
        question="none",
        config_name="single",  # renamed below
        decoding=DecodingOverrides(**given),
        tasks=[task],
    )
    digests = FileDigests.load()
    identity, source = read_model(config, digests), config.task_source(task)
    of_task = read_task(source, digests)
    digests.save()
    (run,) = expand_runs(
        SINGLE,
        experiment,
        policy_file=POLICY,
        where="options",
        config=config,
        model=identity,
        tasks={task: of_task},
        limit=limit,
    )
    plan = TaskPlan(task, limit, plan_decides(config, identity, of_task))
    plan_name = f"{task_folder(task, limit)}-{digest_of(plan.spec())[:12]}"
    places = {**run.surroundings, "plan_folder": str(RESULTS / SINGLE / "_plans" / plan_name)}
    name = _name(run, of_task.overrules)
    return SingleRun(replace(run, config=name, surroundings=places), plan, config)


def _name(run: Run, overruled: Collection[str]) -> str:
    """Return a name that shows which settings are not the usual ones, and tells all runs apart.

    overruled: settings that the task overrules, so that the run does not have them.
    """
    usual = DecodingSettings().model_dump(mode="json")
    given = {name: run.decides[DECODING + name] for name in usual}
    parts = [
        f"{name}-{'-'.join(map(str, value)) if isinstance(value, list) else value}"
        for name, value in given.items()
        if value != usual[name] and name not in overruled
    ]
    words = re.sub(r"[^A-Za-z0-9_.-]+", "-", "_".join(parts) or "default")[:MOST_LETTERS]
    return f"{words.rstrip('-')}-{run.fingerprint[:12]}"
