"""Config is validated once, at the edge: pydantic models in, one clear line out.

Every record that a person writes (settings, workflow_config.yaml, experiment.yaml) derives from
`StrictModel`, so an unknown key is always refused with the nearest valid name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from fastdllm.errors import UserError, nearest_name


class StrictModel(BaseModel):
    """A frozen record that refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


Record = TypeVar("Record", bound=BaseModel)


def validated(record: type[Record], values: Mapping[str, Any], where: str) -> Record:
    """Build `record` from `values`; `where` (a file, an option list) opens the error line.

    Raises:
        UserError: naming the key, the value given and what is allowed; one problem per line part.
    """
    if not isinstance(values, Mapping):
        raise UserError(f"{where}: expected keys and values, got {type(values).__name__}")
    try:
        return record(**values)
    except ValidationError as error:
        problems = "; ".join(_describe(record, problem) for problem in error.errors())
        raise UserError(f"{where}: {problems}") from None


def _describe(record: type[BaseModel], problem: Mapping[str, Any]) -> str:
    path = [part for part in problem["loc"] if not str(part).startswith("function-")]
    key = ".".join(str(part) for part in path)
    if problem["type"] == "extra_forbidden":
        valid = _keys_at(record, path[:-1])
        near = nearest_name(str(path[-1]), valid)
        hint = f"did you mean {near!r}? " if near else ""
        return f"unknown key {key!r}; {hint}valid: {', '.join(sorted(valid))}"
    if problem["type"] == "missing":
        return f"{key}: this key is required"
    message = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f"{key}: {message}" if key else message
    message = message.removeprefix("Input should be ")
    return f"{key}: {problem['input']!r} is not allowed; it should be {message}"


def _keys_at(record: type[BaseModel], path: list[Any]) -> list[str]:
    """The keys that a record allows at a nested place; map keys and list indices are skipped."""
    current: type[BaseModel] = record
    for part in path:
        field = current.model_fields.get(str(part))
        annotation = field.annotation if field else None
        inner = _inner_model(annotation)
        if inner is not None:
            current = inner
    return [field.alias or name for name, field in current.model_fields.items()]


def _inner_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        inner = _inner_model(argument)
        if inner is not None:
            return inner
    return None
