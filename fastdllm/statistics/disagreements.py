"""Runs of one computation that are not right on the same items; runs of several origins."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fastdllm.records import bits
from fastdllm.records.summary import Summary

# Items that a sentence names one by one.
MOST_ITEMS = 8
# Packages whose other versions may round, split texts or score otherwise.
PACKAGES = ("torch", "transformers", "tokenizers", "lm_eval")


def disagreements(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return an alarm for each summary that must be right on the same items as another and is not.

    This holds for decoded runs of one `computation`; a summary made from another one (`same_as`)
    proves nothing.
    """
    by_conditions: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        if record.get("computation") is None or not record.get("items") or record.get("same_as"):
            continue
        # Rounding depends on the hardware, and in half precision also on the number of rows.
        made_on = [record["computation"], record.get("dtype"), record.get("hardware")]
        params = record.get("eval_params") or {}
        made_on.append(params.get("items_digest"))  # a branch of the hub may have moved in between
        if record.get("dtype") != "float32":
            made_on += [params.get("batch_size"), params.get("smallest_batch_size")]
        by_conditions.setdefault(json.dumps(made_on), []).append(record)
    return [
        f"ALARM: {first['config']} and {_name_beside(first, other)} must give the same answers and "
        f"do not ({first['task']}: {differing})"
        for first, *others in by_conditions.values()
        for other in others
        if (differing := differing_items(first["items"], other["items"]))
    ]


def origin_sentences(summaries: Sequence[Summary]) -> list[str]:
    """Say of runs that are compared in which dtypes, codes and packages they differ.

    What decoded older summaries is unknown, and not counted.
    """
    dtypes = list(dict.fromkeys(summary.dtype for summary in summaries))
    codes = list(dict.fromkeys(s.code_digest[:8] for s in summaries if s.code_digest is not None))
    sentences = []
    if len(dtypes) > 1:
        sentences.append(
            f"Decoded in {' and '.join(dtypes)}, so answers may differ for that alone; a dtype "
            "that is named in workflow_config.yaml (model.dtype) is the same on every device."
        )
    if len(codes) > 1:
        sentences.append(
            f"Decoded by different code of fastdllm ({' and '.join(codes)}), so answers may differ "
            "for that alone; `code_digest` and `git` in each summary.json say by which."
        )
    versions = {name: _distinct(summaries, name) for name in PACKAGES}
    if others := [f"{name} {' and '.join(v)}" for name, v in versions.items() if len(v) > 1]:
        sentences.append(
            f"Made with different versions of packages ({'; '.join(others)}), so answers, scores "
            "and speeds may differ for that alone."
        )
    return sentences


def _distinct(summaries: Sequence[Summary], package: str) -> list[str]:
    versions = (summary.environment.get(package) for summary in summaries)
    return list(dict.fromkeys(version for version in versions if version is not None))


def differing_items(first: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Name the items that are right in one of two runs only: "items 3, 17 and 5 more", or ""."""
    if first["n"] != other["n"]:
        return f"{first['n']} and {other['n']} items"
    n = first["n"]
    different = bits.as_number(n, first["correct_bits"]) ^ bits.as_number(n, other["correct_bits"])
    return items_text(bits.ones(n, different), first.get("groups") or ())


def items_text(places: Sequence[int], groups: Sequence[Sequence[Any]] = ()) -> str:
    """Name items by their number in the data, from 0, after the name of their subtask."""
    shown = [_item_name(place, groups) for place in places[:MOST_ITEMS]]
    if not shown:
        return ""
    if len(places) > len(shown):
        return f"items {', '.join(shown)} and {len(places) - len(shown)} more"
    *before, last = shown
    return f"items {', '.join(before)} and {last}" if before else f"item {last}"


def _item_name(place: int, groups: Sequence[Sequence[Any]]) -> str:
    for name, n in groups:
        if place < n:
            return f"{name}:{place}"
        place -= n
    return str(place)


def _name_beside(first: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Return a config's name; with its experiment if that differs from the first's."""
    is_same = first["experiment"] == other["experiment"]
    return str(other["config"]) if is_same else f"{other['experiment']}/{other['config']}"
