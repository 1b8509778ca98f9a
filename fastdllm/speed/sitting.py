"""One sitting: load the model once, decode an untimed round, then time rounds in mirrored order.

In each round every config decodes the same piece of items twice: A B C, then C B A, beginning with
another config from round to round; the next round takes the next piece. The baseline is timed under
a second name as well. A round is kept as soon as it is complete, so a killed sitting goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any

from fastdllm.common.console import Display
from fastdllm.common.errors import UserError
from fastdllm.common.files import now, write_json_atomically
from fastdllm.records.speed_record import Halves, Sitting, again
from fastdllm.records.summary import Git, Hardware
from fastdllm.runs.answer_records import Session
from fastdllm.runs.chunk_engine import DecodingEngine
from fastdllm.runs.chunk_in_flight import ChunkInFlight
from fastdllm.runs.chunks import timed_answers
from fastdllm.runs.decoder_code import code_digest
from fastdllm.runs.loaded_model import (
    KeptModel,
    dtype_name,
    load_engine,
    load_plan_tokenizer,
    session_of,
)
from fastdllm.runs.lock import run_lock
from fastdllm.runs.pauses import pauses_watched
from fastdllm.runs.progress import Progress
from fastdllm.runs.spec import RunSpec, check_plan
from fastdllm.runs.stopping import SIGNALS, Stop, Stopped
from fastdllm.speed.combining import read_sitting
from fastdllm.speed.rounds import Conditions, Round, RoundLog
from fastdllm.speed.speed_spec import (
    SpeedSpec,
    piece_size,
    progress_path,
    rounds_path,
    sitting_path,
)
from fastdllm.statistics.measured_speed import MOST_ROUNDS, rounds_planned
from fastdllm.statistics.paired_speed import PILOT_ROUNDS
from fastdllm.tasks.plan import Plan, PlannedRequest, read_plan

# A microsecond; clocks give no more.
DIGITS = 6


@dataclass
class SittingRun:
    """The sitting `number` of a measurement in `folder`, and what the process that measures needs.

    check_sources: raises a UserError when the files of a run are no longer those of its spec.
    git: state of the code when the process started.
    """

    spec: SpeedSpec
    folder: Path
    number: int
    display: Display
    check_sources: Callable[[RunSpec], None]
    git: Mapping[str, Any] | None
    device: str | None = None
    stop: Stop = field(default_factory=Stop)

    def measure(self) -> Sitting:
        """Measure what is missing of the sitting; return it, from its file if it is complete.

        Raises:
            UserError: a wrong input, too little memory, or answers that differ between two halves.
            Stopped: by a signal; the same call resumes after the last round.
        """
        with run_lock(self.folder, wait=True, work="speed"):
            path = sitting_path(self.folder, self.number)
            if path.exists():
                return read_sitting(self.folder, self.number, self.spec)
            sitting = self._measured()
            write_json_atomically(path, {"fingerprint": self.spec.fingerprint, **_json(sitting)})
            rounds_path(self.folder, self.number).unlink(missing_ok=True)
            return sitting

    def _measured(self) -> Sitting:
        first = None if self.number == 1 else read_sitting(self.folder, 1, self.spec)
        engines, load_s = self._load()
        requests = self._requests
        session = self._session(engines, load_s)
        log = RoundLog(
            rounds_path(self.folder, self.number),
            self._conditions(session),
            started=session.started,
        )
        if log.why_anew:
            self.display.note(f"sitting {self.number} begins anew: {log.why_anew}")
        sizes = self.spec.batch_sizes
        path = progress_path(self.folder, self.number)
        progress = Progress(path, self.display, total=0, code=code_digest())
        turns = _Turns(self.spec.baseline, engines, requests, self.stop, progress, log)
        try:
            with closing(progress):
                progress.decoding()
                for size in sizes:
                    turns.untimed(size)
                planned = first.planned_rounds if first is not None else {}
                if not planned:
                    turns.measure(dict.fromkeys(sizes, PILOT_ROUNDS), self._first_piece)
                    planned = {str(size): self._planned(log, size) for size in sizes}
                turns.measure({size: planned[str(size)] for size in sizes}, self._first_piece)
        except Stopped as stopped:
            stopped.has_begun = True
            raise
        progress.remove()
        git = self.git or {}
        return Sitting(
            number=self.number,
            started=log.started,
            ended=now(),
            processes=log.processes,
            host=session.host,
            hardware=Hardware(
                device="cuda" if session.device == "cuda" else "cpu",
                name=session.device_name,
                threads=session.threads,
            ),
            dtype=self._dtype,
            environment=dict(session.versions),
            git=Git(**git) if "commit" in git else None,
            git_unknown=git.get("unknown"),
            code_digest=code_digest(),
            load_s=load_s,
            planned_rounds=planned,
            batches=[log.columns(size) for size in sizes],
        )

    def _planned(self, log: RoundLog, batch_size: int) -> int:
        return rounds_planned(
            log.columns(batch_size),
            self.spec.baseline,
            sittings=self.spec.sittings,
            precision=self.spec.precision,
        )

    @property
    def _first_piece(self) -> int:
        """Sittings take different pieces, so that their items vary as well."""
        return (self.number - 1) * MOST_ROUNDS

    @property
    def _any_run(self) -> RunSpec:
        return self.spec.runs[self.spec.baseline]

    @property
    def _device(self) -> str:
        return self.device or self._any_run.run.device

    @property
    def _dtype(self) -> str:
        return dtype_name(self._any_run, self._device)

    @cached_property
    def _plan(self) -> Plan:
        plan = read_plan(Path(self._any_run.run.plan_folder), self.spec.task)
        for run in self.spec.runs.values():
            check_plan(run, plan)
        return plan

    @property
    def _requests(self) -> list[PlannedRequest]:
        """The requests that generate, in an order that mixes subtasks; the same in all sittings."""
        requests = [r for r in self._plan.requests if r.kind == "generate_until"]
        if not requests:
            raise UserError(
                f"{self.spec.label}: the task generates nothing, so there is no speed to measure; "
                "take it out of `tasks:` of the experiment, or `speed:` out of its experiment.yaml"
            )
        Random(self.spec.fingerprint).shuffle(requests)
        return requests

    def _load(self) -> tuple[dict[str, DecodingEngine], float]:
        """Load the model once, and the policy of each config."""
        plan, models, seconds = self._plan, KeptModel(), 0.0
        # All configs ask the same model, so they share its tokenizer.
        tokenizer = load_plan_tokenizer(self._any_run, plan)
        engines = {}
        for name, run in self.spec.runs.items():
            self.check_sources(run)
            largest = run.run.model_copy(update={"batch_size": max(self.spec.batch_sizes)})
            spec = run.model_copy(update={"run": largest})
            engines[name], load_s = load_engine(
                spec, plan, tokenizer, device=self._device, models=models
            )
            seconds += load_s or 0.0
            self.check_sources(run)
        return engines, seconds

    def _session(self, engines: Mapping[str, DecodingEngine], load_s: float) -> Session:
        return session_of(
            engines[self.spec.baseline], self._any_run, load_s=load_s, warm_up_s=0.0, git=self.git
        )

    def _conditions(self, session: Session) -> Conditions:
        return Conditions(
            fingerprint=self.spec.fingerprint,
            host=session.host,
            device=session.device,
            name=session.device_name,
            threads=session.threads,
            dtype=self._dtype,
            code_digest=code_digest(),
            environment=dict(session.versions),
        )


@dataclass
class _Turns:
    """Decodes pieces of requests with all configs in turn."""

    baseline: str
    engines: Mapping[str, DecodingEngine]
    requests: Sequence[PlannedRequest]
    stop: Stop
    progress: Progress
    log: RoundLog

    @property
    def names(self) -> list[str]:
        """All configs, and the baseline a second time."""
        return [*self.engines, again(self.baseline)]

    def untimed(self, batch_size: int) -> None:
        """Decode a round that does not count: first uses, caches and recorded shapes."""
        self.progress.expect(self._answers(batch_size, 1))
        self._round(batch_size, 0, first=0)

    def measure(self, rounds: Mapping[int, int], first_piece: int) -> None:
        """Time as many rounds at each batch size as are missing, in turn of the batch sizes.

        Raises:
            Stopped: a signal came; complete rounds are kept.
        """
        missing = {size: n - len(self.log.of(size)) for size, n in rounds.items()}
        self.progress.expect(sum(self._answers(size, n) for size, n in missing.items()))
        with (
            self.progress.ticking(),
            pauses_watched(self.stop) as watch,
            self.stop.deferred(*SIGNALS),
        ):
            for number in range(max(rounds.values())):
                for size, wanted in rounds.items():
                    if not len(self.log.of(size)) <= number < wanted:
                        continue
                    self.stop.check_between()
                    measured = None
                    while measured is None:
                        watch.look()
                        self.stop.was_paused = False
                        measured = self._round(size, first_piece + number, first=number)
                        watch.look()
                        if self.stop.was_paused:
                            self.progress.note("the process was paused; the round is repeated")
                            measured = None
                    self.log.append(measured)

    def _round(self, batch_size: int, piece: int, *, first: int) -> Round:
        requests = self._piece(batch_size, piece)
        turn = first % len(self.names)
        order = [*self.names[turn:], *self.names[:turn]]
        seconds: dict[str, list[float]] = {name: [] for name in order}
        cpu_seconds: dict[str, list[float]] = {name: [] for name in order}
        answers: dict[str, list[Any]] = {}
        for name in (*order, *reversed(order)):
            engine = self.engines[self.baseline if name == again(self.baseline) else name]
            spent, on_processors, tokens = self._half(
                replace(engine, batch_size=batch_size), requests
            )
            seconds[name].append(spent)
            cpu_seconds[name].append(on_processors)
            if answers.setdefault(name, tokens) != tokens:
                raise _not_repeated(name)
        if answers[again(self.baseline)] != answers[self.baseline]:
            raise _not_repeated(self.baseline)
        return Round(
            batch_size=batch_size,
            items=len(requests),
            seconds={name: _pair(halves) for name, halves in seconds.items()},
            cpu_seconds={name: _pair(halves) for name, halves in cpu_seconds.items()},
            tokens={name: sum(map(len, tokens)) for name, tokens in answers.items()},
        )

    def _piece(self, batch_size: int, number: int) -> list[PlannedRequest]:
        size = piece_size(batch_size, len(self.requests))
        start = number * size
        return [self.requests[(start + i) % len(self.requests)] for i in range(size)]

    def _answers(self, batch_size: int, rounds: int) -> int:
        return rounds * 2 * len(self.names) * piece_size(batch_size, len(self.requests))

    def _half(
        self, engine: DecodingEngine, requests: Sequence[PlannedRequest]
    ) -> tuple[float, float, list[Any]]:
        """Return seconds, seconds of processors, and the tokens of each answer."""
        flight = ChunkInFlight(self.progress, self.stop, len(requests), None)
        processors_s = -time.process_time()
        timed = timed_answers(engine, requests, flight)
        processors_s += time.process_time()
        answered = timed.answered
        wanted = min(engine.batch_size or 1, len(requests))
        if answered.smallest_batch_size < wanted:
            raise UserError(
                f"{answered.smallest_batch_size} of {wanted} sequences at once fit the memory; "
                "give smaller batch_sizes under speed: in experiment.yaml"
            )
        tokens = [answer.token_ids for answer in answered.answers]
        return round(timed.seconds, DIGITS), round(processors_s, DIGITS), tokens


def _pair(halves: Sequence[float]) -> Halves:
    first, second = halves
    return first, second


def _not_repeated(config: str) -> UserError:
    return UserError(
        f"{config}: its answers to the same items differ between two decodings in one process, so "
        "its seconds mean nothing; run the golden traces (pytest -m golden) on this machine"
    )


def _json(sitting: Sitting) -> dict[str, Any]:
    return sitting.model_dump(mode="json", exclude_none=True)
