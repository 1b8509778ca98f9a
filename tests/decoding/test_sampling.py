"""Sampling: the nucleus, its probabilities, and ties."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastdllm.decoding.sampling import greedy, nucleus_sample, request_seed


def test_greedy_takes_the_first_of_equal_logits_and_its_softmax_probability():
    logits = torch.tensor([[0.0, 2.0, 2.0, -1.0]])
    tokens, confidence = greedy(logits)
    assert tokens.tolist() == [1]
    assert confidence[0] == pytest.approx(logits.softmax(-1)[0, 1].item(), abs=1e-6)


@pytest.mark.parametrize("rows", [0, 1, 37])
def test_greedy_gives_bit_for_bit_what_torch_finds_among_many_ties(rows):
    generator = torch.Generator().manual_seed(rows)
    logits = torch.randint(-3, 4, (rows, 1003), generator=generator).float() * 0.7
    tokens, confidence = greedy(logits)
    expected, first = logits.softmax(-1).max(-1)
    assert torch.equal(confidence, expected)
    assert torch.equal(tokens, first)


def slow_nucleus(probabilities, top_p):
    """Tokens kept, most likely first, by the definition: one by one."""
    kept, before = [], 0.0
    for token in sorted(range(len(probabilities)), key=lambda t: -probabilities[t]):
        if before > top_p:
            break
        kept.append(token)
        before += probabilities[token]
    return kept


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    temperature=st.sampled_from([0.2, 1.0, 3.0]),
    top_p=st.sampled_from([0.01, 0.5, 0.95, 1.0]),
    draw=st.floats(0, 1, exclude_max=True, width=32),
)
def test_a_sample_is_the_inverse_transform_of_the_renormalised_nucleus(
    seed, temperature, top_p, draw
):
    logits = torch.randn(1, 12, generator=torch.Generator().manual_seed(seed)) * 3
    tokens, confidence = nucleus_sample(
        logits, temperature=temperature, top_p=top_p, uniform=torch.tensor([draw])
    )
    probabilities = (logits[0].double() / temperature).softmax(-1).tolist()
    kept = slow_nucleus(probabilities, top_p)
    total = sum(probabilities[token] for token in kept)
    assert tokens[0] in kept
    below = sum(probabilities[t] for t in kept[: kept.index(int(tokens[0]))]) / total
    own = probabilities[int(tokens[0])] / total
    assert confidence[0] == pytest.approx(own, abs=1e-4)
    assert below - 1e-4 <= draw <= below + own + 1e-4


@pytest.mark.parametrize(
    ("temperature", "expected"), [(5e-324, [2, 2, 2]), (1e-46, [2, 2, 2]), (1e308, [0, 2, 3])]
)
def test_a_temperature_beyond_float32_is_its_limit(temperature, expected):
    logits = torch.tensor([[1.0, -torch.inf, 3.0, 2.0]]).expand(3, 4)
    draws = torch.tensor([0.5, 0.2, 0.9]) if temperature > 1 else torch.tensor([0.0, 0.5, 0.9])
    tokens, confidence = nucleus_sample(logits, temperature=temperature, top_p=1.0, uniform=draws)
    assert sorted(tokens.tolist()) == expected
    assert confidence.tolist() == pytest.approx([1.0 if temperature < 1 else 1 / 3] * 3)


def test_seeds_depend_on_seed_prompt_and_occurrence_only():
    seeds = {request_seed(s, p, o) for s in (0, 1) for p in ((1,), (1, 2)) for o in (0, 1)}
    assert len(seeds) == 8
    assert request_seed(0, (1, 2), 0) == request_seed(0, [1, 2], 0)
