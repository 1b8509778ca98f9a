"""Reading YAML files that users write, with one-line errors.

A syntax error names its line. Refused are a key that is given twice, where YAML itself would take
the last one, and a number that means another one: 010 is 8, and 3:8 is 188. Task files may carry
lm-eval's `!function` tag; it is kept as text, and nothing is imported.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from fastdllm.common.errors import UserError
from fastdllm.common.files import cannot

# YAML reads the braces of an unquoted template as a mapping within a mapping.
_UNQUOTED_TEMPLATE = re.compile(r"(:|-)\s+\{\{")


class _Loader(yaml.SafeLoader):
    """Plain YAML, duplicate keys refused, `!function module.name` read as a one-key mapping."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[str] = set()
    for key_node, _ in node.value:
        mark = key_node.start_mark
        if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == "!function":
            raise yaml.MarkedYAMLError(problem="a key must be text", problem_mark=mark)
        if key_node.value in seen:
            raise yaml.MarkedYAMLError(
                problem=f"key {key_node.value!r} is given twice", problem_mark=mark
            )
        if key_node.value != "<<":
            seen.add(key_node.value)
    loader.flatten_mapping(node)
    return dict(loader.construct_pairs(node, deep=True))


def _text(loader: _Loader, node: yaml.ScalarNode) -> str:
    text = str(loader.construct_scalar(node))
    try:
        text.encode()
    except UnicodeEncodeError:
        # An escape such as \ud800, which could be written to no other file.
        raise yaml.MarkedYAMLError(
            problem="half a character (a lone surrogate)", problem_mark=node.start_mark
        ) from None
    return text


def _number(loader: _Loader, node: yaml.ScalarNode) -> int:
    number = int(loader.construct_yaml_int(node))
    # Octal, or a time of day in seconds; 0x and 0b are written on purpose.
    if re.match(r"[-+]?0[0-9_]", node.value) or ":" in node.value:
        raise yaml.MarkedYAMLError(
            problem=f"{node.value} means {number} in YAML; write that, or put it in quotes as text",
            problem_mark=node.start_mark,
        )
    return number


def _function(loader: _Loader, node: yaml.ScalarNode) -> dict[str, str]:
    return {"!function": str(loader.construct_scalar(node))}


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
_Loader.add_constructor("tag:yaml.org,2002:str", _text)
_Loader.add_constructor("tag:yaml.org,2002:int", _number)
_Loader.add_constructor("!function", _function)


def read_yaml_mapping(path: Path, *, what: str) -> dict[str, Any]:
    """Read the mapping at the top of a YAML file; `what` describes the file in errors.

    Raises:
        UserError: the file is missing, is not YAML (with the line), or holds no mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {what} belongs there") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a UTF-8 text file; {what} belongs there") from None
    except OSError as error:
        raise cannot("read", path, error) from None
    try:
        # The loader derives from SafeLoader: it builds plain values only.
        values = yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        raise UserError(f"{path}{_complaint(text, error)}") from None
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError) as error:
        # The others than YAMLError come from values that only look like a date or a number, as
        # 2024-13-45, and from brackets a thousand deep.
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected keys and values, got {type(values).__name__}")
    return {str(key): value for key, value in values.items()}


def _complaint(text: str, error: yaml.MarkedYAMLError) -> str:
    if error.problem_mark is None:
        return f": not valid YAML: {error.problem}"
    number = error.problem_mark.line
    # An error is often noticed only at the start of the next line.
    lines = text.splitlines()[max(number - 1, 0) : number + 1]
    hint = ""
    if any(_UNQUOTED_TEMPLATE.search(line) for line in lines):
        hint = '; text that begins with {{ needs quotes around it: "{{...}}"'
    return f", line {number + 1}: not valid YAML: {error.problem}{hint}"
