"""Runs that are the same computation and are not right on the same items."""

from __future__ import annotations

from typing import Any

from fastdllm.records.summary import Hardware, ItemGroup, Items, SameAs, Summary, pack_bits
from fastdllm.statistics.disagreements import disagreements, items_text

RIGHT = [True, True, False, True, True]
OTHER = [True, False, False, True, False]
ORIGIN = SameAs(experiment="e", task="t", config="c", fingerprint="f")


def items(right: list[bool], **fields: Any) -> Items:
    return Items(n=len(right), correct_bits=pack_bits(right), **fields)


def alarms(*summaries: Summary) -> list[str]:
    return disagreements([summary.model_dump(mode="json") for summary in summaries])


def pair(summary: Summary, **fields: Any) -> tuple[Summary, Summary]:
    """Two runs of one computation, the second of which has other items right."""
    first = summary.model_copy(update={"computation": "c", "items": items(RIGHT)})
    other = {"config": "k1_last", "items": items(OTHER), **fields}
    return first, first.model_copy(update=other)


def test_the_items_are_named(a_summary: Summary) -> None:
    assert alarms(*pair(a_summary)) == [
        "ALARM: k1_first and k1_last must give the same answers and do not "
        "(word_problems: items 1 and 4)"
    ]
    assert alarms(*pair(a_summary, items=items(RIGHT))) == []


def test_another_experiment_is_named(a_summary: Summary) -> None:
    (alarm,) = alarms(*pair(a_summary, experiment="02_delta_reuse"))
    assert "k1_first and 02_delta_reuse/k1_last" in alarm


def test_items_of_subtasks_count_within_their_subtask(a_summary: Summary) -> None:
    first, other = (
        run.model_copy(
            update={"items": items(right, groups=[ItemGroup("a", 2), ItemGroup("b", 3)])}
        )
        for run, right in zip(pair(a_summary), (RIGHT, OTHER), strict=True)
    )
    assert "items a:1 and b:2)" in alarms(first, other)[0]


def test_other_computations_hardware_and_copies_raise_no_alarm(a_summary: Summary) -> None:
    gpu = [Hardware(device="cuda", name="a GPU")]
    for excuse in (
        {"computation": "d"},
        {"computation": None},
        {"hardware": gpu},
        {"dtype": "bfloat16"},
        {"same_as": ORIGIN},
        {"items": None},
    ):
        assert alarms(*pair(a_summary, **excuse)) == [], excuse


def test_other_batch_sizes_excuse_another_answer_in_half_precision_only(a_summary: Summary) -> None:
    how = {**a_summary.eval_params, "batch_size": 4}
    for dtype, expected in (("float32", 1), ("bfloat16", 0)):
        runs = pair(a_summary.model_copy(update={"dtype": dtype}), eval_params=how)
        assert len(alarms(*runs)) == expected


def test_many_items_are_counted() -> None:
    assert items_text([7]) == "item 7"
    assert items_text(range(12)) == "items 0, 1, 2, 3, 4, 5, 6, 7 and 4 more"
    assert items_text([]) == ""
