"""Config is validated once, at the edge: pydantic models in, one clear line out.

Every record that a person writes (settings, workflow_config.yaml, experiment.yaml) derives from
`StrictModel`, so an unknown key is always refused with the nearest valid name. The wording is ours:
pydantic's is for programmers, and repeats itself for each type that a value may have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from fastdllm.common.errors import UserError, nearest_name

# A file of another kind has dozens of wrong keys; the first few show that.
MOST_PROBLEMS = 3
MOST_CHARACTERS = 60
# Each is an error of its own, which takes a thousand times its bytes.
MOST_UNKNOWN_KEYS = 100

Item = TypeVar("Item")
# Values from strangers, checked up to the first wrong one: a file of a few MiB may have a million,
# and an error for each would take gigabytes.
Several = Annotated[tuple[Item, ...], Field(fail_fast=True)]

_KEYS_AND_VALUES = "should hold keys and values"
_RULES = {
    "string_type": "should be text",
    "bool_type": "should be true or false",
    "bool_parsing": "should be true or false",
    "int_type": "should be a whole number",
    "int_parsing": "should be a whole number",
    "int_from_float": "should be a whole number",
    "float_type": "should be a number",
    "float_parsing": "should be a number",
    "list_type": "should be a list, such as [a, b]",
    "tuple_type": "should be a list, such as [a, b]",
    "dict_type": _KEYS_AND_VALUES,
    "model_type": _KEYS_AND_VALUES,
}
_FORMS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    NoneType: "null",
    list: "a list",
    tuple: "a list",
}
# How pydantic marks that the problem is a key itself.
_KEY = "[key]"

Loc = tuple[int | str, ...]


class StrictModel(BaseModel):
    """A frozen record that refuses keys it does not know."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False
    )

    @model_validator(mode="before")
    @classmethod
    def _unknown_keys_are_few(cls, values: Any) -> Any:
        fields = cls.model_fields
        if isinstance(values, dict) and len(values) > len(fields) + MOST_UNKNOWN_KEYS:
            raise ValueError(
                f"{len(values)} keys are no {cls.__name__}; valid: {', '.join(fields)}"
            )
        return values

    @field_validator("*", mode="before")
    @classmethod
    def _a_switch_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        # YAML reads a bare `yes` as true, and pydantic true as 1.
        if isinstance(value, bool) and info.field_name is not None:
            kinds = _members(cls.model_fields[info.field_name].annotation)
            if bool not in kinds and (int in kinds or float in kinds):
                raise ValueError(
                    f"{_shown(value)} is not allowed; it should be a number (YAML reads yes and on "
                    "as true, no and off as false)"
                )
        return value


Record = TypeVar("Record", bound=BaseModel)


def validated(record: type[Record], values: Mapping[str, Any], where: str = "") -> Record:
    """Build `record` from `values`; `where` (a file, an option list), if any, opens the error line.

    Raises:
        UserError: naming the key, the value given and what is allowed, for the first problems; the
            others are counted.
    """
    start = f"{where}: " if where else ""
    if not isinstance(values, Mapping):
        raise UserError(f"{start}expected keys and values, got {type(values).__name__}")
    try:
        return record(**values)
    except ValidationError as error:
        raise UserError(f"{start}{_one_line(record, error.errors())}") from None


def _one_line(record: type[BaseModel], problems: Sequence[Any]) -> str:
    first: dict[Loc, Any] = {}
    for problem in problems:
        place, _ = _place(record, problem["loc"])
        known = first.get(place)
        # Of the errors for a value's types, the one about the value as a whole shows all of it.
        if known is None or len(problem["loc"]) < len(known["loc"]):
            first[place] = problem
    shown = dict(list(first.items())[:MOST_PROBLEMS])
    unknown: dict[Loc, list[Loc]] = {}
    for problem in shown.values():
        if problem["type"] == "extra_forbidden":
            unknown.setdefault(problem["loc"][:-1], []).append(problem["loc"])
    parts = [_sentence(record, p) for p in shown.values() if p["type"] != "extra_forbidden"]
    parts += [_unknown_keys(record, locs) for locs in unknown.values()]
    if len(first) > len(shown):
        parts.append(f"and {len(first) - len(shown)} more")
    return "; ".join(parts)


def _unknown_keys(record: type[BaseModel], locs: list[Loc]) -> str:
    _, annotation = _place(record, locs[0][:-1])
    model = _model(annotation)
    valid = (
        sorted(field.alias or name for name, field in model.model_fields.items()) if model else []
    )
    names = [".".join(map(str, _place(record, loc)[0])) for loc in locs]
    near = [nearest_name(str(loc[-1]), valid) for loc in locs]
    if len(locs) == 1:
        hint = f"did you mean {near[0]!r}? " if near[0] else ""
        return f"unknown key {names[0]!r}; {hint}valid: {', '.join(valid)}"
    hints = [f" (did you mean {name!r}?)" if name else "" for name in near]
    listed = ", ".join(f"{name!r}{hint}" for name, hint in zip(names, hints, strict=True))
    return f"unknown keys {listed}; valid: {', '.join(valid)}"


