"""What a configuration changes, and which run the others of a task are measured against.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastdllm.results.summary import DECODING, PARAMETERS, Summary
from fastdllm.settings import DecodingSettings

CONTROL_EXPERIMENT = "03_controls"
# Lengths, names of tokens and seeds are no idea of an experiment; a task or a model decides them.
NO_IDEA = frozenset(["max_new_tokens", "seed", "mask_id", "stop_token"])


def given(summary: Summary, prefix: str) -> dict[str, Any]:
    """What decides a run, of one kind (`DECODING`, `PARAMETERS` of evaluation/spec.py), by name."""
    return {
        key.removeprefix(prefix): value
        for key, value in summary.decides.items()
        if key.startswith(prefix)
    }


def deviations(summary: Summary) -> dict[str, Any]:
    """The settings that take effect in a run and are not the default; {} for plain decoding.

    Parameters of a policy count as they are: a policy without any has nothing to change.
    """
    settings = given(summary, DECODING)
    without_effect = set(NO_IDEA)
    if settings.get("reuse_k", 1) == 1:
        without_effect.add("layer_subset")
    if not settings.get("lookahead_depth", 0):
        without_effect.add("lookahead_threshold")
    if not settings.get("temperature", 0.0):
        without_effect.add("top_p")
    fields = DecodingSettings.model_fields
    found = {
        name: value
        for name, value in settings.items()
        if name in fields and name not in without_effect and value != fields[name].default
    }
    return found | given(summary, PARAMETERS)


def is_threshold_only(summary: Summary) -> bool:
    """Whether nothing but the threshold differs from plain decoding (or not even that)."""
    return deviations(summary).keys() <= {"threshold"}


def baseline_of(summaries: Sequence[Summary]) -> Summary:
    """The run of one task that the others are compared with: plain decoding, as published.

    Of several the first that was decoded itself, controls first; without any, the first run.
    """
    plain = [summary for summary in summaries if not deviations(summary)]
    if not plain:
        return summaries[0]
    return min(plain, key=lambda s: (s.same_as is not None, s.experiment != CONTROL_EXPERIMENT))
