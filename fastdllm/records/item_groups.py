"""The sizes of subtasks in summary.json: numbers alone, where `group_results` has their names.

Names twice would take a quarter of a summary of MMLU. Imports nothing heavy, so that status can use
it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def without_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a summary as its file has it.

    Sizes follow the names in group_results, which are sorted; one of several subtasks has 0.
    """
    names, items = sorted(values.get("group_results") or ()), values.get("items") or {}
    sizes = dict(items.get("groups") or ())
    if not sizes or list(sizes) != [name for name in names if name in sizes]:
        return dict(values)
    return {**values, "items": {**items, "groups": [sizes.get(name, 0) for name in names]}}


def with_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a file says, each size with the name of its subtask.

    Raises:
        ValueError: there are more or fewer sizes than names.
    """
    names, items = sorted(values.get("group_results") or ()), values.get("items")
    if not isinstance(items, dict):
        return dict(values)
    sizes = items.get("groups")
    if not sizes or not all(isinstance(size, int) for size in sizes):
        return dict(values)
    if len(names) != len(sizes):
        raise ValueError(f"items.groups has {len(sizes)} numbers for {len(names)} group_results")
    groups = [[name, size] for name, size in zip(names, sizes, strict=True) if size]
    return {**values, "items": {**items, "groups": groups}}
