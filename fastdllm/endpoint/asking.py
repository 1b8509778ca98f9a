"""From the bytes of a request to what is decoded: parsed, checked, written by the chat template.

Plain functions without a network; those of a long prompt take a while, so that they are called on a
thread of their own.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from fastdllm.common.errors import UserError, unknown_name
from fastdllm.decoding.admission import check_settings
from fastdllm.decoding.sampling import request_seed
from fastdllm.decoding.sequence import Generation, Request
from fastdllm.endpoint.api_errors import ApiError
from fastdllm.endpoint.bodies import ChatBody, CompletionBody
from fastdllm.endpoint.growing_text import GrowingText
from fastdllm.endpoint.served import Served
from fastdllm.model.tokenizer import conversation_ids, encode
from fastdllm.serving.conversation import prompt_room
from fastdllm.settings import DecodingSettings
from fastdllm.tasks.generation import AnswerText
from fastdllm.validation import validated

WHERE = "the request"
# Of English text, a token has four or five; counting those of a book takes seconds.
CHARACTERS_PER_POSITION = 16
# Of one request, so that the policy, which knows nothing of them, is shared with others.
OF_THE_REQUEST = ("max_new_tokens", "temperature", "top_p", "seed")


@dataclass(frozen=True)
class Question:
    """What one body asks for.

    requests: one per prompt. settings: those that a batch has in common. user: named by the client.
    """

    requests: Sequence[Request]
    settings: DecodingSettings
    text: AnswerText
    stops: Sequence[str]
    decode: Callable[[Sequence[int]], str]
    no_byte: int | None
    is_streamed: bool
    includes_usage: bool
    user: str | None

    def answer(self, generation: Generation) -> str:
        """The text of an answer."""
        return self.text.text(generation.token_ids, finish_reason=generation.finish_reason)

    def growing(self) -> GrowingText:
        """The text of an answer that is about to come."""
        return GrowingText(self.decode, self.stops, no_byte=self.no_byte)


def question_of(served: Served, body: bytes, *, is_chat: bool) -> Question:
    """Return what a body asks for: of /v1/chat/completions, or of /v1/completions.

    Raises:
        UserError, ApiError: it cannot be answered.
    """
    try:
        return (_chat if is_chat else _completion)(served, _json_object(body))
    except RecursionError:
        raise ApiError(400, "the body is nested too deeply") from None


def _chat(served: Served, body: dict[str, Any]) -> Question:
    """A last message of the assistant is the beginning of the answer, which goes on from there."""
    asked = validated(ChatBody, body, WHERE)
    if not served.tokenizer.chat_template:
        raise UserError(f"{served.name} has no chat template; ask /v1/completions")
    if len(asked.messages) > served.model.config.max_positions:
        raise ApiError(400, f"{len(asked.messages)} messages are more than the model can read")
    messages = [message.as_template_has_it() for message in asked.messages]
    _check_length(served, sum(len(message["content"]) for message in messages))
    is_begun = messages[-1]["role"] == "assistant"
    ids = conversation_ids(served.tokenizer, messages, ends_open=is_begun)
    return _question(served, asked, [ids])


def _completion(served: Served, body: dict[str, Any]) -> Question:
    asked = validated(CompletionBody, body, WHERE)
    if asked.stream and len(asked.prompts) > 1:
        raise ApiError(400, "stream takes one prompt; send one request each", param="stream")
    prompts: list[tuple[int, ...]] = []
    for prompt in asked.prompts:
        _check_length(served, len(prompt))
        prompts.append(encode(served.tokenizer, prompt) if isinstance(prompt, str) else prompt)
    return _question(served, asked, prompts)


def _check_length(served: Served, characters: int) -> None:
    """Refuse a prompt that cannot fit before its tokens are counted."""
    most = served.model.config.max_positions * CHARACTERS_PER_POSITION
    if characters > most:
        raise ApiError(
            400,
            f"{WHERE}: the prompt has {characters} characters, more than the {most} of which "
            f"tokens are counted ({CHARACTERS_PER_POSITION} per position of the model); shorten it",
            code="context_length_exceeded",
        )


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(
            body, parse_constant=_refuse_constant, object_pairs_hook=_refuse_repetitions
        )
    except ValueError as error:
        reason = "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else str(error)
        raise ApiError(400, f"the body is not valid JSON: {reason}") from None
    if not isinstance(value, dict):
        raise ApiError(400, f"the body should be a JSON object, not {type(value).__name__}")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _refuse_repetitions(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        raise ValueError(f"it has the key {counts.most_common(1)[0][0]!r} more than once")
    return value


def no_byte(tokenizer: Any) -> int | None:
    """Return the token of a byte that no text has, of a tokenizer with tokens for bytes."""
    token: int | None = tokenizer.convert_tokens_to_ids("<0xFF>")
    return None if token == tokenizer.unk_token_id else token


def _question(served: Served, asked: Any, prompts: Sequence[tuple[int, ...]]) -> Question:
    if asked.model is not None and asked.model != served.name:
        error = unknown_name("model", asked.model, [served.name])
        raise ApiError(404, str(error), code="model_not_found", param="model")
    if asked.stream_options is not None and not asked.stream:
        raise ApiError(400, "stream_options needs stream as well", param="stream_options")
    given = served.settings.model_dump(exclude_unset=True) | asked.decoding()
    whole = validated(DecodingSettings, given, WHERE)
    check_settings(served.model.config, whole)
    shared = {name: value for name, value in given.items() if name not in OF_THE_REQUEST}
    room = prompt_room(served.model.config, whole)
    stops = asked.stops
    text = AnswerText(served.tokenizer, until=stops)
    for ids in prompts:
        # Here, before others wait for a check of each token of a prompt that cannot fit.
        if len(ids) > room:
            raise ApiError(
                400,
                f"{WHERE}: the prompt has {len(ids)} tokens, and beside {whole.max_new_tokens} new "
                f"ones the model has room for {max(room, 0)}; shorten it, or lower max_tokens",
                code="context_length_exceeded",
            )
    return Question(
        requests=[
            Request(
                ids,
                max_new_tokens=whole.max_new_tokens,
                temperature=whole.temperature,
                top_p=whole.top_p,
                stop_when=text.stop_when(),
                seed=request_seed(whole.seed, ids, 0),
            )
            for ids in prompts
        ],
        settings=validated(DecodingSettings, shared, WHERE),
        text=text,
        stops=stops,
        decode=AnswerText(served.tokenizer, until=None).text,
        no_byte=no_byte(served.tokenizer),
        is_streamed=bool(asked.stream),
        includes_usage=bool(asked.stream_options and asked.stream_options.include_usage),
        user=asked.user,
    )
