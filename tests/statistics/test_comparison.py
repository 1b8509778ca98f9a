"""Runs against a baseline: what is compared, what is not and why, and the words for it."""

from __future__ import annotations

from typing import Any

import pytest

from fastdllm.records import summary as s
from fastdllm.records.summary import ItemGroup, Summary
from fastdllm.statistics.comparison import (
    accuracy_clustered_stderr,
    compare,
    compare_all,
    is_same_computation,
)
from fastdllm.statistics.costs import COSTS
from fastdllm.statistics.family import max_t
from fastdllm.statistics.truncation import truncated_answers
from fastdllm.statistics.verdicts import of_difference, signed


def changed(summary: Summary, **fields: Any) -> Summary:
    return summary.model_copy(update=fields)


def a_run(summary: Summary, name: str, wrong: int, *, of: int = 200, **fields: Any) -> Summary:
    """A separate run whose first `wrong` items are wrong."""
    right = [False] * wrong + [True] * (of - wrong)
    items = s.Items(n=of, correct_bits=s.pack_bits(right))
    fixed = {"config": name, "fingerprint": name, "items": items, "timestamp": name}
    accuracy = round((of - wrong) / of, 6)
    fixed |= {"accuracy": accuracy, "metrics": [changed(summary.primary, value=accuracy)]}
    return changed(summary, **{**fixed, **fields})


def test_items_of_subtasks_in_another_order_are_not_paired(a_summary: Summary) -> None:
    """An older version had them in the order of the task's file."""
    a, b, without = (
        changed(run, items=run.items.model_copy(update={"groups": groups}))
        for run, groups in (
            (a_run(a_summary, "a", 10), [ItemGroup("one", 50), ItemGroup("two", 150)]),
            (a_run(a_summary, "b", 10), [ItemGroup("two", 150), ItemGroup("one", 50)]),
            (a_run(a_summary, "c", 10), None),
        )
    )
    assert compare(a, b).why_not_paired.startswith("their subtasks have other names or another")
    assert compare(a, without).why_not_paired is None


def test_items_are_counted_pair_by_pair(a_summary: Summary) -> None:
    right_a, right_b = [1, 1, 0, 1, 0, 1, 0, 1], [1, 0, 1, 0, 0, 0, 0, 1]
    a, b = (
        a_run(a_summary, name, 0, items=s.Items(n=8, correct_bits=s.pack_bits(bits)))
        for name, bits in (("a", right_a), ("b", right_b))
    )
    paired = compare(a, b).paired
    assert (paired.n, paired.only_a, paired.only_b) == (8, 3, 1)
    assert paired.difference == -0.25
    assert paired.p_value == 0.625 and paired.p_corrected is None
    back = compare(b, a).paired
    assert (back.difference, back.n_needed) == (0.25, paired.n_needed)
    assert back.interval == pytest.approx((-paired.interval[1], -paired.interval[0]))


def test_verdict_of_a_loss_and_of_none(a_summary: Summary) -> None:
    base = a_run(a_summary, "base", 20)
    loss = compare(base, a_run(a_summary, "loss", 40))
    assert loss.verdict == "loss of 10.0 points (95 % interval -14.9 to -6.6), shown"
    gain = compare(base, a_run(a_summary, "gain", 0))
    assert gain.verdict == "gain of 10.0 points (95 % interval +6.6 to +14.9), shown"
    few = compare(base, a_run(a_summary, "few", 23))
    assert few.verdict == "no difference seen; a loss of more than 4.4 points is excluded"
    none = compare(base, a_run(a_summary, "none", 20))
    assert none.verdict == "no item differs; a loss of more than 1.9 points is excluded"


@pytest.mark.parametrize(
    ("interval", "words"),
    [
        ((-0.036, -0.001), "loss of 0.1 to 3.6 points (95 %, this row alone)"),
        ((0.002, 0.05), "gain of 0.2 to 5.0 points (95 %, this row alone)"),
        ((-0.021, 0.05), "no difference seen; a loss of more than 2.1 points is excluded"),
        ((0.0, 0.05), "no difference seen; a loss is excluded"),
    ],
)
def test_an_interval_without_0_is_never_no_difference(
    interval: tuple[float, float], words: str
) -> None:
    difference = sum(interval) / 2
    assert of_difference(difference, interval, is_shown=False, differing=9) == words


def test_a_small_difference_that_is_certain_is_not_shown_as_none() -> None:
    words = of_difference(-0.0004, (-0.0008, -0.00002), is_shown=True, differing=6)
    assert words == "loss of 0.04 points (95 % interval -0.08 to 0.00), shown"
    words = of_difference(0.0006, (0.0001, 0.0011), is_shown=True, differing=6)
    assert words == "gain of 0.1 points (95 % interval 0.0 to +0.1), shown"


def test_what_is_excluded_is_rounded_up() -> None:
    words = of_difference(0.0, (-0.02101, 0.02), is_shown=False, differing=4)
    assert words == "no difference seen; a loss of more than 2.2 points is excluded"
    assert (signed(-0.0001), signed(0.0), signed(0.013)) == ("0.0", "0.0", "+1.3")


def test_a_family_is_corrected_and_its_words(a_summary: Summary) -> None:
    base = a_run(a_summary, "base", 20)
    others = [a_run(a_summary, f"c{wrong}", wrong) for wrong in (26, 25, 40, 22)]
    compared = compare_all(base, others)
    pairs = [(comparison.paired.lost, comparison.paired.gained) for comparison in compared]
    corrected = [comparison.paired.p_corrected for comparison in compared]
    assert corrected == max_t(200, pairs)
    assert [comparison.paired.is_shown for comparison in compared] == [p < 0.05 for p in corrected]
    assert compared[1].paired.p_value > 0.05 and "this row alone" in compared[1].verdict
    assert compared[2].verdict.endswith(", shown")


