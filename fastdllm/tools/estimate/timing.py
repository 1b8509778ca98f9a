"""The speed of a run in seconds instead of hours: a few chunks out of the middle of its plan.

Decodes with the engine, the settings and the batch size of the run; what costs a job once (loading,
warm-up, recording of shapes) is kept apart. A chunk's prompts are of nearly one length and chunks
go from long to short, so the one in the middle is close to the mean: over the decoded runs in
artifacts/ within 21 %, those at 1/4 and 3/4 within 9 %; the first one takes 28-58 % more. Writes
nothing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from fastdllm.runs.answer_records import Answer
from fastdllm.runs.chunks import ChunkEngine
from fastdllm.tasks.plan import Plan, PlannedRequest

# The first requests only tell how many can be timed.
FIRST_REQUESTS = 2
# Places of chunks in the plan, the most telling first.
PLACES = (1 / 2, 1 / 4, 3 / 4)


@dataclass(frozen=True, slots=True)
class Timing:
    """How long `items` requests took; batch_size: most of them that were decoded at once.

    once_s: warm-up and recording of shapes.
    """

    items: int
    seconds: float
    once_s: float
    batch_size: int

    @property
    def seconds_per_item(self) -> float:
        return self.seconds / self.items


class _Silent:
    """Nobody hears of single answers; a lack of memory shows in the batch size."""

    def answered(self, answer: Answer) -> None:
        """Ignored."""

    def note(self, text: str) -> None:
        """Ignored."""

    def step(self) -> None:
        """Ignored."""


def time_plan(engine: ChunkEngine, plan: Plan, *, budget_s: float) -> Timing:
    """Time requests of a plan for about so many seconds.

    A plan with requests of both kinds is timed for each, and the mean weighs them as the plan does.
    """
    chunks = [plan.chunk(index) for index in range(len(plan.header.chunks))]
    kinds = list(dict.fromkeys(chunk[0].kind for chunk in chunks))
    parts = []
    for kind in kinds:
        own = [chunk for chunk in chunks if chunk[0].kind == kind]
        timing = _time_chunks(engine, own, budget_s=budget_s / len(kinds))
        parts.append((timing, sum(len(chunk) for chunk in own)))
    items = sum(timing.items for timing, _ in parts)
    total = sum(size for _, size in parts)
    mean_s = sum(timing.seconds_per_item * size / total for timing, size in parts)
    return Timing(
        items=items,
        seconds=mean_s * items,
        once_s=sum(timing.once_s for timing, _ in parts),
        # As in a summary: that of generation, where there is any.
        batch_size=parts[kinds.index("generate_until") if "generate_until" in kinds else 0][
            0
        ].batch_size,
    )


def _time_chunks(
    engine: ChunkEngine, chunks: Sequence[Sequence[PlannedRequest]], *, budget_s: float
) -> Timing:
    """Time as much of the middle chunk as fits, and where all of it does, others as well."""
    deadline = time.perf_counter() + budget_s
    places = dict.fromkeys(int(len(chunks) * place) for place in PLACES)
    whole: list[Timing] = []
    for place in places:
        requests = chunks[place]
        if not whole:
            timing = _time_growing(engine, requests, deadline)
            if timing.items < len(requests):
                return timing
        elif time.perf_counter() + whole[0].seconds + whole[0].once_s > deadline:
            break
        else:
            timing = _time(engine, requests)
        whole.append(timing)
    return Timing(
        items=sum(timing.items for timing in whole),
        seconds=sum(timing.seconds for timing in whole),
        once_s=whole[0].once_s,
        batch_size=max(timing.batch_size for timing in whole),
    )


def _time_growing(
    engine: ChunkEngine, requests: Sequence[PlannedRequest], deadline: float
) -> Timing:
    """Time the first requests, then more of them at once, as long as that fits."""
    count = min(FIRST_REQUESTS, len(requests))
    while True:
        started = time.perf_counter()
        timing = _time(engine, requests[:count])
        now = time.perf_counter()
        # As if twice the requests took twice as long; in a larger batch they take less.
        fitting = int(count * (deadline - now) / (now - started))
        larger = min(fitting, len(requests))
        if larger < min(2 * count, len(requests)) or count == len(requests):
            return timing
        count = larger


def _time(engine: ChunkEngine, requests: Sequence[PlannedRequest]) -> Timing:
    started = time.perf_counter()
    engine.warm_up(requests)
    engine.synchronize()
    warm = time.perf_counter()
    answered = engine.answer(requests, _Silent())
    engine.synchronize()
    return Timing(
        items=len(requests),
        seconds=time.perf_counter() - warm - answered.recording_s,
        once_s=warm - started + answered.recording_s,
        batch_size=answered.batch_size,
    )
