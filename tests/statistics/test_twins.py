"""Runs that are alike in all that is measured are named, under other digests only."""

from __future__ import annotations

from typing import Any

import pytest

from fastdllm.records.summary import Items, Summary, pack_bits
from fastdllm.statistics.twins import twin_sentences
from tests.statistics.test_comparison import a_run


@pytest.mark.parametrize(
    ("fields", "is_twin"),
    [
        ({}, True),
        ({"computation": "one"}, False),
        ({"items": Items(n=200, correct_bits=pack_bits([False, True] * 100))}, False),
        ({"passes": {"commit": 99}}, False),
        ({"throughput": {"tokens_generated": 99}}, False),
        ({"throughput": None}, False),
    ],
)
def test_what_is_alike_in_everything_is_a_twin(
    a_summary: Summary, fields: dict[str, Any], *, is_twin: bool
) -> None:
    first = a_run(a_summary, "sb32", 20, computation="one")
    other = a_run(a_summary, "no_cache_sb32", 20, **{"computation": "two"})
    for name, value in fields.items():
        part = getattr(other, name)
        changed = part.model_copy(update=value) if isinstance(value, dict) else value
        other = other.model_copy(update={name: changed})
    sentences = twin_sentences([first, other, first.model_copy(update={"config": "copy"})])
    assert bool(sentences) is is_twin
    if is_twin:
        assert sentences[0].startswith("`sb32` and `no_cache_sb32` are right on the same items")
