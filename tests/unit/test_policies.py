"""Policies: layer reuse in output mode, delta reuse through the interface, and broken rules."""

from __future__ import annotations

import pytest
import torch

from fastdllm import DecodingSettings, Request, decode, generate
from fastdllm.errors import PolicyViolation, UserError
from fastdllm.policy import (
    OutputReuse,
    PassKind,
    Policy,
    SpanAction,
    load_policy,
    policy_code_digest,
)
from fastdllm.settings import layer_span

PROMPT = tuple(range(3, 40))
CHOSEN = DecodingSettings(max_new_tokens=50, mask_id=255, stop_token=254)
REUSE = DecodingSettings(
    max_new_tokens=50, mask_id=255, stop_token=254, reuse_k=2, layer_subset="middle"
)


def run(model, policy_class, settings=CHOSEN):
    policy = policy_class(settings, policy_class.Parameters(), model.config.num_layers)
    return list(decode(model, [Request(PROMPT)], policy, settings))


class DeltaReuse(Policy):
    """Every second sub-block pass adds the stored delta of the middle layers."""

    action = SpanAction.ADD_DELTA

    def __init__(self, settings, parameters, num_layers):
        super().__init__(settings, parameters, num_layers)
        self.layer_spans = (layer_span("middle", num_layers),)
        self.changes = []

    def span_actions(self, span, states, signals):
        self.changes += signals.input_change()
        return [
            self.action if state.has_block_cache and state.block_step % 2 else SpanAction.COMPUTE
            for state in states
        ]


class SpanOutputReuse(DeltaReuse):
    action = SpanAction.REUSE_OUTPUT


class LookAtTheWholeSpan(Policy):
    """Names a span, but always computes it."""

    def __init__(self, settings, parameters, num_layers):
        super().__init__(settings, parameters, num_layers)
        self.layer_spans = ((0, 3), (5, 9))


def answer(steps):
    return steps[-1].finished


def test_output_reuse_commits_one_token_per_reused_pass_and_runs_no_layer(golden_model):
    steps = run(golden_model("m28"), OutputReuse, REUSE)
    reused = [step for step in steps if step.kind is PassKind.REUSED]
    assert reused
    assert all(len(step.positions) == 1 and step.rows == 0 for step in reused)
    assert all(step.layers_computed == 0 and step.layers_skipped == 28 for step in reused)
    passes = answer(steps).passes
    assert passes.layer_forwards_skipped == 28 * len(reused)
    assert passes.layer_forwards_computed == 28 * (passes.forwards + passes.prefill)


def test_k_of_one_is_the_plain_decoder_for_each_subset(golden_model):
    model = golden_model("m14")
    plain = generate(model, [PROMPT], CHOSEN)
    for subset in ("first", "middle", "last"):
        chosen = CHOSEN.model_copy(update={"reuse_k": 1, "layer_subset": subset})
        assert generate(model, [PROMPT], chosen) == plain
        assert answer(run(model, OutputReuse, chosen)) == plain[0]


def test_a_span_that_is_always_computed_changes_nothing(golden_model):
    model = golden_model("m14")
    plain = generate(model, [PROMPT], CHOSEN)[0]
    assert answer(run(model, LookAtTheWholeSpan)) == plain


def test_reusing_the_output_of_the_last_layers_equals_output_mode(golden_model):
    """When the last span answers from storage, what came before it is dead computation."""
    model = golden_model("m14")

    class LastSpan(SpanOutputReuse):
        def __init__(self, settings, parameters, num_layers):
            super().__init__(settings, parameters, num_layers)
            self.layer_spans = (layer_span("last", num_layers),)

        def span_actions(self, span, states, signals):
            return [
                self.action
                if not state.masked[state.sub_block * 8] and state.block_step % 2
                else SpanAction.COMPUTE
                for state in states
            ]

    whole = answer(run(model, OutputReuse, REUSE))
    assert answer(run(model, LastSpan, REUSE)).token_ids == whole.token_ids


