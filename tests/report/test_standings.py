"""The standing of a run beside the controls: the same on the page and in the READMEs."""

from __future__ import annotations

from typing import Any

import pytest

from fastdllm.records.summary import Items, Summary, pack_bits, unpack_bits
from fastdllm.report.content import RunReport, build_report
from fastdllm.report.groups import RunKey, grouped, key_of
from fastdllm.report.standings import Standing, findings_of
from fastdllm.statistics.intervals import wilson_interval


def chosen(runs: list[Summary], config: str) -> Summary:
    return next(run for run in runs if run.config == config)


def idea(like: Summary, cost: float, *, gained: int = 0, lost: int = 0, **fields: Any) -> Summary:
    """A separate run that differs from `like` in so many items, at another cost."""
    assert like.items is not None and like.passes is not None
    bits = unpack_bits(like.items)
    for value, count in ((False, gained), (True, lost)):
        for item in [i for i, bit in enumerate(unpack_bits(like.items)) if bit is value][:count]:
            bits[item] = not value
    n, right = len(bits), sum(bits)
    metric = like.primary.model_copy(
        update={"value": right / n, "interval": wilson_interval(right, n)}
    )
    computed = {"layer_forwards_computed": round(cost * like.n_requests)}
    changed = {
        "experiment": "05_ideas",
        "config": "idea",
        "computation": "idea",
        "same_as": None,
        "fingerprint": "f" * 64,
        "decides": {**like.decides, "policy_parameters.idea": 1},
        "accuracy": right / n,
        "metrics": [metric],
        "items": Items(n=n, correct_bits=pack_bits(bits)),
        "passes": like.passes.model_copy(update=computed),
    }
    return like.model_copy(update=changed | fields)


def reports(runs: list[Summary]) -> dict[RunKey, RunReport]:
    return build_report(runs).runs


def report_on(run: Summary, words: list[Summary]) -> RunReport:
    return reports([*words, run])[key_of(run)]


@pytest.mark.parametrize(
    ("best", "cost", "gained", "lost", "expected"),
    [
        # sub32 costs 106 and is better than the thresholds that cost as little.
        ("sub32", 108, 20, 0, Standing.ABOVE),
        ("sub32", 108, 2, 0, Standing.WITHIN_NOISE),
        ("sub32", 108, 0, 0, Standing.NO_GAIN),
        ("sub32", 108, 0, 1, Standing.NO_GAIN),
        ("sub32", 108, 0, 20, Standing.DOMINATED),
        ("t0.5", 90, 40, 0, Standing.ABOVE),
        ("t0.5", 90, 2, 0, Standing.WITHIN_NOISE),
        ("t0.5", 90, 0, 2, Standing.UNKNOWN),
    ],
)
def test_a_run_meets_the_best_control_of_no_higher_cost(
    words: list[Summary], best: str, cost: float, gained: int, lost: int, expected: Standing
) -> None:
    run = idea(chosen(words, best), cost, gained=gained, lost=lost)
    report = report_on(run, words)
    assert report.standing is expected
    assert report.finding is not None and report.finding.to_control is not None
    assert report.finding.to_control.baseline.config == best


def test_pages_and_readmes_count_the_same(words: list[Summary]) -> None:
    on_page = reports(words)
    for experiment, findings in findings_of(grouped(words)).items():
        for finding in findings:
            for run in finding.runs:
                assert on_page[key_of(run)].standing is finding.standing
                assert on_page[key_of(run)].finding == finding
        standings = {finding.standing for finding in findings}
        assert (Standing.CONTROL in standings) == (experiment == "03_controls")


def test_page_and_readmes_show_the_p_of_one_family(words: list[Summary]) -> None:
    """Also where a control runs again among the ideas of an experiment."""
    again = chosen(words, "t0.8").model_copy(
        update={"experiment": "02_delta_reuse", "config": "t0.8_again"}
    )
    on_page = reports([*words, again])
    findings = findings_of(grouped([*words, again]))["02_delta_reuse"]
    assert all(again not in finding.runs for finding in findings)
    for finding in findings:
        comparison = on_page[key_of(finding.summary)].comparison
        assert comparison is not None and comparison == finding.to_baseline
        assert comparison.paired is not None and comparison.paired.p_corrected is not None


def test_controls_and_what_is_the_same_stand_alike(words: list[Summary]) -> None:
    on_page = reports(words)
    for run in words:
        if run.experiment == "03_controls" or run.config.startswith("k1_"):
            assert on_page[key_of(run)].standing is Standing.CONTROL
    first, twin = (on_page[key_of(chosen(words, config))] for config in ("k2_first", "k2_last"))
    assert first.standing == twin.standing and first.finding is twin.finding is not None
    # The same computation in another experiment, under another name.
    control = chosen(words, "t0.8")
    repeated = control.model_copy(update={"experiment": "05_ideas", "config": "t0.8_again"})
    assert report_on(repeated, words).standing is Standing.CONTROL


def test_nothing_is_said_without_controls(words: list[Summary]) -> None:
    ideas = [run for run in words if run.experiment != "03_controls"]
    standings = {report.standing for report in reports(ideas).values()}
    assert standings == {Standing.CONTROL, Standing.NO_CONTROL}


def test_a_loss_that_only_a_correction_hides_is_a_loss(words: list[Summary]) -> None:
    base = chosen(words, "k1_first")
    for gained, lost, expected in ((0, 3, True), (0, 12, False), (12, 0, True)):
        finding = report_on(idea(base, 120, gained=gained, lost=lost), words).finding
        assert finding is not None and finding.is_lossless is expected
