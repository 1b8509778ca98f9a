"""Log-likelihoods with shared prefixes: the plain way's scores, and every distinct block once.

Most tests use a network with small weights. The golden ones amplify rounding: in float32 the plain
way itself is up to 6e-4 from double precision there, so 1e-5 can only be asked of one network form.
"""

from __future__ import annotations

import random

import pytest
import torch

from fastdllm import shared_passes
from fastdllm.errors import UserError
from fastdllm.fused import FusedModel
from fastdllm.likelihood import LikelihoodRequest, score
from fastdllm.model import BlockDiffusionModel, block_causal_mask
from fastdllm.trace import OutOfMemory, PassRecord, SlotsChosen
from tests.support.engines import on_fixed_shapes, traced

MASK, STOP = 255, 254
EXACT = 1e-5
OF_GOLDEN = 1e-3  # as in tests/golden/test_logits.py
IDS = {"mask_id": MASK, "eos_id": STOP}


@pytest.fixture(scope="module")
def steady(golden_model) -> BlockDiffusionModel:
    """The shape of a golden model with weights that do not amplify rounding (4e-6 at most here)."""
    torch.manual_seed(0)
    model = BlockDiffusionModel(golden_model("m6").config)
    for weight in model.parameters():
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.1)
    return model


def inputs_of(request, mode, size):
    """(whole input, position read, token asked for), by the words of docs/decoding.md."""
    prefix, target = request.prefix_ids, request.target_ids
    for i, token in enumerate(target if mode == "chain" else target[:1]):
        behind = [] if mode == "chain" else [*target[1:], STOP]
        tokens = [*prefix, *target[:i], MASK, *behind]
        tokens += [MASK] * (-len(tokens) % size)
        yield tokens, max(len(prefix) + i - 1, 0), token


@torch.inference_mode()
def plain_scores(model, requests, mode, size):
    """One input at a time, whole, under a mask, through the plain network: (logprob, is_greedy)."""
    scores = []
    for request in requests:
        total, greedy = 0.0, mode == "chain" or len(request.target_ids) == 1
        for tokens, read_at, token in inputs_of(request, mode, size):
            hidden = model.run_layers(
                model.embed(torch.tensor([tokens])),
                0,
                model.config.num_layers,
                positions=torch.arange(len(tokens)),
                mask=block_causal_mask(len(tokens), size),
            )
            logprobs = model.head(hidden[0, read_at]).log_softmax(0)
            total += float(logprobs[token])
            greedy = greedy and int(logprobs.argmax()) == token
        scores.append((total, greedy))
    return scores


def distinct_rows(requests, mode, size):
    """Rows of all distinct blocks, a block being all that stands before its end."""
    paths = set()
    for request in requests:
        for tokens, read_at, _ in inputs_of(request, mode, size):
            paths |= {tuple(tokens[:end]) for end in range(size, read_at + size + 1, size)}
    return len(paths) * size


def nested_requests(seed, size, *, stems=3, most=5):
    """Subjects, questions and options that share prefixes of many lengths, exact blocks included.

    Some requests are equal, some prefixes empty, and some end where others go on.
    """
    rng = random.Random(seed)

    def some(lengths):
        return tuple(rng.randrange(250) for _ in range(rng.choice(lengths)))

    lengths = [0, 1, size - 1, size, size + 1, 2 * size, 2 * size + 5]
    requests = []
    for _ in range(stems):
        subject = some(lengths)
        for _ in range(rng.randint(1, 3)):
            question = subject + some(lengths)
            target = some([1, 1, 3, size + 2])
            # Options with a common beginning, as "the heart" and "the lungs".
            options = [target[: rng.randint(0, len(target))] + some([1, 2]) for _ in range(most)]
            requests += [LikelihoodRequest(question, option) for option in options[:3]]
            requests.append(LikelihoodRequest(question, rng.choice(options)))
    rng.shuffle(requests)
    return requests


def rows_run(records):
    return sum(record.rows for record in records if isinstance(record, PassRecord))


def slots(records):
    return [record.slots for record in records if isinstance(record, SlotsChosen)]


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


def assert_plain(got, model, requests, mode="published", size=32, tolerance=EXACT):
    expected = plain_scores(model, requests, mode, size)
    assert [g.logprob for g in got] == pytest.approx([e for e, _ in expected], abs=tolerance, rel=0)
    assert [g.is_greedy for g in got] == [greedy for _, greedy in expected]


def test_a_changed_token_far_away_changes_scores_far_more_than_the_tolerance(steady):
    near, far = ((token, *range(1, 100)) for token in (0, 200))
    one, other = score(steady, [LikelihoodRequest(near, (3,)), LikelihoodRequest(far, (3,))], **IDS)
    assert abs(one.logprob - other.logprob) > 1000 * EXACT


@pytest.mark.parametrize("mode", ["published", "chain"])
@pytest.mark.parametrize("size", [32, 16, 8])
@pytest.mark.parametrize("seed", range(4))
def test_scores_equal_one_plain_pass_per_input(steady, seed, size, mode):
    requests = nested_requests(seed, size)
    got = score(steady, requests, mode=mode, block_size=size, **IDS)
    assert_plain(got, steady, requests, mode, size)


@pytest.mark.parametrize("mode", ["published", "chain"])
@pytest.mark.parametrize("name", ["m6", "m14", "m28"])
def test_sharing_changes_no_golden_score(golden_model, name, mode):
    model, requests = golden_model(name), nested_requests(1, 32, stems=2)
    got = score(model, requests, mode=mode, **IDS)
    for request, own, alone in zip(
        requests, got, one_by_one(FusedModel(model), requests, mode), strict=True
    ):
        assert own.logprob == pytest.approx(alone, abs=EXACT * len(request.target_ids), rel=0)
    assert_plain(got, model, requests, mode, tolerance=OF_GOLDEN)


@pytest.mark.parametrize("mode", ["published", "chain"])
@pytest.mark.parametrize("batch_size", [1, 2, 5, 32])
@pytest.mark.parametrize("seed", range(5))
def test_every_distinct_block_runs_once_whatever_is_in_memory(steady, seed, batch_size, mode):
    size = (32, 16, 8)[seed % 3]
    requests, records = nested_requests(seed, size), []
    got = score(
        steady,
        requests,
        mode=mode,
        block_size=size,
        batch_size=batch_size,
        observe=records.append,
        **IDS,
    )
    assert rows_run(records) == distinct_rows(requests, mode, size)
    assert slots(records)[0] <= batch_size
    assert_plain(got, steady, requests, mode, size)


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
