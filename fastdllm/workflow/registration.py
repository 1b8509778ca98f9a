"""When claims were registered: the commit in git from which on nothing that decides them changed.

Evaluates the files of earlier commits and runs none of their code: the claims, the grid points of
their configs with the settings of all levels, the code of policies and task helpers without
comments, task files, and by content the data and the model as far as they are in git. Asks git a
few times for each commit that touched one of these files, back to the one that registers.
"""

from __future__ import annotations

import itertools
import json
import subprocess
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from fastdllm.common.errors import UserError
from fastdllm.common.files import temporary_folder, write_text_atomically
from fastdllm.common.paths import ARTIFACTS
from fastdllm.common.yaml_files import read_yaml_mapping
from fastdllm.decoding.user_code import code_files, file_digest
from fastdllm.machine.process import git_output
from fastdllm.model.checkpoint import local_folder
from fastdllm.records.summary import Git
from fastdllm.tasks.task_files import find_task_files
from fastdllm.tasks.task_metadata import OPTIONS
from fastdllm.tasks.task_source import metadata_of
from fastdllm.validation import validated
from fastdllm.workflow.project.config_files import (
    EXPERIMENTS,
    WORKFLOW_CONFIG,
    ExperimentConfig,
    WorkflowConfig,
    experiment_file,
)
from fastdllm.workflow.project.digests import MODEL_FILES, digest_of, what_counts
from fastdllm.workflow.project.fingerprint_keys import UNDECIDING_OPTIONS
from fastdllm.workflow.project.grid import config_name
from fastdllm.workflow.project.registered_claims import RegisteredClaims
from fastdllm.workflow.project.runs import Project

# The shortest a commit is written.
SHORT = 10


@dataclass(frozen=True, slots=True)
class Registration:
    """Whether the claims of an experiment were registered before its results.

    commit: that registered them. problem: why nothing can be confirmed. later: the commits after it
    of those that results come from.
    """

    commit: str | None
    problem: str | None
    later: frozenset[str] = field(default_factory=frozenset)

    def problem_of(self, name: str, git: Git | None) -> str | None:
        """Return why a result does not come after the registration; None if it does.

        Args:
            name: of the run or sitting, for the line.
            git: None where git did not name its commit.
        """
        if self.problem is not None:
            return self.problem
        if git is None:
            return f"{name} does not say which commit it was made with"
        commit = git.commit
        if git.dirty:
            return f"{name} was made with uncommitted changes"
        if commit == self.commit:
            return (
                f"{name} was made in {commit[:SHORT]}, the commit that registers the claims; "
                "results have to come from a later one"
            )
        if commit not in self.later:
            return (
                f"{name} was made in {commit[:SHORT]}, which is not a commit after "
                f"{str(self.commit)[:SHORT]}, where the claims were registered"
            )
        return None


def find_registration(
    project: Project, registered: RegisteredClaims, commits: Collection[str]
) -> Registration:
    """Find the commit that registers the claims of an experiment.

    Args:
        commits: from which results come.
    """
    try:
        return _found(_History(project, registered), commits)
    except subprocess.TimeoutExpired:
        return Registration(None, "git gave no answer in time")
    except subprocess.CalledProcessError as error:
        lines = str(error.stderr).strip().splitlines() or [f"exit code {error.returncode}"]
        return Registration(None, f"git does not tell: {lines[0].removeprefix('fatal: ')}")
    except OSError as error:
        return Registration(None, f"git cannot be started: {error.strerror}")


def is_newest(commit: str) -> bool:
    """Whether a commit is the one that is checked out."""
    return git_output(".", "rev-parse", "HEAD") == commit


def _found(history: _History, of_results: Collection[str]) -> Registration:
    if git_output(".", "rev-parse", "--is-shallow-repository") == "true":
        return Registration(None, "the history is not complete here; git fetch --unshallow")
    if changed := history.uncommitted():
        return Registration(None, f"{changed} has uncommitted changes")
    commits = history.commits()
    newest = next(iter(commits), None)
    now = history.state(newest) if newest is not None else None
    if newest is None or now is None:  # such as of files that git ignores
        return Registration(None, "the claims are in no commit yet; git commit registers them")
    # All commits with this state that newer ones with it lead to; those behind which it differs
    # began it.
    reached, waiting, first = {newest}, [newest], []
    while waiting:
        commit = waiting.pop()
        alike = [parent for parent in commits[commit] if history.state(parent) == now]
        first += [] if alike else [commit]
        waiting += [parent for parent in alike if parent not in reached]
        reached.update(alike)
    commit = first[0]
    after = set(git_output(".", "rev-list", "--ancestry-path", f"{commit}..HEAD").split())
    # On a branch that was merged since, the claims may have been others.
    later = frozenset(c for c in after.intersection(of_results) if history.state(c) == now)
    return Registration(commit, history.seen_before(commit), later)


