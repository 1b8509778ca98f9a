"""Log-likelihoods with shared prefixes: the plain way's scores, and every distinct block once."""

from __future__ import annotations

from functools import partial

import pytest

from fastdllm.common.errors import UserError
from fastdllm.decoding import likelihood, shared_passes
from fastdllm.decoding.events import PassRecord
from fastdllm.decoding.likelihood import LikelihoodRequest
from fastdllm.model.fused import FusedModel
from tests.support.engines import on_fixed_shapes, traced
from tests.support.likelihoods import (
    EXACT,
    IDS,
    MASK,
    assert_plain,
    assert_scores,
    distinct_rows,
    nested_requests,
    plain_scores,
    rows_run,
    slots,
    steady_network,
)

OF_GOLDEN = 1e-3  # as in tests/golden/test_logits.py

# One input a request, unless a test says otherwise.
score = partial(likelihood.score, mode="published")


@pytest.fixture(scope="module")
def steady(golden_model):
    """A network in which 1e-5 can be asked of two forms; see `steady_network`."""
    return steady_network(golden_model("m6").config)


def one_by_one(model, requests, mode):
    """The same network, one input at a time; a term of a chain is a request of its own."""
    if mode == "published":
        return [score(model, [request], **IDS)[0].logprob for request in requests]
    return [
        sum(
            score(
                model,
                [LikelihoodRequest((*request.prefix_ids, *request.target_ids[:i]), (token,))],
                mode="chain",
                **IDS,
            )[0].logprob
            for i, token in enumerate(request.target_ids)
        )
        for request in requests
    ]


def test_a_changed_token_far_away_changes_scores_far_more_than_the_tolerance(steady):
    near, far = ((token, *range(1, 100)) for token in (0, 200))
    one, other = score(steady, [LikelihoodRequest(near, (3,)), LikelihoodRequest(far, (3,))], **IDS)
    assert abs(one.logprob - other.logprob) > 1000 * EXACT


@pytest.mark.parametrize("mode", ["published", "chain"])
@pytest.mark.parametrize("name", ["m6", "m14"])
def test_sharing_changes_no_golden_score(golden_model, name, mode):
    model, requests = golden_model(name), nested_requests(1, 32, stems=1)
    got = score(model, requests, mode=mode, **IDS)
    for request, own, alone in zip(
        requests, got, one_by_one(FusedModel(model), requests, mode), strict=True
    ):
        assert own.logprob == pytest.approx(alone, abs=EXACT * len(request.target_ids), rel=0)
    assert_plain(got, model, requests, mode, tolerance=OF_GOLDEN)


@pytest.mark.parametrize("mode", ["published", "chain"])
@pytest.mark.parametrize("seed", range(5))
def test_every_distinct_block_runs_once_and_scores_are_those_of_plain_passes(steady, seed, mode):
    size = (32, 16, 8)[seed % 3]
    requests = nested_requests(seed, size)
    run = partial(score, steady, requests, mode=mode, block_size=size, **IDS)
    expected, rows = plain_scores(steady, requests, mode, size), distinct_rows(requests, mode, size)
    for batch_size in (1, 2, 5, 32):
        records = []
        got = run(batch_size=batch_size, observe=records.append)
        assert rows_run(records) == rows
        assert slots(records)[0] <= batch_size
        assert_scores(got, expected)


def test_one_letter_options_of_a_question_are_one_input(steady):
    prefix, records = tuple(range(70)), []
    requests = [LikelihoodRequest(prefix, (letter,)) for letter in (5, 6, 7, 8)]
    score(steady, requests, observe=records.append, **IDS)
    assert [(r.rows, r.rows_read) for r in records if isinstance(r, PassRecord)] == [(96, 1)]


def test_an_input_that_answers_for_two_positions_is_read_at_both(steady):
    """A prefix that ends in the mask token: the same input, read one position later."""
    requests = [LikelihoodRequest((9,), (3,)), LikelihoodRequest((9, MASK), (4,))]
    records = []
    got = score(steady, requests, mode="chain", observe=records.append, **IDS)
    assert rows_run(records) == 32
    assert_plain(got, steady, requests, "chain")


def test_an_input_may_end_where_another_goes_on(steady):
    """A block of a prefix that equals a scored one, masks included, is the same block."""
    first = LikelihoodRequest((9,), (3,))
    second = LikelihoodRequest((9, *[MASK] * 31, 8), (4,))
    records = []
    got = score(steady, [second, first], mode="chain", observe=records.append, **IDS)
    assert rows_run(records) == 64
    assert_plain(got, steady, [second, first], "chain")


@pytest.mark.parametrize("mode", ["published", "chain"])
def test_fixed_shapes_give_the_same_scores(steady, mode):
    requests = nested_requests(5, 32, stems=1)
    got = score(on_fixed_shapes(steady, traced), requests, mode=mode, batch_size=3, **IDS)
    assert_plain(got, steady, requests, mode)


def test_long_prefixes_run_in_pieces_beside_the_others(steady, monkeypatch):
    monkeypatch.setattr(shared_passes, "PASS_ROWS", 64)
    requests, records = nested_requests(3, 16), []
    got = score(steady, requests, block_size=16, observe=records.append, **IDS)
    passes = [record for record in records if isinstance(record, PassRecord)]
    assert max(record.rows for record in passes) == 64
    assert rows_run(records) == distinct_rows(requests, "published", 16)
    assert_plain(got, steady, requests, size=16)


def test_users_mistakes_are_named(steady):
    model, good = steady, LikelihoodRequest((1,), (2,))
    for bad, words in [
        (LikelihoodRequest((1,), ()), "request 1: the target has no tokens"),
        (LikelihoodRequest((256,), (1,)), "request 1: token 256 is outside"),
        (LikelihoodRequest((1,) * 4064, (1,)), "request 1: 4065 tokens"),
    ]:
        with pytest.raises(UserError, match=words):
            score(model, [good, bad], **IDS)
    with pytest.raises(UserError, match="batch_size: 0 is not allowed"):
        score(model, [good], batch_size=0, **IDS)


def test_nothing_asked_is_nothing_run(steady):
    records = []
    assert score(steady, [], observe=records.append, **IDS) == []
    assert records == []
