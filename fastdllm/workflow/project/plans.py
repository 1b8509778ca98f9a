"""Plans: the requests of a task, tokenised once for all runs of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastdllm.common.paths import PLANS, task_folder

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class TaskPlan:
    """The plan that all runs of one task share, and what it depends on."""

    task: str
    limit: int | None
    decides: dict[str, Any] = field(repr=False)

    @property
    def task_folder(self) -> str:
        return task_folder(self.task, self.limit)

    @property
    def spec_path(self) -> Path:
        return PLANS / self.task_folder / "spec.json"

    @property
    def plan_path(self) -> Path:
        return PLANS / self.task_folder / "plan.json"

    @property
    def made_from_path(self) -> Path:
        """The spec that the plan on disk was made from, copied by the plan rule."""
        return PLANS / self.task_folder / "made_from.json"

    def spec(self) -> dict[str, Any]:
        """What the plan is made from; another content makes the plan invalid."""
        return {"schema_version": SCHEMA_VERSION, "decides": self.decides}
