"""What stands in for a model, for SLURM or for Snakemake where the real one is not the claim.

The hub is in fake_hub.py, as it is a server. Imports no torch, as evals of the small project do.
"""

from __future__ import annotations

import hashlib
import pwd
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from fastdllm.cluster.jobs import SLURM_LOGS
from fastdllm.cluster.slurm import Job, JobState, SlurmError
from fastdllm.decoding.sequence import PassCounts
from fastdllm.records.result_files import SUMMARY_SCHEMA_VERSION
from fastdllm.runs.answer_records import Answer
from fastdllm.runs.stopping import Stop
from fastdllm.tasks.plan import Plan, PlanHeader, PlannedRequest, fixed_chunks, requests_text

if TYPE_CHECKING:
    import pytest

    from fastdllm.runs.chunk_engine import Answered
    from fastdllm.runs.chunk_in_flight import ChunkInFlight

RIGHT_THEN_WRONG, WRONG_THEN_RIGHT = "gA==", "QA=="


def fake_summary(spec: Mapping[str, Any], *, correct_bits: str = RIGHT_THEN_WRONG) -> dict:
    """A whole summary of the run that a spec.json describes; each call has its own time."""
    keys = ("experiment", "task", "config", "fingerprint", "decides")
    decoding = {
        key.removeprefix("decoding."): value
        for key, value in spec["decides"].items()
        if key.startswith("decoding.") and value is not None
    }
    return {key: spec[key] for key in keys} | {
        "schema_version": SUMMARY_SCHEMA_VERSION,
        "computation": spec["run"]["computation"],
        **({"claims": spec["run"]["claims"]} if "claims" in spec["run"] else {}),
        "timestamp": datetime.now(UTC).isoformat(),
        "accuracy": 0.5,
        "metrics": [{"metric": "acc", "filter": "none", "value": 0.5, "n": 2, "primary": True}],
        "items": {"n": 2, "correct_bits": correct_bits},
        "peak_memory": {"gib": 1.0, "kind": "process_resident"},
        "load_time_s": 1.0,
        "warm_up_s": 1.0,
        "resumed": False,
        "dtype": "float32",
        "hardware": [{"device": "cpu", "name": "a processor", "threads": 1}],
        "environment": {},
        "model_args": {"model_path": "m", "experiment_name": spec["experiment"], **decoding},
        "eval_params": {
            "n_items": 2,
            "n_requests": 2,
            "batch_size": 1,
            "seed": spec["decides"]["seed"],
        },
    }


def fake_sitting(
    spec: Mapping[str, Any], number: int, *, ratio: float = 0.8, **changes: Any
) -> dict[str, Any]:
    """A sitting of the measurement that a speed's spec.json describes, with four rounds.

    ratio: of the seconds of all configs but the baseline, in the first sitting; 0.01 more in each.
    """
    slower = dict.fromkeys(spec["runs"], ratio + 0.01 * (number - 1))
    factors = {**slower, spec["baseline"]: 1.0, f"{spec['baseline']} again": 1.0}
    halves = {name: [(factor, 1.1 * factor)] * 4 for name, factor in factors.items()}
    rounds = {
        "items": 8,
        "seconds": halves,
        "cpu_seconds": halves,
        "tokens": {name: [80] * 4 for name in factors},
    }
    return {
        "fingerprint": spec["fingerprint"],
        "number": number,
        "started": f"2026-01-0{number}T00:00:00+00:00",
        "ended": f"2026-01-0{number}T01:00:00+00:00",
        "processes": 1,
        "host": "node",
        "hardware": {"device": "cpu", "name": "a processor", "threads": 1},
        "dtype": "float32",
        "environment": {"torch": "2.13.0"},
        "code_digest": "0" * 64,
        "load_s": 1.0,
        "planned_rounds": {str(size): 4 for size in spec["batch_sizes"]},
        "batches": [{"batch_size": size, **rounds} for size in spec["batch_sizes"]],
        **changes,
    }


