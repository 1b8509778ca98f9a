"""A probe: which runs are timed in the minutes there are, in which order, and what is kept.

First one run of each task, with all the time that it can use, since a median of its task stands for
every other run; then one of each experiment; then more configs. What was measured here before comes
last. Loads the model once. evaluation/probe.py does the timing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastdllm.common.files import now
from fastdllm.runs.spec import RunSpec
from fastdllm.tasks.plan import Plan, read_plan
from fastdllm.tools.estimate.estimates import Estimate
from fastdllm.tools.estimate.hardware import Hardware
from fastdllm.tools.estimate.nearest import Basis
from fastdllm.tools.estimate.paces import settings_digest
from fastdllm.tools.estimate.probe_files import Measurement
from fastdllm.validation import validated
from fastdllm.workflow.project.runs import Run

if TYPE_CHECKING:
    from fastdllm.runs.loaded_model import KeptModel

# Known of exactly these settings, at their batch size: little is learnt by timing them again.
MEASURED = frozenset({Basis.CHUNKS, Basis.SETTINGS, Basis.PROBE})
# In less, hardly two requests would be timed behind their warm-up.
LEAST_SLICE_S = 1.0


@dataclass(frozen=True, slots=True)
class Probed:
    """One run that was timed, and on what."""

    run: Run
    hardware: Hardware
    measurement: Measurement


def rounds(estimates: Sequence[Estimate]) -> list[list[Run]]:
    """The runs to time, in rounds; each is begun when the one before is done."""
    fresh = [estimate for estimate in estimates if not _is_measured(estimate)]
    # The task with most to do matters most.
    fresh.sort(key=lambda estimate: -(estimate.items_left or 0))
    tasks: dict[str, Run] = {}
    experiments: dict[tuple[str, str], Run] = {}
    for run in (estimate.run for estimate in fresh):
        tasks.setdefault(run.task, run)
        experiments.setdefault((run.experiment, run.task), run)
    names = {run.name for run in tasks.values()}
    second = [run for run in experiments.values() if run.name not in names]
    names |= {run.name for run in second}
    third = [estimate.run for estimate in fresh if estimate.run.name not in names]
    last = [estimate.run for estimate in estimates if _is_measured(estimate)]
    return [part for part in ([*tasks.values()], second, third, last) if part]


def _is_measured(estimate: Estimate) -> bool:
    speed = estimate.speed
    return speed is not None and speed.batch_size is None and speed.basis in MEASURED


def probe(parts: Sequence[Sequence[Run]], *, seconds: float) -> Iterator[Probed]:
    """Time as many runs as fit into about so many seconds, at least one.

    Args:
        parts: the runs in rounds, with their plans made.

    Raises:
        UserError: a model, policy or plan that cannot be used.
    """
    from fastdllm.runs.loaded_model import KeptModel

    deadline = time.perf_counter() + seconds
    bench = _Bench(KeptModel())
    is_begun = False
    for part in parts:
        for number, run in enumerate(part):
            left_s = deadline - time.perf_counter()
            # A small batch is slow: better a few configs timed well, and their median for others.
            chunk_s = bench.chunk_s.get(run.task, 0.0)
            if is_begun and left_s < max(LEAST_SLICE_S, chunk_s / 2):
                continue
            is_begun = True
            even_s = left_s / (len(part) - number)
            yield bench.measure(run, max(even_s, min(chunk_s, left_s), LEAST_SLICE_S))


class _Bench:
    """Times runs with one model.

    chunk_s: seconds that timing a whole chunk of a task takes, as its last run did.
    """

    def __init__(self, models: KeptModel) -> None:
        self.chunk_s: dict[str, float] = {}
        self._models = models
        self._plans: dict[str, Plan] = {}
        self._load_s = 0.0

    def measure(self, run: Run, budget_s: float) -> Probed:
        """Load what is not loaded yet, and time the run for about so many seconds in all."""
        from fastdllm.runs.loaded_model import (
            dtype_name,
            load_engine,
            load_plan_tokenizer,
            session_of,
        )
        from fastdllm.runs.spec import check_plan
        from fastdllm.tools.estimate.timing import time_plan

        started = time.perf_counter()
        spec = validated(RunSpec, run.spec(), run.name)
        if run.task_folder not in self._plans:
            self._plans[run.task_folder] = read_plan(run.plan_folder, run.task)
        plan = self._plans[run.task_folder]
        check_plan(spec, plan)
        tokenizer = load_plan_tokenizer(spec, plan)
        device = spec.run.device
        engine, load_s = load_engine(spec, plan, tokenizer, device=device, models=self._models)
        self._load_s = self._load_s if load_s is None else load_s
        loading_s = time.perf_counter() - started
        timing = time_plan(engine, plan, budget_s=budget_s - loading_s)
        # Twice: the last try before the whole chunk has about half of it.
        chunk_s = plan.header.chunk_size * timing.seconds_per_item + timing.once_s
        self.chunk_s[run.task] = loading_s + 2 * chunk_s
        session = session_of(engine, spec, load_s=load_s, warm_up_s=timing.once_s)
        name, threads = session.hardware
        measurement = Measurement(
            experiment=run.experiment,
            task=run.task,
            config=run.config,
            limit=run.limit,
            settings=settings_digest(run.decides),
            model=run.decides["model"],
            model_digest=run.decides["model_digest"],
            dtype=run.decides["dtype"],
            resolved_dtype=dtype_name(spec, device),
            batch_size=timing.batch_size,
            items=timing.items,
            seconds=round(timing.seconds, 6),
            startup_s=round(self._load_s + timing.once_s, 3),
            time=now(),
        )
        return Probed(run, Hardware(name, threads), measurement)
