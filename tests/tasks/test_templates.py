"""Templates that are compiled once give what lm-eval gives, which compiles them for each item."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from lm_eval.api.task import ConfigurableTask

from fastdllm.tasks.local_tasks import LocalTask, compiled
from tests.support.run_project import CHOICES_YAML, write_lines

pytestmark = pytest.mark.usefixtures("project")
TEXTS = [
    *("question", "{{question}}", " {{question}}\n", "{{number}}", "{{number}}0", "{{number}}.5"),
    *("[{{number}}, 'b']", "[{{question}}]", "[", "fixed {% if number %}text{% endif %}"),
]


def tasks(**keys: Any) -> list[ConfigurableTask]:
    """The task as we build it, and with the methods of lm-eval."""
    config = {**yaml.safe_load(CHOICES_YAML), **keys}

    class Plain(LocalTask):
        doc_to_text = ConfigurableTask.doc_to_text
        doc_to_target = ConfigurableTask.doc_to_target
        doc_to_choice = ConfigurableTask.doc_to_choice
        doc_to_prefix = ConfigurableTask.doc_to_prefix
        resolve_field = staticmethod(ConfigurableTask.resolve_field)

    return [LocalTask(config), Plain(config)]


def given(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:
        return repr(error)


@pytest.mark.parametrize("template", TEXTS)
@pytest.mark.parametrize("has_options", [True, False])
def test_texts_and_targets_are_those_of_lm_eval(template: str, has_options: bool) -> None:
    rows = [{"question": q, "number": n, "label": 0} for q, n in [("x?", 7), ("12", 0), ("[1]", 2)]]
    write_lines(Path("tasks/data/choices.jsonl"), rows)
    options = {} if has_options else {"doc_to_choice": None, "output_type": "loglikelihood"}
    ours, theirs = tasks(gen_prefix="= {{number}}", **options)
    for doc in rows:
        for name in ("doc_to_text", "doc_to_target"):
            one, other = (getattr(task, name) for task in (ours, theirs))
            expected = given(lambda: other(doc, template))  # noqa: B023
            assert given(lambda: one(doc, template)) == expected  # noqa: B023
            assert type(given(lambda: one(doc, template))) is type(expected)  # noqa: B023
            assert one(doc) == other(doc)
        assert ours.doc_to_prefix(doc) == theirs.doc_to_prefix(doc) == f"= {doc['number']}"
        for field in (template, "", None):
            assert ours.resolve_field(doc, field) == theirs.resolve_field(doc, field)


@pytest.mark.parametrize("template", ["options", "{{options}}", "{{[number, 'b']}}", "[", "{{no}}"])
def test_options_are_those_of_lm_eval(template: str) -> None:
    doc = {"question": "x?", "number": 7, "options": ["a", "b"], "label": 0}
    write_lines(Path("tasks/data/choices.jsonl"), [doc])
    ours, theirs = tasks()
    expected = given(lambda: theirs.doc_to_choice(doc, template))
    assert given(lambda: ours.doc_to_choice(doc, template)) == expected
    assert ours.doc_to_choice(doc) == ["A", "B", "C"]


def test_a_template_is_compiled_once_for_all_items() -> None:
    template = "{{question}} of a task of its own: {{label}}"
    task, _ = tasks(doc_to_text=template)
    before = compiled.cache_info().misses
    for doc in [*task.eval_docs, *task.eval_docs]:
        assert task.doc_to_text(doc) == f"{doc['question']} of a task of its own: {doc['label']}"
    assert compiled.cache_info().misses == before


def test_a_number_that_names_no_option_is_compiled_once_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task, _ = tasks(doc_to_choice=None, output_type="loglikelihood", doc_to_target="{{label}}")
    docs = list(task.eval_docs)
    monkeypatch.setattr("lm_eval.utils.apply_template", lambda *_: 1 / 0)
    assert [task.doc_to_target(doc) for doc in docs] == [str(doc["label"]) for doc in docs]
