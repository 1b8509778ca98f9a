"""The decoder equals an independent slow one on random prompts and settings."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastdllm import DecodingSettings, Request
from fastdllm.settings import LAYER_SUBSETS, layer_span
from tests.support.slow_decoder import assert_equal, slow_decode
from tests.support.traces import run

MASK, STOP = 255, 254
few = settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

prompts = st.lists(st.integers(0, 249), min_size=1, max_size=70)
lookaheads = st.tuples(st.sampled_from([0, 1, 2, 3, 9]), st.sampled_from([0.0, 0.4, 0.7, 0.95]))
blocks = st.sampled_from([(32, 8), (32, 16), (32, 32), (16, 4), (8, 8), (64, 16), (9, 3), (5, 5)])


def test_confidences_that_differ_in_the_seventh_digit_decide_the_order(golden_model):
    model, prompt = golden_model("m6"), [203, 185, 147, 174, 117, 75, 228, 78, 46]
    chosen = DecodingSettings(
        threshold=1.0,
        block_size=16,
        small_block_size=4,
        max_new_tokens=4,
        mask_id=MASK,
        stop_token=STOP,
    )
    trace = run(model, [Request(tuple(prompt))], chosen)[0]
    expected = slow_decode(model, prompt, chosen, MASK, STOP)
    assert (trace.generation.token_ids, trace.order) == expected


@few
@given(
    prompt=prompts,
    block=blocks,
    threshold=st.sampled_from([0.0, 0.3, 0.7, 0.9, 1.0]),
    use_block_cache=st.booleans(),
    max_new_tokens=st.integers(1, 60),
    stop=st.sampled_from([STOP, 223, 147, 67]),
    lookahead=lookaheads,
)
def test_any_settings_give_the_slow_decoders_tokens_and_passes(
    golden_model, prompt, block, threshold, use_block_cache, max_new_tokens, stop, lookahead
):
    model = golden_model("m6")
    chosen = DecodingSettings(
        threshold=threshold,
        block_size=block[0],
        small_block_size=block[1],
        use_block_cache=use_block_cache,
        max_new_tokens=max_new_tokens,
        mask_id=MASK,
        stop_token=stop,
        lookahead_depth=lookahead[0],
        lookahead_threshold=lookahead[1],
    )
    trace = run(model, [Request(tuple(prompt))], chosen)[0]
    margins: list[float] = []
    expected = slow_decode(model, prompt, chosen, MASK, stop, margins=margins)
    assert_equal((trace.generation.token_ids, trace.order), expected, margins)


@few
@given(
    prompt=prompts,
    threshold=st.sampled_from([0.5, 0.9, 1.0]),
    reuse_k=st.integers(1, 4),
    layer_subset=st.sampled_from([*LAYER_SUBSETS, (1, 4), (0, 6)]),
    lookahead=lookaheads,
)
def test_output_reuse_equals_patched_layers_for_each_subset(
    golden_model, prompt, threshold, reuse_k, layer_subset, lookahead
):
    model = golden_model("m6")
    chosen = DecodingSettings(
        threshold=threshold,
        max_new_tokens=40,
        mask_id=MASK,
        stop_token=STOP,
        reuse_k=reuse_k,
        layer_subset=layer_subset,
        lookahead_depth=lookahead[0],
        lookahead_threshold=lookahead[1],
    )
    trace = run(model, [Request(tuple(prompt))], chosen)[0]
    span = range(*layer_span(layer_subset, model.config.num_layers))
    margins: list[float] = []
    expected = slow_decode(model, prompt, chosen, MASK, STOP, span, margins=margins)
    assert_equal((trace.generation.token_ids, trace.order), expected, margins)
    if reuse_k == 1:
        assert trace.generation.passes.reused == 0


@few
@given(prompt=prompts, threshold=st.sampled_from([0.0, 0.3, 0.7, 1.0]))
def test_a_block_cache_changes_nothing_where_the_sub_block_is_the_block(
    golden_model, prompt, threshold
):
    """So both are one computation (workflow/project/computations.py)."""
    model = golden_model("m6")
    chosen = DecodingSettings(
        threshold=threshold,
        block_size=16,
        small_block_size=16,
        max_new_tokens=30,
        mask_id=MASK,
        stop_token=STOP,
    )
    with_cache, without = (
        run(model, [Request(tuple(prompt))], chosen.model_copy(update={"use_block_cache": is_on}))[
            0
        ]
        for is_on in (True, False)
    )
    # A sub-block pass over the whole block is a full pass under another name.
    assert with_cache.order.replace("S", "F") == without.order
    one, other = (trace.generation for trace in (with_cache, without))
    assert one.token_ids == other.token_ids
    assert one.passes.forwards == other.passes.forwards
    assert one.passes.layer_forwards_computed == other.passes.layer_forwards_computed