def without_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the user's id have no entry in passwd, as in a container."""

    def unknown(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)


# Wildcards of the job of an eval, and its comment.
VALUES = ("demo", "words", "k1")
COMMENT = "rule_eval_wildcards_demo_words_k1"


def log_of(rule: str, values: Sequence[str], job_id: str) -> Path:
    """Return the path of SLURM's own log of a job, relative to the project."""
    return SLURM_LOGS / f"rule_{rule}" / "_".join(values).replace("/", "_") / f"{job_id}.log"


def squeue_output(*jobs: Job) -> str:
    """Return what squeue prints about jobs."""
    return "".join(
        f"{job.id}\x1f{job.state}\x1fNone\x1fN/A\x1f{job.node}\x1f1:00\x1f0\x1f"
        f"{job.name or 'x'}\x1f{job.comment}\x1f{job.work_dir}\x1e\n"
        for job in jobs
    )


class FakeSlurm:
    """Scripts in the place of SLURM's commands; the files `queue` and `down` say what they do."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "bin").mkdir()
        self.say()
        fail = f"if cat {folder}/$0.down >&2 2>/dev/null; then exit 1; fi"
        note = f'printf "%s\\n" "$*" >> {folder}/$0.calls'
        for name, text in {
            "squeue": f"cat {folder}/queue",
            "sbatch": "echo 77",
            "scancel": "",
            "sacctmgr": "echo lab",
            "sacct": "",
            "scontrol": "",
            "sinfo": "",
        }.items():
            script = folder / "bin" / name
            fail_here, note_here = (line.replace("$0", name) for line in (fail, note))
            script.write_text(f"#!/bin/sh\n{note_here}\n{fail_here}\n{text}\n")
            script.chmod(0o755)

    def say(
        self,
        *jobs: tuple[str, ...],
        comment: str = COMMENT,
        place: str = "project",
        node: str = "",
    ) -> None:
        """Set what squeue prints: ids, states, and names where they matter."""
        place = str(self.folder / place)
        listed = [
            Job(i, state, node=node, name="".join(name), comment=comment, work_dir=place)
            for i, state, *name in jobs
        ]
        (self.folder / "queue.new").write_text(squeue_output(*listed))
        (self.folder / "queue.new").rename(self.folder / "queue")

    def break_down(self, name: str, error: str) -> Path:
        path = self.folder / f"{name}.down"
        path.write_text(error)
        return path

    def calls(self, name: str) -> list[str]:
        path = self.folder / f"{name}.calls"
        return path.read_text().splitlines() if path.exists() else []


class FakeAccounts:
    """SLURM's accounting database with what is put into it; counts its calls."""

    def __init__(self, *jobs: JobState) -> None:
        self.jobs = list(jobs)
        self.calls = 0
        self.is_down = False

    def __call__(self, ids: Iterable[str]) -> Mapping[str, JobState]:
        self.calls += 1
        if self.is_down:
            raise SlurmError("sacct: connection refused")
        wanted = set(ids)
        return {job.id: job for job in self.jobs if job.id in wanted}


class Resources(dict[str, Any]):
    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class FakeJob:
    """What the executor asks of a job of Snakemake."""

    name = "eval"
    rule = SimpleNamespace(name="eval")
    threads = 1
    jobid = 1
    is_local = False

    def __init__(self, output: Path) -> None:
        self.resources = Resources(runtime=5, mem_mb=10, slurm_account="lab", slurm_partition="gpu")
        self.wildcards = VALUES
        self.input = [str(output.with_name("spec.json"))]
        self.output = [str(output)]
        self.attempt = 1
        self.restart_times = 2
        self.told: list[str] = []

    def is_group(self) -> bool:
        return False

    def register(self, external_jobid: str) -> None:
        self.registered = external_jobid

    def log_info(self) -> None:
        pass

    def log_error(self, msg: str, **kwargs: Any) -> None:
        self.told.append(msg)
        self.logs = kwargs.get("aux_logs")


