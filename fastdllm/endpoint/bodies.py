"""Bodies of requests as clients send them, checked: the fields of the OpenAI API, and our settings.

A field that block diffusion cannot obey is refused unless its value has no effect, so that no
answer is other than it was asked for. Decoding settings are fields of their own names; their values
are checked where they become `DecodingSettings`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    create_model,
    field_validator,
)

from fastdllm.endpoint.api_errors import ApiError
from fastdllm.serving.conversation import WritableText
from fastdllm.settings import DecodingSettings
from fastdllm.tasks.generation import WITHOUT_COUNTERPART
from fastdllm.validation import StrictModel

# More and longer ones than any task of lm-eval has; each is searched for after each token.
MOST_STOPS, LONGEST_STOP = 32, 200
MOST_PROMPTS = 64
NAMES_OF_MAX_NEW_TOKENS = ("max_tokens", "max_completion_tokens", "max_new_tokens")

# Fields that cannot be obeyed, each with the values that have no effect; null never has one.
WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "echo": (False,),
    "suffix": ("",),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
    "web_search_options": (),
    "store": (False,),
    **{name: (value,) for name, value in WITHOUT_COUNTERPART.items()},
}
# Fields that say nothing about the answer.
ABOUT_THE_CLIENT = (
    "metadata",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "prediction",
    "parallel_tool_calls",
)


def _text_of_parts(value: Any) -> Any:
    """Return the text of a message, which may come in parts."""
    if not isinstance(value, list):
        return value
    for part in value:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text" or not isinstance(part.get("text"), str):
            raise ValueError(
                f"a part of the type {kind!r} cannot be read, only text: "
                '{"type": "text", "text": ...}'
            )
    return "".join(part["text"] for part in value)


class _Strict(StrictModel):
    """JSON says what is text and what is a number."""

    model_config = ConfigDict(strict=True)


Nothing = Annotated[list[Any], Field(max_length=0)] | None


class Message(_Strict):
    """A message of a conversation. What else clients send back of an answer is empty."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[WritableText, BeforeValidator(_text_of_parts)]
    type: Literal["text", "message", None] = None
    name: None = None
    refusal: None = None
    audio: None = None
    function_call: None = None
    tool_calls: Nothing = None
    annotations: Nothing = None

    def as_template_has_it(self) -> dict[str, str]:
        """The message for a chat template, which knows no developer."""
        role = "system" if self.role == "developer" else self.role
        return {"role": role, "content": self.content}


class StreamOptions(_Strict):
    """include_usage: a last event has the usage. include_obfuscation: without effect here."""

    include_usage: bool | None = None
    include_obfuscation: Literal[False, None] = None


def _as_stops(value: Any) -> Any:
    stops = [value] if isinstance(value, str) else value
    if isinstance(stops, list):
        if len(stops) > MOST_STOPS:
            raise ValueError(f"{len(stops)} stop strings are more than the {MOST_STOPS} allowed")
        longest = max((len(stop) for stop in stops if isinstance(stop, str)), default=0)
        if longest > LONGEST_STOP:
            raise ValueError(
                f"a stop string of {longest} characters is longer than the {LONGEST_STOP} allowed"
            )
        if "" in stops:
            raise ValueError("an empty stop string ends nothing; leave it out")
    return stops


Stops = Annotated[list[WritableText], BeforeValidator(_as_stops)]


class _Common(_Strict):
    """What both kinds of requests may have."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stop: Stops | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    user: Annotated[str, Field(max_length=500)] | None = None

    @field_validator(*WITHOUT_EFFECT, mode="after", check_fields=False)
    @classmethod
    def _has_no_effect(cls, value: Any, info: ValidationInfo) -> Any:
        allowed = WITHOUT_EFFECT[str(info.field_name)]
        # 1 is not true, though Python has them equal.
        if value is None or any(value == other and _alike(value, other) for other in allowed):
            return value
        instead = f", or set it to {' or '.join(map(json.dumps, allowed))}" if allowed else ""
        shown = json.dumps(value)
        shown = shown if len(shown) <= 60 else f"{shown[:60]}..."
        raise ValueError(f"{shown} is not supported; leave it out{instead}")

    @property
    def stops(self) -> list[str]:
        """The stop strings."""
        return self.stop or []

    def decoding(self) -> dict[str, Any]:
        """Return what was given of the decoding settings, by their names.

        Raises:
            ApiError: two fields that mean the same differ.
        """
        names = [name for name in DecodingSettings.model_fields if name != "max_new_tokens"]
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        most = {n: v for n in NAMES_OF_MAX_NEW_TOKENS if (v := getattr(self, n)) is not None}
        if len(set(most.values())) > 1:
            listed = ", ".join(f"{name} {value}" for name, value in most.items())
            raise ApiError(400, f"{listed}: they mean the same; keep one", param="max_tokens")
        if most:
            given["max_new_tokens"] = next(iter(most.values()))
        return given


def _alike(value: Any, other: Any) -> bool:
    return isinstance(value, bool) == isinstance(other, bool)


_OTHERS: dict[str, Any] = dict.fromkeys(
    (*DecodingSettings.model_fields, *WITHOUT_EFFECT, *ABOUT_THE_CLIENT), (Any, None)
)
_Body = create_model("_Body", __base__=_Common, **_OTHERS)

Ids = tuple[int, ...]


def _as_prompts(value: Any) -> list[str] | list[Ids]:
    """Return a prompt, or a list of them, as a list of texts or of token ids."""
    prompts = value if isinstance(value, list) and value else [value]
    if all(_is_id(part) for part in prompts):
        prompts = [prompts]
    if len(prompts) > MOST_PROMPTS:
        raise ValueError(f"{len(prompts)} prompts are more than the {MOST_PROMPTS} of a request")
    if all(isinstance(prompt, str) for prompt in prompts):
        return prompts
    if all(isinstance(prompt, list) and all(map(_is_id, prompt)) for prompt in prompts):
        return [tuple(prompt) for prompt in prompts]
    raise ValueError("it should be text, a list of token ids, or a list of either")


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


class ChatBody(_Body):
    """A request of /v1/chat/completions."""

    # Up to the first wrong one: errors for a million would take a minute and gigabytes.
    messages: Annotated[list[Message], Field(min_length=1, fail_fast=True)]


class CompletionBody(_Body):
    """A request of /v1/completions."""

    prompt: Annotated[list[WritableText] | list[Ids], BeforeValidator(_as_prompts)]

    @property
    def prompts(self) -> Sequence[str | Ids]:
        """The prompts, texts or token ids."""
        return self.prompt
