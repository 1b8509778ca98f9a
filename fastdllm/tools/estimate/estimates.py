"""How long runs will take: items left times measured seconds per item, on one kind of hardware.

Only the same model in the same number format on the same hardware is used, and nothing of another
task (nearest.py chooses among them); what is not known is None, never a guess. Reads files once, in
`load`; imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median

from fastdllm.tasks.plan import planned_sizes
from fastdllm.tools.estimate.finished_chunks import FinishedChunk, finished_chunks, used_items
from fastdllm.tools.estimate.hardware import (
    WORKFLOW_THREADS,
    MeasuredHardware,
    WantedHardware,
    this_machine,
)
from fastdllm.tools.estimate.nearest import Basis, Speed, TaskPaces
from fastdllm.tools.estimate.paces import (
    FinishedRuns,
    Pace,
    paces_of_answers,
    read_finished,
)
from fastdllm.tools.estimate.published_speeds import published_speed, tokens_at_most
from fastdllm.workflow.project.runs import Run

# A job asks for half as much again: of the 87 decoded runs in artifacts/, 85 took less than 1.5
# times the median of their task. The others end in a second attempt, which asks for twice that.
SAFETY = 1.5
# For interpreter, imports and lm-eval's scoring on a slow file system.
ALLOWANCE_S = 180.0
# Less gains nothing in a queue, and a busy file system can use it up before decoding starts.
LEAST_MINUTES = 10


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run will cost on one kind of hardware; None if nothing is known.

    items, items_left: requests to the model, all of them and those without an answer.
    outside_s: what a job takes besides loading, warm-up and decoding: imports and scoring.
    """

    run: Run
    items: int | None
    items_left: int | None
    speed: Speed | None
    outside_s: float | None

    @property
    def basis(self) -> Basis:
        """Where the speed comes from."""
        return Basis.NONE if self.speed is None else self.speed.basis

    @property
    def decoding_s(self) -> float | None:
        """Seconds of decoding that are left."""
        if self.items_left is None or self.speed is None:
            return None
        return self.items_left * self.speed.seconds_per_item

    def share_s(self, share: float) -> float | None:
        """Seconds of decoding in a job that has this share of all items, at most.

        How many of them are left is known of the whole run only.
        """
        if self.items is None or self.items_left is None or self.speed is None:
            return None
        return min(self.items_left, math.ceil(share * self.items)) * self.speed.seconds_per_item

    @property
    def startup_s(self) -> float | None:
        """Seconds of loading, warm-up and recording of shapes, if they were measured."""
        return None if self.speed is None else self.speed.startup_s


