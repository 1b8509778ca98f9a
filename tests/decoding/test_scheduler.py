"""Continuous batching: who shares a batch, when, and how much memory there is change no token."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastdllm import DecodingSettings, Request, UserError, decode, generate
from fastdllm.decoding import memory, proposals
from fastdllm.decoding.admission import start_sequences
from fastdllm.decoding.decoder import _tick
from fastdllm.decoding.events import Entered, OutOfMemory, PassRecord, SlotsChosen
from fastdllm.decoding.memory import PREFILL_ROWS
from fastdllm.decoding.passes import PassRunner
from fastdllm.decoding.scheduler import Scheduler
from fastdllm.engine.eager import EagerEngine
from fastdllm.engine.engines import make_engine
from fastdllm.machine.device import is_out_of_memory
from fastdllm.model.fused import FusedModel
from fastdllm.policy import OutputReuse, PassKind, Policy, SpanAction, default_policy
from tests.support.policies import DeltaReuse, StaggeredSpans

CHOSEN = DecodingSettings(max_new_tokens=40, mask_id=255, stop_token=254)
REQUESTS = [Request(tuple(range(n)), max_new_tokens=10 + n) for n in (5, 70, 0, 33, 64, 20, 31, 50)]


def run(model, requests, *, slots=None, chosen=CHOSEN, policy=None):
    """Steps and what the engine told."""
    events = []
    policy = policy or default_policy(chosen, model.config.num_layers)
    steps = list(decode(model, requests, policy, slots=slots, observe=events.append))
    return steps, events


@pytest.fixture
def kinds_of_passes(monkeypatch):
    """For each pass that the engine completes, its sequences by kind of pass."""
    kinds = []
    finish = PassRunner.finish

    def recorded(self, works):
        kinds.append(Counter(work.kind for work in works))
        finish(self, works)

    monkeypatch.setattr(PassRunner, "finish", recorded)
    return kinds


def answers(steps):
    return {step.request: step.finished for step in steps if step.finished is not None}


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    lengths=st.lists(
        st.sampled_from([31, 32, 33, 64, 65]) | st.integers(0, 100), min_size=1, max_size=6
    ),
    budgets=st.lists(st.integers(1, 60), min_size=6, max_size=6),
    slots=st.none() | st.integers(1, 5),
    threshold=st.sampled_from([0.3, 0.9, 1.0]),
    use_block_cache=st.booleans(),
    temperature=st.sampled_from([0.0, 0.0, 0.9]),
    lookahead_depth=st.sampled_from([0, 0, 1, 3]),
    reuse_k=st.sampled_from([1, 1, 2]),
)
def test_any_number_of_slots_gives_the_tokens_of_each_request_alone(
    golden_model,
    lengths,
    budgets,
    slots,
    threshold,
    use_block_cache,
    temperature,
    lookahead_depth,
    reuse_k,
):
    model = golden_model("m6")
    chosen = CHOSEN.model_copy(
        update={
            "threshold": threshold,
            "use_block_cache": use_block_cache,
            "temperature": temperature,
            "lookahead_depth": lookahead_depth,
            "lookahead_threshold": 0.5,
            **({"reuse_k": reuse_k, "layer_subset": "last"} if use_block_cache else {}),
        }
    )
    requests = [
        Request(tuple((n + i) % 250 for i in range(n)), max_new_tokens=budget, seed=n)
        for n, budget in zip(lengths, budgets, strict=False)
    ]
    together = generate(model, requests, chosen, slots=slots)
    assert together == [generate(model, [request], chosen)[0] for request in requests]


def test_slots_are_refilled_as_soon_as_they_are_free_and_never_exceeded(
    golden_model, kinds_of_passes
):
    steps, events = run(golden_model("m6"), REQUESTS, slots=3)
    assert events[0] == SlotsChosen(3)
    busy = [kinds.total() for kinds in kinds_of_passes]
    assert len(busy) == sum(isinstance(record, PassRecord) for record in events)
    assert max(busy) == 3
    # Only the tail, when nobody waits any more, runs with fewer.
    tail = [n for n in busy if n < 3]
    assert busy == [3] * (len(busy) - len(tail)) + sorted(tail, reverse=True)
    assert len(tail) < len(busy) / 2
    assert len(answers(steps)) == len(REQUESTS)


@pytest.mark.parametrize("failing", [set(), {9}])
def test_each_request_enters_once_in_the_order_of_the_list(golden_model, failing):
    _, events = run(failing_model(golden_model("m6"), failing), REQUESTS, slots=3)
    entered = [event.request for event in events if isinstance(event, Entered)]
    assert entered == list(range(len(REQUESTS)))


def test_the_same_list_gives_the_same_steps_in_the_same_order(golden_model):
    model = golden_model("m6")
    assert run(model, REQUESTS, slots=3)[0] == run(model, REQUESTS, slots=3)[0]


def test_a_long_prompt_enters_in_pieces_and_counts_as_one_prefill(golden_model, kinds_of_passes):
    model = golden_model("m6")
    long = Request(tuple(i % 250 for i in range(3 * PREFILL_ROWS + 7)), max_new_tokens=3)
    requests = [REQUESTS[0], long, REQUESTS[3]]
    steps, events = run(model, requests, slots=3)
    records = [record for record in events if isinstance(record, PassRecord)]
    assert max(record.rows for record in records) <= PREFILL_ROWS + 2 * 32
    pieces = [kinds for kinds in kinds_of_passes if kinds[PassKind.PREFILL]]
    assert len(pieces) == 4
    # The others go on meanwhile.
    assert all(kinds.total() > 1 for kinds in pieces[1:3])
    steps_of_prompt = [step for step in steps if step.request == 1]
    assert [step.kind for step in steps_of_prompt].count(PassKind.PREFILL) == 1
    assert answers(steps)[1].passes.prefill == 1
    assert answers(steps)[1] == generate(model, [long], CHOSEN)[0]


def test_only_rows_whose_logits_are_wanted_reach_the_head(golden_model, kinds_of_passes):
    records = [
        record
        for record in run(golden_model("m6"), [Request(tuple(range(64)))], slots=1)[1]
        if isinstance(record, PassRecord)
    ]
    read = {}
    for record, kinds in zip(records, kinds_of_passes, strict=True):
        (kind,) = kinds
        read.setdefault(kind, set()).add((record.rows, record.rows_read))
    assert read[PassKind.PREFILL] == {(64, 1)}
    assert read[PassKind.COMMIT] == {(32, 1)}
    assert read[PassKind.SUB_BLOCK] == {(8, 7)}
    # The first sub-block has no row before it; its first position is known.
    assert read[PassKind.FULL_BLOCK] <= {(32, 7), (32, 8)}


def test_reused_passes_run_nothing(golden_model, kinds_of_passes):
    chosen = CHOSEN.model_copy(update={"reuse_k": 3, "layer_subset": "last"})
    model = golden_model("m14")
    policy = OutputReuse(chosen, OutputReuse.Parameters(), model.config.num_layers)
    steps, _ = run(model, REQUESTS, slots=4, chosen=chosen, policy=policy)
    kinds = Counter(step.kind for step in steps)
    ran = sum(kinds_of_passes, Counter())
    assert kinds[PassKind.REUSED] > 10
    assert PassKind.REUSED not in ran
    assert all(ran[kind] == kinds[kind] for kind in (PassKind.SUB_BLOCK, PassKind.COMMIT))


class Failing(EagerEngine):
    """Lacks memory in the last layers of some passes, as a real one does: in the middle."""

    passes = 0

    def open(self, segments, *, part=False):
        opened = super().open(segments, part=part)
        Failing.passes += not part
        if Failing.passes in self.failing and not part:
            whole = opened.layers

            def layers(hidden, start, stop, *, only_read=False):
                whole(hidden, start, stop, only_read=only_read)
                if stop == self.model.config.num_layers:
                    raise torch.OutOfMemoryError("out of memory (as told)")
                return whole(hidden, start, stop, only_read=only_read)

            opened.layers = layers
        return opened


def failing_model(plain, failing):
    def make(model, capacity):
        engine = Failing(model, make_engine(model, capacity).cache)
        engine.failing = failing
        return engine

    Failing.passes = 0
    return FusedModel(plain, make_engine=make)


@pytest.fixture(scope="module")
def undisturbed():
    """The steps of runs that had memory enough, by what was decoded."""
    return {}


# Any two of passes that fail, policy and way to choose meet.
@pytest.mark.parametrize(
    ("failing", "policy_class", "temperature", "lookahead_depth"),
    [
        (failing, policy_class, *(((0.0, 0), (0.8, 0), (0.8, 2))[(m + n) % 3]))
        for m, failing in enumerate(({1}, {9}, {9, 10}, {3, 30}, {14}, {18}))
        for n, policy_class in enumerate((Policy, StaggeredSpans, OutputReuse))
    ],
)
def test_out_of_memory_halves_the_slots_and_nothing_is_lost(
    golden_model, undisturbed, failing, policy_class, temperature, lookahead_depth
):
    plain = golden_model("m6")
    chosen = CHOSEN.model_copy(
        update={
            "temperature": temperature,
            "reuse_k": 3,
            "layer_subset": "last",
            "lookahead_depth": lookahead_depth,
            "lookahead_threshold": 0.9,
        }
    )

    def policy():
        return policy_class(chosen, policy_class.Parameters(), 6)

    key = (policy_class, temperature, lookahead_depth)
    if key not in undisturbed:
        undisturbed[key], _ = run(plain, REQUESTS, slots=8, chosen=chosen, policy=policy())
    expected = undisturbed[key]
    model = failing_model(plain, failing)
    steps, events = run(model, REQUESTS, slots=8, chosen=chosen, policy=policy())
    halvings = [record for record in events if isinstance(record, OutOfMemory)]
    # Half of those in flight, which are fewer than the slots once nobody waits.
    assert [record.slots_before for record in halvings] == [8, *(r.slots for r in halvings[:-1])]
    assert all(record.slots <= record.slots_before // 2 for record in halvings)
    assert len(halvings) == len(failing)

    def by_request(all_steps):
        return [[s for s in all_steps if s.request == n] for n in range(len(REQUESTS))]

    # Step by step the same, and none twice: no pass of a sequence is lost or repeated.
    assert by_request(steps) == by_request(expected)


def test_out_of_memory_with_one_slot_is_one_clear_line(golden_model):
    with pytest.raises(UserError, match="out of memory with one sequence at a time"):
        run(failing_model(golden_model("m6"), {5}), REQUESTS, slots=1)


def test_what_torch_says_when_memory_lacks_is_recognised():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**58)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(RuntimeError("CUDA error: out of memory"))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="capture") as caught:
        try:
            raise torch.OutOfMemoryError("out of memory (as told)")
        finally:  # as the end of a recording does
            raise RuntimeError("the capture is invalid")
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize("most", [200, 500])
def test_a_cache_that_cannot_be_had_is_made_for_fewer_sequences(golden_model, most):
    plain = golden_model("m6")

    def make(model, capacity):
        if capacity > most:
            raise torch.OutOfMemoryError("out of memory (as told)")
        return make_engine(model, capacity)

    steps, events = run(FusedModel(plain, make_engine=make), REQUESTS, slots=8)
    assert events[0].slots < 8
    assert answers(steps) == answers(run(plain, REQUESTS, slots=8)[0])


def test_tokens_that_could_not_be_chosen_leave_no_trace(golden_model, monkeypatch):
    """Lack of memory after the layers, in the softmax: a policy that looks sees no difference."""
    plain, calls = golden_model("m6"), []

    class Look(DeltaReuse):
        def span_actions(self, span, states, signals):
            kinds = {True: SpanAction.ADD_DELTA, False: SpanAction.COMPUTE}
            return [kinds[change < 0.5] for change in signals.input_change()]

    chosen = CHOSEN.model_copy(update={"reuse_k": 2, "layer_subset": "middle"})

    def steps_of():
        policy = Look(chosen, Look.Parameters(), 6)
        steps, _ = run(plain, REQUESTS, slots=8, chosen=chosen, policy=policy)
        return [[s for s in steps if s.request == n] for n in range(len(REQUESTS))]

    expected = steps_of()
    greedy = proposals.greedy

    def failing(logits):
        calls.append(None)
        if len(calls) in (4, 9):
            raise torch.OutOfMemoryError("out of memory (as told)")
        return greedy(logits)

    monkeypatch.setattr(proposals, "greedy", failing)
    assert steps_of() == expected
    assert len(calls) > 15


def test_who_shares_a_pass_does_not_depend_on_what_was_decoded_before(
    golden_model, kinds_of_passes
):
    model = FusedModel(golden_model("m6"))
    run(golden_model("m6"), REQUESTS, slots=2)
    fresh = list(kinds_of_passes)
    generate(model, [Request(tuple(range(100)), max_new_tokens=900)] * 2, CHOSEN)
    kinds_of_passes.clear()
    run(model, REQUESTS, slots=2)
    assert kinds_of_passes == fresh


def test_answered_requests_leave_no_logits_behind(golden_model):
    model = golden_model("m6")
    chosen = CHOSEN.model_copy(
        update={"temperature": 0.7, "reuse_k": 2, "layer_subset": "last", "max_new_tokens": 20}
    )
    admitted = start_sequences(model.config, REQUESTS, chosen)
    policy = default_policy(chosen, 6)
    scheduler = Scheduler(FusedModel(model), admitted.sequences, policy=policy, slots=2)
    with torch.inference_mode():
        while scheduler.admit():
            list(_tick(scheduler, 6, [].append))
    assert all(sequence.finish_reason for sequence in admitted.sequences)
    assert all(sequence.stored is None for sequence in admitted.sequences)


def test_other_errors_of_a_pass_are_not_taken_for_a_lack_of_memory(golden_model):
    model = FusedModel(golden_model("m6"))
    model.embedding = model.embedding[:3]
    with pytest.raises((IndexError, RuntimeError), match="out of range"):
        run(model, REQUESTS, slots=2)


def test_more_slots_than_memory_are_as_many_as_fit(golden_model, monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda _: 40 * 2**20)
    model = golden_model("m28")
    many = [Request((1, 2, 3), max_new_tokens=2000)] * 50
    steps = decode(model, many, default_policy(CHOSEN, 28), slots=50, observe=(seen := []).append)
    next(steps)
    steps.close()
    assert 1 <= seen[0].slots < 50
    monkeypatch.setattr(memory, "free_bytes", lambda _: 1000)
    with pytest.raises(UserError, match=r"a sequence of 2016 positions needs .*; shorten"):
        run(model, many)


def test_memory_decides_and_short_requests_leave_room_for_more(golden_model, monkeypatch):
    model = FusedModel(golden_model("m28"))
    policy = default_policy(CHOSEN, 28)

    def slots(length, free_mib):
        monkeypatch.setattr(memory, "free_bytes", lambda _: free_mib * 2**20)
        many = [Request((1,), max_new_tokens=length)] * 100
        lengths = [s.capacity for s in start_sequences(model.config, many, CHOSEN).sequences]
        return memory.choose_slots(model, lengths, policy=policy, requested=None)

    assert slots(30, 40) > slots(700, 40) > slots(2000, 40) >= 1
    assert slots(700, 80) > slots(700, 40)
    assert slots(30, 10_000) == memory.MOST_SLOTS


def test_slots_must_be_positive(golden_model):
    with pytest.raises(UserError, match="slots: 0 is not allowed"):
        run(golden_model("m6"), REQUESTS, slots=0)


def test_an_engine_goes_back_even_when_the_steps_are_not_drained(golden_model):
    model = FusedModel(golden_model("m6"))
    steps = decode(model, REQUESTS, default_policy(CHOSEN, 6))
    next(steps)
    assert not model.idle_engines
    steps.close()
    assert len(model.idle_engines) == 1


def test_two_decodings_of_one_model_do_not_share_a_cache(golden_model):
    model = FusedModel(golden_model("m6"))
    alone = [generate(model, [request], CHOSEN)[0] for request in REQUESTS[:2]]
    both = [decode(model, [r], default_policy(CHOSEN, 6)) for r in REQUESTS[:2]]
    found = {}
    while len(found) < 2:
        for which, steps in enumerate(both):
            step = next(steps, None)
            if step is not None and step.finished is not None:
                found[which] = step.finished
    assert [found[0], found[1]] == alone
