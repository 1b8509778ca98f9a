"""Many users of one model: the tokens of each request alone, in turn, and nobody held up."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from threading import Event, Thread

import pytest
import torch

from fastdllm import DecodingSettings, Request, UserError, generate
from fastdllm.common.errors import PolicyViolation
from fastdllm.decoding.finite import NotFinite
from fastdllm.model.fused import FusedModel
from fastdllm.policy import PassKind, Policy, default_policy
from fastdllm.serving.service import Closed, Overloaded, Service

CHOSEN = DecodingSettings(max_new_tokens=40, mask_id=255, stop_token=254)
# The last two have lanes of their own.
SETTINGS = [
    CHOSEN.model_copy(update=changed)
    for changed in (
        {},
        {"threshold": 0.4},
        {"temperature": 0.8, "seed": 5},
        {"small_block_size": 16, "use_block_cache": False},
        {"reuse_k": 2, "layer_subset": "last"},
        {"block_size": 16},
    )
]
LIMIT_S = 60  # for what hangs


class Gate(Policy):
    """Waits before its passes until it is opened."""

    def __init__(self, settings, parameters=None, num_layers=6):
        super().__init__(settings, parameters or Policy.Parameters(), num_layers)
        self.has_begun, self.is_open = Event(), Event()

    def next_pass(self, state):
        self.has_begun.set()
        assert self.is_open.wait(LIMIT_S)
        return super().next_pass(state)


class Broken(Policy):
    """Breaks a rule, or fails, in its second block."""

    error = None

    def window(self, state, kind):
        if state.block == 1:
            if self.error is not None:
                raise self.error
            return (0, 99)
        return super().window(state, kind)


@pytest.fixture
def model(golden_model):
    return FusedModel(golden_model("m6"))


def assert_whole(model):
    """Every extent of the caches that were given back is free."""
    assert all(len(engine.cache._free) == 1 for engine in model.idle_engines)


def test_eight_users_who_come_and_go_have_the_tokens_of_generate(golden_model, model):
    draw = random.Random(0)
    found, errors = [], []

    def chat(user, service):
        own, prompt = random.Random(user), []
        try:
            for _ in range(4):
                prompt = prompt + [own.randrange(250) for _ in range(own.randrange(1, 70))]
                request = Request(tuple(prompt), max_new_tokens=own.randrange(1, 50))
                chosen = own.choice(SETTINGS)
                stream = service.submit(request, chosen, user=user)
                patience = own.choice([None, None, 0, 1, 5])
                for count, step in enumerate(stream):
                    if count == patience:
                        stream.cancel()
                    assert step.finished is None or step.finished == stream.generation
                answer = stream.result(LIMIT_S)
                assert stream.is_over
                found.append((request, chosen, answer))
                prompt += answer.token_ids
        except BaseException as error:
            errors.append(error)
            raise

    with Service(model, slots=3) as service:
        users = [Thread(target=chat, args=(user, service)) for user in range(8)]
        draw.shuffle(users)
        for user in users:
            user.start()
        for user in users:
            user.join(LIMIT_S)
        assert not errors
        figures = service.figures()
        assert (figures.decoding, figures.waiting, figures.failed) == (0, 0, 0)
        assert sum(figures.answers.values()) == len(found) == 32
        assert figures.tokens == sum(len(answer.token_ids) for _, _, answer in found)
        assert figures.passes[PassKind.COMMIT] > 0 < figures.kept_bytes
        assert figures.engine_passes <= sum(figures.passes.values()) + 32
    assert_whole(model)
    plain, cancelled = golden_model("m6"), 0
    for request, chosen, answer in found:
        (alone,) = generate(plain, [request], chosen)
        if answer.finish_reason == "cancelled":
            cancelled += 1
            assert answer.token_ids == alone.token_ids[: len(answer.token_ids)]
        else:
            assert answer.token_ids == alone.token_ids
            assert answer.finish_reason == alone.finish_reason
    assert cancelled


def test_users_take_turns_and_know_their_place(model):
    gate = Gate(CHOSEN)
    with Service(model, slots=1) as service:
        first = service.submit(Request((1, 2), max_new_tokens=4), policy=gate, user="a")
        assert gate.has_begun.wait(LIMIT_S)
        order = []

        def asked(user, name):
            request = Request((3,), max_new_tokens=1, stop_when=lambda _: order.append(name))
            return service.submit(request, policy=gate, user=user)

        streams = [asked("a", "a1"), asked("a", "a2"), asked("a", "a3"), asked("b", "b1")]
        streams += [asked("c", "c1"), asked("b", "b2")]
        assert first.place == 0
        assert [stream.place for stream in streams] == [1, 4, 6, 2, 3, 5]
        streams[4].cancel()
        assert streams[4].generation.finish_reason == "cancelled"
        assert [stream.place for stream in streams] == [1, 3, 5, 2, 0, 4]
        gate.is_open.set()
        for stream in (first, *streams):
            stream.result(LIMIT_S)
        assert order == ["a1", "b1", "a2", "b2", "a3"]


def test_full_lanes_give_way_to_a_request_that_needs_another(model, monkeypatch):
    monkeypatch.setattr("fastdllm.serving.service.MOST_LANES", 1)
    gate, order = Gate(CHOSEN), []
    with Service(model, slots=2) as service:
        service.submit(Request((1,), max_new_tokens=4), policy=gate, user="a")
        assert gate.has_begun.wait(LIMIT_S)

        def asked(name, **wishes):
            request = Request((3,), max_new_tokens=1, stop_when=lambda _: order.append(name))
            return service.submit(request, user=name, **wishes)

        streams = [
            asked("same lane", policy=gate),
            asked("other lane", settings=CHOSEN),
            asked("behind it", policy=gate),
            asked("last", settings=CHOSEN),
        ]
        gate.is_open.set()
        for stream in streams:
            stream.result(LIMIT_S)
    assert order == ["same lane", "other lane", "behind it", "last"]


def test_too_many_who_wait_is_an_overload_and_a_place_that_is_free_again_is_taken(model):
    gate = Gate(CHOSEN)
    with Service(model, slots=1, most_waiting=2) as service:
        service.submit(Request((1,), max_new_tokens=4), policy=gate)
        assert gate.has_begun.wait(LIMIT_S)
        waiting = [service.submit(Request((1,), max_new_tokens=4), policy=gate) for _ in range(2)]
        assert service.figures().waiting == 2
        with pytest.raises(Overloaded, match="2 requests wait already"):
            service.submit(Request((1,)), policy=gate)
        waiting[0].cancel()
        last = service.submit(Request((1,), max_new_tokens=4), policy=gate)
        gate.is_open.set()
        assert last.result(LIMIT_S).finish_reason in {"length", "stop"}


def test_one_user_cannot_take_the_places_of_all(model):
    gate, request = Gate(CHOSEN), Request((1,), max_new_tokens=2)
    with Service(model, slots=1, most_waiting=4) as service:
        service.submit(request, policy=gate)
        assert gate.has_begun.wait(LIMIT_S)
        streams = []
        for user, count in (("many", 4), ("few", 2), ("one", 1), ("last", 1)):
            for _ in range(count):
                streams.append(service.submit(request, policy=gate, user=user))
            with pytest.raises(Overloaded, match=f"wait already, {count} of this user"):
                service.submit(request, policy=gate, user=user)
        with pytest.raises(Overloaded, match="8 requests wait already, 0 of this user"):
            service.submit(request, policy=gate, user="late")
        gate.is_open.set()
        assert {stream.result(LIMIT_S).finish_reason for stream in streams} <= {"length", "stop"}
        service.submit(request, policy=gate, user="late").result(LIMIT_S)


def test_what_does_not_fit_is_refused_at_once_and_wrong_settings_are_an_error(model):
    with Service(model) as service:
        refused = service.submit(Request((1,), max_new_tokens=10**6), CHOSEN)
        assert refused.is_over
        assert "exceed the model's 4096 positions" in refused.generation.error
        assert [step.finished for step in refused] == [refused.generation]
        assert service.submit(Request((1,), max_new_tokens=0), CHOSEN).result(0).token_ids == []
        with pytest.raises(UserError, match="threshold"):
            service.submit(Request((1,)), CHOSEN.model_copy(update={"threshold": 3.0}))
        with pytest.raises(UserError, match="made for other settings"):
            service.submit(Request((1,)), CHOSEN, policy=default_policy(SETTINGS[1], 6))
        assert service.figures().lanes == 0


@pytest.mark.parametrize("error", [None, ZeroDivisionError("a bug")])
def test_an_error_ends_its_lane_and_everyone_else_goes_on(golden_model, model, error):
    broken = Broken(CHOSEN, Policy.Parameters(), 6)
    broken.error = error
    with Service(model, slots=2) as service:
        good = service.submit(Request(tuple(range(60))), CHOSEN)
        bad = [service.submit(Request((1, 2), max_new_tokens=90), policy=broken) for _ in range(3)]
        expected = PolicyViolation if error is None else ZeroDivisionError
        for stream in bad[:2]:
            steps = []
            with pytest.raises(expected):
                steps.extend(stream)
            with pytest.raises(expected):
                stream.result(LIMIT_S)
            assert stream.generation is None
        alone = generate(golden_model("m6"), [Request(tuple(range(60)))], CHOSEN)[0]
        assert good.result(LIMIT_S) == alone
        with pytest.raises(expected):
            bad[2].result(LIMIT_S)
        again = service.submit(Request(tuple(range(60))), CHOSEN).result(LIMIT_S)
        assert again.token_ids == alone.token_ids
        assert service.figures().failed == 3


def test_an_error_in_stop_when_ends_its_own_request_only(golden_model, model):
    request = Request(tuple(range(60)), max_new_tokens=20)
    alone = generate(golden_model("m6"), [request], CHOSEN)[0]

    def fails(token_ids):
        if len(token_ids) == 10:
            raise ZeroDivisionError("a bug")

    with Service(model, slots=2) as service:
        good = service.submit(request, CHOSEN)
        bad = service.submit(replace(request, stop_when=fails), CHOSEN)
        steps = []
        with pytest.raises(ZeroDivisionError):
            steps.extend(bad)
        assert steps
        assert all(step.finished is None for step in steps)
        assert good.result(LIMIT_S) == alone
        figures = service.figures()
        assert (figures.failed, sum(figures.answers.values()), figures.decoding) == (1, 1, 0)
        assert service.submit(request, CHOSEN).result(LIMIT_S).token_ids == alone.token_ids
    assert_whole(model)


def test_numbers_that_are_none_leave_nothing_to_later_requests(golden_model, model):
    request = Request(tuple(range(64)), max_new_tokens=8)
    weights = model.embedding
    with Service(model, slots=2) as service:
        model.embedding = torch.full_like(weights, torch.nan)
        with pytest.raises(NotFinite):
            service.submit(request, CHOSEN).result(LIMIT_S)
        model.embedding = weights
        answer = service.submit(request, CHOSEN).result(LIMIT_S)
    assert answer == generate(golden_model("m6"), [request], CHOSEN)[0]


def test_closing_ends_those_who_decode_and_those_who_wait(model):
    gate = Gate(CHOSEN)
    service = Service(model, slots=1)
    streams = [service.submit(Request((n,)), policy=gate) for n in range(3)]
    assert gate.has_begun.wait(LIMIT_S)
    closing = Thread(target=service.close)
    closing.start()
    gate.is_open.set()
    closing.join(LIMIT_S)
    for stream in streams:
        with pytest.raises(Closed):
            stream.result(LIMIT_S)
    with pytest.raises(Closed):
        service.submit(Request((1,)), CHOSEN)
    service.close()
    assert_whole(model)


def test_a_slow_reader_holds_up_nobody_and_misses_nothing(golden_model, model):
    requests = [Request(tuple(range(n, n + 40)), max_new_tokens=60) for n in range(4)]
    with Service(model, slots=4) as service:
        slow, *others = [service.submit(request, CHOSEN) for request in requests]
        reader = iter(slow)
        next(reader)
        expected = generate(golden_model("m6"), requests, CHOSEN)
        assert [stream.result(LIMIT_S) for stream in others] == expected[1:]
        assert slow.result(LIMIT_S) == expected[0]
        assert [*list(slow)[1:]] == list(reader)
        with pytest.raises(TimeoutError):
            gate = Gate(CHOSEN)
            stream = service.submit(requests[0], policy=gate)
            try:
                stream.result(0.01)
            finally:
                gate.is_open.set()


def test_an_event_loop_reads_streams_without_threads(golden_model, model):
    requests = [Request(tuple(range(n, n + 40)), max_new_tokens=30) for n in range(5)]

    async def read(stream):
        return [step async for step in stream]

    async def read_all(service):
        return await asyncio.gather(*(read(service.submit(r, CHOSEN)) for r in requests))

    with Service(model, slots=2) as service:
        read_steps = asyncio.run(read_all(service))
        again = asyncio.run(read(service.submit(requests[0], CHOSEN)))
    expected = generate(golden_model("m6"), requests, CHOSEN)
    assert [steps[-1].finished for steps in read_steps] == expected
    assert again[-1].finished.token_ids == expected[0].token_ids


def test_an_idle_lane_gives_its_cache_up_when_another_is_asked_for(model):
    with Service(model, slots=2) as service:
        for chosen in (CHOSEN, SETTINGS[-1], SETTINGS[-2], CHOSEN):
            service.submit(Request((1, 2)), chosen).result(LIMIT_S)
        service.submit(Request((1, 2)), CHOSEN).result(LIMIT_S)
        assert service.figures().lanes == 1
