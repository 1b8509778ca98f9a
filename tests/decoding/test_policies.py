"""Policies: layer reuse in output mode, delta reuse through the interface, and broken rules."""

from __future__ import annotations

import pytest

from fastdllm import DecodingSettings, Request, decode, generate
from fastdllm.common.errors import PolicyViolation, UserError
from fastdllm.decoding.asked_again import AskedAgain
from fastdllm.decoding.policy_files import load_policy
from fastdllm.decoding.user_code import policy_code_digest
from fastdllm.policy import (
    OutputReuse,
    PassKind,
    Policy,
)
from fastdllm.settings import layer_span
from tests.support.policies import DeltaReuse, SpanOutputReuse

PROMPT = tuple(range(3, 40))
CHOSEN = DecodingSettings(max_new_tokens=50, mask_id=255, stop_token=254)
REUSE = DecodingSettings(
    max_new_tokens=50, mask_id=255, stop_token=254, reuse_k=2, layer_subset="middle"
)


def run(model, policy_class, settings=CHOSEN):
    policy = policy_class(settings, policy_class.Parameters(), model.config.num_layers)
    return list(decode(model, [Request(PROMPT)], policy))


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
    assert all(step.rows == 0 and step.layers_skipped == 28 for step in reused)
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
    chosen = REUSE.model_copy(update={"layer_subset": "last"})
    output_reuse = answer(run(model, OutputReuse, chosen))
    assert answer(run(model, SpanOutputReuse, chosen)).token_ids == output_reuse.token_ids


def test_full_block_passes_and_commits_run_every_layer(golden_model):
    steps = run(golden_model("m14"), DeltaReuse, REUSE)
    start, stop = layer_span("middle", 14)
    skipped = {step.kind: set() for step in steps}
    for step in steps:
        skipped[step.kind].add(step.layers_skipped)
    assert skipped[PassKind.FULL_BLOCK] == skipped[PassKind.COMMIT] == {0}
    assert skipped[PassKind.SUB_BLOCK] == {0, stop - start}


def test_the_change_of_a_spans_input_is_that_of_its_masked_positions(golden_model):
    """Measured a second time, from the embeddings: a span at layer 0 has them as its input."""
    model = golden_model("m6")
    seen = []

    class Watch(DeltaReuse):
        def __init__(self, settings, parameters, num_layers):
            super().__init__(settings, parameters, num_layers)
            self.layer_spans = ((0, 2),)

        def span_actions(self, span, states, signals):
            seen.append((states[0], signals.input_change()[0]))
            return super().span_actions(span, states, signals)

    tokens = {}
    blocks = {}
    for step in run(model, Watch, REUSE):
        tokens |= dict(zip(step.positions, step.tokens, strict=True))
        if step.kind is PassKind.SUB_BLOCK:
            blocks[len(blocks)] = dict(tokens)
    assert len(seen) == len(blocks) > 3
    # Masked positions hold the mask token at both times: only positions that were filled changed,
    # and those are not looked at.
    assert [change for _, change in seen] == [0.0] * len(seen)


def test_an_empty_store_is_an_infinite_change_and_the_stored_block_is_dropped(golden_model):
    changes = []

    class Ask(DeltaReuse):
        def span_actions(self, span, states, signals):
            changes.append((states[0].block, signals.input_change()[0]))
            return super().span_actions(span, states, signals)

    run(golden_model("m14"), Ask, REUSE)
    assert {block for block, _ in changes} == {1, 2}
    assert all(0 < change < 10 for _, change in changes)


def test_a_state_tells_what_happened_since(golden_model):
    states = []

    class Watch(OutputReuse):
        def next_pass(self, state):
            states.append(state)
            return super().next_pass(state)

    steps = [s for s in run(golden_model("m14"), Watch, REUSE) if s.sub_block is not None]
    assert len(steps) == len(states)
    expected = None
    for previous, step, state in zip([None, *steps], [*steps, None], states, strict=False):
        is_new_block = previous is None or previous.block != step.block
        if is_new_block:
            expected = {"step": 0, "sub_step": 0, "age": 0, "committed": 0, "lowest": None}
        else:
            expected["step"] += 1
            same = previous.sub_block == step.sub_block
            expected["sub_step"] = expected["sub_step"] + 1 if same else 0
            computed = previous.kind is not PassKind.REUSED
            expected["age"] = 0 if computed else expected["age"] + 1
            before = 0 if computed else expected["committed"]
            expected["committed"] = before + len(previous.positions)
            expected["lowest"] = min(previous.confidences)
        assert state.request == 0
        assert (state.block, state.sub_block) == (step.block, step.sub_block)
        assert state.block_step == expected["step"]
        assert state.sub_block_step == expected["sub_step"]
        assert state.has_block_cache == (expected["step"] > 0)
        assert state.passes_since_compute == expected["age"]
        assert state.committed_since_compute == expected["committed"]
        assert state.lowest_confidence == expected["lowest"]
        same_place = not is_new_block and previous.sub_block == step.sub_block
        assert state.has_stored_logits == same_place


