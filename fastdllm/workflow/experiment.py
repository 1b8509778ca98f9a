"""The schema of experiments/<name>/experiment.yaml: the grid that is executed, and its settings."""

from __future__ import annotations

import re
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, model_validator

from fastdllm.settings import DecodingSettings
from fastdllm.validation import StrictModel
from fastdllm.workflow.names import check_name

_POLICY_FILE = r"^[A-Za-z0-9_][A-Za-z0-9_.-]*\.py$"


def _check_policy_file(name: str) -> str:
    if not re.fullmatch(_POLICY_FILE, name):
        raise ValueError(
            f"{name!r} is not allowed; it should be a .py file in the experiment's folder, whose "
            "name holds only letters, digits, '_', '.' and '-'"
        )
    return name


# The pattern is checked in our words, and shown to editors in the schema.
PolicyFile = Annotated[
    str, AfterValidator(_check_policy_file), Field(json_schema_extra={"pattern": _POLICY_FILE})
]
Name = Annotated[str, AfterValidator(check_name)]
PlainValue = bool | int | float | str | None
GridValue = PlainValue | list[PlainValue]


class DecodingOverrides(DecodingSettings):
    """Any decoding settings; those left out keep the value of the level below."""

    @model_validator(mode="after")
    def _fields_agree(self) -> Self:
        # Whether the settings agree is decided once all levels are merged.
        return self

    def given(self) -> dict[str, Any]:
        """Only the settings that were written down."""
        return self.model_dump(exclude_unset=True)


class Grid(StrictModel):
    """One grid of an experiment, and how its configs are named."""

    grid: dict[str, list[GridValue]] = Field(
        default_factory=dict,
        description="Key -> values; every combination is one config. A key is a decoding setting "
        "or a field of the policy's Parameters.",
    )
    config_name: str = Field(
        min_length=1,
        description="Name of each config; {key} stands for the value of a grid key, [3, 8] for "
        "3-8.",
    )
    decoding: DecodingOverrides = Field(
        default=DecodingOverrides(),
        description="Decoding settings of the configs of this grid only.",
    )


class ExperimentConfig(StrictModel):
    """experiments/<name>/experiment.yaml: the grid that is executed."""

    title: str = Field(description="One line for tables and plots.")
    question: str = Field(description="What the experiment is to find out.")
    policy: PolicyFile = Field(
        "generation_functions.py",
        description="File in this folder with exactly one subclass of fastdllm.policy.Policy.",
    )
    decoding: DecodingOverrides = Field(
        default=DecodingOverrides(),
        description="Decoding settings of every config of this experiment.",
    )
    grid: dict[str, list[GridValue]] | None = Field(
        None,
        description="Key -> values; every combination is one config. A key is a decoding setting "
        "or a field of the policy's Parameters.",
    )
    config_name: str | None = Field(
        None,
        min_length=1,
        description="Name of each config of `grid`; {key} stands for the value of a grid key, "
        "[3, 8] for 3-8.",
    )
    grids: list[Grid] | None = Field(
        None,
        min_length=1,
        description="Several grids, in place of `grid` and `config_name`; each names its own "
        "configs.",
    )
    baseline: str | None = Field(
        None, description="Name of the config that the others are compared with."
    )
    replicate: bool = Field(
        False,
        description="Decode every run, even where another is the same computation, so that they "
        "can be held against each other; the only one of a computation leads no other.",
    )
    tasks: list[Name] | None = Field(
        None, min_length=1, description="Enabled tasks to run; null: all of them."
    )

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if self.grids is None and self.config_name is None:
            raise ValueError("config_name is required (with grid), or grids, a list of such pairs")
        if self.grids is not None and (self.grid is not None or self.config_name is not None):
            raise ValueError(
                "grids stands in place of grid and config_name; move these two into the list"
            )
        return self

    def parts(self) -> dict[str, Grid]:
        """The grids, by the key they are written under ("" for the only one)."""
        if self.grids is not None:
            return {f"grids.{index}.": grid for index, grid in enumerate(self.grids)}
        return {"": Grid(grid=self.grid or {}, config_name=self.config_name or "")}
