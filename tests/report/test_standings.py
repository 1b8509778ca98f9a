"""What a run is worth beside the controls: the same on the page and in the READMEs."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from fastdllm.report.comparisons import key_of
from fastdllm.report.standings import Place, Standing, found_in, is_no_loss, places_of, standings_of
from fastdllm.results.summary import Items, Summary, pack_bits, unpack_bits
from fastdllm.statistics.intervals import wilson_interval

LAYERS = "layer_forwards"


@pytest.fixture(scope="module")
def words(runs: list[Summary]) -> list[Summary]:
    return [run for run in runs if run.task == "word_problems"]


def chosen(runs: list[Summary], config: str) -> Summary:
    return next(run for run in runs if run.config == config)


def idea(like: Summary, cost: float, *, gained: int = 0, lost: int = 0, **fields: Any) -> Summary:
    """A run of its own that differs from `like` in so many items, at another cost."""
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


def place(words: list[Summary], run: Summary) -> Place:
    return places_of([*words, run])[key_of(run)]


@pytest.mark.parametrize(
    ("best", "cost", "gained", "lost", "expected"),
    [
        # sub32 costs 106 and is better than the thresholds that cost as little.
        ("sub32", 108, 20, 0, Standing.ABOVE),
        ("sub32", 108, 2, 0, Standing.WITHIN_NOISE),
        ("sub32", 108, 0, 0, Standing.BELOW),
        ("sub32", 108, 0, 1, Standing.BELOW),
        ("t0.5", 90, 40, 0, Standing.ABOVE),
        ("t0.5", 90, 2, 0, Standing.WITHIN_NOISE),
        ("t0.5", 90, 0, 2, Standing.UNKNOWN),
    ],
)
def test_a_run_meets_the_best_control_of_no_higher_cost(
    words: list[Summary], best: str, cost: float, gained: int, lost: int, expected: Standing
) -> None:
    run = idea(chosen(words, best), cost, gained=gained, lost=lost)
    own = place(words, run)
    assert own.standings[LAYERS] is expected
    assert own.found is not None and own.found.control is not None
    assert own.found.control.baseline.config == best


def test_pages_and_readmes_count_the_same(words: list[Summary]) -> None:
    places = places_of(words)
    for experiment in {run.experiment for run in words} - {"03_controls"}:
        own = [run for run in words if run.experiment == experiment]
        _, found = found_in(own, words)
        counts = Counter(
            places[key_of(chosen(own, one.names[0]))].standings[LAYERS] for one in found
        )
        assert counts[Standing.ABOVE] == sum(one.is_proved for one in found)
        assert counts.total() == len(found) and not counts[Standing.CONTROL]


def test_controls_and_what_is_the_same_stand_alike(words: list[Summary]) -> None:
    places = places_of(words)
    for run in words:
        if run.experiment == "03_controls" or run.config.startswith("k1_"):
            assert set(places[key_of(run)].standings.values()) == {Standing.CONTROL}
    first, twin = (places[key_of(chosen(words, config))] for config in ("k2_first", "k2_last"))
    assert first == twin and first.found is twin.found is not None
    # The same computation in another experiment, under another name.
    control = chosen(words, "t0.8")
    repeated = control.model_copy(update={"experiment": "05_ideas", "config": "t0.8_again"})
    assert place(words, repeated).standings[LAYERS] is Standing.CONTROL


def test_speeds_say_only_whether_a_control_is_as_good_in_both(words: list[Summary]) -> None:
    def by_speed(config: str) -> Standing:
        return places_of(words)[key_of(chosen(words, config))].standings["tokens_per_s"]

    assert by_speed("d3_t0.95_s4") is Standing.UNDOMINATED
    assert by_speed("delta_k2_first") is Standing.BELOW
    assert by_speed("d3_t0.9_s16") is Standing.NO_CONTROL, "no control ran on its machine"
    equal = idea(chosen(words, "t0.8"), 117)
    assert place(words, equal).standings["seconds"] is Standing.BELOW


def test_nothing_is_said_without_controls(words: list[Summary]) -> None:
    ideas = [run for run in words if run.experiment != "03_controls"]
    places = places_of(ideas)
    found = {places[key_of(run)].standings[LAYERS] for run in ideas}
    assert found == {Standing.CONTROL, Standing.NO_CONTROL}


def test_a_cost_has_only_standings_of_its_own(words: list[Summary]) -> None:
    for one in places_of(words).values():
        assert all(standing in standings_of(cost) for cost, standing in one.standings.items())


def test_a_loss_that_only_a_correction_hides_is_a_loss(words: list[Summary]) -> None:
    base = chosen(words, "k1_first")
    for gained, lost, expected in ((0, 3, True), (0, 12, False), (12, 0, True)):
        found = place(words, idea(base, 120, gained=gained, lost=lost)).found
        assert found is not None and is_no_loss(found) is expected
