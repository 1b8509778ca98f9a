"""One timed run of the decoder over a list of requests, and what was observed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import TypeVar

import torch

from fastdllm.common.errors import UserError
from fastdllm.decoding.events import Entered, Event, PassRecord, SlotsChosen
from fastdllm.decoding.loop import Step, decode
from fastdllm.decoding.sequence import Generation, Request
from fastdllm.machine.device import synchronize
from fastdllm.model.fused import FusedModel
from fastdllm.policy import PassKind, Policy

TRIALS, CALLS = 5, 10
Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class TimedRun:
    """The cost and the results of one run.

    slots: most sequences in flight. answers: in the order of the requests. sequence_passes: passes
    of sequences by kind, reused ones included; passes: those of the engine, which run the rows of
    all sequences in flight at once. time_to_first_token_s, latency_s: per answer, from the moment
    the request entered a slot to its first committed token and to its end.
    """

    elapsed_s: float
    slots: int
    answers: tuple[Generation, ...]
    sequence_passes: Counter[PassKind]
    passes: tuple[PassRecord, ...]
    time_to_first_token_s: tuple[float, ...]
    latency_s: tuple[float, ...]

    @property
    def tokens(self) -> int:
        """Generated tokens."""
        return sum(len(answer.token_ids) for answer in self.answers)

    @property
    def tokens_per_s(self) -> float:
        """Generated tokens per second of the whole run."""
        return self.tokens / self.elapsed_s

    @property
    def tokens_per_forward(self) -> float:
        """TPF: generated tokens over forward evaluations of single sequences."""
        return self.tokens / sum(answer.passes.forwards for answer in self.answers)


@dataclass(slots=True)
class Watch:
    """Records when requests enter a slot, show a first token and finish, in one call of `decode`.

    now: gives seconds.
    """

    requests: int
    now: Callable[[], float] = time.perf_counter
    slots: int = 0
    entered: dict[int, float] = field(default_factory=dict)
    first_token: dict[int, float] = field(default_factory=dict)
    finished: dict[int, float] = field(default_factory=dict)
    answers: dict[int, Generation] = field(default_factory=dict)
    sequence_passes: Counter[PassKind] = field(default_factory=Counter)
    passes: list[PassRecord] = field(default_factory=list)

    def observe(self, event: Event) -> None:
        """Record an event of the engine (an `Observer`)."""
        if isinstance(event, PassRecord):
            self.passes.append(event)
        elif isinstance(event, Entered):
            self.entered[event.request] = self.now()
        elif isinstance(event, SlotsChosen):
            self.slots = event.slots

    def step(self, step: Step) -> None:
        """Record one pass of one sequence.

        Raises:
            UserError: the request was refused.
        """
        if step.finished is not None and step.finished.error is not None:
            raise UserError(f"request {step.request}: {step.finished.error}")
        if step.kind is not None:
            self.sequence_passes[step.kind] += 1
        if step.finished is None and (not step.tokens or step.request in self.first_token):
            return
        now = self.now()
        self.first_token.setdefault(step.request, now)
        if step.finished is not None:
            self.finished[step.request] = now
            self.answers[step.request] = step.finished

    def since_admission(self, moments: Mapping[int, float]) -> list[float]:
        """Return seconds from the entry of each request to its moment, in the order of requests."""
        return [moments[index] - self.entered[index] for index in sorted(self.entered)]


def timed_run(
    model: FusedModel,
    groups: Sequence[Sequence[Request]],
    policy: Policy,
    *,
    slots: int | None,
) -> TimedRun:
    """Decode the groups of requests one after the other, and time it.

    The clock runs from the first call to the last token, with the device idle at both ends. The
    requests of a group wait from the start of the group.

    Raises:
        UserError: a request does not fit the model or the memory.
    """
    watches = []
    synchronize(model.device)
    started = time.perf_counter()
    for group in groups:
        watch = Watch(len(group))
        for step in decode(model, group, policy, slots=slots, observe=watch.observe):
            watch.step(step)
        watches.append(watch)
    synchronize(model.device)
    elapsed_s = time.perf_counter() - started
    answers = [watch.answers[index] for watch in watches for index in range(watch.requests)]
    return TimedRun(
        elapsed_s=elapsed_s,
        slots=max(watch.slots for watch in watches),
        answers=tuple(answers),
        sequence_passes=sum((watch.sequence_passes for watch in watches), Counter()),
        passes=tuple(record for watch in watches for record in watch.passes),
        time_to_first_token_s=tuple(
            s for watch in watches for s in watch.since_admission(watch.first_token)
        ),
        latency_s=tuple(s for watch in watches for s in watch.since_admission(watch.finished)),
    )


def median_s(device: torch.device, call: Callable[[], object]) -> float:
    """Return the median seconds of one call, over several trials of several calls."""
    times = []
    for _ in range(TRIALS + 1):
        synchronize(device)
        started = time.perf_counter()
        for _ in range(CALLS):
            call()
        synchronize(device)
        times.append((time.perf_counter() - started) / CALLS)
    return median(times[1:])


def interleaved(
    variants: Mapping[Key, Callable[[], Value]], repeats: int, tick: Callable[[], None]
) -> dict[Key, list[Value]]:
    """Run each variant `repeats` times, in turn, so that a slow spell of the machine hits all.

    tick: called after each run.
    """
    results: dict[Key, list[Value]] = {key: [] for key in variants}
    for _ in range(repeats):
        for key, run in variants.items():
            results[key].append(run())
            tick()
    return results


def median_run(runs: Sequence[TimedRun]) -> TimedRun:
    """The run of median speed; of two in the middle the slower one."""
    return sorted(runs, key=lambda run: run.tokens_per_s)[(len(runs) - 1) // 2]


def share_differing(answers: Sequence[Generation], others: Sequence[Generation]) -> float:
    """Share of answers whose ids differ, among the requests that both lists begin with."""
    pairs = list(zip(answers, others, strict=False))
    return sum(answer.token_ids != other.token_ids for answer, other in pairs) / len(pairs)
