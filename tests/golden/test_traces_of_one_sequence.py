"""Every recorded trace of a single sequence: tokens, passes, order and positions, exactly."""

from __future__ import annotations

from itertools import groupby

import pytest

from fastdllm import Request
from tests.support import traces

EXACT = traces.exact_cases()
LONGER = EXACT[::6]
STOPS = traces.cases("stop")


def of_one_computation(case):
    """What the recordings have in common that one call decodes."""
    return case["model"], str(traces.settings_of(case, max_new_tokens=1))


# Who shares a batch changes nothing (test_traces_of_batches.py), and makes this twice as fast.
TOGETHER = [
    list(cases) for _, cases in groupby(sorted(EXACT, key=of_one_computation), of_one_computation)
]


def run_case(golden_model, case, **changes):
    requests = [Request(tuple(case["prompts"][0]))]
    return traces.run(golden_model(case["model"]), requests, traces.settings_of(case, **changes))[0]


def test_only_prompts_of_one_block_are_left_out_and_the_corrected_rule_covers_them():
    ignored = [case for case in traces.cases("plain") if case not in EXACT]
    assert len(ignored) == 2
    corrected = {len(case["prompts"][0]) for case in traces.cases("fixedprefill")}
    assert {len(case["prompts"][0]) for case in ignored} == {32} <= corrected


@pytest.mark.parametrize("cases", TOGETHER, ids=lambda cases: f"{cases[0]['id']}...{len(cases)}")
def test_tokens_passes_order_and_positions_equal_the_recording(golden_model, cases):
    requests = [
        Request(tuple(case["prompts"][0]), max_new_tokens=len(traces.recorded_answer(case)))
        for case in cases
    ]
    found = traces.run(golden_model(cases[0]["model"]), requests, traces.settings_of(cases[0]))
    for case, trace in zip(cases, found, strict=True):
        name = case["id"]
        assert trace.generation.token_ids == traces.recorded_answer(case), name
        assert trace.order == case["call_order"], name
        assert trace.steps == traces.recorded_steps(case), name
        recorded = [value for step in case["steps"] for value in step["rows"][0]["conf"]]
        # Two float32 kernels differ by up to 5e-4 in the logits of 28 random layers.
        assert trace.confidences == pytest.approx(recorded, abs=5e-4), name
        passes, counts = trace.generation.passes, case["forwards"]
        assert passes.prefill == counts["prefill"], name
        assert passes.full_block == counts["full"], name
        assert passes.sub_block + passes.reused == counts["small"], name
        assert passes.commit == counts["commit"], name
        if passes.reused == 0:
            # A reused pass runs no layer here; the published code ran those outside the span.
            assert passes.layer_forwards_computed == case["layer_forwards"], name


@pytest.mark.parametrize("case", LONGER, ids=traces.case_ids(LONGER))
def test_longer_answers_begin_with_the_recorded_one_and_have_the_length_asked_for(
    golden_model, case
):
    recorded = traces.recorded_answer(case)
    wanted = len(recorded) + 3
    trace = run_case(golden_model, case, max_new_tokens=wanted)
    assert trace.generation.token_ids[: len(recorded)] == recorded
    assert trace.steps[: len(case["steps"])] == traces.recorded_steps(case)
    if trace.generation.finish_reason == "length":
        assert len(trace.generation.token_ids) == wanted


@pytest.mark.parametrize("case", STOPS, ids=traces.case_ids(STOPS))
def test_decoding_ends_at_the_first_stop_with_the_same_tokens_and_no_later_pass(golden_model, case):
    trace = run_case(golden_model, case)
    answer = traces.recorded_answer(case)
    assert trace.generation.token_ids == answer
    assert trace.generation.finish_reason == "stop"
    recorded = traces.recorded_steps(case)
    assert trace.steps == recorded[: len(trace.steps)]
    assert case["call_order"].startswith(trace.order)
    # The stop and everything before it was known only after our last pass.
    end = len(case["prompts"][0]) + len(answer)
    committed = {position for step in trace.steps[:-1] for position in step[2]}
    by_denoising = {position for step in trace.steps for position in step[2] if position < end}
    if trace.order[-1] not in "PC":
        assert by_denoising - committed, "the last pass filled nothing that was still needed"


def test_recordings_hold_both_kinds_of_stop():
    assert {case["id"].split("_")[0] for case in STOPS} == {"stop", "stopnext"}


HF = traces.cases("hf_generate")


@pytest.mark.parametrize("case", HF, ids=traces.case_ids(HF))
def test_answers_equal_those_of_the_models_own_generate(golden_model, case):
    case = case | {"prompts": [case["prompt"]], "output_ids": [case["output_ids"]]}
    recorded = traces.recorded_answer(case)
    trace = run_case(golden_model, case, max_new_tokens=len(recorded))
    assert trace.generation.token_ids == recorded
