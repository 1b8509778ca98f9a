"""What `lm-eval run` does with its options, except that tasks of this project are loaded by us.

lm-eval itself would read their local data by other rules, name members of a group otherwise, and
take seconds to list its 14,000 tasks. Everything else is lm-eval's: prompts, metrics, files, table.
Import this module only within `lm_eval_environment`.
"""

from __future__ import annotations

import json
import os
import sqlite3
import sys
from collections.abc import Mapping
from pathlib import Path
from traceback import walk_tb
from typing import Any

import yaml
from datasets.exceptions import DatasetNotFoundError
from lm_eval import simple_evaluate
from lm_eval.api.task import Task
from lm_eval.config.evaluate_config import EvaluatorConfig
from lm_eval.loggers import EvaluationTracker
from lm_eval.tasks import TaskManager
from lm_eval.utils import handle_non_serializable, make_table

from fastdllm.common.console import notice
from fastdllm.common.errors import UserError, unknown_name
from fastdllm.harness.fast_dllm_v2 import NAME
from fastdllm.harness.own_tasks import task_names
from fastdllm.tasks.lm_eval_models import ROLLING, no_rolling
from fastdllm.tasks.lm_eval_tasks import load_task, reason_of, set_fewshot
from fastdllm.tasks.task_source import TaskSource
from fastdllm.workflow.project.config_files import unknown_task

# How errors of lm-eval begin that are mistakes in the words typed.
NOT_FOUND, REFUSED = "Tasks not found: ", "Attempted to "
SEEDS = ("random_seed", "numpy_random_seed", "torch_random_seed", "fewshot_random_seed")


def run_lm_eval(config: EvaluatorConfig, own: Mapping[str, TaskSource]) -> None:
    """Evaluate, write what --output_path asks for, and print the tables.

    Args:
        own: those of the tasks that are this project's, by the name that was typed.

    Raises:
        UserError: a task that is unknown, or cannot be loaded, asked or scored; or lm-eval could
            not write its results.
    """
    output = {"output_path": config.output_path} if config.output_path else {}
    tracker = EvaluationTracker(
        **{"token": os.environ.get("HF_TOKEN", ""), **config.hf_hub_log_args, **output}
    )
    names = task_names(config.tasks)
    tasks, manager = _tasks(config, own)
    before = _results(config.output_path)
    try:
        result = simple_evaluate(
            model=config.model,
            model_args=config.model_args,
            tasks=tasks,
            task_manager=_Manager(manager) if config.model == NAME else manager,
            num_fewshot=config.num_fewshot,
            batch_size=config.batch_size,
            max_batch_size=config.max_batch_size,
            device=config.device,
            use_cache=config.use_cache,
            limit=config.limit,
            samples=config.samples,
            write_out=config.write_out,
            log_samples=config.log_samples,
            evaluation_tracker=tracker,
            system_instruction=config.system_instruction,
            apply_chat_template=config.apply_chat_template,
            fewshot_as_multiturn=config.fewshot_as_multiturn,
            gen_kwargs=config.gen_kwargs,
            predict_only=config.predict_only,
            **dict(zip(SEEDS, config.seed or [None] * len(SEEDS), strict=True)),
            confirm_run_unsafe_code=config.confirm_run_unsafe_code,
            metadata=config.metadata,
        )
    except sqlite3.Error as error:
        raise UserError(
            f"--use_cache: {config.use_cache}_rank0.db: {error}; is there space left? If the file "
            "is damaged, remove it; the same command goes on"
        ) from None
    except (Exception, SystemExit) as error:
        # A task of lm-eval, its data or a package that it wants may raise anything.
        if worded := _worded(error):
            raise worded from None
        if isinstance(error, UserError) or _is_of_a_model(error):
            raise
        raise UserError(f"lm-eval cannot evaluate {', '.join(names)}: {_reason(error)}") from error
    assert result is not None, "lm-eval returns a result in process 0"
    samples = result.pop("samples", None) if config.log_samples else None
    if config.show_config:
        dumped = json.dumps(result, indent=2, default=handle_non_serializable, ensure_ascii=False)
        sys.stdout.write(f"{dumped}\n")
    tracker.save_results_aggregated(results=result, samples=samples)
    for name, of_task in (samples or {}).items():
        tracker.save_results_samples(task_name=name, samples=of_task)
    if tracker.push_results_to_hub or tracker.push_samples_to_hub:
        tracker.recreate_metadata_card()
    sys.stdout.write(
        f"{config.model} ({config.model_args}), gen_kwargs: ({config.gen_kwargs}), limit: "
        f"{config.limit}, num_fewshot: {config.num_fewshot}, batch_size: {config.batch_size}\n"
        f"{make_table(result)}\n"
    )
    if "groups" in result:
        sys.stdout.write(f"{make_table(result, 'groups')}\n")
    if config.output_path and not _results(config.output_path) - before:
        raise UserError(
            f"{config.output_path}: lm-eval could not write its results there (it says why with "
            "LMEVAL_LOG_LEVEL=INFO); with --use_cache, the same command asks nothing again"
        )


