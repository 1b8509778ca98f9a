"""Runs and measurements without a model: what the tests of estimates are made of."""

from __future__ import annotations

import json
from collections.abc import Container
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from fastdllm.runs.answer_records import Answer, Chunk, Header, Session
from fastdllm.runs.answers import open_answers
from fastdllm.runs.decoder_code import code_digest
from fastdllm.tools.estimate.hardware import MeasuredHardware
from fastdllm.workflow.project.digests import digest_of
from fastdllm.workflow.project.runs import Run
from tests.support.fakes import fake_summary

RTX, V100 = MeasuredHardware("Quadro RTX 6000"), MeasuredHardware("Tesla V100-PCIE-16GB")
CHUNK_SIZE = 10


def make_run(
    config: str = "k1",
    *,
    experiment: str = "base",
    task: str = "words",
    limit: int | None = None,
    batch_size: int | str = 4,
    task_definition: str | None = None,
    **decides: Any,
) -> Run:
    """A run of 10 requests in a chunk, 4 at once."""
    every = {
        "model": "local",
        "model_digest": "m",
        "dtype": "auto",
        "chunk_size": CHUNK_SIZE,
        "seed": 0,
        "task": task,
        "limit": limit,
        "config": config,
        "experiment": experiment,
    } | decides
    return Run(
        experiment=experiment,
        task=task,
        config=config,
        limit=limit,
        decides=every,
        surroundings={
            "batch_size": batch_size,
            "device": "auto",
            "task_definition": task_definition,
        },
        fingerprint=digest_of(every),
        computation=digest_of([every]),
    )


def write_summary(
    run: Run,
    *,
    seconds: float | None,
    hardware: MeasuredHardware = RTX,
    items: int = 100,
    batch_size: int = 4,
    published: bool = False,
    **changes: Any,
) -> Path:
    """The summary of a finished run; seconds: of decoding, None for a task of log-likelihoods."""
    record = fake_summary(run.spec()) | {
        "dtype": "float16",
        "hardware": [{"device": "cuda", **_device(hardware)}],
        "load_time_s": 20.0,
        "warm_up_s": 4.0,
        "eval_params": {"n_items": items, "n_requests": items, "batch_size": batch_size}
        | ({} if run.limit is None else {"limit": run.limit}),
    }
    if seconds is not None:
        record["throughput"] = {"total_time_s": seconds, "recording_s": 6.0}
    path = run.artifact_path if published else run.summary_path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record | changes))
    return path


def write_answers(
    run: Run,
    chunks: dict[int, float],
    *,
    hardware: MeasuredHardware = RTX,
    name: str = "answers.jsonl",
    load_s: float | None = 20.0,
    paused: Container[int] = (),
) -> Path:
    """The finished chunks of a run; chunks: seconds by number, of 10 answers each."""
    path = run.folder / name
    header = Header(run.fingerprint, "plan", "float16", run.decides, code_digest())
    log = open_answers(path, header)
    log.append_session(_session(hardware, load_s))
    for index, seconds in chunks.items():
        chunk = _chunk(index, seconds, session=len(log.sessions) - 1)
        log.append_chunk(replace(chunk, was_paused=index in paused or None))
    log.close()
    return path


def _session(hardware: MeasuredHardware, load_s: float | None) -> Session:
    return Session(
        device="cuda",
        device_name=hardware.name,
        threads=hardware.threads,
        host="node",
        pid=1,
        started="2026-01-01T00:00:00+00:00",
        load_s=load_s,
        warm_up_s=4.0,
        versions={},
    )


def _chunk(index: int, seconds: float, session: int) -> Chunk:
    answers = tuple(
        Answer(
            id=f"{index}-{number}",
            token_ids=(1, 2),
            input_changes=((1, 0.5, None), (2, 0.25)),
            finish_reason="stop",
            latency_s=0.5,
        )
        for number in range(CHUNK_SIZE)
    )
    return Chunk(
        index=index,
        seconds=seconds,
        recording_s=1.0,
        prompt_tokens=1,
        peak_memory_gib=1.0,
        batch_size=4,
        smallest_batch_size=4,
        out_of_memory=0,
        answers=answers,
        session=session,
        confidence_counts=(1, 2),
    )


def write_plan(run: Run, requests: int) -> None:
    """What a plan tells of a task's size."""
    run.plan_folder.mkdir(parents=True, exist_ok=True)
    (run.plan_folder / "plan.json").write_text(json.dumps({"chunks": [list(range(requests))]}))


def write_trial(
    run: Run,
    *,
    seconds: float,
    hardware: MeasuredHardware = RTX,
    items: int = 20,
    batch_size: int = 4,
) -> None:
    """The summary of a limited run with the settings of `run`, started in 30 s.

    Trials on several kinds of hardware take other limits.
    """
    limit = items if hardware == RTX else items + len(hardware.name)
    decides = {**run.decides, "limit": limit}
    trial = replace(run, limit=limit, decides=decides, fingerprint=digest_of(decides))
    write_summary(trial, seconds=seconds, hardware=hardware, items=items, batch_size=batch_size)


def _device(hardware: MeasuredHardware) -> dict[str, Any]:
    return {key: value for key, value in asdict(hardware).items() if value is not None}
