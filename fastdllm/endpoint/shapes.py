"""Answers in the shape of the OpenAI API: whole, and as the events of a stream."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from fastdllm.decoding.sequence import Generation, PassCounts
from fastdllm.endpoint.served import Served

DONE = b"data: [DONE]\n\n"
# A comment, which clients skip; proxies and clients see that the connection lives.
KEEP_ALIVE = b": waiting\n\n"
LAYER_FORWARDS = ("layer_forwards_computed", "layer_forwards_skipped")


@dataclass(frozen=True)
class Shape:
    """How answers of one request look; is_chat: of /v1/chat/completions."""

    model: str
    is_chat: bool
    id: str = field(default_factory=lambda: secrets.token_hex(12))
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, texts: Sequence[str], answers: Sequence[Generation], prompt: int) -> Any:
        """The answers to a request whose prompts have `prompt` tokens together."""
        choices: list[dict[str, Any]] = []
        for text, answer in zip(texts, answers, strict=True):
            message = {"message": {"role": "assistant", "content": text, "refusal": None}}
            reason = finish_reason(answer)
            part = message if self.is_chat else {"text": text}
            choices.append(self._choice(len(choices), part, reason))
        kind = "chat.completion" if self.is_chat else "text_completion"
        return self._head(kind) | {"choices": choices, "usage": usage(answers, prompt)}

    def piece(self, text: str | None, reason: str | None = None, *, is_first: bool = False) -> Any:
        """A part of the answer."""
        if self.is_chat:
            delta: dict[str, Any] = {"role": "assistant"} if is_first else {}
            part: dict[str, Any] = {"delta": delta | ({} if text is None else {"content": text})}
        else:
            part = {"text": text or ""}
        return self._head(self._chunk) | {"choices": [self._choice(0, part, reason)]}

    def last(self, answer: Generation, prompt: int) -> Any:
        """What the answer cost."""
        return self._head(self._chunk) | {"choices": [], "usage": usage([answer], prompt)}

    @property
    def _chunk(self) -> str:
        return "chat.completion.chunk" if self.is_chat else "text_completion"

    def _head(self, kind: str) -> dict[str, Any]:
        prefix = "chatcmpl" if self.is_chat else "cmpl"
        return {
            "id": f"{prefix}-{self.id}",
            "object": kind,
            "created": self.created,
            "model": self.model,
        }

    def _choice(self, index: int, part: dict[str, Any], reason: str | None) -> dict[str, Any]:
        return {"index": index, **part, "logprobs": None, "finish_reason": reason}


def finish_reason(answer: Generation) -> str:
    """Why an answer ended, in the words of the API."""
    return "length" if answer.finish_reason == "length" else "stop"


def usage(answers: Sequence[Generation], prompt: int) -> dict[str, Any]:
    """What answers cost: tokens as the API counts them, the stop token included, and passes.

    Without `tokens_per_forward` where nothing was decoded.
    """
    tokens = sum(len(answer.token_ids) for answer in answers)
    counts = sum((answer.passes for answer in answers), PassCounts())
    passes = asdict(counts)
    layers = {name: passes.pop(name) for name in LAYER_FORWARDS}
    rate = {"tokens_per_forward": tokens / counts.forwards} if counts.forwards else {}
    return {
        "prompt_tokens": prompt,
        "completion_tokens": tokens,
        "total_tokens": prompt + tokens,
        "passes": passes,
        **rate,
        **layers,
    }


def model_entry(served: Served) -> dict[str, Any]:
    """What /v1/models says about the model."""
    return {
        "id": served.name,
        "object": "model",
        "created": served.created,
        "owned_by": "fastdllm",
    }


def event(value: Any) -> bytes:
    """A server-sent event."""
    return f"data: {json_text(value)}\n\n".encode()


def json_text(value: Any) -> str:
    """A value as JSON in one line."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