def _tasks(config: EvaluatorConfig, own: Mapping[str, TaskSource]) -> tuple[list[Any], TaskManager]:
    """Return the tasks to evaluate, and who loads those that are not loaded yet."""
    loaded: list[Any] = []
    leaves: dict[str, Task] = {}
    for name, source in own.items():
        notice(f"task {name} is {source.file}")
        task = load_task(source)
        set_fewshot(task, config.num_fewshot)
        loaded.append(task.root)
        leaves |= task.leaves
    others = [name for name in task_names(config.tasks) if name not in own]
    if not others:
        kinds = {leaf.OUTPUT_TYPE for leaf in leaves.values()}
        if "likelihood_mode" in config.model_args and kinds == {"generate_until"}:
            raise UserError(
                "lm-eval run: --model_args likelihood_mode: has no effect, as these tasks only "
                "generate; leave it out"
            )
        for name in config.samples or ():
            if name not in leaves:  # lm-eval would take all items
                raise unknown_name("task", name, leaves, "lm-eval run: --samples")
        return loaded, TaskManager(include_defaults=False)
    notice(f"not in tasks/, so lm-eval's own: {', '.join(others)}")
    config.tasks = others
    try:
        manager = config.process_tasks(config.metadata)
    except (ValueError, yaml.YAMLError) as error:
        unread = UserError(f"lm-eval cannot read its tasks: {reason_of(error)}")
        raise _worded(error) or unread from None
    return [*loaded, *config.tasks], manager


class _Manager:
    """A task manager of lm-eval that loads only what our model can answer.

    lm-eval itself would notice where the other tasks have been decoded.
    """

    def __init__(self, manager: TaskManager) -> None:
        self._manager = manager

    def __getattr__(self, name: str) -> Any:
        return getattr(self._manager, name)

    def load(self, tasks: Any) -> Any:
        """Load tasks.

        Raises:
            UserError: one asks for the perplexity of texts.
        """
        loaded = self._manager.load(tasks)
        for name, leaf in loaded["tasks"].items():
            if leaf.OUTPUT_TYPE == ROLLING:
                raise no_rolling(name)
        return loaded


def _is_of_a_model(error: BaseException) -> bool:
    """Whether an error of an evaluation passed through code of this project, or of a model."""
    frames = (frame for frame, _ in walk_tb(error.__traceback__))
    modules = {str(frame.f_globals.get("__name__")) for frame in frames} - {__name__}
    return any(module.startswith(("fastdllm.", "lm_eval.models.")) for module in modules)


def _reason(error: BaseException) -> str:
    is_about_data = isinstance(error, ConnectionError | DatasetNotFoundError)
    hint = "; fastdllm new-task copies a task into tasks/, and fastdllm fetch brings its data"
    return reason_of(error) + hint * is_about_data


def _worded(error: BaseException) -> UserError | None:
    """Return an error of lm-eval in our words, if it is a mistake in the words typed."""
    if not isinstance(error, ValueError):
        return None
    text = " ".join(str(error).split())
    if text.startswith(NOT_FOUND):
        return unknown_task(text.removeprefix(NOT_FOUND).split(", ")[0], (), "--tasks")
    return UserError(f"lm-eval: {text}") if text.startswith(REFUSED) else None


def _results(output_path: str | None) -> set[Path]:
    """Return the files of results that are there, wherever lm-eval puts them."""
    if output_path is None:
        return set()
    path = Path(output_path)
    if path.suffix == ".json":
        return set(path.parent.glob(f"{path.stem}_*.json"))
    return set(path.glob("*/results_*.json"))
