"""Everything a run needs before it can decode: tokenizer, model, policy.

Loads and checks; decodes nothing and writes nothing. A process keeps its model for consecutive
runs that need the same. A run that finds it loaded still starts from a clean state: nothing that an
earlier run left behind, caches or recorded shapes, may change its answers, its memory or its speed.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from fastdllm.common.console import notice
from fastdllm.common.errors import UserError
from fastdllm.common.files import now
from fastdllm.decoding.admission import usable_positions
from fastdllm.decoding.memory import choose_slots, decoding_bytes, scoring_bytes
from fastdllm.decoding.side_effects import load_without_side_effects
from fastdllm.engine.engines import drop_idle
from fastdllm.machine.device import reset_peak_memory
from fastdllm.machine.process import cpu_name, host_name, package_versions
from fastdllm.model.checkpoint import commit_of, find_checkpoint
from fastdllm.model.config import ModelConfig
from fastdllm.model.fused import FusedModel
from fastdllm.model.loading import (
    dtype_reason,
    load_model,
    model_config,
    resolve_device,
    resolve_dtype,
)
from fastdllm.model.tokenizer import load_tokenizer
from fastdllm.policy import Policy
from fastdllm.runs.answer_records import Session
from fastdllm.runs.chunk_engine import DecodingEngine
from fastdllm.runs.spec import RunSpec
from fastdllm.settings import DecodingSettings
from fastdllm.tasks.generation import check_length, tokenizer_digest
from fastdllm.tasks.plan import Plan, PlannedRequest, RequestKind, plan_again
from fastdllm.validation import validated


def load_plan_tokenizer(spec: RunSpec, plan: Plan) -> Any:
    """Load the model's tokenizer, which must be the one that the plan was made with.

    Raises:
        UserError: it cannot be loaded, or it is another one.
    """
    tokenizer = load_tokenizer(spec.run.model_path, spec.run.model_revision)
    if tokenizer_digest(tokenizer) != plan.header.model_tokenizer_digest:
        raise UserError(
            f"{spec.run.model_path}: the tokenizer is not the one of the plan; "
            + plan_again(spec.task, spec.limit)
        )
    return tokenizer


def dtype_name(spec: RunSpec, device: str) -> str:
    """Return the number format that the run decodes in, resolved from `auto` for the device."""
    dtype = str(spec.decides.get("dtype", "auto"))
    return str(resolve_dtype(dtype, resolve_device(device))).removeprefix("torch.")


def load_engine(
    spec: RunSpec, plan: Plan, tokenizer: Any, *, device: str, models: KeptModel
) -> tuple[DecodingEngine, float | None]:
    """Load model and policy; also return the seconds for the model, None if it was loaded already.

    Raises:
        UserError: what cannot be loaded, or does not fit the plan.
    """
    _check_commit(spec, plan)
    policy_class = load_without_side_effects(spec.run.policy_file)
    parameters = validated(
        policy_class.Parameters, spec.policy_parameters, f"{spec.run.policy_file}: Parameters"
    )
    settings, config = spec.settings, model_config(spec.run.model_path, spec.run.model_revision)
    policy = policy_class(settings, parameters, config.num_layers)
    model, load_s = models.get(
        spec.run.model_path,
        digest=str(spec.decides.get("model_digest")),
        revision=spec.run.model_revision,
        dtype=str(spec.decides.get("dtype", "auto")),
        device=device,
        reserve=_bytes_to_decode(spec, plan, config, policy, device=device),
    )
    check_settings(policy, settings, spec.run.policy_file)
    check_requests(
        plan.requests,
        model=model,
        model_path=spec.run.model_path,
        tokenizer=tokenizer,
        block_size=settings.block_size,
    )
    _tell_of_fewer_slots(spec, plan, model, policy)
    engine = DecodingEngine(
        model=model,
        policy=policy,
        settings=settings,
        tokenizer=tokenizer,
        likelihood_mode=spec.decides.get("likelihood_mode", "published"),  # type: ignore[arg-type]
        batch_size=spec.run.batch_size if isinstance(spec.run.batch_size, int) else None,
    )
    return engine, load_s


def _bytes_to_decode(
    spec: RunSpec, plan: Plan, config: ModelConfig, policy: Policy, *, device: str
) -> int:
    """Return the memory for the longest requests of a plan, one at a time."""
    target = resolve_device(device)
    dtype = resolve_dtype(str(spec.decides.get("dtype", "auto")), target)
    needed = [0]
    if scored := _positions(spec, plan, "loglikelihood"):
        needed.append(scoring_bytes(config, target, dtype, max(scored)))
    if generated := _positions(spec, plan, "generate_until"):
        needed.append(decoding_bytes(config, target, dtype, max(generated), policy))
    return max(needed)


def _positions(spec: RunSpec, plan: Plan, kind: RequestKind) -> Sequence[int]:
    """Return the most positions of each request of a kind, in whole blocks."""
    block = spec.settings.block_size
    lengths = [
        len(r.prompt_ids) + (len(r.target_ids) or (r.gen_kwargs or {}).get("max_gen_toks", 0))
        for r in plan.requests
        if r.kind == kind
    ]
    return [-(-length // block) * block for length in lengths]


def _tell_of_fewer_slots(spec: RunSpec, plan: Plan, model: FusedModel, policy: Policy) -> None:
    """Give notice where memory holds fewer sequences at once than were asked for.

    Raises:
        UserError: not even one fits.
    """
    lengths, asked = _positions(spec, plan, "generate_until"), spec.run.batch_size
    if not lengths or not isinstance(asked, int):
        return
    most = min(asked, plan.header.chunk_size, len(lengths))
    fitting = choose_slots(model, lengths, policy=policy, requested=most)
    if fitting < most:
        notice(
            f"batch_size: about {fitting} of {most} sequences at once will fit the memory of "
            f"{model.device}; the others wait for a slot"
        )


def check_settings(policy: Policy, settings: DecodingSettings, policy_file: Path | str) -> None:
    """Refuse a policy that decodes with other settings than those that it was given.

    Raises:
        UserError: naming its file.
    """
    if policy.settings != settings:
        raise UserError(
            f"{policy_file}: {type(policy).__name__} decodes with other settings than those that "
            "its results name; give them in experiment.yaml (decoding), or add a field to "
            "Parameters"
        )


def _check_commit(spec: RunSpec, plan: Plan) -> None:
    """Refuse weights of another commit than the plan's: a branch of the hub has moved since."""
    model, planned = spec.run.model_path, plan.header.model_commit
    if planned is None:
        return
    found = commit_of(model, find_checkpoint(model, spec.run.model_revision))
    if found != planned:
        raise UserError(
            f"{model}: {spec.run.model_revision or 'main'} is commit {found} here, and was "
            f"{planned} when the task was planned; name one in workflow_config.yaml "
            "(model.revision), or " + plan_again(spec.task, spec.limit)
        )


