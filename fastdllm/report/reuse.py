"""Which span of layers loses least, and what reuse adds to look-ahead: sentences for an answer.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence

from fastdllm.report.baseline import given
from fastdllm.report.worth import Found
from fastdllm.results.summary import DECODING, PARAMETERS
from fastdllm.statistics.verdicts import points

# What two configurations must share to differ in their reuse alone.
REUSE = ("reuse_k", "layer_subset")


def spans_compared(found: Sequence[Found]) -> list[str]:
    """For each group of configurations that differ in the span alone: the spans by their loss."""
    groups: dict[str, list[Found]] = {}
    for one in found:
        if _setting(one, "reuse_k", 1) > 1:
            key = _shared(one, without=("layer_subset",))
            groups.setdefault(key, []).append(one)
    sentences = []
    for same in groups.values():
        if len(same) < 2:
            continue
        parts = [
            f"{_span(one)} {points(one.loss)} for {100 * one.saved:.1f} %"
            for one in sorted(same, key=lambda one: one.loss)
        ]
        title = _title(same[0])
        sentences.append(
            f"Loss of accuracy for layer-forwards saved, by span, {title}: {'; '.join(parts)}."
        )
    return sentences


def added_to_lookahead(found: Sequence[Found]) -> list[str]:
    """The least harmful reuse on top of look-ahead, beside the same look-ahead without it."""
    plain = {
        _shared(one, without=REUSE): one
        for one in found
        if _setting(one, "reuse_k", 1) == 1 and _setting(one, "lookahead_depth", 0) > 0
    }
    pairs = [
        (one, plain[key])
        for one in found
        if _setting(one, "reuse_k", 1) > 1 and (key := _shared(one, without=REUSE)) in plain
    ]
    if not pairs:
        return []
    best, alone = min(pairs, key=lambda pair: pair[0].loss)
    return [
        f"Reuse on top of look-ahead, at its best: `{best.names[0]}` "
        f"{100 * best.summary.accuracy:.1f} % at {best.cost:.1f} layer-forwards, against "
        f"{100 * alone.summary.accuracy:.1f} % at {alone.cost:.1f} without reuse "
        f"(`{alone.names[0]}`)."
    ]


def _shared(one: Found, *, without: Sequence[str]) -> str:
    """Settings and parameters but those named: what computations of one group have in common."""
    settings = {k: v for k, v in given(one.summary, DECODING).items() if k not in without}
    return repr((settings, given(one.summary, PARAMETERS)))


def _setting(one: Found, name: str, default: int) -> int:
    return int(given(one.summary, DECODING).get(name, default))


def _span(one: Found) -> str:
    return f"`{given(one.summary, DECODING).get('layer_subset')}`"


def _title(one: Found) -> str:
    parts = [f"k = {_setting(one, 'reuse_k', 1)}"]
    if depth := _setting(one, "lookahead_depth", 0):
        parts.append(f"look-ahead depth {depth}")
    parts += [f"{name} {value}" for name, value in given(one.summary, PARAMETERS).items()]
    return ", ".join(parts)
