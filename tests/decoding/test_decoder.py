"""Requests that come and go while others decode: the tokens of each alone, and nothing leaks."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastdllm import DecodingSettings, Request, UserError, generate
from fastdllm.decoding import memory
from fastdllm.decoding.decoder import Decoder
from fastdllm.decoding.events import Entered, OutOfMemory, SlotsChosen
from fastdllm.decoding.prefixes import PrefixStore
from fastdllm.engine.eager import EagerEngine
from fastdllm.engine.engines import make_engine
from fastdllm.engine.static import run_directly
from fastdllm.model.fused import FusedModel
from fastdllm.policy import default_policy
from tests.support.engines import on_fixed_shapes, traced
from tests.support.policies import DeltaReuse, SpanOutputReuse

CHOSEN = DecodingSettings(max_new_tokens=40, mask_id=255, stop_token=254)
# What one batch may mix: everything but the block size, the spans of layers and the mask.
SETTINGS = [
    CHOSEN.model_copy(update=changed)
    for changed in (
        {},
        {"threshold": 0.3},
        {"threshold": 1.0, "small_block_size": 4},
        {"small_block_size": 32, "stop_token": 7},
        {"use_block_cache": False},
        {"temperature": 0.9, "seed": 3},
        {"lookahead_depth": 2, "lookahead_threshold": 0.3},
        {"reuse_k": 3, "layer_subset": "last"},
        {"reuse_k": 2, "layer_subset": "last", "temperature": 0.7, "threshold": 0.5},
    )
]
requests = st.builds(
    lambda n, start, most, seed: Request(
        tuple((start + i) % 250 for i in range(n)), max_new_tokens=most, seed=seed
    ),
    st.integers(0, 100),
    st.integers(0, 249),
    st.integers(0, 60),
    st.none() | st.integers(0, 9),
)
# After so many ticks a request comes, with these settings; and so many later it may be cancelled.
arrivals = st.lists(
    st.tuples(
        st.integers(0, 6),
        requests,
        st.integers(0, len(SETTINGS) - 1),
        st.none() | st.none() | st.integers(0, 12),
    ),
    min_size=1,
    max_size=9,
)


def drained(decoder, script):
    """Add and cancel as the script says, and tick until all is decoded; return the last steps."""
    policies = [
        default_policy(chosen, decoder.scheduler.model.config.num_layers) for chosen in SETTINGS
    ]
    pending, cancels, finished, tick = list(script), [], {}, 0
    due = pending[0][0]
    while pending or not decoder.is_idle:
        while pending and tick >= due:
            _, request, which, patience = pending.pop(0)
            index = decoder.add(request, policies[which])
            if patience is not None:
                cancels.append((tick + patience, index))
            due += pending[0][0] if pending else 0
        for when, index in cancels:
            if when == tick:
                decoder.cancel(index)
        for step in decoder.tick():
            assert step.request not in finished, "a step after the last one"
            if step.finished is not None:
                finished[step.request] = step.finished
        tick += 1
    return finished


def assert_whole(decoder):
    """Every slot and all of the cache are free."""
    scheduler = decoder.scheduler
    assert scheduler.running == []
    assert scheduler.cache._free == [(0, scheduler.room)]


few = settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@few
@given(script=arrivals, slots=st.integers(1, 4))
def test_whoever_comes_and_goes_each_request_has_the_tokens_that_it_has_alone(
    golden_model, script, slots
):
    model = FusedModel(golden_model("m6"))
    decoder = Decoder.live(model, default_policy(CHOSEN, 6), slots=slots)
    finished = drained(decoder, script)
    assert_whole(decoder)
    decoder.close()
    assert sorted(finished) == list(range(len(script)))
    for index, (_, request, which, patience) in enumerate(script):
        (alone,) = generate(model, [request], SETTINGS[which])
        if finished[index].finish_reason == "cancelled":
            assert patience is not None
            known = finished[index].token_ids
            assert known == alone.token_ids[: len(known)]
        else:
            assert finished[index] == alone


@pytest.mark.parametrize("record", [run_directly, traced])
def test_on_fixed_shapes_as_on_a_gpu_the_tokens_are_the_same(golden_model, record):
    plain = golden_model("m6")
    decoder = Decoder.live(
        on_fixed_shapes(plain, record),
        default_policy(CHOSEN, 6),
        slots=3,
        prefixes=PrefixStore(2**20),
    )
    script = [
        (n % 3, Request(tuple(range(15 * n)), max_new_tokens=20), n + 1, None) for n in range(7)
    ]
    # Twice, so that the second time begins from what the first has left.
    for _ in range(2):
        finished = drained(decoder, script)
        for index, (_, request, which, _) in enumerate(script, min(finished)):
            (alone,) = generate(plain, [request], SETTINGS[which])
            assert finished[index].token_ids == alone.token_ids
        assert_whole(decoder)


@pytest.mark.parametrize("policy_class", [DeltaReuse, SpanOutputReuse])
def test_policies_with_spans_share_a_batch_and_decide_for_their_own(golden_model, policy_class):
    model = golden_model("m6")
    chosen = [
        CHOSEN.model_copy(update={"reuse_k": k, "layer_subset": "middle", "threshold": threshold})
        for k, threshold in ((1, 0.9), (2, 0.9), (3, 0.4))
    ]
    policies = [policy_class(each, policy_class.Parameters(), 6) for each in chosen]
    asked = [Request(tuple(range(n)), max_new_tokens=30) for n in (5, 40, 64, 20, 33, 50)]
    decoder = Decoder.live(FusedModel(model), policies[0], slots=4)
    for index, request in enumerate(asked):
        decoder.add(request, policies[index % 3])
    finished = {}
    while not decoder.is_idle:
        finished |= {s.request: s.finished for s in decoder.tick() if s.finished is not None}
    for index, request in enumerate(asked):
        alone = policy_class(chosen[index % 3], policy_class.Parameters(), 6)
        assert finished[index] == generate(model, [request], policy=alone)[0]


def test_a_slot_is_free_at_the_tick_after_the_cancel_and_the_next_in_line_has_it(golden_model):
    events = []
    decoder = Decoder.live(
        FusedModel(golden_model("m6")), default_policy(CHOSEN, 6), slots=1, observe=events.append
    )
    first, second, third = (decoder.add(Request((1, 2, 3))) for _ in range(3))
    list(decoder.tick())
    decoder.cancel(second)
    decoder.cancel(first)
    steps = list(decoder.tick())
    assert [(s.request, s.finished.finish_reason) for s in steps if s.finished] == [
        (first, "cancelled"),
        (second, "cancelled"),
    ]
    assert {s.request for s in steps if s.kind is not None} == {third}
    assert events[0] == SlotsChosen(1)
    assert [e.request for e in events if isinstance(e, Entered)] == [first, third]
    decoder.cancel(third)
    list(decoder.tick())
    decoder.cancel(third)
    assert list(decoder.tick()) == []
    assert decoder.is_idle
    assert_whole(decoder)


def test_what_does_not_fit_is_refused_alone_and_others_are_decoded(golden_model, monkeypatch):
    model = FusedModel(golden_model("m6"))
    policy = default_policy(CHOSEN, 6)
    needed = memory.decoding_bytes(model.config, model.device, model.dtype, 96, policy)
    monkeypatch.setattr(memory, "USUAL_POSITIONS", 96)
    monkeypatch.setattr(memory, "free_bytes", lambda _: needed)
    decoder = Decoder.live(model, policy)
    assert (decoder.scheduler.slots, decoder.scheduler.room) == (1, 96)
    asked = [Request((1,), max_new_tokens=n) for n in (95, 96, 20)]
    asked += [Request((255,)), Request((1,), max_new_tokens=0)]
    for request in asked:
        decoder.add(request)
    finished = {}
    while not decoder.is_idle:
        finished |= {s.request: s.finished for s in decoder.tick() if s.finished is not None}
    assert [finished[n].finish_reason == "refused" for n in range(5)] == [0, 1, 0, 1, 0]
    assert "its 128 positions exceed the 96 that memory holds" in finished[1].error
    assert finished[3].error.startswith("the prompt holds the mask token 255")
    assert finished[4].token_ids == []
    assert finished[0] == generate(model, asked[:1], CHOSEN)[0]


def test_a_policy_of_another_batch_is_refused(golden_model):
    decoder = Decoder.live(FusedModel(golden_model("m6")), default_policy(CHOSEN, 6))
    for changed in ({"block_size": 16}, {"mask_id": 250}):
        other = default_policy(CHOSEN.model_copy(update=changed), 6)
        with pytest.raises(UserError, match="a decoder of its own"):
            decoder.add(Request((1,)), other)
    wrong = default_policy(CHOSEN.model_copy(update={"threshold": 2.0}), 6)
    with pytest.raises(UserError, match="threshold"):
        decoder.add(Request((1,)), wrong)
    assert decoder.is_idle


def test_memory_decides_how_many_slots_and_positions_there_are(golden_model, monkeypatch):
    model = FusedModel(golden_model("m28"))
    policy = default_policy(CHOSEN, 28)

    def room(free_mib, *, share=1.0, requested=None):
        monkeypatch.setattr(memory, "free_bytes", lambda _: free_mib * 2**20)
        return memory.choose_room(model, policy, requested=requested, share=share)

    most = room(100_000)
    assert most.slots == memory.MOST_SLOTS
    assert most.positions_per_slot == model.config.max_positions // 32 * 32
    assert room(100_000, requested=3).slots == 3
    assert 1 <= room(40).slots < room(80).slots == room(160, share=0.5).slots
    assert room(40).positions_per_slot % 32 == 0
    monkeypatch.setattr(memory, "free_bytes", lambda _: 1000)
    with pytest.raises(UserError, match="too little free memory to decode one block"):
        memory.choose_room(model, policy, requested=None)


@pytest.mark.parametrize("failing", [{2}, {5, 9}, {20, 21}])
def test_out_of_memory_halves_slots_and_room_and_loses_nothing(golden_model, failing):
    plain, passes, events = golden_model("m6"), [0], []

    class Failing(EagerEngine):
        def open(self, segments, *, part=False):
            passes[0] += 1
            if passes[0] in failing:
                raise torch.OutOfMemoryError("out of memory (as told)")
            return super().open(segments, part=part)

    model = FusedModel(plain, make_engine=lambda m, n: Failing(m, make_engine(m, n).cache))
    decoder = Decoder.live(model, default_policy(CHOSEN, 6), slots=8, observe=events.append)
    room = decoder.scheduler.room
    script = [
        (n % 3, Request(tuple(range(7 * n)), max_new_tokens=40), n % len(SETTINGS), None)
        for n in range(10)
    ]
    finished = drained(decoder, script)
    halvings = [event for event in events if isinstance(event, OutOfMemory)]
    assert [event.slots for event in halvings] == [4, 2][: len(failing)]
    assert decoder.scheduler.room == room >> len(failing)
    assert_whole(decoder)
    for index, (_, request, which, _) in enumerate(script):
        assert finished[index] == generate(plain, [request], SETTINGS[which])[0]


def test_closing_while_requests_decode_gives_the_engine_back_whole(golden_model):
    model = FusedModel(golden_model("m6"))
    decoder = Decoder.live(model, default_policy(CHOSEN, 6), slots=2)
    for _ in range(3):
        decoder.add(Request(tuple(range(40))))
    list(decoder.tick())
    decoder.close()
    decoder.close()
    (engine,) = model.idle_engines
    assert len(engine.cache._free) == 1