def check_requests(
    requests: Iterable[PlannedRequest],
    *,
    model: FusedModel,
    model_path: str,
    tokenizer: Any,
    block_size: int,
) -> None:
    """Refuse requests that do not fit, and weights that are zero for one of their tokens.

    Padding is never trained, so its embedding may be zero.

    Raises:
        UserError: naming the item, or the token.
    """
    tokens: set[int] = set()
    for request in requests:
        check_length(
            request,
            max_positions=usable_positions(model.config, block_size),
            block_size=block_size,
        )
        tokens.update(request.prompt_ids, request.target_ids)
    known = sorted(tokens - {model.config.pad_id})
    is_zero = ~model.embedding[known].any(dim=1)
    if is_zero.any():
        token = known[int(is_zero.nonzero()[0])]
        text = tokenizer.decode([token])
        raise UserError(
            f"{model_path}: the embedding of {text!r}, token {token} of prompts, is only zeros, as "
            "after an interrupted download; fetch the model again"
        )


def session_of(
    engine: DecodingEngine,
    spec: RunSpec,
    *,
    load_s: float | None,
    warm_up_s: float,
    git: Mapping[str, Any] | None,
) -> Session:
    """Describe this process: where it works, with what, and what it cost before decoding.

    git: state of its code when it started.
    """
    device = engine.model.device
    on_gpu = device.type == "cuda"
    return Session(
        device=device.type,
        device_name=torch.cuda.get_device_name(device) if on_gpu else cpu_name(),
        threads=None if on_gpu else torch.get_num_threads(),
        host=host_name(),
        pid=os.getpid(),
        started=now(),
        load_s=load_s,
        warm_up_s=warm_up_s,
        versions=package_versions(),
        git=git,
        dtype_reason=dtype_reason(str(spec.decides.get("dtype", "auto")), device),
    )


class KeptModel:
    """Holds one model at a time."""

    def __init__(self) -> None:
        # Path, digest, revision, dtype and device, as in the spec.
        self._key: tuple[str, str, str | None, str, str] | None = None
        self._model: FusedModel | None = None

    def get(
        self,
        path: str,
        *,
        digest: str,
        revision: str | None,
        dtype: str,
        device: str,
        reserve: int = 0,
    ) -> tuple[FusedModel, float | None]:
        """Return the model and the seconds that loading it took, None if it was loaded already.

        Args:
            digest: of the spec; the folder may have got other weights since the run before.
            reserve: bytes that decoding one sequence needs beside the weights.

        Raises:
            UserError: it cannot be loaded.
        """
        key = (path, digest, revision, dtype, device)
        if self._model is not None and key == self._key:
            drop_idle(self._model)
            reset_peak_memory(self._model.device)
            return self._model, None
        self.drop()
        started = time.perf_counter()
        self._model = load_model(
            path, device=device, dtype=dtype, revision=revision, reserve=reserve
        )
        self._key = key
        # The peaks of an earlier run and of loading are not those of decoding.
        reset_peak_memory(self._model.device)
        return self._model, round(time.perf_counter() - started, 3)

    def drop(self) -> None:
        """Drop the model and free its memory."""
        self._key = self._model = None
        gc.collect()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
