"""What a benchmark measures and compares: counts are exact, speed is never asserted."""

from __future__ import annotations

from collections import Counter

import pytest

from fastdllm.common.errors import UserError
from fastdllm.decoding import memory
from fastdllm.decoding.events import Entered, PassRecord, SegmentShape, SlotsChosen
from fastdllm.decoding.loop import Step
from fastdllm.decoding.sequence import Generation, PassCounts, Request
from fastdllm.model.fused import FusedModel
from fastdllm.policy import PassKind, default_policy
from fastdllm.settings import DecodingSettings
from fastdllm.tools.bench.batches import BatchResult, Bench, batch_figures, compare_mixed
from fastdllm.tools.bench.floor import RunFloor
from fastdllm.tools.bench.products_floor import ProductsFloor
from fastdllm.tools.bench.profile import ATTENTION, COPIES, ELEMENTWISE, PRODUCTS, group_of
from fastdllm.tools.bench.timing import (
    TimedRun,
    Watch,
    interleaved,
    median_run,
    share_differing,
    timed_run,
)
from fastdllm.tools.bench.workload import mixed_requests, random_prompts, requests_for


def answer(ids, forwards=1):
    return Generation(list(ids), "length", PassCounts(full_block=forwards))


def a_run(elapsed_s, answers, **more):
    passes = (PassRecord((SegmentShape(8, 8, 8),), 0.25),) * 4
    given = {
        "slots": 1,
        "sequence_passes": Counter({PassKind.FULL_BLOCK: 3, PassKind.REUSED: 1}),
        "passes": passes,
        "time_to_first_token_s": (0.5,),
        "latency_s": (2.0,),
    }
    return TimedRun(elapsed_s=elapsed_s, answers=tuple(answers), **given | more)


def test_the_mixed_workload_is_the_same_each_time_and_keeps_its_ranges(golden_model):
    config = golden_model("m6").config
    requests = mixed_requests(config, 200)
    assert requests == mixed_requests(config, 200)
    prompts = [len(request.prompt_ids) for request in requests]
    answers = [request.max_new_tokens for request in requests]
    assert 20 <= min(prompts) < 50
    assert 550 < max(prompts) <= 600
    assert 5 <= min(answers) < 20
    assert 280 < max(answers) <= 300


def test_more_random_prompts_begin_with_the_same_ones_and_hold_no_special_token(golden_model):
    config = golden_model("m6").config
    few, many = random_prompts(config, [5, 9]), random_prompts(config, [5, 9, 400])
    assert many[:2] == few
    special = {config.mask_id, *config.stop_tokens, config.pad_id} - {None}
    assert max(many[2]) < min(special)


def test_slots_refill_at_least_once():
    assert [requests_for(slots, 16) for slots in (1, 8, 32, None)] == [16, 16, 64, 128]


def test_answers_are_timed_from_their_entry_into_a_slot():
    clock = iter([10.0, 10.0, 11.0, 12.0, 13.0, 13.0, 14.0, 17.0])
    watch = Watch(3, now=lambda: next(clock))
    done = answer([1])

    def step(request, tokens=(), finished=None):
        watch.step(Step(request, PassKind.SUB_BLOCK, tokens=tokens, finished=finished))

    watch.observe(SlotsChosen(2))
    watch.observe(Entered(0))  # 10
    watch.observe(Entered(1))  # 10
    step(0, tokens=(5,))  # 11
    step(1)  # nothing committed: not yet a first token
    step(0, tokens=(6,))  # not its first
    step(1, tokens=(5,))  # 12
    step(1, tokens=(6,), finished=done)  # 13
    watch.observe(Entered(2))  # 13
    step(2, tokens=(7,), finished=done)  # 14
    step(0, tokens=(8,), finished=done)  # 17
    assert watch.since_admission(watch.first_token) == [1.0, 2.0, 1.0]
    assert watch.since_admission(watch.finished) == [7.0, 3.0, 1.0]
    assert watch.sequence_passes == {PassKind.SUB_BLOCK: 7}