def after_the_first(kind):
    return lambda _, state: kind if state.has_block_cache else PassKind.FULL_BLOCK


def far_ahead(_, state, kind):
    """More than a sub-block pass, and the full-block pass before it, can tell."""
    start = state.sub_block * 8
    return (start, start + 8) if kind is PassKind.FULL_BLOCK else (start, 32)


def broken(**methods):
    return type("Broken", (Policy,), methods)


@pytest.mark.parametrize(
    ("methods", "rule"),
    [
        ({"next_pass": lambda *_: PassKind.COMMIT}, "only the decoder decides"),
        ({"next_pass": lambda *_: None}, "next_pass gave None; it should be one of"),
        ({"next_pass": after_the_first(PassKind.SUB_BLOCK)}, "the first position is masked"),
        ({"next_pass": lambda *_: PassKind.SUB_BLOCK}, "before any full_block pass"),
        ({"next_pass": lambda *_: PassKind.REUSED}, "no pass has computed"),
        ({"window": lambda *_: (0, 99)}, "lies outside"),
        ({"window": lambda *_: None}, "window None lies outside"),
        ({"window": lambda *_: (0.0, 8.0)}, "lies outside"),
        ({"window": far_ahead}, "lies outside the sub_block pass"),
        ({"accept": lambda _, p, __: p.masked | True}, "not masked"),
        ({"accept": lambda _, p, __: p.masked & False}, "no token"),
        ({"accept": lambda _, p, __: p.confidence}, "bool tensor"),
        ({"accept": lambda _, p, __: p.masked.tolist()}, "bool tensor"),
        ({"accept": lambda *_: None}, "bool tensor"),
        ({"accept": lambda _, p, __: p.masked.to("meta")}, "on the host"),
        ({"layer_spans": ((1, 3),), "span_actions": lambda *_: None}, "it should be a list"),
        ({"layer_spans": ((1, 3),), "span_actions": lambda *_: []}, "for 1 sequences"),
        ({"layer_spans": ((1, 3),), "span_actions": lambda *_: ["skip"]}, "it should be one of"),
        ({"layer_spans": ((3, 5), (1, 2))}, "in order and disjoint, within 0 to 6"),
        ({"layer_spans": ((4, 7),)}, "in order and disjoint, within 0 to 6"),
        ({"layer_spans": ((2, 2),)}, "in order and disjoint, within 0 to 6"),
        ({"layer_spans": (1, 3)}, "must be half-open ranges of layers"),
        ({"layer_spans": ([1, 3],)}, "must be half-open ranges of layers"),
        ({"layer_spans": None}, "must be half-open ranges of layers"),
    ],
)
def test_a_policy_that_breaks_a_rule_is_stopped_by_name(golden_model, methods, rule):
    with pytest.raises(PolicyViolation, match=rule) as stopped:
        run(golden_model("m6"), broken(**methods))
    assert "policy Broken" in str(stopped.value)


def test_one_in_so_many_decisions_is_asked_again_and_none_changes(golden_model):
    made, decisions = [], []

    class Counted(Policy):
        def __init__(self, *values):
            super().__init__(*values)
            made.append(self)

        def note(self, n):
            decisions.extend([self] * n)

        def next_pass(self, state):
            self.note(1)
            return super().next_pass(state)

        def window(self, state, kind):
            self.note(1)
            return super().window(state, kind)

        def accept(self, predictions, states):
            self.note(len(states))
            return super().accept(predictions, states)

    model, requests = golden_model("m6"), [Request(PROMPT[n:]) for n in range(5)]
    policy = Counted(CHOSEN, Counted.Parameters(), 6)
    asked_again = list(decode(model, requests, AskedAgain(policy, every=7)))
    assert asked_again == list(decode(model, requests, Policy(CHOSEN, Policy.Parameters(), 6)))
    assert len(made) - 1 == -(-decisions.count(policy) // 7)
    assert [decisions.count(again) for again in made[1:]] == [1] * (len(made) - 1)


def test_policy_files_are_loaded_and_digested_by_their_code(tmp_path):
    file = tmp_path / "generation_functions.py"
    file.write_text(
        '"""Doc."""\nfrom fastdllm.policy import OutputReuse, Policy\n\n\n'
        'class Mine(Policy):\n    """Doc."""\n    keeps_proposals = True\n'
    )
    assert load_policy(file).__name__ == "Mine"
    digest = policy_code_digest(file)
    file.write_text(
        "from fastdllm.policy import OutputReuse, Policy\n"
        "class Mine(Policy):\n    # a comment\n    '''Another.'''\n    keeps_proposals = True\n"
    )
    plain = (
        "from fastdllm.policy import OutputReuse, Policy\n"
        "class Mine(Policy):\n    keeps_proposals = "
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
        ("class (:\n", "line 1: not valid Python: invalid syntax"),
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