class _History:
    """The files that register some claims, in the commits of git."""

    def __init__(self, project: Project, registered: RegisteredClaims) -> None:
        self.project, self.registered = project, registered
        self._states: dict[frozenset[tuple[str, str]], str | None] = {}
        self._of_commit: dict[str, str | None] = {}

    @cached_property
    def experiments(self) -> list[str]:
        """The experiments whose configs the claims name, their own first."""
        others = [place[0] for place in self.registered.places.values()]
        return list(dict.fromkeys([self.registered.experiment, *others]))

    @cached_property
    def code(self) -> list[str]:
        """The Python files of policies and task helpers."""
        files = [
            EXPERIMENTS / name / self.project.experiments[name].policy for name in self.experiments
        ]
        files += [helper for task in self._tasks for helper in task.helpers]
        return _inside(code for file in files for code in code_files(file))

    @cached_property
    def task_files(self) -> list[str]:
        """The YAML files of the tasks."""
        return _inside(path for task in self._tasks for path, _ in task.layers)

    @cached_property
    def contents(self) -> list[str]:
        """What counts by its content: the data of the tasks, and the model's folder."""
        folder = local_folder(self.project.config.model.path)
        data = [path for task in self._tasks for _, path in task.data]
        model = (
            [] if folder is None else [f for pattern in MODEL_FILES for f in folder.glob(pattern)]
        )
        return _inside([*data, *model])

    @cached_property
    def _tasks(self) -> list[Any]:
        tasks = dict.fromkeys(task for task, _ in self.registered.places)
        return [find_task_files(self.project.config.task_source(task)) for task in tasks]

    @cached_property
    def texts(self) -> list[str]:
        """The files that are read."""
        grids = [str(experiment_file(name)) for name in self.experiments]
        return [str(WORKFLOW_CONFIG), *grids, *self.task_files, *self.code]

    def uncommitted(self) -> str | None:
        """Return the first of the files that differs from the last commit; None if none does."""
        paths = ("--untracked-files=normal", "--", *self.texts, *self.contents)
        changes = git_output(".", "status", "--porcelain", *paths).splitlines()
        return changes[0].split(maxsplit=1)[1] if changes else None

    def commits(self) -> dict[str, list[str]]:
        """Return the commits that touched the files, newest first, each with those before it."""
        asked = ("rev-list", "--topo-order", "--parents", "HEAD", "--")
        lines = git_output(".", *asked, *self.texts, *self.contents).splitlines()
        found = {commit: parents for commit, *parents in map(str.split, lines)}
        return {
            commit: [parent for parent in parents if parent in found]
            for commit, parents in found.items()
        }

    def state(self, commit: str) -> str | None:
        """Return a digest of what registers the claims in a commit; None without such claims."""
        if commit not in self._of_commit:
            asked = ("ls-tree", "-r", "-z", commit, "--", *self.texts, *self.contents)
            entries = [e.partition("\t") for e in git_output(".", *asked).split("\0") if e]
            blobs = frozenset((path, head.split()[2]) for head, _, path in entries)
            if blobs not in self._states:
                self._states[blobs] = self._evaluated(dict(blobs))
            self._of_commit[commit] = self._states[blobs]
        return self._of_commit[commit]

    def _evaluated(self, blobs: Mapping[str, str]) -> str | None:
        with temporary_folder("fastdllm-claims-") as name:
            folder = Path(name)
            for path in self.texts:
                if path in blobs:
                    text = git_output(".", "cat-file", "blob", blobs[path])
                    write_text_atomically(folder / path, text)
            try:
                claims = self._claims_in(folder)
            except UserError:
                return None  # a file that is missing, or of other rules: not these claims
        contents = {path: blob for path, blob in blobs.items() if path not in self.texts}
        return digest_of([claims, contents])

    def _claims_in(self, folder: Path) -> Any:
        """Return what the files in a folder say of the claims.

        Raises:
            UserError: one is missing, or not valid.
        """
        registered = self.registered
        workflow = _read(WorkflowConfig, folder / WORKFLOW_CONFIG)
        grids = {e: _read(ExperimentConfig, folder / experiment_file(e)) for e in self.experiments}
        own = grids[registered.experiment]
        places = sorted(set(registered.places.values()))
        options = {}
        for task in sorted({task for task, _ in registered.places}):
            given = workflow.tasks.get(task)
            options[task] = (
                given.model_dump(exclude=UNDECIDING_OPTIONS, exclude_unset=True) if given else {}
            )
        return {
            "claims": [claim.model_dump(mode="json") for claim in own.claims or ()],
            "planned": own.planned.model_dump(mode="json") if own.planned else None,
            "tasks": own.tasks,
            "configs": [
                [*place, _settings(grids[place[0]], workflow, place[2])] for place in places
            ],
            "options": options,
            "model": workflow.model.model_dump(exclude={"device"}),
            "task_files": [
                _of_task(read_yaml_mapping(folder / path, what="a task"))
                for path in self.task_files
            ],
            "code": [file_digest(folder / path) for path in self.code],
        }

    def seen_before(self, commit: str) -> str | None:
        """Return why the results were known: some were published before the claims, None if not.

        Results of the same model on the same items count, whichever config they are of.
        """
        decides = {
            run.task: {key: run.decides[key] for key in ("task_digest", "model_digest")}
            for run in self.project.all_runs
            if run.limit is None
        }
        for task in dict.fromkeys(task for task, _ in self.registered.places):
            glob = f":(glob){ARTIFACTS}/*/{task}/*/summary.json"
            asked = ("log", "--format=", "--raw", "--no-abbrev", "-m", "--no-renames", commit, "--")
            lines = git_output(".", *asked, glob).splitlines()
            blobs = dict.fromkeys(line.split()[3] for line in lines if line.startswith(":"))
            for text in _contents(blob for blob in blobs if blob.strip("0")):  # 0: was removed
                try:
                    record = json.loads(text)
                    known = {key: record["decides"][key] for key in decides[task]}
                except (ValueError, KeyError, TypeError):
                    continue  # no summary, as of another version
                if known == decides[task]:
                    return (
                        f"results on {task} were published before the claims were registered "
                        f"({commit[:SHORT]}), such as of {record.get('experiment')}/"
                        f"{record.get('config')}"
                    )
        return None


