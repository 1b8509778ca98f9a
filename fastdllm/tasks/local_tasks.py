"""How the single tasks of a name are built: by lm-eval, with data and templates read here.

Local JSON and CSV files are read by local_data.py, and the keys of a task are checked. Templates
are compiled once, where lm-eval compiles them anew for each item: that takes a millisecond each
time, most of the plan of a task with many items.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import cached_property, lru_cache
from typing import Any

from jinja2 import Template, UndefinedError
from lm_eval.api.group import Group
from lm_eval.api.task import ConfigurableTask, Task
from lm_eval.config.task import TaskConfig
from lm_eval.tasks._factory import TaskFactory
from lm_eval.tasks._index import Entry, Kind
from lm_eval.utils import env

from fastdllm.common.errors import UserError, error_line, unknown_name
from fastdllm.tasks.checks.items import check_answers, check_questions
from fastdllm.tasks.data_files import exact_files, split_files
from fastdllm.tasks.local_data import read_splits
from fastdllm.tasks.task_source import TaskSource

# What may stand in the file of a task; lm-eval itself takes out the first two.
_TASK_KEYS = ("tag", "task_list", *(field.name for field in fields(TaskConfig)))


# Of all tasks of a group: some texts each.
compiled = lru_cache(maxsize=1000)(env.from_string)


class CompiledTask(ConfigurableTask):
    """A task of lm-eval that prints the same texts, faster.

    What a template gives stays lm-eval's to read: a text that it would take for the number of an
    option or a list is left to it.
    """

    def doc_to_text(self, doc: Mapping[str, Any], doc_to_text: Any = None) -> Any:
        template = self._template(doc_to_text, self.config.doc_to_text)
        if template is not None and not self._is_option(text := template.render(**doc)):
            return text
        return super().doc_to_text(doc, doc_to_text)

    def doc_to_target(self, doc: Mapping[str, Any], doc_to_target: Any = None) -> Any:
        template = self._template(doc_to_target, self.config.doc_to_target)
        if template is not None:
            text = template.render(**doc)
            if not self._is_option(text) and not text.startswith("["):
                return text
        return super().doc_to_target(doc, doc_to_target)

    def doc_to_choice(self, doc: Any, doc_to_choice: Any = None) -> Any:
        template = self._template(doc_to_choice, self.config.doc_to_choice)
        if template is not None:
            return ast.literal_eval(template.render(**doc))
        return super().doc_to_choice(doc, doc_to_choice)

    def doc_to_prefix(self, doc: Mapping[str, Any]) -> Any:
        template = self._template(self.config.gen_prefix)
        return super().doc_to_prefix(doc) if template is None else template.render(**doc)

    @staticmethod
    def resolve_field(doc: Mapping[str, Any], field: str | None = None) -> Any:
        if not field:
            return None
        return doc[field] if field in doc else compiled(field).render(**doc)

    def _is_option(self, text: str) -> bool:
        """Whether lm-eval takes a text for the number of an option."""
        return text.isdigit() and self.config.doc_to_choice is not None

    def _template(self, *of_call_or_task: Any) -> Template | None:
        """Return the first that is given, as a template; None for what is none."""
        given = next((text for text in of_call_or_task if text is not None), None)
        is_template = isinstance(given, str) and given not in self.features
        return compiled(given) if is_template and self.prompt is None else None


class LocalTask(CompiledTask):
    """A task of lm-eval whose local JSON or CSV files are read by local_data.py."""

    def __init__(self, config: dict[str, Any]) -> None:
        try:
            super().__init__(config={key: value for key, value in config.items() if key != "class"})
        except UserError:
            raise
        except Exception as error:  # of lm-eval, which tries the first item, or of a helper
            if hasattr(self, "_places"):
                self._explain(error)
            raise

    def _explain(self, error: Exception) -> None:
        """Raise a UserError for what is wrong with the data, if that made lm-eval fail."""
        if isinstance(error, UndefinedError):
            raise self._lacks("a template", str(error)) from None
        if isinstance(error, KeyError) and error.args[0] not in self._columns:
            raise self._lacks("a helper", repr(error.args[0])) from error
        if not hasattr(self, "features") and callable(self.config.process_docs):
            raise self._refused(self.config.process_docs, error) from error
        choices = self.config.doc_to_choice
        if isinstance(error, ValueError | SyntaxError):  # by options that are no list of Python
            if isinstance(choices, str) and "{" not in choices and choices not in self._columns:
                where = f"task {self.config.task!r}: doc_to_choice"
                raise unknown_name("column", choices, self._columns, where) from None
            # A helper of the task may have refused the first item.
            check_questions(self)
            check_answers(self, list(self.eval_docs))
        elif isinstance(error, TypeError | IndexError) and choices is not None:
            # By options without a first letter, or a label without one.
            check_answers(self, list(self.eval_docs))

    def _refused(self, process_docs: Callable[[Any], Any], error: Exception) -> UserError:
        """Build the error for items that process_docs fails with; the first of some is named."""
        places: list[str] = self._places[self._split]
        refused: list[str] = []
        for index, place in enumerate(places):
            try:
                list(process_docs(self.dataset[self._split].select([index])))
            except Exception as alone:
                refused += [place] if error_line(alone) == error_line(error) else []
        # What fails for each item alone may fail for want of others.
        where = refused[0] if 0 < len(refused) < len(places) else places[0].rpartition(", ")[0]
        is_worded = isinstance(error, ValueError)
        reason = str(error) if is_worded else f"process_docs fails: {error_line(error)}"
        return UserError(f"{where}: task {self.config.task!r}: {reason}")

    @property
    def _split(self) -> str:
        return str(self.config.test_split or self.config.validation_split)

    @property
    def _columns(self) -> list[str]:
        return list(next(iter(self.dataset.values())).column_names)

    def _lacks(self, who: str, what: str) -> UserError:
        (first, *_), *_ = self._places.values()
        return UserError(
            f"{first}: {who} of task {self.config.task!r} asks for what is not there: {what}; "
            f"columns: {', '.join(self._columns)}"
        )

    def download(self, dataset_kwargs: dict[str, Any] | None = None, **_: Any) -> None:
        """Read the data; lm-eval calls this in place of `datasets.load_dataset`.

        Raises:
            UserError: a file cannot be read, or has no rows.
        """
        files = split_files(self.config.to_dict())
        assert files is not None and self.DATASET_PATH is not None
        read = read_splits(self.DATASET_PATH, files, dataset_kwargs)
        self.dataset, self._places, self._written = read
        if not all(map(len, self.dataset.values())):
            raise no_items(self.config.task, dataset_kwargs)

    def place(self, index: int, kind: str = "item") -> str | None:
        """Return file and line of an item or an example, None where they cannot be told."""
        if kind != "item":
            split, is_moved = self.fewshot_cfg.split, self.fewshot_cfg.process_docs is not None
            return self._places[split][index] if split and not is_moved else None
        if self.config.process_docs is not None:
            return self._places_of_items[index]
        return self._places[self._split][index]

    @cached_property
    def _places_of_items(self) -> list[str | None]:
        """Where the items that process_docs gives stand, by the cells that it leaves as they are.

        None for one whose cells are those of several rows, or of none.
        """
        items = list(self.eval_docs)
        rows = self.dataset[self._split]
        kept = [column for column in rows.column_names if all(column in item for item in items)]
        places: dict[str, list[str]] = {}
        for place, row in zip(self._places[self._split], rows, strict=True):
            places.setdefault(repr([row[column] for column in kept]), []).append(place)
        found = (places.get(repr([item[column] for column in kept]), ()) for item in items)
        return [of_item[0] if len(of_item) == 1 else None for of_item in found]

    def written(self, value: Any) -> str | None:
        """Return how the data writes a value, such as true or 2.50; None if as Python does."""
        return self._written.get(repr(value)) if isinstance(value, bool | float) else None


class LocalDataFactory(TaskFactory):
    """Builds tasks as lm-eval does, those of local JSON or CSV files as `LocalTask`.

    source: where the data of the tasks is.
    """

    def __init__(self, source: TaskSource) -> None:
        super().__init__()
        self._source = source

    def _build_group_members(
        self,
        member_list: list[str | dict[str, Any]],
        group_name: str,
        overrides: dict[str, Any] | None,
        registry: dict[str, Entry],
    ) -> list[Task | Group]:
        # What a group defines itself lm-eval would build in another way than what files define.
        members = [{"task": m} if isinstance(m, str) else m for m in member_list]
        own = {
            name: Entry(name, Kind.TASK, yaml_path=None, cfg=member)
            for member in members
            if isinstance(name := member.get("task"), str) and name not in registry
        }
        return super()._build_group_members(member_list, group_name, overrides, {**registry, **own})

    def _load_full_config(
        self, entry: Entry, overrides: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        config = super()._load_full_config(entry, overrides)
        if "class" in config or "group" in config or not isinstance(config.get("task", ""), str):
            return config
        for key in config:
            if key not in _TASK_KEYS:
                raise unknown_name("key", str(key), _TASK_KEYS, f"task {entry.name!r}")
        generates = config.get("output_type", "generate_until") == "generate_until"
        if generates and not config.get("generation_kwargs"):
            raise no_budget(entry.name)
        if generates and not isinstance(config["generation_kwargs"], dict):
            raise UserError(
                f"task {entry.name!r}: generation_kwargs: {config['generation_kwargs']!r} is not "
                "allowed; write name and value of each, such as {until: [], max_gen_toks: 512}"
            )
        if generates and "until" not in config["generation_kwargs"]:
            raise UserError(
                f"task {entry.name!r}: generation_kwargs has no until (texts that end an answer), "
                "and lm-eval would end it at the first empty line; give it in the file of the "
                'task, such as ["<|im_end|>"], or [] for none'
            )
        config = self._source.with_data(config)
        if split_files(config) is None:
            return exact_files(config)
        return {**config, "class": LocalTask}


def no_budget(task_name: str) -> UserError:
    """Build the error for a task without a budget; one for other tasks would cut answers."""
    return UserError(
        f"task {task_name!r}: generation_kwargs has no max_gen_toks (the most tokens of an "
        "answer); give it in the file of the task, such as 512 (lm-eval run: --gen_kwargs "
        "max_gen_toks=512)"
    )


def no_items(task_name: str, dataset_kwargs: Mapping[str, Any] | None) -> UserError:
    """Build the error for a task whose data has no items."""
    options = dataset_kwargs or {}
    files, folder = options.get("data_files"), options.get("data_dir")
    return UserError(
        f"task {task_name!r}: its data has no items; check "
        + (f"data_files {files}" if files else "dataset_path and the splits")
        + (f" in {folder}" if folder else "")
    )
