"""The engine of a run: planned requests in, answers out, one chunk as one batch.

Stands on `decode` and `score`; knows nothing of lm-eval, files or scoring. An answer depends on its
request and the settings only, never on how the run was cut or resumed.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from fastdllm.decoding import decode
from fastdllm.evaluation.answers import Answer
from fastdllm.evaluation.environment import process_peak_memory_gib
from fastdllm.evaluation.requests import PlannedRequest
from fastdllm.evaluation.tokenization import AnswerText, answer_budget, sampling_temperature
from fastdllm.fused import FusedModel
from fastdllm.likelihood import LikelihoodMode, LikelihoodRequest, score
from fastdllm.policy import Policy
from fastdllm.sequence import Request
from fastdllm.settings import DecodingSettings

OnAnswer = Callable[[Answer], None]


@dataclass(frozen=True, slots=True)
class DecodingEngine:
    """A model with everything that decides its answers."""

    model: FusedModel
    policy: Policy
    settings: DecodingSettings
    tokenizer: Any
    likelihood_mode: LikelihoodMode

    def answer(self, requests: Sequence[PlannedRequest], on_answer: OnAnswer) -> list[Answer]:
        """Answer one chunk; `on_answer` hears of each answer as soon as it is complete.

        All requests must be of one kind, as in a planned chunk. Answers come in request order.
        """
        if requests[0].kind == "loglikelihood":
            return self._score(requests, on_answer)
        return self._decode(requests, on_answer)

    def warm_up(self, requests: Sequence[PlannedRequest]) -> None:
        """Run a short batch of the same shape, so that no timed chunk pays for first use."""
        if requests[0].kind == "loglikelihood":
            self._score(requests[:1], lambda _: None)
            return
        # One sub-block is enough to run a prefill, a full-block and a sub-block pass.
        length = self.settings.small_block_size
        short = [replace(self._request(r), max_new_tokens=length, stop_when=None) for r in requests]
        for _ in decode(self.model, short, self.policy, self.settings):
            pass
        self.synchronize()

    def synchronize(self) -> None:
        """Wait until the device has done all that was asked; a CPU always has."""
        if self.model.device.type == "cuda":
            torch.cuda.synchronize(self.model.device)

    def peak_memory_gib(self) -> float:
        """Most memory so far: allocated tensors on a GPU, the whole process on a CPU."""
        if self.model.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.model.device) / 2**30
        return process_peak_memory_gib()

    def _decode(self, requests: Sequence[PlannedRequest], on_answer: OnAnswer) -> list[Answer]:
        started = time.perf_counter()
        answers: dict[int, Answer] = {}
        batch = [self._request(request) for request in requests]
        for step in decode(self.model, batch, self.policy, self.settings):
            if step.finished is None:
                continue
            answer = Answer(
                id=requests[step.request].id,
                token_ids=tuple(step.finished.token_ids),
                finish_reason=step.finished.finish_reason,
                passes=step.finished.passes,
                latency_s=round(time.perf_counter() - started, 6),
            )
            answers[step.request] = answer
            on_answer(answer)
        return [answers[index] for index in range(len(requests))]

    def _score(self, requests: Sequence[PlannedRequest], on_answer: OnAnswer) -> list[Answer]:
        likelihoods = score(
            self.model,
            [LikelihoodRequest(r.prompt_ids, r.target_ids) for r in requests],
            mode=self.likelihood_mode,
            block_size=self.settings.block_size,
            mask_id=self.settings.mask_id,
            eos_id=self.settings.stop_token,
            batch_size=len(requests),
        )
        answers = [
            Answer(id=r.id, logprob=likelihood.logprob, is_greedy=bool(likelihood.is_greedy))
            for r, likelihood in zip(requests, likelihoods, strict=True)
        ]
        for answer in answers:
            on_answer(answer)
        return answers

    def _request(self, planned: PlannedRequest) -> Request:
        wishes = planned.gen_kwargs
        return Request(
            prompt_ids=planned.prompt_ids,
            max_new_tokens=answer_budget(wishes, self.settings.max_new_tokens),
            temperature=sampling_temperature(wishes, self.settings.temperature),
            top_p=wishes.get("top_p"),
            stop_when=AnswerText(self.tokenizer, wishes.get("until")).stop_when(),
            seed=answer_seed(self.settings.seed, planned.id),
        )


def answer_seed(seed: int, request_id: str) -> int:
    """Seed of one answer: of the run's seed and the request alone, not of batch or order."""
    digest = hashlib.sha256(json.dumps([seed, request_id]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