def _sentence(record: type[BaseModel], problem: Mapping[str, Any]) -> str:
    place, annotation = _place(record, problem["loc"])
    is_about_key = place[-1:] == (_KEY,)
    key = ".".join(str(part) for part in (place[:-2] if is_about_key else place))
    start = f"{key}: " if key else ""
    message = str(problem["msg"])
    if problem["type"] == "missing":
        return f"{start}this key is required"
    if problem["type"] in ("value_error", "assertion_error"):
        return start + message.partition(", ")[2]
    if problem["type"] == "union_tag_not_found":
        return f"{start}the key {_discriminator(problem)!r} is required"
    if problem["type"] == "union_tag_invalid":
        tag, tags = problem["ctx"]["tag"], str(problem["ctx"]["expected_tags"])
        near = nearest_name(tag, tags.replace("'", "").split(", "))
        hint = f"did you mean {near!r}? " if near else ""
        return f"{start}unknown {_discriminator(problem)} {tag!r}; {hint}valid: {tags}"
    subject = f"key {_shown(problem['input'])}" if is_about_key else _shown(problem["input"])
    return f"{start}{subject} is not allowed; it {_rule(problem, annotation)}"


def _discriminator(problem: Mapping[str, Any]) -> str:
    """Return the key by which a class is chosen; pydantic names it 'key' or key()."""
    return str(problem["ctx"]["discriminator"]).strip("'").removesuffix("()")


def _rule(problem: Mapping[str, Any], annotation: Any) -> str:
    """Return what a value should be, such as "should be a whole number"."""
    members = _members(annotation)
    if len(set(members) - {NoneType}) > 1:
        return f"should be {_forms(members)}"
    kind, context = problem["type"], problem.get("ctx", {})
    if kind == "string_type" and isinstance(problem["input"], bool | int | float):
        return "should be text; put it in quotes"
    if kind in ("too_short", "string_too_short") and context["min_length"] == 1:
        return "should not be empty"
    if kind == "string_pattern_mismatch":
        return f"should match the pattern {context['pattern']}"
    _, should, rest = str(problem["msg"]).partition(" should ")
    return _RULES.get(kind) or (f"should {rest}" if should else f"is refused: {problem['msg']}")


def _forms(members: Sequence[Any]) -> str:
    forms: list[str] = []
    for member in members:
        if member is int and float in members:
            continue
        if get_origin(member) is Literal:
            forms += [repr(value) for value in get_args(member)]
        else:
            forms.append(_FORMS.get(get_origin(member) or member, "keys and values"))
    return " or ".join(part for part in (", ".join(forms[:-1]), forms[-1]) if part)


def _place(record: type[BaseModel], loc: Loc) -> tuple[Loc, Any]:
    """Return the keys that lead to a problem, and the type that is expected there.

    If several types are allowed, pydantic appends the name of one of them, which is left out.
    """
    annotation: Any = record
    place: list[int | str] = []
    for part in loc:
        members = [member for member in _members(annotation) if member is not NoneType]
        chosen = [member for member in members if str(part) in _tags(member)]
        if len(members) > 1 and chosen:
            # The kind of a record, by which pydantic chose one of several classes: no key.
            annotation = chosen[0]
            continue
        if len(members) > 1 and part != _KEY:
            break
        annotation = members[0] if members else None
        model = _model(annotation)
        if model is not None:
            field = model.model_fields.get(str(part))
            annotation = field.annotation if field else None
        else:
            # The last argument of list[item], or of dict[key, value].
            annotation = (get_args(annotation) or (None,))[-1]
        place.append(part)
    return tuple(place), annotation


def _members(annotation: Any) -> list[Any]:
    """Return the types that an annotation allows."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [member for part in get_args(annotation) for member in _members(part)]
    return [annotation]


def _tags(annotation: Any) -> list[str]:
    """Return the values of a record's fields that allow only one, such as its kind."""
    model = _model(annotation)
    fields = model.model_fields.values() if model else ()
    literals = [get_args(f.annotation) for f in fields if get_origin(f.annotation) is Literal]
    return [str(values[0]) for values in literals if len(values) == 1]


def _model(annotation: Any) -> type[BaseModel] | None:
    for member in _members(annotation):
        if isinstance(member, type) and issubclass(member, BaseModel):
            return member
    return None


def _shown(value: Any) -> str:
    """Return a value as the user wrote it, truncated if it is long."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]}..."
