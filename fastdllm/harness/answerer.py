"""Loads what the arguments name, and answers chunks of requests with their seconds."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from fastdllm.common.console import notice
from fastdllm.common.errors import UserError
from fastdllm.harness.arguments import WHERE, Arguments
from fastdllm.machine.threads import use_threads
from fastdllm.model.loading import load_model, model_config
from fastdllm.model.tokenizer import load_tokenizer
from fastdllm.policy import Policy, default_policy
from fastdllm.runs.answer_records import Answer
from fastdllm.runs.chunk_engine import LIKELIHOOD_INPUTS, DecodingEngine
from fastdllm.runs.chunk_in_flight import ChunkInFlight
from fastdllm.runs.chunks import timed_answers
from fastdllm.runs.loaded_model import check_requests, check_settings
from fastdllm.runs.pauses import pauses_watched
from fastdllm.runs.stopping import Stop
from fastdllm.settings import check_block_size
from fastdllm.tasks.plan import PlannedRequest
from fastdllm.tasks.planning import check_token_ids

# What lm-eval passes where nobody chose a device.
LM_EVAL_DEVICE = "cuda:0"


class Flight(ChunkInFlight):
    """A chunk that no signal stops; tells of each answer as soon as it is complete.

    telling_s: the seconds of that, which may write to a slow disk.
    """

    def __init__(self, tell: Callable[[Answer], None]) -> None:
        self._tell, self.telling_s = tell, 0.0

    def answered(self, answer: Answer) -> None:
        started = time.perf_counter()
        self._tell(answer)
        self.telling_s += time.perf_counter() - started

    def note(self, text: str) -> None:
        notice(text)

    def step(self) -> None:
        """Do nothing."""


class Answerer:
    """A model with all that decides its answers, on the device of this process."""

    def __init__(self, arguments: Arguments) -> None:
        """Load the model.

        Raises:
            UserError: what cannot be loaded, or does not fit the model.
        """
        model, settings = arguments.model, arguments.settings
        config = model_config(model.model_path, model.revision)
        try:
            check_block_size(settings, config.block_size)
        except ValueError as error:
            raise UserError(f"{WHERE}: {error}") from None
        use_threads(product=config.largest_product)
        self.arguments = arguments
        self.tokenizer: Any = load_tokenizer(model.model_path, model.revision)
        loaded = load_model(
            model.model_path, device=model.device, dtype=model.dtype, revision=model.revision
        )
        self.engine = DecodingEngine(
            model=loaded,
            policy=_policy(arguments, config.num_layers),
            settings=settings,
            tokenizer=self.tokenizer,
            likelihood_mode=model.likelihood_mode,
            batch_size=model.batch_size if isinstance(model.batch_size, int) else None,
        )
        self._warmed_up: set[str] = set()
        self._most_at_once = 0

    def check(self, requests: Sequence[PlannedRequest]) -> None:
        """Refuse requests that the model cannot take.

        Raises:
            UserError: naming the item.
        """
        model = self.engine.model
        own_mask = self.arguments.settings.mask_id
        mask_id = model.config.mask_id if own_mask is None else own_mask
        for request in requests:
            check_token_ids(
                request, self.tokenizer, vocab_size=model.config.vocab_size, mask_id=mask_id
            )
        check_requests(
            requests,
            model=model,
            model_path=self.arguments.model.model_path,
            tokenizer=self.tokenizer,
            block_size=self.arguments.settings.block_size,
        )

    def answer(
        self, requests: Sequence[PlannedRequest], tell: Callable[[Answer], None]
    ) -> tuple[tuple[Answer, ...], float | None]:
        """Answer one chunk; return the answers and the seconds of decoding, without a warm-up.

        The seconds are None if the process was paused meanwhile.

        tell: gets each answer as soon as it is complete.
        """
        kind, engine = requests[0].kind, self.engine
        most = self.arguments.model.max_batch_size
        if kind == "loglikelihood" and engine.batch_size is None and most is not None:
            engine = replace(engine, batch_size=min(most, LIKELIHOOD_INPUTS))
        if kind not in self._warmed_up:
            engine.warm_up(requests)
            self._warmed_up.add(kind)
        flight, stop = Flight(tell), Stop()
        with pauses_watched(stop) as watch:
            timed = timed_answers(engine, requests, flight)
            watch.look()
        if kind == "generate_until":
            self._most_at_once = max(self._most_at_once, timed.answered.batch_size)
        seconds = timed.seconds - flight.telling_s
        return timed.answered.answers, None if stop.was_paused else seconds

    @property
    def batch_size(self) -> int | str:
        """Most sequences that this process decoded at once; before it did, what was asked for."""
        return self._most_at_once or self.arguments.model.batch_size

    def facts(self) -> dict[str, Any]:
        """What decides the answers, in words, for lm-eval's results."""
        arguments, model = self.arguments, self.engine.model
        policy = self.engine.policy
        return {
            "model_path": arguments.model.model_path,
            "model_dtype": str(model.dtype).removeprefix("torch."),
            "device_name": torch.cuda.get_device_name(model.device)
            if model.device.type == "cuda"
            else str(model.device),
            "decoding": arguments.settings.model_dump(mode="json", exclude={"max_new_tokens"}),
            "policy": type(policy).__name__,
            "policy_parameters": arguments.parameters.model_dump(mode="json"),
            "experiment_name": arguments.model.experiment_name,
            "likelihood_mode": arguments.model.likelihood_mode,
        }


def _policy(arguments: Arguments, num_layers: int) -> Policy:
    settings, made_by = arguments.settings, arguments.policy_class
    if made_by is None:
        return default_policy(settings, num_layers)
    policy = made_by(settings, arguments.parameters, num_layers)
    check_settings(policy, settings, arguments.policy_file or made_by.__name__)
    return policy


def device_of_process(name: str, n_processes: int) -> str:
    """Return the device of this process of several, of which each has its own GPU.

    lm-eval passes cuda:0 also where nobody chose it and there is no GPU.
    """
    is_on_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    if name == LM_EVAL_DEVICE and (is_on_cpu or not torch.cuda.is_available()):
        return "cpu"
    if n_processes > 1 and name in ("auto", "cuda", LM_EVAL_DEVICE) and torch.cuda.is_available():
        return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    return name
