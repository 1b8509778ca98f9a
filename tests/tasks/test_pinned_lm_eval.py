"""What this code relies on in the pinned lm-eval beyond its documented interface."""

from __future__ import annotations

import pkgutil
from dataclasses import fields
from pathlib import Path

import pytest

PRIVATE = {
    "lm_eval.tasks._factory:TaskFactory._load_full_config": "LocalDataFactory overrides it",
    "lm_eval.tasks._factory:TaskFactory._build_group_members": "LocalDataFactory overrides it",
    "lm_eval._cli:HarnessCLI": "fastdllm lm-eval parses and executes with it",
    "lm_eval.tasks._index:Entry": "LocalDataFactory._load_full_config gets one",
}


@pytest.mark.parametrize("name", PRIVATE)
def test_lm_eval_has_a_name_that_we_use(name: str) -> None:
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        pytest.fail(f"lm-eval has no {name} any more: {PRIVATE[name]}")


def test_an_entry_says_what_load_task_asks_of_it() -> None:
    from lm_eval.tasks._index import Entry

    missing = {"name", "yaml_path", "cfg"} - {field.name for field in fields(Entry)}
    assert not missing, f"an Entry of lm-eval has no {missing} any more: look at load_task"


def test_the_factory_of_a_task_manager_builds_the_tasks(project: Path) -> None:
    from lm_eval.tasks import TaskManager

    from fastdllm.tasks.lm_eval_tasks import load_task
    from fastdllm.tasks.local_tasks import LocalTask

    manager = TaskManager(include_path=str(project / "tasks"), include_defaults=False)
    assert hasattr(manager, "_factory"), "a TaskManager of lm-eval has no _factory any more"
    (leaf,) = load_task("sums").leaves.values()
    assert isinstance(leaf, LocalTask), "lm-eval does not build tasks with manager._factory now"
    for name in ("_metric_fn_list", "_filters"):
        assert getattr(leaf, name), (
            f"a task of lm-eval has no {name} any more: look at metric_lists.py"
        )


def test_lm_eval_looks_for_no_models_of_other_packages() -> None:
    """Else ours could be found by plain `lm-eval`; docs/evaluation.md says how to import it."""
    import lm_eval

    folder = Path(lm_eval.__file__).parent
    files = [folder / "models/__init__.py", *(folder / "api").glob("*.py"), folder / "__main__.py"]
    files += [*(folder / "_cli").glob("*.py"), folder / "evaluator.py", folder / "__init__.py"]
    assert all(file.is_file() for file in files)
    assert not [file for file in files if "entry_points(" in file.read_text()]
