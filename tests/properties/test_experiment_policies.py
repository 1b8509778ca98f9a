"""The policies of experiments/: what they claim, against plain decoding and slow decoders."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastdllm import DecodingSettings, Request, decode
from fastdllm.decoding.policy_files import load_policy
from fastdllm.decoding.spans import SpanStores
from fastdllm.policy import Policy, default_policy
from fastdllm.settings import LAYER_SUBSETS, layer_span
from fastdllm.workflow.project.config_files import EXPERIMENTS
from tests.support.slow_decoder import assert_equal, slow_decode
from tests.support.traces import run

MASK, STOP = 255, 254
POLICIES = sorted(EXPERIMENTS.glob("[0-9]*/generation_functions.py"))
few = settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
prompts = st.lists(st.integers(0, 249), min_size=1, max_size=70).map(tuple)
lookaheads = st.tuples(st.sampled_from([0, 1, 3]), st.sampled_from([0.5, 0.9]))


def chosen_settings(**values):
    return DecodingSettings(max_new_tokens=40, mask_id=MASK, stop_token=STOP, **values)


def policy_of(experiment, chosen, **parameters):
    policy = load_policy(EXPERIMENTS / experiment / "generation_functions.py")
    return policy(chosen, policy.Parameters(**parameters), 6)


def steps_of(model, prompt, policy):
    return list(decode(model, [Request(prompt)], policy))


@pytest.mark.parametrize("path", POLICIES, ids=lambda path: path.parent.name)
@pytest.mark.parametrize("subset", [*LAYER_SUBSETS, (2, 5)])
def test_with_k_1_each_policy_gives_bit_identical_logits(golden_model, path, subset, monkeypatch):
    model = golden_model("m6")
    chosen = chosen_settings(threshold=0.6, reuse_k=1, layer_subset=subset)
    policy = load_policy(path)
    assert policy.computation(chosen, policy.Parameters()).is_plain
    recorded: list[torch.Tensor] = []
    from fastdllm.model.fused import FusedModel

    compute = FusedModel.logits
    monkeypatch.setattr(
        FusedModel,
        "logits",
        lambda self, hidden: recorded.append(compute(self, hidden)) or recorded[-1].clone(),
    )
    prompt = tuple(range(3, 43))
    plain = steps_of(model, prompt, Policy(chosen, Policy.Parameters(), 6))
    expected, recorded[:] = list(recorded), []
    assert steps_of(model, prompt, policy(chosen, policy.Parameters(), 6)) == plain
    assert len(recorded) == len(expected) > 5
    assert all(torch.equal(a, b) for a, b in zip(recorded, expected, strict=True))


@few
@given(
    prompt=prompts,
    threshold=st.sampled_from([0.3, 0.6, 0.9]),
    reuse_k=st.integers(2, 4),
    subset=st.sampled_from([*LAYER_SUBSETS, (2, 4)]),
    experiment=st.sampled_from(["02_delta_reuse", "04_lookahead"]),
    lookahead=lookaheads,
)
def test_delta_reuse_equals_patched_layers(
    golden_model, prompt, threshold, reuse_k, subset, experiment, lookahead
):
    model = golden_model("m6")
    chosen = chosen_settings(
        threshold=threshold,
        reuse_k=reuse_k,
        layer_subset=subset,
        lookahead_depth=lookahead[0],
        lookahead_threshold=lookahead[1],
    )
    trace = run(model, [Request(prompt)], chosen, policy_of(experiment, chosen))[0]
    span = range(*layer_span(subset, 6))
    margins: list[float] = []
    expected = slow_decode(model, prompt, chosen, MASK, STOP, span, add=True, margins=margins)
    assert_equal((trace.generation.token_ids, trace.order), expected, margins)


@few
@given(
    prompt=prompts,
    threshold=st.sampled_from([0.6, 0.9]),
    reuse_k=st.integers(2, 4),
    subset=st.sampled_from([*LAYER_SUBSETS, (2, 4)]),
    tau=st.sampled_from([0.03, 0.1, 0.3, 1.0]),
)
def test_adaptive_skip_equals_layers_patched_by_the_same_signal(
    golden_model, prompt, threshold, reuse_k, subset, tau
):
    model = golden_model("m6")
    chosen = chosen_settings(threshold=threshold, reuse_k=reuse_k, layer_subset=subset)
    policy = policy_of("01_adaptive_skip", chosen, tau_skip=tau)
    trace = run(model, [Request(prompt)], chosen, policy)[0]
    span = range(*layer_span(subset, 6))
    margins: list[float] = []
    expected = slow_decode(
        model, prompt, chosen, MASK, STOP, span, add=True, tau=tau, margins=margins
    )
    assert_equal((trace.generation.token_ids, trace.order), expected, margins)


@pytest.mark.parametrize("signal", ["input_change", "tokens_committed", "lowest_confidence"])
def test_the_signals_reach_from_never_to_always_skipping(golden_model, signal):
    model, prompt = golden_model("m6"), tuple(range(3, 43))
    chosen = chosen_settings(threshold=0.9, reuse_k=3, layer_subset="middle")
    never, always = (0.0, 1e9) if signal != "lowest_confidence" else (1e9, 0.0)
    plain = run(model, [Request(prompt)], chosen, Policy(chosen, Policy.Parameters(), 6))[0]
    policy = policy_of("01_adaptive_skip", chosen, tau_skip=never, signal=signal)
    trace = run(model, [Request(prompt)], chosen, policy)[0]
    assert trace.generation == plain.generation
    policy = policy_of("01_adaptive_skip", chosen, tau_skip=always, signal=signal)
    steps = steps_of(model, prompt, policy)
    skipped = [step.layers_skipped > 0 for step in steps if step.sub_block is not None]
    assert any(skipped)
    runs = "".join("s" if skip else " " for skip in skipped).split()
    assert max(map(len, runs)) == 2  # reuse_k 3: at most two in a row


def test_what_a_policy_measured_is_in_the_steps(golden_model):
    chosen = chosen_settings(threshold=0.9, reuse_k=3, layer_subset="middle")
    policy = policy_of("01_adaptive_skip", chosen, tau_skip=0.2)
    steps = steps_of(golden_model("m6"), tuple(range(3, 43)), policy)
    for step in steps:
        assert len(step.input_changes) == (step.kind == "sub_block")
        if step.layers_skipped:
            assert step.input_changes[0] <= 0.2
    measured = [step.input_changes[0] for step in steps if step.input_changes]
    assert measured and all(math.isfinite(change) for change in measured)


@few
@given(prompts=st.lists(prompts, min_size=2, max_size=4, unique=True))
def test_adaptive_skip_does_not_depend_on_the_batch(golden_model, prompts):
    model = golden_model("m6")
    chosen = chosen_settings(threshold=0.9, reuse_k=4, layer_subset="last", lookahead_depth=1)
    policy = policy_of("01_adaptive_skip", chosen, tau_skip=0.1)
    together = run(model, [Request(prompt) for prompt in prompts], chosen, policy)
    for prompt, trace in zip(prompts, together, strict=True):
        assert run(model, [Request(prompt)], chosen, policy)[0] == trace


@pytest.mark.parametrize("experiment", ["00_baseline", "01_adaptive_skip", "02_delta_reuse"])
def test_what_a_block_stored_is_never_read_after_it(golden_model, experiment, monkeypatch):
    model, prompt = golden_model("m6"), tuple(range(3, 43))
    chosen = DecodingSettings(
        max_new_tokens=150, threshold=0.9, mask_id=MASK, reuse_k=3, layer_subset="middle"
    )
    policy = policy_of(experiment, chosen)
    expected = steps_of(model, prompt, policy)
    assert sum(step.kind == "commit" for step in expected) >= 3
    assert any(step.layers_skipped for step in expected if step.block == expected[-1].block)
    drop, poisoned = SpanStores.drop, []

    def poison(self, slot):
        drop(self, slot)
        for stored in (*self.inputs.values(), *self.outputs.values()):
            stored[slot] = torch.nan
        poisoned.append(slot)

    monkeypatch.setattr(SpanStores, "drop", poison)
    assert steps_of(model, prompt, policy) == expected
    assert len(poisoned) >= 3


@few
@given(
    prompt=prompts,
    reuse_k=st.integers(1, 3),
    subset=st.sampled_from(LAYER_SUBSETS),
    path=st.sampled_from(POLICIES),
)
def test_configs_called_one_computation_give_the_same_tokens(
    golden_model, prompt, reuse_k, subset, path
):
    model, policy = golden_model("m6"), load_policy(path)
    chosen = chosen_settings(threshold=0.6, reuse_k=reuse_k, layer_subset=subset)
    claim = policy.computation(chosen, policy.Parameters())
    other = chosen
    if claim.is_plain:
        other = chosen_settings(threshold=0.6)
        against = default_policy(other, 6)
    elif "layer_subset" in claim.ignored:
        other = chosen_settings(threshold=0.6, reuse_k=reuse_k, layer_subset=(2, 5))
        against = policy(other, policy.Parameters(), 6)
    else:
        return
    mine = run(model, [Request(prompt)], chosen, policy(chosen, policy.Parameters(), 6))
    assert mine == run(model, [Request(prompt)], other, against)
