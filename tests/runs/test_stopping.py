"""Signals: when they stop a run at once, when they wait for the chunk in flight."""

from __future__ import annotations

import os
import signal

import pytest

from fastdllm.common.errors import UserError
from fastdllm.runs import stopping
from fastdllm.runs.stopping import SIGNALS, Stop, Stopped, stopped_by_signals
from tests.support.fakes import FakeClock

TERM, USR1 = signal.SIGTERM, signal.SIGUSR1


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    clock = FakeClock()
    monkeypatch.setattr(stopping, "time", clock)
    return clock


def goes_on(stop: Stop, remaining_s: float | None) -> bool:
    try:
        stop.check(lambda: remaining_s)
    except Stopped:
        return False
    return True


def asked(number: int, warning_s: float = 120.0) -> Stop:
    stop = Stop(warning_s)
    with stop.deferred(*SIGNALS):
        stop.handle(number)
    return stop


def test_signal_while_a_model_is_loaded_stops_at_once() -> None:
    with stopped_by_signals() as stop, pytest.raises(Stopped, match=r"SIGTERM; the same command"):
        os.kill(os.getpid(), TERM)
    with pytest.raises(Stopped, match="SIGTERM"):
        stop.check_between()


def test_handlers_are_put_back() -> None:
    before = [signal.getsignal(number) for number in (TERM, USR1)]
    with stopped_by_signals():
        assert [signal.getsignal(number) for number in (TERM, USR1)] != before
    assert [signal.getsignal(number) for number in (TERM, USR1)] == before


def test_without_a_signal_everything_goes_on() -> None:
    stop = Stop()
    assert goes_on(stop, None)
    stop.check_between()


@pytest.mark.parametrize(
    ("number", "remaining_s", "waited_s", "goes"),
    [
        (USR1, 100.0, 0.0, True),
        (USR1, 110.0, 0.0, False),  # 120 s, less 15 s to write
        (USR1, 100.0, 10.0, False),
        (USR1, None, 104.0, True),
        (USR1, None, 106.0, False),
        (TERM, 1.0, 0.5, True),
        (TERM, 1.0, 1.5, False),
        (TERM, None, 0.0, False),
    ],
)
def test_chunk_in_flight_is_finished_when_it_fits_the_time_left(
    clock: FakeClock, number: int, remaining_s: float | None, waited_s: float, goes: bool
) -> None:
    stop = asked(number)
    clock.now += waited_s
    assert goes_on(stop, remaining_s) is goes
    with pytest.raises(Stopped):
        stop.check_between()


@pytest.mark.usefixtures("clock")
def test_half_of_a_short_warning_is_kept() -> None:
    stop = asked(USR1, warning_s=10.0)
    assert goes_on(stop, 4.9)
    assert not goes_on(stop, 5.1)


def test_second_signal_stops_at_once_and_an_echo_does_not(clock: FakeClock) -> None:
    stop = Stop()
    with stop.deferred(*SIGNALS):
        stop.handle(USR1)
        clock.now += 0.5
        stop.handle(USR1)
        clock.now += 0.6
        with pytest.raises(Stopped, match="SIGTERM") as stopped:
            stop.handle(TERM)
    assert stopped.value.why == "SIGTERM", "it outweighs the time limit"
    stop.handle(TERM)  # while the last lines are written


def test_sigterm_is_remembered_even_while_the_last_lines_are_written() -> None:
    stop = asked(USR1)
    with pytest.raises(Stopped, match="SIGUSR1"):
        stop.check_between()
    assert not stop.was_terminated
    stop.handle(TERM)
    assert stop.was_terminated


def test_work_that_is_done_is_not_stopped_but_nothing_new_is_begun() -> None:
    stop = Stop()
    stop.settle()
    stop.handle(USR1)
    with pytest.raises(Stopped, match="SIGUSR1"):
        stop.check_between()
    stop = Stop()
    stop.settle()
    stop.check_between()
    with pytest.raises(Stopped, match="SIGUSR1"):
        stop.handle(USR1)
    stop = Stop()
    stop.settle()
    stop.handle(TERM)
    with pytest.raises(Stopped, match="SIGTERM"), stop.deferred(USR1):
        pass


def test_sentence_counts_the_chunks() -> None:
    assert Stopped(USR1).with_chunks(3, 6).sentence == (
        "stopped by SIGUSR1 (time limit ahead) with 3 of 6 chunks done; the same command resumes"
    )


def test_warning_time_must_be_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTDLLM_WARNING_S", "soon")
    with pytest.raises(UserError, match="FASTDLLM_WARNING_S='soon'"), stopped_by_signals():
        pass


def test_scoring_waits_for_the_time_limit_but_not_for_sigterm() -> None:
    stop = Stop()
    with stop.deferred(USR1):
        stop.handle(USR1)
    with stop.deferred(USR1):
        pass
    with pytest.raises(Stopped, match="SIGTERM"), asked(TERM).deferred(USR1):
        pass
    stop = Stop()
    with pytest.raises(Stopped, match="SIGTERM"), stop.deferred(USR1):
        stop.handle(TERM)
    stop = Stop()
    with pytest.raises(Stopped, match="SIGTERM"), stop.deferred(USR1):
        stop.handle(USR1)
        stop.handle(TERM)


def test_deferring_goes_on_behind_a_part_that_defers_less() -> None:
    stop = Stop()
    with stop.deferred(*SIGNALS):
        with stop.deferred(USR1):
            pass
        stop.handle(TERM)
    with pytest.raises(Stopped, match="SIGTERM"):
        stop.check_between()