@torch.inference_mode()
def test_delta_reuse_adds_the_stored_difference_to_the_fresh_input(golden_model):
    model = golden_model("m14")
    steps = run(model, DeltaReuse)
    start, stop = layer_span("middle", 14)
    skipping = [step for step in steps if step.layers_skipped]
    assert skipping
    assert all(step.layers_skipped == stop - start for step in skipping)
    assert all(step.layers_computed == 14 - (stop - start) for step in skipping)
    plain = generate(model, [PROMPT], CHOSEN)[0]
    assert answer(steps).token_ids != plain.token_ids


def test_a_policy_may_ask_how_much_the_input_of_a_span_changed(golden_model):
    model = golden_model("m14")
    policy = DeltaReuse(CHOSEN, DeltaReuse.Parameters(), 14)
    list(decode(model, [Request(PROMPT), Request(PROMPT[:20])], policy, CHOSEN))
    known = [change for change in policy.changes if change != float("inf")]
    assert known
    assert all(change >= 0 for change in known)
    assert float("inf") in policy.changes


def broken(**methods):
    return type("Broken", (Policy,), methods)


@pytest.mark.parametrize(
    ("methods", "rule"),
    [
        ({"next_pass": lambda *_: PassKind.COMMIT}, "only the decoder decides"),
        ({"next_pass": lambda *_: PassKind.SUB_BLOCK}, "before any full_block pass"),
        ({"next_pass": lambda *_: PassKind.REUSED}, "no pass has computed"),
        ({"window": lambda *_: (0, 99)}, "lies outside"),
        ({"accept": lambda _, p, __: p.masked | True}, "not masked"),
        ({"accept": lambda _, p, __: p.masked & False}, "no token"),
        ({"accept": lambda _, p, __: p.confidence}, "bool tensor"),
        (
            {
                "layer_spans": ((1, 3),),
                "span_actions": lambda *_: [SpanAction.ADD_DELTA],
            },
            "not computed yet",
        ),
        ({"layer_spans": ((1, 3),), "span_actions": lambda *_: []}, "for 1 sequences"),
        ({"layer_spans": ((3, 5), (1, 2))}, "in order and disjoint, within 0 to 6"),
        ({"layer_spans": ((4, 7),)}, "in order and disjoint, within 0 to 6"),
        ({"layer_spans": ((2, 2),)}, "in order and disjoint, within 0 to 6"),
    ],
)
def test_a_policy_that_breaks_a_rule_is_stopped_by_name(golden_model, methods, rule):
    with pytest.raises(PolicyViolation, match=rule) as stopped:
        run(golden_model("m6"), broken(**methods))
    assert "policy Broken" in str(stopped.value)


def test_policy_files_are_loaded_and_digested_by_their_code(tmp_path):
    file = tmp_path / "generation_functions.py"
    file.write_text(
        '"""Doc."""\nfrom fastdllm.policy import OutputReuse, Policy\n\n\n'
        'class Mine(Policy):\n    """Doc."""\n    keeps_logits = True\n'
    )
    assert load_policy(file).__name__ == "Mine"
    digest = policy_code_digest(file)
    file.write_text(
        "from fastdllm.policy import OutputReuse, Policy\n"
        "class Mine(Policy):\n    # a comment\n    '''Another.'''\n    keeps_logits = True\n"
    )
    plain = (
        "from fastdllm.policy import OutputReuse, Policy\nclass Mine(Policy):\n    keeps_logits = "
    )
    assert policy_code_digest(file) == digest
    file.write_text(plain + "True\n")
    assert policy_code_digest(file) == digest
    file.write_text(plain + "False\n")
    assert policy_code_digest(file) != digest


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("x = 1\n", "exactly one subclass of Policy; found none"),
        ("import nonsense_module\n", "cannot be imported: ModuleNotFoundError"),
        ("class (:\n", "cannot be imported: SyntaxError"),
    ],
)
def test_policy_files_that_do_not_work_are_named(tmp_path, text, problem):
    file = tmp_path / "generation_functions.py"
    file.write_text(text)
    with pytest.raises(UserError, match=problem) as error:
        load_policy(file)
    assert str(file) in str(error.value)
    with pytest.raises(UserError, match="no such policy file"):
        load_policy(tmp_path / "absent.py")