def _contents(blobs: Iterable[str]) -> Iterator[str]:
    """Yield what the blobs hold, all from one call of git."""
    names = list(blobs)
    if not names:
        return
    text, place = git_output(".", "cat-file", "--batch", stdin="\n".join(names)), 0
    # Each follows a line with its name, type and size; the names cannot be in summaries.
    starts = [place := text.index(f"{name} blob ", place) for name in names]
    for start, end in itertools.pairwise([*starts, len(text)]):
        yield text[start:end].partition("\n")[2]


def _read(record: Any, path: Path) -> Any:
    return validated(record, read_yaml_mapping(path, what="a config"), str(path))


def _of_task(values: dict[str, Any]) -> list[Any]:
    """Return what counts of a task's file: its keys, and the options that decide."""
    options = metadata_of(values).get(OPTIONS)
    given = options.items() if isinstance(options, Mapping) else ()
    return [what_counts(values), {k: v for k, v in given if k not in UNDECIDING_OPTIONS}]


def _settings(grid: ExperimentConfig, workflow: WorkflowConfig, config: str) -> dict[str, Any]:
    """Return all that is written down for a config, of the settings and the grid's keys.

    Raises:
        UserError: there is no such config.
    """
    for place, part in grid.parts().items():
        for values in itertools.product(*part.grid.values()):
            point = dict(zip(part.grid, values, strict=True))
            if config_name(part.config_name, point, place) == config:
                levels = (workflow.decoding, grid.decoding, part.decoding)
                base = {key: value for level in levels for key, value in level.given().items()}
                return {**base, **point, "policy": grid.policy}
    raise UserError(f"no config {config}")


def _inside(paths: Iterable[Path]) -> list[str]:
    """Return the paths within the project, relative to it; git knows nothing of others."""
    top = Path.cwd().resolve()
    resolved = (path.resolve() for path in paths)
    return sorted({str(path.relative_to(top)) for path in resolved if path.is_relative_to(top)})
