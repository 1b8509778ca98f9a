"""Requests: exact lengths, stop conditions, empty prompts, and refusals that touch no other."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy
import pytest
import torch

from fastdllm import (
    DecodingSettings,
    Generation,
    PassCounts,
    Request,
    UserError,
    decode,
    generate,
)
from fastdllm.model.fused import FusedModel
from fastdllm.model.plain import BlockDiffusionModel
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
    counts = (1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 24, 31, 38, 39)
    answers = [generate(model, [Request(PROMPT, max_new_tokens=n)], CHOSEN)[0] for n in counts]
    for shorter, longer in pairwise(answers):
        assert longer.token_ids[: len(shorter.token_ids)] == shorter.token_ids
        assert longer.passes.forwards >= shorter.passes.forwards
    # Up to the end of the prompt's block nothing is committed.
    in_block = [a for n, a in zip(counts, answers, strict=True) if n <= 32 - len(PROMPT)]
    assert [answer.passes.commit for answer in in_block] == [0] * 5


def test_a_stop_condition_ends_at_the_first_prefix_that_it_accepts(golden_model):
    model = golden_model("m6")
    full_answer = generate(model, [PROMPT], CHOSEN)[0]
    target = full_answer.token_ids[:11]
    seen = []

    def stop_when(tokens):
        seen.append(len(tokens))
        return list(tokens) == target

    answer = generate(model, [Request(PROMPT, stop_when=stop_when)], CHOSEN)[0]
    assert answer.token_ids == target
    assert answer.finish_reason == "stop_when"
    assert answer.passes.forwards < full_answer.passes.forwards
    assert seen == list(range(1, 12))


def test_no_requests_give_no_answers(golden_model):
    assert generate(golden_model("m6"), [], CHOSEN) == []


BAD = [
    (Request((1, 256)), "token 256 is outside the model's vocabulary of 256"),
    (Request((1, -1)), "token -1 is outside the model's vocabulary of 256"),
    (Request(PROMPT, max_new_tokens=-1), "max_new_tokens: -1 is not allowed"),
    (Request(PROMPT, max_new_tokens=9_999), "25 prompt tokens and 9999 new ones exceed the model"),
    (Request((1,) * 4_097, max_new_tokens=0), "4097 prompt tokens and 0 new ones exceed the model"),
    (Request(PROMPT, temperature=-1.0), "temperature: -1.0 is not allowed"),
    (Request(PROMPT, top_p=0.0), "top_p: 0.0 is not allowed"),
    (Request(PROMPT, seed=2**64), "seed: 18446744073709551616 is not allowed"),
    (Request((1, 2.5)), "the prompt should be token ids: 'float' object"),
    (Request("text"), "the prompt should be token ids: 'str' object"),
    (Request((1, 255, 2)), "the prompt holds the mask token 255"),
]


@pytest.mark.parametrize(("bad", "problem"), BAD)
@pytest.mark.parametrize("place", [0, 2, 3])
def test_a_bad_request_is_refused_alone_and_changes_no_other_answer(
    golden_model, bad, problem, place
):
    chosen = CHOSEN.model_copy(update={"temperature": 0.8, "max_new_tokens": 20})
    # The copy is drawn differently from the first; a refused copy must not be counted.
    good = [Request(PROMPT), Request((7, 8, 9)), Request(PROMPT)]
    alone = generate(golden_model("m6"), good, chosen)
    together = generate(golden_model("m6"), [*good[:place], bad, *good[place:]], chosen)
    refused = together.pop(place)
    assert together == alone
    assert alone[0].token_ids != alone[2].token_ids
    assert (refused.token_ids, refused.finish_reason) == ([], "refused")
    assert refused.passes == PassCounts()
    assert refused.error.startswith(problem)
    assert "\n" not in refused.error


@pytest.mark.parametrize("form", [numpy.array, torch.tensor, list], ids=["numpy", "torch", "list"])
def test_ids_of_any_kind_are_sampled_like_pythons_own(golden_model, form):
    chosen = CHOSEN.model_copy(update={"temperature": 0.8, "max_new_tokens": 20})
    expected = generate(golden_model("m6"), [PROMPT, PROMPT], chosen)
    assert generate(golden_model("m6"), [form(PROMPT), form(PROMPT)], chosen) == expected
    assert expected[0] != expected[1]


def test_bad_requests_only_are_all_refused_without_a_pass(golden_model):
    model = golden_model("m6")
    policy = default_policy(CHOSEN, model.config.num_layers)
    heard = []
    bad = [request for request, _ in BAD]
    steps = list(decode(model, bad, policy, observe=heard.append))
    assert [step.request for step in steps] == list(range(len(BAD)))
    assert all((step.kind, step.positions, step.rows) == (None, (), 0) for step in steps)
    assert all(step.finished.finish_reason == "refused" for step in steps)
    assert heard == []


def test_no_new_tokens_are_an_empty_answer_without_a_pass(golden_model):
    good = [Request(PROMPT), Request((7, 8, 9))]
    nothing = Request(tuple(range(64)), max_new_tokens=0)
    answers = generate(golden_model("m6"), [good[0], nothing, good[1]], CHOSEN)
    assert answers[1] == Generation([], "length", PassCounts())
    assert [answers[0], answers[2]] == generate(golden_model("m6"), good, CHOSEN)


def test_a_request_may_fill_all_whole_blocks_of_the_model_and_no_more(golden_model):
    trained = golden_model("m6")
    model = BlockDiffusionModel(replace(trained.config, max_positions=100))
    model.load_state_dict(trained.state_dict())
    fits, too_long = Request(PROMPT, max_new_tokens=71), Request(PROMPT, max_new_tokens=72)
    answers = generate(model.eval(), [fits, too_long], CHOSEN)
    assert answers[0] == generate(trained, [fits], CHOSEN)[0]
    assert "exceed the model's 96 positions" in answers[1].error


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
    steps = decode(model, [Request(tuple(range(70)))], policy)
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


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"small_block_size": 5}, "settings: small_block_size 5 does not divide block_size 32"),
        ({"threshold": 7.0}, "settings: threshold: 7.0 is not allowed"),
        ({"reuse_k": 2}, "settings: reuse_k 2 needs layer_subset as well"),
    ],
)
def test_a_copy_of_settings_is_checked_like_the_settings(golden_model, changes, problem):
    with pytest.raises(UserError, match=problem):
        generate(golden_model("m6"), [PROMPT], CHOSEN.model_copy(update=changes))


def test_settings_beside_a_policy_that_was_made_for_others_are_refused(golden_model):
    model = golden_model("m6")
    policy = default_policy(CHOSEN, model.config.num_layers)
    other = CHOSEN.model_copy(update={"threshold": 0.5})
    with pytest.raises(UserError, match="the policy was made for other settings"):
        generate(model, [PROMPT], other, policy)
    expected = generate(model, [PROMPT], CHOSEN)
    assert generate(model, [PROMPT], CHOSEN, policy) == expected
    assert generate(model, [PROMPT], policy=policy) == expected