class FakeScheduler:
    """Notes what became of jobs."""

    def __init__(self) -> None:
        self.finished: list[FakeJob] = []
        self.failed: list[FakeJob] = []
        self.problems: list[Exception] = []
        self.finish_callback = self.finished.append
        self.error_callback = self.failed.append
        self.executor_error_callback = self.problems.append

    def submit_callback(self, job: FakeJob) -> None:
        pass


def fake_plan(requests: Sequence[PlannedRequest], *, task: str = "t", chunk_size: int) -> Plan:
    """The plan of a task that was never loaded: one item a request."""
    header = PlanHeader(
        task=task,
        limit=None,
        chunk_size=chunk_size,
        num_fewshot=None,
        apply_chat_template=True,
        chat_template=None,
        model_tokenizer_digest="t",
        lm_eval_version="0",
        n_items=len(requests),
        n_requests=len(requests),
        item_digests={},
        digest=hashlib.sha256(requests_text(requests).encode()).hexdigest(),
        chunks=fixed_chunks(requests, chunk_size),
    )
    return Plan(header, tuple(requests))


def _answered(answers: Sequence[Answer], recording_s: float, *, batch_size: int) -> Answered:
    from fastdllm.runs.chunk_engine import Answered

    return Answered(tuple(answers), recording_s, batch_size, batch_size, 0)


class FakeEngine:
    """An engine that takes `seconds` for a chunk and reports each answer at once."""

    def __init__(self, seconds: float, recording_s: float = 0.0) -> None:
        self.seconds, self.recording_s = seconds, recording_s

    def answer(self, requests: list[PlannedRequest], flight: ChunkInFlight) -> Answered:
        answers = [
            Answer(id=r.id, token_ids=(1,), finish_reason="stop", passes=PassCounts(full_block=1))
            for r in requests
        ]
        for answer in answers:
            flight.answered(answer)
        time.sleep(self.seconds)
        return _answered(answers, self.recording_s, batch_size=2)

    def warm_up(self, requests: list[PlannedRequest]) -> None: ...

    def synchronize(self) -> None: ...

    def peak_memory_gib(self) -> float:
        return 0.0


class InterruptedEngine(FakeEngine):
    """Gets a signal in the middle of the chunk that answers a request."""

    def __init__(self, stop: Stop, number: int, request: str) -> None:
        super().__init__(seconds=0.0)
        self.stop, self.number, self.request = stop, number, request

    def answer(self, requests: list[PlannedRequest], flight: ChunkInFlight) -> Answered:
        for request in requests:
            if request.id == self.request:
                self.stop.handle(self.number)
            flight.step()
        return super().answer(requests, flight)


class FakeScorer(FakeEngine):
    """An engine of log-likelihoods that answers in no time, always the same."""

    def __init__(self) -> None:
        super().__init__(seconds=0.0)

    def answer(self, requests: list[PlannedRequest], flight: ChunkInFlight) -> Answered:
        answers = [Answer(id=r.id, logprob=float(int(r.id[0], 16))) for r in requests]
        return _answered(answers, 0.0, batch_size=1)


class FakeFlight:
    """A chunk in flight that remembers what it was told."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.notes: list[str] = []

    def answered(self, answer: Answer) -> None:
        self.answers.append(answer)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def step(self) -> None: ...


class FakeClock:
    """In the place of the module `time`: it stands still, except while something sleeps.

    share: of the time that passes, the part in which the decoding thread is on a processor.
    """

    now = 1000.0

    def __init__(self, share: float = 1.0) -> None:
        self.share = share

    def monotonic(self) -> float:
        return self.now

    def perf_counter(self) -> float:
        return self.now

    def thread_time(self) -> float:
        return self.share * self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class FakeTerminal:
    """A terminal that keeps what is written."""

    def __init__(self, *, is_terminal: bool = True) -> None:
        self.is_terminal, self.text = is_terminal, ""

    def isatty(self) -> bool:
        return self.is_terminal

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None: ...
