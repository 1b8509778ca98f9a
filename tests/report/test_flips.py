"""Items that changed sides, and where two answers part."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastdllm.records.summary import Items, Summary, pack_bits
from fastdllm.report.flips import (
    first_differing_step,
    first_differing_token,
    flipped_items,
    read_flips,
)


def sample(ids: list[int], passes: list[int]) -> dict[str, list[int]]:
    return {"token_ids": ids, "committed_at": passes}


@pytest.mark.parametrize(
    ("a", "b", "step", "token"),
    [
        (sample([5, 6, 7], [1, 1, 2]), sample([5, 6, 7], [1, 1, 2]), None, None),
        # The same tokens, one of them later.
        (sample([5, 6, 7], [1, 1, 2]), sample([5, 6, 7], [1, 2, 2]), 1, None),
        # Another token in the second pass.
        (sample([5, 6, 7], [1, 1, 2]), sample([5, 6, 8], [1, 1, 2]), 2, 2),
        # The later position parted first.
        (sample([5, 6, 7], [1, 3, 2]), sample([5, 9, 8], [1, 3, 2]), 2, 1),
        # One answer is longer.
        (sample([5, 6], [0, 1]), sample([5, 6, 7], [0, 1, 4]), 4, 2),
    ],
)
def test_where_answers_part(a: dict, b: dict, step: int | None, token: int | None) -> None:
    assert first_differing_step(a, b) == step == first_differing_step(b, a)
    assert first_differing_token(a, b) == token == first_differing_token(b, a)


def test_answers_without_a_record_of_commits_tell_nothing() -> None:
    assert first_differing_step({}, sample([5], [1])) is None
    assert first_differing_token({}, sample([5], [1])) is None


def chosen(runs: list[Summary], config: str) -> Summary:
    return next(r for r in runs if r.config == config and r.task == "word_problems")


def test_flipped_items_are_those_whose_bits_differ(runs: list[Summary]) -> None:
    run = chosen(runs, "k1_first")
    a = run.model_copy(update={"items": Items(n=4, correct_bits=pack_bits([1, 1, 0, 0]))})
    b = run.model_copy(update={"items": Items(n=4, correct_bits=pack_bits([1, 0, 1, 0]))})
    assert flipped_items(a, b) == ([2], [1])
    other_task = run.model_copy(update={"items": Items(n=3, correct_bits=pack_bits([1, 0, 1]))})
    assert flipped_items(a, other_task) == ([], [])


def test_flips_are_read_from_the_samples(runs: list[Summary], results: Path) -> None:
    before, after = chosen(runs, "k1_first"), chosen(runs, "k2_first")
    flips = read_flips(before, after, 10, results=results)
    gained, lost = flipped_items(before, after)
    assert (flips.gained, flips.lost) == (len(gained), len(lost)) and flips.why_not is None
    assert len(flips.shown) == 10
    for flip in flips.shown:
        right, wrong = (flip.after, flip.before) if flip.gained else (flip.before, flip.after)
        assert right.endswith(f"#### {flip.target}") and not wrong.endswith(f"#### {flip.target}")
        assert flip.first_step is not None and flip.first_token is not None


def test_a_twin_is_read_from_the_run_that_was_decoded(runs: list[Summary], results: Path) -> None:
    before = chosen(runs, "k1_first")
    twin, origin = chosen(runs, "k2_last"), chosen(runs, "k2_first")
    assert twin.same_as is not None
    decoded = read_flips(before, twin, 4, results=results).decoded
    assert decoded == tuple(
        f"00_baseline/word_problems/{name}" for name in ("k1_first", "k2_first")
    )
    assert read_flips(before, twin, 4, results=results) == read_flips(
        before, origin, 4, results=results
    )


def test_missing_and_foreign_samples_are_named(
    runs: list[Summary], results: Path, tmp_path: Path
) -> None:
    before, after = chosen(runs, "k1_first"), chosen(runs, "k2_first")
    absent = read_flips(before, after, 4, results=tmp_path)
    assert absent.shown == () and absent.lost > 0
    assert "is not on this machine" in str(absent.why_not)
    decoded_anew = after.model_copy(update={"fingerprint": "f" * 64})
    foreign = read_flips(before, decoded_anew, 4, results=results)
    assert "belongs to another result" in str(foreign.why_not)
