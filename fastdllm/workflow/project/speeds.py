"""Speed measurements of the project: one per experiment with `speed:` and task that generates.

What makes a measurement stale is in `decides`: the computations of its configs, how it is made, and
the GPU asked for. The code is recorded in its sittings, and named where it is another one now.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastdllm.common.errors import UserError, unknown_name
from fastdllm.common.files import json_object
from fastdllm.common.paths import ARTIFACTS, RESULTS
from fastdllm.records.speed_record import SPEED_FILE, SPEED_SCHEMA_VERSION
from fastdllm.speed.speed_spec import SPEED_FOLDER, SpeedSpec, sitting_path
from fastdllm.workflow.project.config_files import SpeedOptions, experiment_file
from fastdllm.workflow.project.digests import digest_of
from fastdllm.workflow.project.runs import Project, Run


@dataclass(frozen=True, slots=True)
class SpeedMeasurement:
    """The configs of an experiment that are timed in turn on one task.

    runs: by the name that `speed:` gives them. gpu: the kind asked for, None for any.
    """

    experiment: str
    task: str
    task_folder: str
    limit: int | None
    options: SpeedOptions
    runs: Mapping[str, Run] = field(repr=False)
    gpu: str | None = None

    @property
    def name(self) -> str:
        """Experiment and task, for people."""
        return f"{self.experiment}/{self.task_folder}"

    @property
    def folder(self) -> Path:
        return RESULTS / self.name / SPEED_FOLDER

    @property
    def spec_path(self) -> Path:
        return self.folder / "spec.json"

    @property
    def sitting_paths(self) -> list[Path]:
        return [sitting_path(self.folder, n + 1) for n in range(self.options.sittings)]

    @property
    def record_path(self) -> Path:
        return RESULTS / self.name / SPEED_FILE

    @property
    def artifact_path(self) -> Path:
        return ARTIFACTS / self.name / SPEED_FILE

    @property
    def decides(self) -> dict[str, Any]:
        """What makes a result stale."""
        return {
            "computations": {name: run.computation for name, run in self.runs.items()},
            "baseline": self.options.baseline,
            "batch_sizes": list(self.options.batch_sizes),
            "sittings": self.options.sittings,
            "precision": self.options.precision,
            "gpu": self.gpu,
        }

    @property
    def fingerprint(self) -> str:
        return digest_of(self.decides)

    def spec(self) -> dict[str, Any]:
        """The content of spec.json, the input of `fastdllm speed`."""
        spec = SpeedSpec(
            schema_version=SPEED_SCHEMA_VERSION,
            experiment=self.experiment,
            task=self.task,
            limit=self.limit,
            fingerprint=self.fingerprint,
            decides=self.decides,
            baseline=self.options.baseline,
            batch_sizes=list(self.options.batch_sizes),
            sittings=self.options.sittings,
            precision=self.options.precision,
            runs={name: run.spec() for name, run in self.runs.items()},
        )
        return spec.model_dump(mode="json")

    def is_of(self, path: Path) -> bool:
        """Whether the record or sitting at `path` is of this measurement.

        Where no GPU is asked for, any record counts, whatever was asked for when it was made.
        """
        values = json_object(path)
        if values.get("fingerprint") == self.fingerprint:
            return True
        decides = values.get("decides")
        if self.gpu is not None or not isinstance(decides, dict):
            return False
        return {**decides, "gpu": None} == self.decides


def speed_measurements(
    project: Project, *, gpu: str | None = None, is_asked: bool = False
) -> list[SpeedMeasurement]:
    """Return the measurements of the selected experiments and tasks, in their order.

    Args:
        gpu: the kind that was asked for. is_asked: whether speeds are what the user asked for;
            otherwise a measurement that names a config of an experiment that is not enabled, say,
            is left out, so that nothing else stops for it.

    Raises:
        UserError: `speed:` names a config that is not there, or one computation twice.
    """
    # Where nothing is generated, nothing takes time that could be compared.
    generating = [run for run in project.runs if not run.is_likelihood]
    found = []
    for experiment, task in dict.fromkeys((run.experiment, run.task) for run in generating):
        options = project.experiments[experiment].speed
        if options is None:
            continue
        try:
            runs = _runs(project.all_runs, options, experiment, task)
        except UserError:
            if is_asked:
                raise
            continue
        first = next(iter(runs.values()))
        found.append(
            SpeedMeasurement(
                experiment=experiment,
                task=task,
                task_folder=first.task_folder,
                limit=first.limit,
                options=options,
                runs=runs,
                gpu=gpu,
            )
        )
    return found


def _runs(
    all_runs: Sequence[Run], options: SpeedOptions, experiment: str, task: str
) -> dict[str, Run]:
    where = f"{experiment_file(experiment)}: speed"
    of_task = [run for run in all_runs if run.task == task]
    by_name = {
        run.config if run.experiment == experiment else f"{run.experiment}/{run.config}": run
        for run in of_task
    }
    runs: dict[str, Run] = {}
    for name in dict.fromkeys([options.baseline, *options.configs]):
        if name not in by_name:
            raise unknown_name("config", name, by_name, where)
        run = by_name[name]
        twin = next((n for n, other in runs.items() if other.computation == run.computation), None)
        if twin is not None:
            raise UserError(
                f"{where}: {twin} and {name} are the same computation, so their ratio is 1; take "
                "one of the two out (the baseline is timed a second time as a check anyway)"
            )
        runs[name] = run
    return runs
