"""Requests: exact lengths, stop conditions, empty prompts, and clear refusals."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from fastdllm import DecodingSettings, Request, UserError, decode, generate
from fastdllm.fused import FusedModel
from fastdllm.model import BlockDiffusionModel
from fastdllm.policy import default_policy

CHOSEN = DecodingSettings(max_new_tokens=40, mask_id=255, stop_token=254)
PROMPT = tuple(range(5, 30))


@pytest.mark.parametrize("count", [1, 2, 7, 8, 31, 32, 33, 64])
@pytest.mark.parametrize("prompt_length", [0, 1, 31, 32, 33, 64])
def test_exactly_max_new_tokens_come_out(golden_model, count, prompt_length):
    request = Request(tuple(range(prompt_length)), max_new_tokens=count)
    answer = generate(golden_model("m6"), [request], CHOSEN)[0]
    if answer.finish_reason == "length":
        assert len(answer.token_ids) == count
    else:
        assert answer.token_ids[-1] == 254


def test_no_pass_is_run_after_the_last_token_that_is_wanted(golden_model):
    model = golden_model("m6")
    answers = [
        generate(model, [Request(PROMPT, max_new_tokens=n)], CHOSEN)[0] for n in range(1, 40)
    ]
    for shorter, longer in pairwise(answers):
        assert longer.token_ids[: len(shorter.token_ids)] == shorter.token_ids
        assert longer.passes.forwards >= shorter.passes.forwards
    # Up to the end of the prompt's block nothing is committed.
    assert all(answer.passes.commit == 0 for answer in answers[: 32 - len(PROMPT)])


def test_a_stop_condition_ends_at_the_first_prefix_that_it_accepts(golden_model):
    model = golden_model("m6")
    whole = generate(model, [PROMPT], CHOSEN)[0]
    target = whole.token_ids[:11]
    seen = []

    def stop_when(tokens):
        seen.append(len(tokens))
        return list(tokens) == target

    answer = generate(model, [Request(PROMPT, stop_when=stop_when)], CHOSEN)[0]
    assert answer.token_ids == target
    assert answer.finish_reason == "stop_when"
    assert answer.passes.forwards < whole.passes.forwards
    assert seen == list(range(1, 12))


def test_no_requests_give_no_answers(golden_model):
    assert generate(golden_model("m6"), [], CHOSEN) == []


@pytest.mark.parametrize(
    ("request_", "problem"),
    [
        (Request((1, 256)), "request 1: token 256 is outside the model's vocabulary of 256"),
        (Request((1,), max_new_tokens=0), "max_new_tokens: 0 is not allowed"),
        (Request((1,), max_new_tokens=9_999), "exceed the model's 4096 positions"),
        (Request((1,), temperature=-1.0), "temperature: -1.0 is not allowed"),
    ],
)
def test_a_request_that_does_not_fit_is_named_before_anything_is_decoded(
    golden_model, request_, problem
):
    with pytest.raises(UserError, match=problem):
        generate(golden_model("m6"), [Request((1,)), request_], CHOSEN)


def test_a_model_without_a_mask_token_asks_for_one(golden_model):
    with pytest.raises(UserError, match="give one with the setting mask_id"):
        generate(golden_model("m6"), [(1,)], DecodingSettings())
    with pytest.raises(UserError, match="mask_id 300 is outside"):
        generate(golden_model("m6"), [(1,)], DecodingSettings(mask_id=300))


def test_a_model_too_shallow_for_a_span_is_refused(golden_model):
    shallow = BlockDiffusionModel(replace(golden_model("m6").config, num_layers=1))
    chosen = DecodingSettings(mask_id=255, reuse_k=2, layer_subset="last")
    with pytest.raises(UserError, match="needs a model with at least 2 layers; this one has 1"):
        generate(shallow, [(1, 2)], chosen)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("prompt_length", [0, 31, 32, 64])
def test_the_mask_token_is_never_chosen_even_by_a_model_that_wants_nothing_else(
    golden_model, prompt_length, temperature
):
    class WantsTheMask(FusedModel):
        def logits(self, hidden):
            logits = super().logits(hidden)
            logits[..., 255] = 1e4
            return logits

    model = WantsTheMask(golden_model("m6"))
    chosen = CHOSEN.model_copy(update={"max_new_tokens": 70, "temperature": temperature})
    answer = generate(model, [tuple(range(prompt_length))], chosen)[0]
    assert 255 not in answer.token_ids
    assert answer.finish_reason == "stop" or len(answer.token_ids) == 70


def test_a_step_tells_how_many_rows_its_pass_ran(golden_model):
    chosen = CHOSEN.model_copy(update={"reuse_k": 2, "layer_subset": "last"})
    model = golden_model("m6")
    policy = default_policy(chosen, model.config.num_layers)
    steps = decode(model, [Request(tuple(range(70)))], policy, chosen)
    rows = {}
    for step in steps:
        rows.setdefault(step.kind.value, set()).add(step.rows)
    assert rows == {
        "prefill": {64},
        "full_block": {32},
        "sub_block": {8},
        "commit": {32},
        "reused": {0},
    }


def test_the_default_block_size_must_be_that_of_the_training(golden_model):
    trained = golden_model("m6")
    model = BlockDiffusionModel(replace(trained.config, block_size=16))
    model.load_state_dict(trained.state_dict())
    with pytest.raises(UserError, match="trained with blocks of 16 tokens"):
        generate(model, [PROMPT], CHOSEN)
    chosen = DecodingSettings(**CHOSEN.model_dump(exclude_unset=True), block_size=32)
    assert generate(model.eval(), [PROMPT], chosen) == generate(trained, [PROMPT], CHOSEN)
