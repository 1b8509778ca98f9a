"""Runners-up: what a request asks to be told changes no token, and is what the model says."""

from __future__ import annotations

import pytest
import torch

from fastdllm import DecodingSettings, Request, decode, generate
from fastdllm.model.fused import FusedModel
from fastdllm.policy import PassKind, default_policy

SHORT = DecodingSettings(max_new_tokens=40, mask_id=255, stop_token=254)
PROMPTS = (tuple(range(5, 30)), tuple(range(64)), ())
SETTINGS = {
    "plain": {},
    "low threshold": {"threshold": 0.0},
    "reuse": {"reuse_k": 3, "layer_subset": "last"},
    "look-ahead": {"lookahead_depth": 2, "lookahead_threshold": 0.01, "threshold": 0.01},
    "sampled": {"temperature": 0.8, "reuse_k": 2, "layer_subset": "first"},
}


def steps_of(model, settings, asked):
    policy = default_policy(settings, model.config.num_layers)
    requests = [Request(ids, runners_up=k) for ids, k in zip(PROMPTS, asked, strict=True)]
    return list(decode(model, requests, policy))


@pytest.mark.parametrize("changes", SETTINGS.values(), ids=SETTINGS)
def test_who_asks_gets_runners_up_and_all_get_the_same_steps(golden_model, changes):
    model = golden_model("m6")
    settings = DecodingSettings(**SHORT.model_dump(exclude_unset=True) | changes)
    asked = (2, 0, 5)
    steps = steps_of(model, settings, asked)
    assert [s._replace(choices=(), proposed=()) for s in steps] == steps_of(
        model, settings, (0, 0, 0)
    )
    for step in steps:
        k = asked[step.request]
        assert len(step.choices) == (len(step.tokens) if k else 0)
        if k and step.confidences:
            assert step.confidences == tuple(choice.confidence for choice in step.choices)
        for token, (confidence, runners_up) in zip(step.tokens, step.choices, strict=False):
            tokens, probabilities = [list(part) for part in zip(*runners_up, strict=True)]
            assert len({*tokens, token, 255}) == k + 2
            assert probabilities == sorted(probabilities, reverse=True)
            if settings.temperature == 0 or step.kind in (PassKind.COMMIT, PassKind.PREFILL):
                assert probabilities[0] <= confidence
                assert confidence + sum(probabilities) < 1 + 1e-5


def test_runners_up_and_proposals_are_those_of_the_logits(golden_model):
    seen = []

    class Watched(FusedModel):
        def logits(self, hidden):
            rows = super().logits(hidden)
            seen.append(rows.clone())
            return rows

    model = golden_model("m6")
    prompt = PROMPTS[0]
    policy = default_policy(SHORT, model.config.num_layers)
    step = next(decode(Watched(model), [Request(prompt, runners_up=3)], policy))
    assert step.kind is PassKind.FULL_BLOCK
    logits = seen[0].clone()
    logits[:, 255] = -torch.inf
    # The row of the last known position predicts the first mask, and so on.
    probabilities = logits.softmax(dim=-1)[-(32 - len(prompt)) :]
    expected = {
        len(prompt) + n: sorted(enumerate(row.tolist()), key=lambda pair: -pair[1])[:4]
        for n, row in enumerate(probabilities)
    }
    for position, token, choice in zip(step.positions, step.tokens, step.choices, strict=True):
        assert [(token, choice.confidence), *choice.runners_up] == expected.pop(position)
    assert {p: (token, confidence) for p, token, confidence in step.proposed} == {
        position: candidates[0] for position, candidates in expected.items()
    }


@pytest.mark.parametrize("count", [-1, 6])
def test_a_number_out_of_range_is_refused_alone(golden_model, count):
    answer, fine = generate(golden_model("m6"), [Request((5,), runners_up=count), (5,)], SHORT)
    assert answer.finish_reason == "refused" and f"runners_up: {count}" in answer.error
    assert fine.finish_reason != "refused"
