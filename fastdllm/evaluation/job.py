"""One run from its spec to its summary: lock, decode what is missing, score, write.

Resumable at any moment: answers.jsonl keeps finished chunks, and summary.json is written last. Ties
the other modules of this package together and holds no logic of its own.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from fastdllm.console import Display
from fastdllm.errors import UserError
from fastdllm.evaluation.answers import AnswerLog, Header, Session, open_answers
from fastdllm.evaluation.environment import cpu_name, git_state, host_name, package_versions
from fastdllm.evaluation.generate import DecodingEngine
from fastdllm.evaluation.lock import run_lock
from fastdllm.evaluation.progress import Progress
from fastdllm.evaluation.requests import Plan, read_plan
from fastdllm.evaluation.runner import decode_missing
from fastdllm.evaluation.spec import RunSpec
from fastdllm.evaluation.summary import Summary, write_summary
from fastdllm.evaluation.tokenization import check_length, tokenizer_digest
from fastdllm.files import to_json, write_json_atomically, write_text_atomically
from fastdllm.policy import load_policy
from fastdllm.tokenizer import load_tokenizer
from fastdllm.validation import validated
from fastdllm.weights import load_model


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a finished run tells: its summary, and where the answers of another run went."""

    summary: Summary
    answers_kept_aside: Path | None
    unused_answers: int


def evaluate_run(
    spec: RunSpec, folder: Path, *, display: Display, device: str | None = None, wait: bool = False
) -> Outcome:
    """Finish one run in `folder` (results/E/T/C) and return its summary.

    `device` overrides the spec's; `wait` waits for a process that works on the same run.

    Raises:
        UserError: a wrong input, a locked or unwritable folder; failed.json tells it as well.
    """
    with run_lock(folder, wait=wait), _failure_record(folder, spec):
        plan = read_plan(Path(spec.run.plan_folder), spec.task)
        check_plan(spec, plan)
        progress = Progress(folder / "progress.json", display, total=plan.header.n_requests)
        progress.loading()
        engine, load_s = load_engine(spec, plan, device=device or spec.run.device)
        header = Header(
            fingerprint=spec.fingerprint,
            plan_digest=plan.digest,
            dtype=str(engine.model.dtype).removeprefix("torch."),
            decides=spec.decides,
        )
        log = open_answers(folder / "answers.jsonl", header)
        try:
            progress.decoding(earlier=log.chunks.values())
            decode_missing(
                plan,
                log,
                engine,
                start_session=lambda warm_up_s: _session(engine, load_s, warm_up_s),
                progress=progress,
            )
            progress.scoring()
            outcome = _score_and_write(spec, folder, plan, log, engine.tokenizer, header.dtype)
            log.append_end()
        finally:
            log.close()
        progress.remove()
    return outcome


def check_plan(spec: RunSpec, plan: Plan) -> None:
    """Refuse a plan that was made for other options of the task.

    Raises:
        UserError: naming the option and both values.
    """
    asked = {
        "task": spec.task,
        "limit": spec.limit,
        "batch_size": spec.decides.get("batch_size"),
        "num_fewshot": spec.decides.get("num_fewshot"),
        "apply_chat_template": spec.decides.get("apply_chat_template"),
    }
    for key, value in asked.items():
        planned = getattr(plan.header, key)
        if planned != value:
            limit = f" --limit {spec.limit}" if spec.limit else ""
            raise UserError(
                f"{spec.run.plan_folder}/plan.json: planned with {key} {planned!r}, the run asks "
                f"{value!r}; run `fastdllm plan --task {spec.task}{limit}`"
            )


