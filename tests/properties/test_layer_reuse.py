"""Layer reuse equals patched layers of the slow decoder, for a sequence alone and in a batch."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastdllm import DecodingSettings, Request
from fastdllm.settings import LAYER_SUBSETS, layer_span
from tests.support.policies import DeltaReuse, SpanOutputReuse, StaggeredSpans
from tests.support.slow_decoder import assert_equal, slow_decode
from tests.support.traces import run

MASK, STOP = 255, 254
few = settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
prompts = st.lists(st.integers(0, 249), min_size=1, max_size=70).map(tuple)


def chosen_settings(**values):
    return DecodingSettings(max_new_tokens=40, mask_id=MASK, stop_token=STOP, **values)


def make(policy_class, chosen, model):
    return policy_class(chosen, policy_class.Parameters(), model.config.num_layers)


@few
@given(
    prompt=prompts,
    threshold=st.sampled_from([0.3, 0.6, 0.9]),
    reuse_k=st.integers(1, 3),
    layer_subset=st.sampled_from([*LAYER_SUBSETS, (2, 4), (0, 6)]),
    policy_class=st.sampled_from([DeltaReuse, SpanOutputReuse]),
    lookahead_depth=st.sampled_from([0, 0, 1, 3]),
)
def test_a_reused_span_equals_patched_layers(
    golden_model, prompt, threshold, reuse_k, layer_subset, policy_class, lookahead_depth
):
    model = golden_model("m6")
    chosen = chosen_settings(
        threshold=threshold,
        reuse_k=reuse_k,
        layer_subset=layer_subset,
        lookahead_depth=lookahead_depth,
        lookahead_threshold=0.5,
    )
    trace = run(model, [Request(prompt)], chosen, make(policy_class, chosen, model))[0]
    span = range(*layer_span(layer_subset, model.config.num_layers))
    margins: list[float] = []
    expected = slow_decode(
        model,
        prompt,
        chosen,
        MASK,
        STOP,
        span,
        add=policy_class is DeltaReuse,
        margins=margins,
    )
    assert_equal((trace.generation.token_ids, trace.order), expected, margins)


@few
@given(
    prompts=st.lists(prompts, min_size=2, max_size=5, unique=True),
    temperature=st.sampled_from([0.0, 0.7]),
    lengths=st.lists(st.integers(1, 50), min_size=5, max_size=5),
)
def test_spans_with_mixed_actions_do_not_depend_on_the_batch(
    golden_model, prompts, temperature, lengths
):
    model = golden_model("m6")
    chosen = chosen_settings(temperature=temperature)
    requests = [Request(p, max_new_tokens=n) for p, n in zip(prompts, lengths, strict=False)]

    def decoded(some):
        traces = run(model, some, chosen, make(StaggeredSpans, chosen, model))
        return [(trace.generation, trace.steps) for trace in traces]

    assert decoded(requests) == [decoded([request])[0] for request in requests]


def test_staggered_spans_really_mix_their_actions(golden_model):
    model, taken = golden_model("m6"), set()

    class Watch(StaggeredSpans):
        def span_actions(self, span, states, signals):
            actions = super().span_actions(span, states, signals)
            taken.add(tuple(actions))
            return actions

    chosen = chosen_settings()
    run(model, [Request((1, 2, 3)), Request(tuple(range(40)))], chosen, make(Watch, chosen, model))
    assert len({action for pair in taken for action in pair}) == 3
    assert any(len(set(pair)) == 2 for pair in taken if len(pair) == 2)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_windows_of_different_width_do_not_depend_on_the_batch(golden_model, temperature):
    """A policy may predict more than the sub-block, and another width for each sequence."""
    model = golden_model("m6")

    class Wider(DeltaReuse):
        def window(self, state, kind):
            start, stop = super().window(state, kind)
            if kind != "full_block":
                return start, stop
            return start, min(stop + 8 * (state.block % 2) + state.sub_block, 32)

    chosen = chosen_settings(temperature=temperature, reuse_k=1, layer_subset="middle")
    requests = [Request(tuple(range(n)), max_new_tokens=60) for n in (0, 5, 31, 33, 70)]

    def decoded(some):
        traces = run(model, some, chosen, make(Wider, chosen, model))
        return [(trace.generation, trace.steps) for trace in traces]

    together = decoded(requests)
    assert together == [decoded([request])[0] for request in requests]
    assert any(max(p) - min(p) >= 8 for _, steps in together for _, _, p, _ in steps)