def test_continuous_and_fixed_batches_give_the_same_answers(golden_model):
    model = FusedModel(golden_model("m6"))
    settings = DecodingSettings(mask_id=255, max_new_tokens=9)
    policy = default_policy(settings, model.config.num_layers)
    requests = [Request(prompt) for prompt in random_prompts(model.config, [3, 40, 7, 11, 5])]
    continuous = timed_run(model, [requests], policy, slots=2)
    groups = [requests[:2], requests[2:4], requests[4:]]
    fixed = timed_run(model, groups, policy, slots=2)
    assert share_differing(continuous.answers, fixed.answers) == 0.0
    assert continuous.slots == fixed.slots == 2
    rows = [sum(record.rows for record in run.passes) for run in (continuous, fixed)]
    assert rows[0] == rows[1]
    assert len(continuous.passes) < len(fixed.passes)
    assert len(fixed.latency_s) == len(continuous.time_to_first_token_s) == 5


def test_batches_that_do_not_fit_are_not_compared(golden_model, monkeypatch):
    model = FusedModel(golden_model("m6"))
    settings = DecodingSettings(mask_id=255, max_new_tokens=9)
    policy = default_policy(settings, model.config.num_layers)
    requests = [Request(prompt) for prompt in random_prompts(model.config, [9] * 4)]
    one = memory.decoding_bytes(model.config, model.device, model.dtype, 32, policy)
    monkeypatch.setattr(memory, "free_bytes", lambda _: one)
    bench = Bench(model, settings, policy, repeats=1, tick=lambda: None)
    with pytest.raises(UserError, match="--mixed: 1 of 2 sequences at once fit the memory"):
        compare_mixed(bench, requests, 2, ProductsFloor(model))


def test_variants_take_turns():
    ran: list[str] = []
    ticks: list[int] = []
    variants = {"a": lambda: ran.append("a"), "b": lambda: ran.append("b")}
    interleaved(variants, 2, lambda: ticks.append(len(ran)))
    assert ran == ["a", "b", "a", "b"]
    assert ticks == [1, 2, 3, 4]


def test_figures_are_those_of_the_run_of_median_speed():
    answers = (answer([1, 2, 3]), answer([4, 5, 6]))
    runs = [a_run(6.0, answers), a_run(1.0, answers), a_run(2.0, answers, latency_s=(9.0,))]
    assert median_run(runs) is runs[2]
    floors = [RunFloor(s, 4, "products") for s in (3.0, 0.25, 1.5)]
    others = (answer([1, 2, 3]), answer([4, 5, 7]), answer([8, 8, 8]))
    alone = BatchResult(1, [a_run(1.0, others)], [floors[0]], 1.0)
    figures = batch_figures(BatchResult(None, runs, floors, 1.5), alone)
    assert figures == {
        "batch": "auto",
        "slots": 1,
        "requests": 2,
        "tokens": 6,
        "tokens_per_s": 3.0,
        "tokens_per_s_lowest": 1.0,
        "tokens_per_s_highest": 6.0,
        "tokens_per_forward": 3.0,
        "passes_per_s": 2.0,
        "ms_per_pass": 500.0,
        "share_of_time_in_passes": 0.5,
        "sequence_passes_per_s": {"full_block": 1.5, "reused": 0.5},
        "time_to_first_token_p50_s": 0.5,
        "latency_p50_s": 2.0,
        "latency_p95_s": pytest.approx(8.3),
        "peak_memory_gib": 1.5,
        "share_of_floor": 0.5,
        "floor_bound": "products",
        "floor_passes_timed": 4,
        "answers_compared_with_batch_1": 2,
        "share_differing_from_batch_1": 0.5,
    }


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("mkldnn::_linear_pointwise", PRODUCTS),
        ("aten::addmm", PRODUCTS),
        ("sm90_xmma_gemm_bf16", PRODUCTS),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", ATTENTION),
        ("aten::index_select", COPIES),
        ("Memcpy HtoD (Pinned -> Device)", COPIES),
        ("aten::linalg_vector_norm", ELEMENTWISE),
        ("aten::mul_", ELEMENTWISE),
        ("aten::softmax", ELEMENTWISE),
    ],
)
def test_operators_fall_into_groups(name, group):
    assert group_of(name) == group


def test_recording_in_a_timed_run_is_told():
    shape = (SegmentShape(8, 8, 8),)
    passes = (PassRecord(shape, 0.25, 0.5), PassRecord(shape, 0.25, 0.125))
    run = a_run(2.0, [answer([1])], passes=passes)
    figures = batch_figures(BatchResult(1, [run], [RunFloor(1.0, 1, "memory")], 1.0), None)
    assert figures["recording_s"] == 0.625