@dataclass(slots=True)
class Estimates:
    """Everything measured so far, and the estimate of any run of the project from it."""

    finished: FinishedRuns
    chunks: dict[str, list[FinishedChunk]] = field(default_factory=dict)
    threads: int = WORKFLOW_THREADS
    _of_task: dict[Hashable, TaskPaces] = field(default_factory=dict)
    _of_answers: dict[str, list[Pace]] = field(default_factory=dict)
    _items: dict[str, int | None] = field(default_factory=dict)
    _limits: dict[str, int | None] = field(default_factory=dict)
    _here: dict[str, WantedHardware] = field(default_factory=dict)

    @classmethod
    def load(cls, runs: Iterable[Run], *, threads: int = WORKFLOW_THREADS) -> Estimates:
        """Read what was measured, in results/ and artifacts/ of the current folder.

        Args:
            runs: whose finished chunks count.
            threads: CPU threads of a run, where it runs on a CPU.
        """
        finished = read_finished()
        chunks = {
            run.name: finished_chunks(run.folder, run.fingerprint)
            for run in runs
            if finished.fingerprints.get(run.folder) != run.fingerprint
        }
        return cls(finished, chunks, threads)

    def minutes(
        self, run: Run, *, gpu: str | None, share: float = 1.0, attempt: int = 1
    ) -> int | None:
        """Return the minutes that a job should ask for; None if nothing is known.

        Args:
            gpu: kind of GPU, as in a site.yaml; None: the hardware of this machine.
            share: of the run's items, for a shard.
            attempt: from 1; each asks for twice as much as the one before.
        """
        return self.minutes_of_pack([run], gpu=gpu, share=share, attempt=attempt)

    def minutes_of_pack(
        self, runs: Sequence[Run], *, gpu: str | None, share: float = 1.0, attempt: int = 1
    ) -> int | None:
        """`minutes` of a job that decodes several runs and loads the model once."""
        estimates = [self.estimate(run, gpu=gpu) for run in runs]
        shares_s = [estimate.share_s(share) for estimate in estimates]
        known_s = [seconds for seconds in shares_s if seconds is not None]
        if not runs or len(known_s) < len(runs):
            return None
        startup_s = max(estimate.startup_s or 0.0 for estimate in estimates)
        outside_s = sum(estimate.outside_s or 0.0 for estimate in estimates)
        seconds = startup_s + max(outside_s, ALLOWANCE_S) + SAFETY * sum(known_s)
        return max(math.ceil(seconds / 60), LEAST_MINUTES) * 2 ** (attempt - 1)

    def estimate(self, run: Run, *, gpu: str | None, takes_published: bool = False) -> Estimate:
        """Return what one run will cost; see `minutes` for `gpu`.

        takes_published: whether a speed that others published counts where nothing was measured.
        """
        wanted = self.hardware(run, gpu)
        items, done = self.items_of(run), self.chunks.get(run.name, [])
        items_left = None if items is None else max(items - used_items(done, items), 0)
        chunks = [c for c in done if wanted.matches(c.hardware) and not c.was_paused]
        speed = self._paces_on(wanted, run).speed(run, items, chunks)
        if speed is None and takes_published:
            speed = published_speed(run, wanted, self._tokens_at_most)
        return Estimate(run, items, items_left, speed, self._outside_s(run.task))

    def hardware(self, run: Run, gpu: str | None) -> WantedHardware:
        """Return the hardware that the run is estimated for."""
        if gpu is not None:
            return WantedHardware(gpu)
        device = str(run.surroundings["device"])
        if device not in self._here:
            self._here[device] = this_machine(device, threads=self.threads)
        return self._here[device]

    def measured_hardware(self) -> list[MeasuredHardware]:
        """Return all hardware that anything was measured on."""
        hardware = [pace.hardware for pace in self.finished.paces]
        hardware += [chunk.hardware for chunks in self.chunks.values() for chunk in chunks]
        return list(dict.fromkeys(hardware))

    def items_of(self, run: Run) -> int | None:
        """Requests of a run: as planned, else as an earlier run of the task counted them."""
        if run.task_folder not in self._items:
            planned = _planned_items(run)
            self._items[run.task_folder] = planned or self.finished.items_of(run.task, run.limit)
        return self._items[run.task_folder]

    def _tokens_at_most(self, run: Run) -> int | None:
        if run.task_folder not in self._limits:
            self._limits[run.task_folder] = tokens_at_most(run)
        return self._limits[run.task_folder]

    def _paces_on(self, wanted: WantedHardware, run: Run) -> TaskPaces:
        model = (run.decides["model"], run.decides["model_digest"])
        dtype = run.decides["dtype"]
        key = (wanted, model, dtype, run.task)
        if key not in self._of_task:
            if run.task not in self._of_answers:
                untimed = [o for o in self.finished.untimed if o.record["task"] == run.task]
                self._of_answers[run.task] = paces_of_answers(untimed)
            every = (*self.finished.paces, *self._of_answers[run.task])
            self._of_task[key] = TaskPaces(
                [
                    pace
                    for pace in every
                    if pace.task == run.task
                    and pace.model == model
                    and dtype in pace.dtypes
                    and wanted.matches(pace.hardware)
                ]
            )
        return self._of_task[key]

    def _outside_s(self, task: str) -> float | None:
        """Of jobs of this task, else of any: imports take most of it."""
        measured = [(p.task, p.outside_s) for p in self.finished.paces if p.outside_s is not None]
        of_task = [seconds for name, seconds in measured if name == task]
        seconds = of_task or [seconds for _, seconds in measured]
        return median(seconds) if seconds else None


def _planned_items(run: Run) -> int | None:
    sizes = planned_sizes(run.plan_folder)
    return None if sizes is None else sum(sizes)
