"""What shares a batch changes nothing: not the tokens, not the passes, not the samples."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastdllm import DecodingSettings, Request, generate

few = settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
# Prompts that end with a block get their first token from the prefill; others do not.
lengths_of_prompts = st.one_of(st.sampled_from([31, 32, 33, 64, 65]), st.integers(0, 70))
prompts = st.lists(
    lengths_of_prompts.flatmap(
        lambda n: st.lists(st.integers(0, 249), min_size=n, max_size=n).map(tuple)
    ),
    min_size=2,
    max_size=4,
    unique=True,
)


@few
@given(prompts=prompts, seed=st.integers(0, 3), reuse_k=st.integers(1, 3))
def test_samples_do_not_depend_on_the_batch_and_repeat_with_the_seed(
    golden_model, prompts, seed, reuse_k
):
    chosen = DecodingSettings(
        temperature=0.8,
        seed=seed,
        max_new_tokens=24,
        mask_id=255,
        stop_token=254,
        reuse_k=reuse_k,
        layer_subset="last",
    )
    model = golden_model("m6")
    together = generate(model, prompts, chosen)
    assert together == generate(model, prompts, chosen)
    assert together == [generate(model, [prompt], chosen)[0] for prompt in prompts]


@pytest.mark.parametrize("lengths", [(70, 64), (64, 70), (40, 32, 45), (65, 64, 64)])
def test_rows_that_end_with_a_block_and_rows_that_do_not_share_a_prefill(golden_model, lengths):
    model = golden_model("m6")
    chosen = DecodingSettings(max_new_tokens=20, mask_id=255, stop_token=254)
    requests = [tuple(range(start, start + n)) for start, n in enumerate(lengths)]
    together = generate(model, requests, chosen)
    assert together == [generate(model, [request], chosen)[0] for request in requests]


def test_copies_of_a_prompt_are_sampled_apart_and_other_seeds_give_other_tokens(golden_model):
    model, prompt = golden_model("m6"), tuple(range(20))
    chosen = DecodingSettings(temperature=1.5, top_p=1.0, max_new_tokens=32, mask_id=255)
    first, second = generate(model, [prompt, prompt], chosen)
    assert first.token_ids != second.token_ids
    other = generate(model, [prompt], chosen.model_copy(update={"seed": 1}))[0]
    assert other.token_ids != first.token_ids


def test_requests_may_differ_in_temperature_within_a_batch(golden_model):
    model, prompt = golden_model("m6"), tuple(range(20))
    chosen = DecodingSettings(max_new_tokens=24, mask_id=255)
    greedy, sampled = generate(
        model, [Request(prompt), Request(prompt, temperature=2.0, top_p=1.0)], chosen
    )
    assert greedy == generate(model, [prompt], chosen)[0]
    assert sampled.token_ids != greedy.token_ids


def test_seed_and_nucleus_of_a_request_win_over_the_settings(golden_model):
    model, prompt = golden_model("m6"), tuple(range(20))
    chosen = DecodingSettings(max_new_tokens=24, mask_id=255, temperature=1.5, top_p=1.0)
    first, again, other = generate(
        model, [Request(prompt, seed=1), Request(prompt, seed=1), Request(prompt, seed=2)], chosen
    )
    assert first == again
    assert first.token_ids != other.token_ids
    narrow = generate(model, [Request(prompt, top_p=1e-6, seed=s) for s in (1, 2)], chosen)
    assert narrow[0] == narrow[1], "from a nucleus of one token every seed draws the same"
