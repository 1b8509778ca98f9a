"""The text of summary.json: its layout, and what is left out where it would be too large."""

from __future__ import annotations

import json
import re
from functools import reduce
from typing import Any

from fastdllm.common.files import to_json
from fastdllm.records.item_groups import without_names
from fastdllm.records.result_files import DIGEST, content_digest

Values = dict[str, Any]

MAX_BYTES = 8_000
# What grows with the task; left out in this order if a summary would be larger.
LARGE_PARTS = (
    *("weights_left_alone", "group_results", "throughput.chunks", "items.groups"),
    "notices",
)
# Then these, the first that suffice.
LARGEST_PARTS = (("metrics",), ("items",), ("metrics", "items"))
# A list of numbers and texts that takes a line each; no text in JSON holds a line break.
_SPREAD_OUT = re.compile(r"\[((?:\n +[^\[\]{}\n ][^\[\]{}\n]*)+)\n *\]")
_GROUP_RESULTS = re.compile(r'^  "group_results": \{[^{}]*\}', re.MULTILINE)
_LINE_BREAK = re.compile(r"\n +")


def text_that_fits(values: Values) -> str:
    """Return the text of a summary, without the parts that do not fit.

    It is still larger than `MAX_BYTES` where leaving out does not suffice.
    """
    text = _text(values)
    if len(text.encode()) > MAX_BYTES and len(notices := values.get("notices", ())) > 1:
        more = f"{len(notices) - 1} more such remarks, which plan.json has"
        values = {**values, "notices": [notices[0], more]}
        text = _text(values)
    for part in LARGE_PARTS:
        if len(text.encode()) > MAX_BYTES:
            values = _without(values, part)
            text = _text(values)
    for parts in LARGEST_PARTS:
        if len(text.encode()) > MAX_BYTES:
            text = _text(reduce(_without, parts, values))
    return text


def _text(values: Values) -> str:
    """Sorted keys, a line each; a list of plain values takes one line, as group_results does."""
    values = without_names(values)
    text = to_json(values | {DIGEST: content_digest(json.loads(to_json(values)))})
    text = _SPREAD_OUT.sub(lambda match: f"[{_LINE_BREAK.sub(' ', match[1])[1:]}]", text)
    return _GROUP_RESULTS.sub(lambda match: _LINE_BREAK.sub(" ", match[0]), text)


def _without(values: Values, part: str) -> Values:
    if part == "metrics":
        return {**values, part: [metric for metric in values[part] if metric["primary"]]}
    outer, _, inner = part.partition(".")
    rest = {key: value for key, value in values.items() if key != outer}
    if not inner or outer not in values:
        return rest
    return {**rest, outer: {key: value for key, value in values[outer].items() if key != inner}}
