"""The official `openai` package talks to the endpoint: answers, streams, models, errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI

from fastdllm import DecodingSettings, Request, generate
from fastdllm.model.tokenizer import conversation_ids, encode, prompt_ids
from fastdllm.serving.service import Overloaded
from tests.endpoint.running import LIMIT_S, Running, running

pytestmark = pytest.mark.slow

QUESTIONS = [
    json.loads(line)["question"]
    for line in Path("tasks/data/word_problems.jsonl").read_text().splitlines()[:8]
]
KEY = "right-0123456789"


def client_of(server: Running, key: str = "none") -> OpenAI:
    return OpenAI(base_url=server.url, api_key=key, timeout=LIMIT_S, max_retries=0)


@pytest.fixture(scope="module")
def client(server: Running) -> OpenAI:
    return client_of(server)


def asked(question: str) -> list[Any]:
    return [{"role": "user", "content": question}]


def alone(server: Running, prompt: tuple[int, ...], **settings: Any) -> Any:
    """What `generate` answers."""
    chosen = DecodingSettings(**({"max_new_tokens": 96} | settings))
    return generate(server.served.model, [Request(prompt)], chosen)[0]


SETTINGS: list[dict[str, Any]] = [
    {},
    {"threshold": 0.5, "max_new_tokens": 20},
    {"temperature": 0.8, "top_p": 0.9, "seed": 7},
    {"reuse_k": 2, "layer_subset": "last", "small_block_size": 16},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_chat_has_the_tokens_and_the_cost_of_generate(client, server, settings) -> None:
    tokenizer = server.served.tokenizer
    ids = prompt_ids(tokenizer, QUESTIONS[0])
    expected = alone(server, ids, **settings)
    done = client.chat.completions.create(
        model="tiny", messages=asked(QUESTIONS[0]), extra_body=settings
    )
    (choice,) = done.choices
    shown = expected.token_ids[:-1] if expected.finish_reason == "stop" else expected.token_ids
    assert choice.message.content == tokenizer.decode(shown)
    assert choice.finish_reason == expected.finish_reason
    assert choice.message.role == "assistant"
    assert (done.model, done.object) == ("tiny", "chat.completion")
    usage = done.usage.model_dump()
    assert usage["prompt_tokens"] == len(ids)
    assert usage["completion_tokens"] == len(expected.token_ids)
    assert usage["total_tokens"] == len(ids) + len(expected.token_ids)
    # The prompt may be kept of an earlier test, which saves its prefill.
    passes = {
        name: getattr(expected.passes, name) for name in ("full_block", "sub_block", "commit")
    }
    assert usage["passes"].items() >= passes.items()
    assert usage["passes"]["reused"] == expected.passes.reused
    assert usage["tokens_per_forward"] == expected.tokens_per_forward
    assert usage["layer_forwards_skipped"] == expected.passes.layer_forwards_skipped


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("stop", [None, ["5"], "\n####"])
def test_a_stream_is_the_whole_text_in_pieces(client, settings, stop) -> None:
    wishes: dict[str, Any] = {
        "model": "tiny",
        "messages": asked(QUESTIONS[1]),
        "stop": stop,
        "extra_body": settings,
    }
    whole = client.chat.completions.create(**wishes)
    options = {"include_usage": True}
    events = list(client.chat.completions.create(stream=True, stream_options=options, **wishes))
    *pieces, last = events
    deltas = [event.choices[0].delta for event in pieces]
    assert "".join(delta.content or "" for delta in deltas) == whole.choices[0].message.content
    assert deltas[0].role == "assistant"
    reasons = [event.choices[0].finish_reason for event in pieces]
    assert reasons == [None] * (len(pieces) - 1) + [whole.choices[0].finish_reason]
    assert last.choices == []
    assert last.usage.completion_tokens == whole.usage.completion_tokens
    assert {event.id for event in events} == {last.id}
    assert {event.object for event in events} == {"chat.completion.chunk"}


def test_completions_take_texts_token_ids_and_several(client, server) -> None:
    tokenizer = server.served.tokenizer
    texts = ["Tom has 3 pens and", "Lena has 10 cups."]
    ids = [encode(tokenizer, text) for text in texts]
    expected = [tokenizer.decode(alone(server, p, max_new_tokens=12).token_ids) for p in ids]
    for prompts in (texts, [list(prompt) for prompt in ids]):
        done = client.completions.create(model="tiny", prompt=prompts, max_tokens=12)
        assert [choice.text for choice in done.choices] == expected
        assert [choice.index for choice in done.choices] == [0, 1]
        assert done.usage.prompt_tokens == sum(map(len, ids))
    events = client.completions.create(model="tiny", prompt=texts[0], max_tokens=12, stream=True)
    assert "".join(event.choices[0].text for event in events) == expected[0]


def test_an_answer_goes_on_where_the_assistant_has_begun(client, server) -> None:
    begun = [*asked(QUESTIONS[0]), {"role": "assistant", "content": "Tom has"}]
    tokenizer = server.served.tokenizer
    expected = alone(server, conversation_ids(tokenizer, begun, ends_open=True))
    done = client.chat.completions.create(model="tiny", messages=begun)
    assert done.choices[0].message.content == tokenizer.decode(expected.token_ids[:-1])


def test_an_answer_may_be_sent_back_as_it_came(client) -> None:
    first = client.chat.completions.create(model="tiny", messages=asked(QUESTIONS[0]))
    talk = [*asked(QUESTIONS[0]), first.choices[0].message, *asked(QUESTIONS[1])]
    assert client.chat.completions.create(model="tiny", messages=talk).choices[0].message.content


def test_models_are_listed(client) -> None:
    (model,) = client.models.list()
    assert (model.id, model.object, model.owned_by) == ("tiny", "model", "fastdllm")
    assert client.models.retrieve("tiny") == model
    with pytest.raises(openai.NotFoundError, match="no model 'big/model'; there is tiny"):
        client.models.retrieve("big/model")


def test_errors_are_those_of_the_package(client) -> None:
    with pytest.raises(openai.NotFoundError, match="unknown model 'gpt'; valid: tiny") as missing:
        client.chat.completions.create(model="gpt", messages=asked("x"))
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="n: 2 is not supported") as wrong:
        client.chat.completions.create(model="tiny", messages=asked("x"), n=2)
    assert wrong.value.type == "invalid_request_error"
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match=r"the prompt has \d+ tokens") as long:
            client.chat.completions.create(
                model="tiny", messages=asked("pens " * 2000), stream=stream
            )
        assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="the prompt holds the mask token 506"):
        client.completions.create(model="tiny", prompt="What is |<MASK>|?")


def test_a_full_queue_is_a_rate_limit_with_the_time_to_wait(client, server, monkeypatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise Overloaded("64 requests wait already")

    monkeypatch.setattr(server.service, "submit", refuse)
    for stream in (False, True):
        with pytest.raises(openai.RateLimitError, match="64 requests wait already") as caught:
            client.chat.completions.create(model="tiny", messages=asked("x"), stream=stream)
        assert caught.value.response.headers["retry-after"] == "2"


def test_a_bug_is_one_line_for_the_client_and_a_traceback_for_the_server(
    client, server, monkeypatch, capfd
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("a\nbug")

    monkeypatch.setattr(server.service, "submit", fail)
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(model="tiny", messages=asked("x"))
    assert caught.value.body["message"] == "a bug in fastdllm: ZeroDivisionError: a bug"
    assert "Traceback" in capfd.readouterr().err


def test_with_a_key_only_those_who_have_it_ask() -> None:
    with running(key=KEY) as server:
        assert [model.id for model in client_of(server, KEY).models.list()] == ["tiny"]
        for wrong in ("none", KEY[:-1], KEY + "x"):
            with pytest.raises(openai.AuthenticationError, match="the API key is wrong"):
                client_of(server, wrong).models.list()
            with pytest.raises(openai.AuthenticationError):
                client_of(server, wrong).chat.completions.create(
                    model="tiny", messages=asked("x"), stream=True
                )
