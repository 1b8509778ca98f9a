"""Scoring with too little memory: fewer inputs or blocks at once, the same scores and rows."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from fastdllm.common.errors import UserError
from fastdllm.decoding import likelihood, shared_passes
from fastdllm.decoding.events import OutOfMemory
from fastdllm.decoding.likelihood import LikelihoodRequest
from fastdllm.engine.engines import make_engine
from fastdllm.model.fused import FusedModel
from tests.support.likelihoods import (
    IDS,
    assert_plain,
    distinct_rows,
    nested_requests,
    rows_run,
    slots,
    steady_network,
)

# One input a request, unless a test says otherwise.
score = partial(likelihood.score, mode="published")


@pytest.fixture(scope="module")
def steady(golden_model):
    """A network in which 1e-5 can be asked of two forms; see `steady_network`."""
    return steady_network(golden_model("m6").config)


class Scarce(FusedModel):
    """Lacks memory for passes of more than `most` rows, after `passes` good ones of any size."""

    def __init__(self, model, *, most, passes=0):
        super().__init__(model)
        self.most, self.passes = most, passes

    def run_layers(self, hidden, *args, **kwargs):
        self.passes -= 1
        if self.passes < 0 and len(hidden) > self.most:
            raise torch.OutOfMemoryError("no memory for this pass")
        return super().run_layers(hidden, *args, **kwargs)


@pytest.mark.parametrize("passes", [0, 1, 2])
@pytest.mark.parametrize("most", [32, 100])
def test_a_lack_of_memory_halves_the_pass_and_loses_nothing(steady, most, passes):
    requests, records = nested_requests(1, 32), []
    got = score(Scarce(steady, most=most, passes=passes), requests, observe=records.append, **IDS)
    lacks = [record for record in records if isinstance(record, OutOfMemory)]
    assert lacks
    assert all(lack.slots == lack.slots_before // 2 for lack in lacks)
    after = records[records.index(lacks[-1]) + 1 :]
    assert max(record.rows for record in after) <= lacks[-1].slots * 32 <= most
    # What was run before is not run again.
    assert rows_run(records) == distinct_rows(requests, "published", 32)
    assert_plain(got, steady, requests)


def test_no_memory_for_a_single_block_is_one_clear_line(steady):
    requests = nested_requests(1, 32)
    with pytest.raises(UserError, match="out of memory with one block at a time"):
        score(Scarce(steady, most=31), requests, **IDS)


def test_other_failures_of_a_pass_are_not_taken_for_a_lack_of_memory(steady):
    class Broken(FusedModel):
        def run_layers(self, hidden, *args, **kwargs):
            raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        score(Broken(steady), nested_requests(1, 32), **IDS)


def test_memory_bounds_the_inputs_that_are_there_at_once(steady, monkeypatch):
    requests = [LikelihoodRequest((*range(60), i), (3,)) for i in range(8)]
    config = steady.config
    per_position = 2 * config.num_layers * config.num_kv_heads * config.head_dim
    three = 3 * 64 * per_position * 4
    # Of what is free on a CPU half is used, and half of that for keys and values.
    monkeypatch.setattr(shared_passes, "free_bytes", lambda _: 4 * three)
    records = []
    got = score(steady, requests, observe=records.append, **IDS)
    assert slots(records) == [3]
    assert rows_run(records) == 32 + 8 * 32
    assert_plain(got, steady, requests)
    monkeypatch.setattr(shared_passes, "free_bytes", lambda _: 4 * three // 3 - 4)
    with pytest.raises(UserError, match="a request of 64 tokens needs"):
        score(steady, requests, **IDS)


@pytest.mark.parametrize("most", [160, 400])
def test_a_cache_that_cannot_be_had_is_made_for_fewer_inputs(steady, most):
    def make(model, capacity):
        if capacity > most:
            raise torch.OutOfMemoryError("no memory for this cache")
        return make_engine(model, capacity)

    requests, records = nested_requests(1, 32), []
    got = score(FusedModel(steady, make_engine=make), requests, observe=records.append, **IDS)
    assert records[0].slots == most // 160
    assert_plain(got, steady, requests)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"mask_id": 9_999}, "mask_id 9999 is outside the model's vocabulary of 256"),
        ({"stop_token": 256}, "stop_token 256 is outside"),
        ({"block_size": 0}, "block_size: 0 is not allowed"),
        ({"block_size": 9_999}, "block_size: 9999 is not allowed"),
    ],
)
def test_settings_that_do_not_fit_the_model_are_one_clear_line(steady, changes, line):
    with pytest.raises(UserError, match=line):
        score(steady, [LikelihoodRequest((1,), (2,))], **(IDS | changes))
