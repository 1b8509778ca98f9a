"""The engine of a run: takes the planned requests of a chunk and returns their answers.

Built on `decode` and `score`; knows nothing of lm-eval, files or scoring. An answer depends on its
request and the settings only, never on how the run was split or resumed.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from fastdllm.common.errors import UserError
from fastdllm.decoding.asked_again import AskedAgain, anew
from fastdllm.decoding.events import Entered, Event, Observer, PassRecord, SlotsChosen
from fastdllm.decoding.finite import NotFinite
from fastdllm.decoding.likelihood import (
    Likelihood,
    LikelihoodMode,
    LikelihoodRequest,
    modes_of,
    score,
)
from fastdllm.decoding.loop import Step, decode
from fastdllm.decoding.sequence import Request
from fastdllm.decoding.side_effects import without_side_effects
from fastdllm.decoding.user_code import only_counted_imports
from fastdllm.machine.device import peak_memory_gib, synchronize
from fastdllm.model.fused import FusedModel
from fastdllm.policy import PassKind, Policy
from fastdllm.runs.answer_records import Answer
from fastdllm.runs.chunk_in_flight import ChunkInFlight
from fastdllm.runs.commits import Commits
from fastdllm.settings import DecodingSettings
from fastdllm.tasks.generation import AnswerText, sampling_temperature
from fastdllm.tasks.plan import PlannedRequest

# Of the decisions in a chunk, one in so many is asked again: a prime, so that each kind of decision
# and each slot has its turn. More would cost more than 0.5 % of the time with a small model.
ASKED_AGAIN = 251
# Inputs of log-likelihoods in memory at once by default: more are no faster.
LIKELIHOOD_INPUTS = 32


@dataclass(frozen=True, slots=True)
class Answered:
    """The answers to a chunk, in request order; the rest as in `Chunk`."""

    answers: tuple[Answer, ...]
    recording_s: float
    batch_size: int
    smallest_batch_size: int
    out_of_memory: int
    confidence_counts: tuple[int, ...] | None = None
    position_forwards: int | None = None


class _Watch:
    """Collects what the decoder reports about one chunk besides its answers.

    halved: what a lack of memory halves. entered: when each request entered a slot.
    """

    def __init__(self, flight: ChunkInFlight, halved: Literal["sequences", "blocks"]) -> None:
        self._flight, self._halved = flight, halved
        self.batch_size = self.smallest_batch_size = self.out_of_memory = 0
        self.recording_s = 0.0
        self.entered: dict[int, float] = {}

    def __call__(self, event: Event) -> None:
        if isinstance(event, PassRecord):
            self.recording_s += event.recording_s
            self._flight.step()
        elif isinstance(event, Entered):
            self.entered[event.request] = time.perf_counter()
        elif isinstance(event, SlotsChosen):
            self.batch_size = self.smallest_batch_size = event.slots
        else:
            self.out_of_memory += 1
            if self._halved == "sequences":
                self.smallest_batch_size = event.slots
            self._flight.note(
                f"out of memory with {event.slots_before} {self._halved} at once; continuing with "
                f"{event.slots}"
            )

    def seconds_in_slot(self, request: int) -> float:
        """Seconds since the request entered a slot; 0 for one that needed none."""
        now = time.perf_counter()
        return now - self.entered.get(request, now)

    def answered(
        self, answers: Sequence[Answer], confidence_counts: tuple[int, ...] | None = None
    ) -> Answered:
        return Answered(
            answers=tuple(answers),
            recording_s=self.recording_s,
            batch_size=self.batch_size,
            smallest_batch_size=self.smallest_batch_size,
            out_of_memory=self.out_of_memory,
            confidence_counts=confidence_counts,
        )


@contextmanager
def _named_item(requests: Sequence[PlannedRequest]) -> Iterator[None]:
    """Name the item in an error that knows a request by its place in the chunk."""
    try:
        yield
    except NotFinite as error:
        raise UserError(f"item {requests[error.request].item}: {error.reason}") from None


@dataclass(frozen=True, slots=True)
class DecodingEngine:
    """A model with everything that decides its answers.

    batch_size: most sequences decoded at once; None: what memory allows.
    """

    model: FusedModel
    policy: Policy
    settings: DecodingSettings
    tokenizer: Any
    likelihood_mode: LikelihoodMode
    batch_size: int | None = None

    def answer(self, requests: Sequence[PlannedRequest], flight: ChunkInFlight) -> Answered:
        """Answer one chunk; `flight` gets each answer as soon as it is complete.

        All requests must be of one kind, as in a planned chunk.

        Raises:
            PolicyViolation: the policy breaks a rule, or has side effects.
        """
        answer = self._score if requests[0].kind == "loglikelihood" else self._decode
        with _named_item(requests), self._watched_policy():
            return answer(requests, flight)

    def warm_up(self, requests: Sequence[PlannedRequest]) -> None:
        """Decode the beginning of a chunk, so that no timed chunk pays for first use.

        The same requests in the same slots give the same shapes; stops at the first commit.

        Raises:
            PolicyViolation: the policy has side effects, or decides otherwise when asked again.
        """
        with _named_item(requests), self._watched_policy():
            if requests[0].kind == "loglikelihood":
                self._likelihoods(requests[:1], None)
            else:
                steps = self._steps(requests, None, AskedAgain(self.policy))
                any(s.kind is PassKind.COMMIT or s.finished is not None for s in steps)
        self.synchronize()

    def synchronize(self) -> None:
        """Wait until the device has finished all work; a CPU always has."""
        synchronize(self.model.device)

    def peak_memory_gib(self) -> float:
        """Most memory so far: allocated tensors on a GPU, the whole process on a CPU."""
        return peak_memory_gib(self.model.device)

    @contextmanager
    def _watched_policy(self) -> Iterator[None]:
        with (
            only_counted_imports(Path(inspect.getfile(type(self.policy)))),
            without_side_effects(self.policy),
        ):
            yield

    def _decode(self, requests: Sequence[PlannedRequest], flight: ChunkInFlight) -> Answered:
        watch = _Watch(flight, "sequences")
        commits = Commits()
        answers: dict[int, Answer] = {}
        # What it may remember of an earlier chunk is not there where a run was interrupted.
        policy = AskedAgain(anew(self.policy), every=ASKED_AGAIN)
        layers, position_forwards = self.model.config.num_layers, 0
        for step in self._steps(requests, watch, policy):
            commits.add(step)
            position_forwards += step.rows * (layers - step.layers_skipped)
            if step.finished is None:
                continue
            planned = requests[step.request]
            if step.finished.error is not None:
                raise UserError(f"item {planned.item}: {step.finished.error}")
            course = commits.close(
                step.request, len(planned.prompt_ids), len(step.finished.token_ids)
            )
            answer = Answer(
                id=planned.id,
                token_ids=tuple(step.finished.token_ids),
                committed_at=course.committed_at,
                input_changes=course.input_changes,
                finish_reason=step.finished.finish_reason,
                passes=step.finished.passes,
                latency_s=round(watch.seconds_in_slot(step.request), 6),
            )
            answers[step.request] = answer
            flight.answered(answer)
        in_order = [answers[index] for index in range(len(requests))]
        answered = watch.answered(in_order, commits.confidence_counts)
        return replace(answered, position_forwards=position_forwards)

    def _steps(
        self, requests: Sequence[PlannedRequest], observe: Observer | None, policy: Policy
    ) -> Iterator[Step]:
        return decode(
            self.model,
            [self._request(request) for request in requests],
            policy,
            slots=self.batch_size,
            observe=observe,
        )

    def _score(self, requests: Sequence[PlannedRequest], flight: ChunkInFlight) -> Answered:
        watch = _Watch(flight, "blocks")
        likelihoods = self._likelihoods(requests, watch)
        answers = [
            Answer(id=r.id, logprob=likelihood.logprob, is_greedy=bool(likelihood.is_greedy))
            for r, likelihood in zip(requests, likelihoods, strict=True)
        ]
        for answer in answers:
            flight.answered(answer)
        return watch.answered(answers)

    def _likelihoods(
        self, requests: Sequence[PlannedRequest], observe: Observer | None
    ) -> list[Likelihood]:
        asked = [LikelihoodRequest(r.prompt_ids, r.target_ids) for r in requests]
        return score(
            self.model,
            asked,
            mode=modes_of(asked, self.likelihood_mode),
            block_size=self.settings.block_size,
            mask_id=self.settings.mask_id,
            stop_token=self.settings.stop_token,
            batch_size=self.batch_size or LIKELIHOOD_INPUTS,
            observe=observe,
        )

    def _request(self, planned: PlannedRequest) -> Request:
        wishes = planned.gen_kwargs
        return Request(
            prompt_ids=planned.prompt_ids,
            max_new_tokens=wishes["max_gen_toks"],
            temperature=sampling_temperature(wishes, self.settings.temperature),
            top_p=wishes.get("top_p"),
            stop_when=AnswerText(self.tokenizer, wishes.get("until")).stop_when(),
            seed=answer_seed(self.settings.seed, planned.id),
        )


def answer_seed(seed: int, request_id: str) -> int:
    """Derive the seed of one answer from the run's seed and the request, not batch or order."""
    digest = hashlib.sha256(json.dumps([seed, request_id]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