def test_one_computation_counts_once_in_the_correction(a_summary: Summary) -> None:
    base = a_run(a_summary, "base", 20, computation="plain")
    twins = [a_run(a_summary, name, 27, computation="k2") for name in ("first", "middle", "last")]
    same_as_base = a_run(a_summary, "same", 20, computation="plain")
    other = a_run(a_summary, "other", 40, computation="k3")
    compared = compare_all(base, [*twins, same_as_base, other])
    p_value = compared[0].paired.p_value
    corrected = [comparison.paired.p_corrected for comparison in compared[:3]]
    assert corrected == [corrected[0]] * 3 and corrected[0] == pytest.approx(p_value, abs=0.01)
    assert compared[3].verdict == "the same computation"
    assert compare_all(base, twins)[0].paired.p_corrected is None, (
        "one question needs no correction"
    )


def test_the_same_computation_is_no_evidence(a_summary: Summary) -> None:
    origin = a_run(a_summary, "k2_first", 30)
    same_as = s.SameAs(experiment="e", task="t", config="k2_first", fingerprint="k2_first")
    twins = [a_run(a_summary, name, 30, same_as=same_as) for name in ("k2_middle", "k2_last")]
    for pair in ((origin, twins[0]), (twins[0], origin), tuple(twins), (origin, origin)):
        comparison = compare(*pair)
        assert is_same_computation(*pair)
        assert (comparison.verdict, comparison.paired) == ("the same computation", None)
    assert not is_same_computation(origin, a_run(a_summary, "k3_first", 30))


def test_the_same_computation_that_differs_says_so(a_summary: Summary) -> None:
    first, again = (
        a_run(a_summary, name, wrong, computation="c") for name, wrong in (("one", 3), ("two", 5))
    )
    comparison = compare(first, again)
    assert comparison.verdict == "the same computation, but 2 items differ"
    assert comparison.paired.only_a == 2


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"task": "gsm8k"}, "different tasks: word_problems and gsm8k"),
        ({"eval_params": {"limit": 20}}, "different limits: none and 20"),
        ({"decides": {"task_digest": "x"}}, "different versions of the task"),
        (
            {"eval_params": {"items_digest": "x"}},
            "data or model of the hub have changed in between; decode the older run again",
        ),
        ({"items": None}, "the summaries do not say which items are right"),
        ({"items": s.Items(n=8, correct_bits="AA==")}, "200 and 8 items"),
    ],
)
def test_other_items_are_not_paired(a_summary: Summary, fields: Any, reason: str) -> None:
    if "eval_params" in fields:
        fields = {"eval_params": {**a_summary.eval_params, **fields["eval_params"]}}
    first = changed(a_summary, eval_params={**a_summary.eval_params, "items_digest": "y"})
    comparison = compare(a_run(first, "a", 3), a_run(a_summary, "b", 3, **fields))
    assert (comparison.paired, comparison.why_not_paired) == (None, reason)
    assert comparison.verdict == f"not compared: {reason}"


def test_metrics_must_be_the_same_and_right_or_wrong(a_summary: Summary) -> None:
    metric = a_summary.metrics[0]
    a, b = a_run(a_summary, "a", 3), a_run(a_summary, "b", 3)
    other = changed(b, metrics=[metric.model_copy(update={"filter": "strict"})])
    assert compare(a, other).why_not_paired == (
        "different metrics: exact_match,number and exact_match,strict"
    )
    errors = [metric.model_copy(update={"higher_is_better": False})]
    comparison = compare(changed(a, metrics=errors), changed(b, metrics=errors))
    assert comparison.why_not_paired.startswith("less is better in exact_match")


def test_costs_and_truncated_answers_of_each(a_summary: Summary) -> None:
    passes = a_summary.passes.model_copy(update={"layer_forwards_computed": 150})
    a, b = a_run(a_summary, "a", 3), a_run(a_summary, "b", 3, passes=passes, truncation_rate=0.4)
    comparison = compare(a, b)
    assert comparison.layer_forwards == 0.5 and comparison.truncated == (0, 2)
    costs = {name: cost(a) for name, (_, cost) in COSTS.items()}
    assert costs == {
        "layer_forwards": 60.0,
        "position_forwards": None,
        "forwards": 11.0,
        "seconds": pytest.approx(0.162),
        "tokens_per_s": 1234.5,
    }
    part = changed(b, eval_params={**b.eval_params, "n_requests": 25, "n_answers": 5})
    assert compare(part, b).layer_forwards == 1.0 and truncated_answers(part) == 2
    bare = changed(a, passes=None, throughput=None)
    assert [cost(bare) for _, cost in COSTS.values()] == [None] * 5


def test_errors_of_a_task_with_groups_are_clustered(a_summary: Summary) -> None:
    groups = [ItemGroup(name, 50) for name in "abcd"]
    a, b = (
        a_run(a_summary, name, wrong).model_copy(
            update={
                "items": s.Items(
                    n=200, correct_bits=s.pack_bits([False] * wrong + [True] * (200 - wrong))
                ).model_copy(update={"groups": groups})
            }
        )
        for name, wrong in (("a", 0), ("b", 50))
    )
    # All items of one group of four are lost: the mean is 1/4, with an error as of four items.
    assert compare(a, b).paired.clustered_stderr == pytest.approx(0.25)
    assert accuracy_clustered_stderr(b) == pytest.approx(0.25)
    assert accuracy_clustered_stderr(a_run(a_summary, "c", 3)) is None
