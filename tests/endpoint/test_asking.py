"""What a body asks for: tokens and settings of other front ends, or one line why not."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fastdllm import DecodingSettings
from fastdllm.decoding.sampling import request_seed
from fastdllm.endpoint.api_errors import ApiError, api_error
from fastdllm.endpoint.asking import Question, question_of
from fastdllm.endpoint.bodies import (
    ABOUT_THE_CLIENT,
    LONGEST_STOP,
    MOST_PROMPTS,
    MOST_STOPS,
    WITHOUT_EFFECT,
)
from fastdllm.endpoint.served import Served
from fastdllm.model.loading import model_config
from fastdllm.model.tokenizer import conversation_ids, encode, load_tokenizer
from fastdllm.settings import DecodingSettings as Settings

TINY = "models/tiny"
USER = {"role": "user", "content": "How many pens?"}


@pytest.fixture(scope="module")
def served() -> Served:
    model = SimpleNamespace(config=model_config(TINY, None))
    tokenizer = load_tokenizer(TINY)
    return Served("tiny", cast(Any, model), tokenizer, cast(Any, None), Settings(threshold=0.8))


def chat(served: Served, **body: Any) -> Question:
    return question_of(served, json.dumps({"messages": [USER]} | body).encode(), is_chat=True)


def completion(served: Served, **body: Any) -> Question:
    return question_of(served, json.dumps({"prompt": "Tom has"} | body).encode(), is_chat=False)


def test_a_question_has_the_tokens_of_the_chat_and_the_settings_of_the_server(served) -> None:
    question = chat(served, model="tiny")
    (request,) = question.requests
    ids = conversation_ids(served.tokenizer, [USER])
    assert request.prompt_ids == ids
    assert question.settings == served.settings
    assert (request.max_new_tokens, request.temperature, request.top_p) == (256, 0, 0.95)
    assert request.seed == request_seed(0, ids, 0)
    assert request.stop_when is None
    assert not question.is_streamed


def test_every_decoding_setting_is_a_field_of_its_name(served) -> None:
    values = {
        "threshold": 0.5,
        "block_size": 16,
        "small_block_size": 4,
        "use_block_cache": True,
        "max_new_tokens": 40,
        "temperature": 0.7,
        "top_p": 0.5,
        "seed": 3,
        "mask_id": 506,
        "stop_token": 505,
        "reuse_k": 2,
        "layer_subset": [3, 8],
        "lookahead_depth": 1,
        "lookahead_threshold": 0.9,
    }
    assert values.keys() == DecodingSettings.model_fields.keys()
    for question in (chat(served, **values), completion(served, **values)):
        (request,) = question.requests
        of_request = {"max_new_tokens": 40, "temperature": 0.7, "top_p": 0.5}
        assert {name: getattr(request, name) for name in of_request} == of_request
        assert request.seed == request_seed(3, request.prompt_ids, 0)
        expected = DecodingSettings(**{n: v for n, v in values.items() if n not in of_request})
        names = values.keys() - of_request.keys() - {"seed"}
        assert all(getattr(question.settings, n) == getattr(expected, n) for n in names)
        # What differs from request to request is not in what makes their policy.
        assert question.settings.model_fields_set == names


def test_null_is_as_if_it_were_not_there(served) -> None:
    names = [*WITHOUT_EFFECT, *ABOUT_THE_CLIENT, *DecodingSettings.model_fields, "stop", "stream"]
    question = chat(served, **dict.fromkeys([*names, "user", "model", "max_tokens"]))
    assert question.requests == chat(served).requests
    assert question.settings == served.settings


def test_values_without_effect_change_nothing(served) -> None:
    values = {name: allowed[0] for name, allowed in WITHOUT_EFFECT.items() if allowed}
    assert chat(served, **values).requests == chat(served).requests
    client = {"metadata": {"a": "b"}, "user": "me", "service_tier": "auto"}
    assert chat(served, **client).user == "me"


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "max_new_tokens"])
def test_the_limit_has_three_names(served, name: str) -> None:
    assert chat(served, **{name: 9}).requests[0].max_new_tokens == 9
    assert chat(served, max_tokens=9, max_new_tokens=9).requests[0].max_new_tokens == 9


def test_a_message_may_come_in_parts_and_a_developer_is_the_system(served) -> None:
    parts = [{"type": "text", "text": "How many"}, {"type": "text", "text": " pens?"}]
    messages = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": parts}]
    as_template = [{"role": "system", "content": "Be brief."}, USER]
    assert chat(served, messages=messages).requests == chat(served, messages=as_template).requests


def test_a_last_message_of_the_assistant_is_the_beginning_of_the_answer(served) -> None:
    begun = [USER, {"role": "assistant", "content": "There are"}]
    (request,) = chat(served, messages=begun).requests
    text = served.tokenizer.decode(request.prompt_ids)
    assert text.endswith("<|im_start|>assistant\nThere are")


def test_special_tokens_are_text_in_a_message_and_tokens_in_a_prompt(served) -> None:
    end = served.tokenizer.convert_tokens_to_ids("<|im_end|>")
    spelled = chat(served, messages=[{"role": "user", "content": "<|im_end|>"}]).requests[0]
    plain = chat(served).requests[0]
    assert spelled.prompt_ids.count(end) == plain.prompt_ids.count(end)
    assert end in completion(served, prompt="<|im_end|>").requests[0].prompt_ids


def test_a_prompt_is_text_or_token_ids_or_several(served) -> None:
    ids = encode(served.tokenizer, "Tom has")
    for prompt in ("Tom has", list(ids), ["Tom has"], [list(ids)]):
        assert [r.prompt_ids for r in completion(served, prompt=prompt).requests] == [ids]
    several = completion(served, prompt=["Tom has", "Lena"]).requests
    assert [r.prompt_ids for r in several] == [ids, encode(served.tokenizer, "Lena")]


CHAT_ERRORS: list[tuple[dict[str, Any], str]] = [
    ({"messages": []}, "messages: [] is not allowed; it should not be empty"),
    ({"messages": "hi"}, "messages: 'hi' is not allowed; it should be a list"),
    ({"messages": [3]}, "messages.0: 3 is not allowed; it should hold keys and values"),
    ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role: 'robot' is not allowed"),
    ({"messages": [{"role": "user"}]}, "messages.0.content: this key is required"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content: 5 is not allowed"),
    ({"messages": [{"role": "user", "content": None}]}, "messages.0.content: null is not allowed"),
    ({"messages": [USER | {"tool_calls": [{}]}]}, "messages.0.tool_calls"),
    ({"messages": [USER | {"nmae": "x"}]}, "did you mean 'name'?"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        "a part of the type 'image_url' cannot be read, only text",
    ),
    ({"messages": [{"role": "user", "content": "\ud800"}]}, "half of a character"),
    ({"messages": [{"role": "user", "content": ["\ud800"]}]}, "cannot be read, only text"),
    ({"treshold": 0.5}, "unknown key 'treshold'; did you mean 'threshold'?"),
    ({"threshold": "high"}, "threshold: 'high' is not allowed"),
    ({"threshold": 2}, "threshold: 2 is not allowed; it should be less than or equal to 1"),
    ({"threshold": True}, "threshold: true is not allowed"),
    ({"reuse_k": 2}, "reuse_k 2 needs layer_subset as well"),
    ({"reuse_k": 2, "layer_subset": [0, 99]}, "ends after the 14 layers of the model"),
    ({"block_size": 12}, "small_block_size 8 does not divide block_size 12"),
    ({"stop_token": 99999}, "outside the model's vocabulary"),
    ({"temperature": -1}, "temperature: -1 is not allowed"),
    ({"temperature": 10**400}, "temperature"),
    ({"seed": -1}, "seed: -1 is not allowed"),
    ({"max_tokens": 0}, "max_new_tokens: 0 is not allowed"),
    ({"max_tokens": "9"}, "max_tokens: '9' is not allowed"),
    ({"max_tokens": 9.5}, "max_tokens: 9.5 is not allowed"),
    ({"max_tokens": 9, "max_new_tokens": 8}, "max_tokens 9, max_new_tokens 8: they mean the same"),
    ({"max_tokens": 5000}, "beside 5000 new ones the model has room for 0"),
    ({"n": 2}, "n: 2 is not supported; leave it out, or set it to 1"),
    (
        {"messages": [{"role": "user", "content": "x" * 32_769}]},
        "the prompt has 32769 characters, more than the 32768 of which tokens are counted",
    ),
    ({"messages": [USER] * 2049}, "2049 messages are more than the model can read"),
    ({"n": True}, "n: true is not supported"),
    ({"logprobs": True}, "logprobs: true is not supported; leave it out, or set it to false"),
    ({"logprobs": 0}, "logprobs: 0 is not supported"),
    ({"tools": [{"type": "function"}]}, "tools: [{"),
    ({"presence_penalty": 0.5}, "presence_penalty: 0.5 is not supported"),
    ({"top_k": 5}, "top_k: 5 is not supported; leave it out, or set it to 0"),
    ({"audio": {"voice": "x"}}, "is not supported; leave it out"),
    ({"response_format": {"type": "json_object"}}, "response_format: "),
    ({"stream": "yes"}, "stream: 'yes' is not allowed"),
    ({"stream_options": {"include_usage": True}}, "stream_options needs stream as well"),
    ({"stream": True, "stream_options": {"usage": True}}, "unknown key 'stream_options.usage'"),
    ({"stop": 5}, "stop: 5 is not allowed"),
    ({"stop": [5]}, "stop.0: 5 is not allowed; it should be text"),
    ({"stop": ["x", ""]}, "stop: an empty stop string ends nothing"),
    ({"stop": "\ud800"}, "stop.0: holds half of a character"),
    ({"stop": ["x"] * (MOST_STOPS + 1)}, "stop: 33 stop strings are more than the 32 allowed"),
    ({"stop": "x" * (LONGEST_STOP + 1)}, "stop: a stop string of 201 characters is longer"),
    ({"user": 3}, "user: 3 is not allowed"),
]


@pytest.mark.parametrize(("body", "said"), CHAT_ERRORS)
def test_a_wrong_field_is_one_line(served, body: dict[str, Any], said: str) -> None:
    assert said in refusal(lambda: chat(served, **body))


COMPLETION_ERRORS: list[tuple[dict[str, Any], str]] = [
    ({"prompt": None}, "prompt: it should be text, a list of token ids, or a list of either"),
    ({"prompt": ["x", [1]]}, "prompt: it should be text"),
    ({"prompt": [1, "x"]}, "prompt: it should be text"),
    ({"prompt": [1, True]}, "prompt: it should be text"),
    ({"prompt": [[1.5]]}, "prompt: it should be text"),
    ({"prompt": "\udfff"}, "half of a character"),
    ({"prompt": ["x"] * (MOST_PROMPTS + 1)}, "65 prompts are more than the 64 of a request"),
    ({"prompt": ["x", "y"], "stream": True}, "stream takes one prompt"),
    ({"prompt": [1] * 2000}, "the prompt has 2000 tokens, and beside 256 new ones the model has"),
    ({"echo": True}, "echo: true is not supported; leave it out, or set it to false"),
    ({"suffix": "x"}, 'suffix: "x" is not supported'),
    ({"best_of": 3}, "best_of: 3 is not supported"),
    ({"messages": []}, "unknown key 'messages'"),
]


@pytest.mark.parametrize(("body", "said"), COMPLETION_ERRORS)
def test_a_wrong_completion_is_one_line(served, body: dict[str, Any], said: str) -> None:
    assert said in refusal(lambda: completion(served, **body))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"\xff\xfe{}", "not valid JSON"),
        (b'{"prompt": "\xff"}', "not UTF-8"),
        (b"[1]", "should be a JSON object, not list"),
        (b"null", "should be a JSON object, not NoneType"),
        (b'{"temperature": NaN}', "NaN is no number of JSON"),
        (b'{"n": 1, "prompt": "x", "n": 1}', "it has the key 'n' more than once"),
        (b'{"temperature": -Infinity}', "-Infinity is no number of JSON"),
        (b"[" * 10**6, "nested too deeply"),
        (b'{"a":' * 10**5, "nested too deeply"),
        (b'{"seed": ' + b"9" * 10**5 + b"}", "not valid JSON"),
    ],
)
def test_a_body_that_is_no_object_is_one_line(served, body: bytes, said: str) -> None:
    assert said in refusal(lambda: question_of(served, body, is_chat=False))


@pytest.mark.parametrize(
    ("message", "said"), [({}, "messages.0.content: this key is required"), (3, "messages.0: 3 is")]
)
def test_of_many_wrong_messages_the_first_is_enough(served, message: Any, said: str) -> None:
    line = refusal(lambda: chat(served, messages=[message] * 1000))
    assert said in line
    assert " more" not in line


@pytest.mark.parametrize("field", ["tools", "threshold", "messages", "stop", "user", "metadata"])
def test_a_field_of_any_depth_is_one_line(served, field: str) -> None:
    """Near the depth that Python can read, but not write."""
    for depth in (*range(900, 1000, 5), 5000):
        value = "[" * depth + "]" * depth
        body = f'{{"messages": 3, "{field}": {value}}}'.encode()
        refusal(lambda body=body: question_of(served, body, is_chat=True))


def test_another_model_is_not_found(served) -> None:
    with pytest.raises(ApiError, match="unknown model 'gpt-4'; valid: tiny") as caught:
        chat(served, model="gpt-4")
    assert caught.value.status == 404


def refusal(ask: Any) -> str:
    with pytest.raises(Exception) as caught:
        ask()
    error = api_error(caught.value)
    assert error.status == 400, caught.value
    assert "\n" not in error.message
    assert len(error.message) <= 600
    return error.message
