"""When tokens were committed, and how sure the model was: from steps that are made up."""

from __future__ import annotations

import math

import pytest

from fastdllm.decoding.loop import Step
from fastdllm.policy import PassKind
from fastdllm.runs.commits import BINS, EDGES, Commits, bin_of


def test_passes_are_numbered_behind_the_prefill_for_each_request() -> None:
    commits = Commits()
    for step in (
        Step(0, PassKind.PREFILL, positions=(4,), tokens=(9,)),
        Step(1, PassKind.FULL_BLOCK, positions=(2,), tokens=(7,), confidences=(0.95,)),
        Step(0, PassKind.FULL_BLOCK, positions=(6, 9), tokens=(8, 5), confidences=(0.5, 0.42)),
        Step(0, PassKind.REUSED, positions=(5,), tokens=(8,), confidences=(1.0,)),
        Step(0, PassKind.COMMIT, positions=(7,), tokens=(3,)),
    ):
        commits.add(step)
    course = commits.close(0, prompt_length=4, n_tokens=4)
    assert (course.committed_at, course.input_changes) == ((0, 2, 1, 3), None)
    counts = dict(enumerate(commits.confidence_counts))
    # 0.42 stands behind the answer's end, and nothing judged the tokens of prefill and commit.
    assert {bin_: n for bin_, n in counts.items() if n} == {bin_of(0.5): 1, BINS - 1: 1}
    assert commits.close(1, prompt_length=2, n_tokens=1).committed_at == (1,)
    assert sum(commits.confidence_counts) == 3


def test_request_without_a_pass_has_no_tokens() -> None:
    commits = Commits()
    commits.add(Step(3, None))
    assert commits.close(3, prompt_length=5, n_tokens=0).committed_at == ()


def test_what_a_policy_measured_is_kept_with_the_number_of_its_pass() -> None:
    commits = Commits()
    for request, kind, changes in (
        (0, PassKind.PREFILL, ()),
        (0, PassKind.FULL_BLOCK, ()),
        (1, PassKind.SUB_BLOCK, (0.5,)),
        (0, PassKind.SUB_BLOCK, (math.inf, 0.12345678)),
        (0, PassKind.SUB_BLOCK, (0.25, 0.0)),
    ):
        commits.add(Step(request, kind, input_changes=changes))
    # JSON has no infinity, which stands for a span without stored values.
    assert commits.close(0, 0, 0).input_changes == ((2, None, 0.123457), (3, 0.25, 0.0))
    assert commits.close(1, 0, 0).input_changes == ((1, 0.5),)


@pytest.mark.parametrize("bin_", range(BINS))
def test_a_bin_begins_at_its_lower_edge(bin_: int) -> None:
    assert bin_of(EDGES[bin_]) == bin_
    assert bin_of((EDGES[bin_] + EDGES[bin_ + 1]) / 2) == bin_
    assert bin_of(1.0) == bin_of(1.0000001) == BINS - 1
