"""Which span of layers loses least, and what reuse adds to look-ahead: sentences for an answer.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastdllm.evaluation.verdicts import points
from fastdllm.report.worth import Found

# What two configurations must share to differ in their reuse alone.
REUSE = ("decoding.reuse_k", "decoding.layer_subset")


def spans_compared(found: Sequence[Found]) -> list[str]:
    """For each group of configurations that differ in the span alone: the spans by their loss."""
    groups: dict[str, list[Found]] = {}
    for one in found:
        if _setting(one, "reuse_k", 1) > 1:
            key = repr(_settings(one, without=("decoding.layer_subset",)))
            groups.setdefault(key, []).append(one)
    sentences = []
    for same in groups.values():
        if len(same) < 2:
            continue
        parts = [
            f"{_span(one)} {points(_loss(one))} for {100 * one.saved:.1f} %"
            for one in sorted(same, key=_loss)
        ]
        title = _title(same[0])
        sentences.append(
            f"Loss of accuracy for layer-forwards saved, by span, {title}: {'; '.join(parts)}."
        )
    return sentences


def added_to_lookahead(found: Sequence[Found]) -> list[str]:
    """The least harmful reuse on top of look-ahead, beside the same look-ahead without it."""
    plain = {
        repr(_settings(one, without=REUSE)): one
        for one in found
        if _setting(one, "reuse_k", 1) == 1 and _setting(one, "lookahead_depth", 0) > 0
    }
    pairs = [
        (one, plain[key])
        for one in found
        if _setting(one, "reuse_k", 1) > 1 and (key := repr(_settings(one, without=REUSE))) in plain
    ]
    if not pairs:
        return []
    best, alone = min(pairs, key=lambda pair: _loss(pair[0]))
    return [
        f"Reuse on top of look-ahead, at its best: `{best.names[0]}` "
        f"{100 * best.summary.accuracy:.1f} % at {best.cost:.1f} layer-forwards, against "
        f"{100 * alone.summary.accuracy:.1f} % at {alone.cost:.1f} without reuse "
        f"(`{alone.names[0]}`)."
    ]


def _settings(one: Found, *, without: Sequence[str]) -> list[tuple[str, Any]]:
    decides = one.summary.decides
    kept = (key for key in decides if key.startswith(("decoding.", "policy_parameters.")))
    return [(key, decides[key]) for key in sorted(kept) if key not in without]


def _setting(one: Found, name: str, default: int) -> int:
    value = one.summary.decides.get(f"decoding.{name}", default)
    return value if isinstance(value, int) else default


def _span(one: Found) -> str:
    span = one.summary.decides.get("decoding.layer_subset")
    return f"`{span}`" if isinstance(span, str) else f"`{list(span)}`"  # type: ignore[arg-type]


def _title(one: Found) -> str:
    parts = [f"k = {_setting(one, 'reuse_k', 1)}"]
    if depth := _setting(one, "lookahead_depth", 0):
        parts.append(f"look-ahead depth {depth}")
    parameters = {
        key.removeprefix("policy_parameters."): value
        for key, value in one.summary.decides.items()
        if key.startswith("policy_parameters.")
    }
    parts += [f"{name} {value}" for name, value in parameters.items()]
    return ", ".join(parts)


def _loss(one: Found) -> float:
    paired = one.against_plain.paired
    return -paired.difference if paired else 0.0