def load_engine(spec: RunSpec, plan: Plan, *, device: str) -> tuple[DecodingEngine, float]:
    """Load tokenizer, model and policy; returns the seconds that the model took as well.

    Raises:
        UserError: what cannot be loaded, or does not fit the plan.
    """
    tokenizer = load_tokenizer(spec.run.model_path, spec.run.model_revision)
    if tokenizer_digest(tokenizer) != plan.header.model_tokenizer_digest:
        raise UserError(
            f"{spec.run.model_path}: the tokenizer is not the one of the plan; run `fastdllm plan "
            f"--task {spec.task}`"
        )
    policy_class = load_policy(spec.run.policy_file)
    parameters = validated(
        policy_class.Parameters, spec.policy_parameters, f"{spec.run.policy_file}: Parameters"
    )
    started = time.perf_counter()
    model = load_model(
        spec.run.model_path,
        device=device,
        dtype=str(spec.decides.get("dtype", "auto")),
        revision=spec.run.model_revision,
    )
    load_s = round(time.perf_counter() - started, 3)
    settings = spec.settings
    for request in plan.requests:
        check_length(
            request,
            max_positions=model.config.max_positions,
            max_new_tokens=settings.max_new_tokens,
            block_size=settings.block_size,
        )
    engine = DecodingEngine(
        model=model,
        policy=policy_class(settings, parameters, model.config.num_layers),
        settings=settings,
        tokenizer=tokenizer,
        likelihood_mode=spec.decides.get("likelihood_mode", "published"),  # type: ignore[arg-type]
    )
    return engine, load_s


def _session(engine: DecodingEngine, load_s: float, warm_up_s: float) -> Session:
    device = engine.model.device
    on_gpu = device.type == "cuda"
    return Session(
        device=device.type,
        device_name=torch.cuda.get_device_name(device) if on_gpu else cpu_name(),
        threads=None if on_gpu else torch.get_num_threads(),
        host=host_name(),
        pid=os.getpid(),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        load_s=load_s,
        warm_up_s=warm_up_s,
        versions=package_versions(),
    )


def _score_and_write(
    spec: RunSpec, folder: Path, plan: Plan, log: AnswerLog, tokenizer: Any, dtype: str
) -> Outcome:
    # lm-eval takes seconds to import and decoding does not need it, so a failing decode is quick.
    from fastdllm.evaluation.scoring import score_answers
    from fastdllm.evaluation.summarize import Decoded, summarize
    from fastdllm.evaluation.tasks import load_task

    chunks = [log.chunks[index] for index in sorted(log.chunks)]
    scores = score_answers(
        plan,
        [answer for chunk in chunks for answer in chunk.answers],
        tokenizer=tokenizer,
        task=load_task(spec.task, Path(spec.run.task_file).parent),
        bootstrap_iters=spec.run.bootstrap_iters,
    )
    summary = summarize(
        spec,
        plan=plan.header,
        decoded=Decoded(sessions=log.sessions, chunks=chunks, dtype=dtype),
        scores=scores,
        git=git_state(),
        environment=package_versions(),
    )
    lines = [to_json_line(record) for record in scores.samples]
    write_json_atomically(folder / "results.json", scores.results)
    write_text_atomically(folder / "samples.jsonl", "".join(lines))
    write_summary(folder / "summary.json", summary)
    return Outcome(summary, log.set_aside, scores.unused_answers)


def to_json_line(record: dict[str, Any]) -> str:
    """One record of a JSON-lines file."""
    return json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"


@contextmanager
def _failure_record(folder: Path, spec: RunSpec) -> Iterator[None]:
    """Leave failed.json when the run fails, and remove the one of an earlier try.

    A run that is interrupted has not failed: its progress.json stays instead, as after a kill.
    """
    path = folder / "failed.json"
    path.unlink(missing_ok=True)
    try:
        yield
    except Exception as error:
        (folder / "progress.json").unlink(missing_ok=True)
        reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        record = {"reason": " ".join(reason.split())[:500], "time": datetime.now(UTC).isoformat()}
        if spec.log_path.is_file():
            record["log"] = str(spec.log_path)
        _write_if_possible(path, to_json(record))
        raise


def _write_if_possible(path: Path, text: str) -> None:
    try:
        write_text_atomically(path, text)
    except UserError:
        return  # a full disk is often the reason of the failure itself, which is raised anyway
