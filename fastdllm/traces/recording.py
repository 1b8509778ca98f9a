"""Makes a trace from the steps of a decoding; every front end uses this."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastdllm.decoding.admission import special_tokens
from fastdllm.decoding.sequence import Generation, PassCounts, Request
from fastdllm.machine.process import git_state
from fastdllm.policy import Policy
from fastdllm.records.summary import Passes
from fastdllm.settings import DecodingSettings
from fastdllm.tasks.generation import AnswerText
from fastdllm.traces.parts import (
    TracedAnswer,
    TracedCode,
    TracedModel,
    TracedPrompt,
    TracedStep,
)
from fastdllm.traces.pieces import Pieces
from fastdllm.traces.record import Trace
from fastdllm.version import DECODER_VERSION, __version__

if TYPE_CHECKING:
    from fastdllm.decoding.outcomes import Step
    from fastdllm.model.fused import FusedModel
    from fastdllm.model.plain import BlockDiffusionModel

# What a trace tells of each token beside it.
RUNNERS_UP = 3
# Settings that a request may have of its own.
_OF_REQUESTS = ("max_new_tokens", "temperature", "top_p", "seed")


class TraceRecorder:
    """Makes the traces of one loaded model.

    Args:
        name: hub id or folder of the model; of a folder its name is recorded.
    """

    def __init__(
        self,
        model: FusedModel | BlockDiffusionModel,
        tokenizer: Any,
        name: str,
        revision: str | None = None,
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.name = Path(name).resolve().name if Path(name).is_dir() else name
        self.revision = revision
        self.pieces, self.answer_text = Pieces(tokenizer), AnswerText(tokenizer, until=None).text
        state = git_state(Path(__file__).parents[2]) or {}
        self.code = TracedCode(
            version=__version__,
            decoder_version=DECODER_VERSION,
            commit=state.get("commit"),
            is_dirty=state.get("dirty"),
        )

    def start(self, request: Request, policy: Policy) -> Recording:
        """Start the trace of a request that `policy` decodes."""
        return Recording(self, request, policy)


class Recording:
    """The trace of one request while it is decoded.

    request: asks for runners-up, without which steps do not tell all that a trace holds.
    """

    def __init__(self, recorder: TraceRecorder, request: Request, policy: Policy) -> None:
        if request.runners_up == 0:
            raise ValueError("a request that is traced asks for runners-up")
        self._recorder, self._prompt_ids = recorder, tuple(request.prompt_ids)
        own = {name: getattr(request, name) for name in _OF_REQUESTS}
        own = {name: value for name, value in own.items() if value is not None}
        # Only what is set, since the settings check what is set together.
        values = policy.settings.model_dump(exclude_unset=True) | own
        self._settings = DecodingSettings(**values)
        self._policy = type(policy).__name__
        self._steps: list[TracedStep] = []
        self._passes = PassCounts()
        self._tokens: dict[int, int] = {}
        self._finished: Generation | None = None
        self._seconds = 0.0

    def add(self, step: Step, seconds: float) -> TracedStep | None:
        """Add a step of the request, which was complete `seconds` after the decoding began.

        Returns what was recorded of it; None if no pass was made.
        """
        self._seconds = round(seconds, 6)
        self._finished = step.finished
        if step.kind is None:
            return None
        computed = self._recorder.model.config.num_layers - step.layers_skipped
        self._passes.add_pass(step.kind, computed=computed, skipped=step.layers_skipped)
        self._tokens.update(zip(step.positions, step.tokens, strict=True))
        traced = TracedStep(
            kind=step.kind,
            block=step.block,
            sub_block=step.sub_block,
            positions=step.positions,
            tokens=step.tokens,
            probabilities=tuple(choice.confidence for choice in step.choices),
            runners_up=tuple(choice.runners_up for choice in step.choices) or None,
            proposed=step.proposed or None,
            rows=step.rows,
            layers_computed=computed,
            layers_skipped=step.layers_skipped,
            seconds=self._seconds,
        )
        self._steps.append(traced)
        return traced

    def trace(self) -> Trace:
        """Return the trace of the steps so far; of a request that was refused there is none."""
        recorder = self._recorder
        answer = self._answer()
        forwards = self._passes.forwards
        values = {
            "code": recorder.code,
            "model": self._model(),
            "device": str(recorder.model.device),
            "dtype": str(recorder.model.dtype).removeprefix("torch."),
            "policy": self._policy,
            "settings": self._settings,
            "prompt": TracedPrompt(
                ids=self._prompt_ids, text=recorder.tokenizer.decode(list(self._prompt_ids))
            ),
            "steps": tuple(self._steps),
            "answer": answer,
            "passes": Passes(**asdict(self._passes)),
            "tokens_per_forward": len(answer.ids) / forwards if forwards else None,
            "seconds": self._seconds,
        }
        named = {*self._prompt_ids, *(token for step in self._steps for token in step.token_ids())}
        pieces = {token: recorder.pieces[token] for token in sorted(named)}
        return Trace(**values, pieces=pieces)

    def _answer(self) -> TracedAnswer:
        done = self._finished
        ids = done.token_ids if done is not None else []
        position = len(self._prompt_ids)
        while done is None and position in self._tokens:
            ids.append(self._tokens[position])
            position += 1
        reason = done.finish_reason if done is not None else "unfinished"
        text = self._recorder.answer_text(ids, finish_reason=reason)
        return TracedAnswer(ids=tuple(ids), text=text, finish_reason=reason)

    def _model(self) -> TracedModel:
        recorder, settings = self._recorder, self._settings
        config = recorder.model.config
        mask_id, stop_tokens = special_tokens(config, settings.mask_id, settings.stop_token)
        return TracedModel(
            name=recorder.name,
            revision=recorder.revision,
            num_layers=config.num_layers,
            vocab_size=config.vocab_size,
            mask_id=mask_id,
            stop_tokens=stop_tokens,
        )
