"""Of a conversation that goes on, only what is new goes through the model, plus one block."""

from __future__ import annotations

from itertools import takewhile

from fastdllm import DecodingSettings, Step, generate, load_model
from fastdllm.commands.chat import _decoder
from fastdllm.model.config import EMBEDDED_MODEL
from fastdllm.model.tokenizer import load_tokenizer
from fastdllm.policy import PassKind
from fastdllm.serving.conversation import Conversation, Turn
from fastdllm.serving.service import Service
from fastdllm.tasks.generation import AnswerText

QUESTION = "Tom has 12 apples. He buys 5 apples. How many apples does Tom have now? " * 8


def test_the_second_turn_prefills_what_is_new_and_answers_alike() -> None:
    model = load_model(EMBEDDED_MODEL, device="cpu", dtype="float32")
    tokenizer = load_tokenizer(str(EMBEDDED_MODEL))
    settings, talk = DecodingSettings(max_new_tokens=100), Conversation(system="Be brief.")
    with Service(model, slots=1) as service:
        decode = _decoder(service)
        first = talk.prompt_ids(tokenizer, QUESTION)
        answered = list(decode(first, settings))[-1].finished
        assert answered is not None
        text = AnswerText(tokenizer, until=None).text(
            answered.token_ids, finish_reason=answered.finish_reason
        )
        talk = talk.with_turn(Turn(question=QUESTION, answer=text))
        second = talk.prompt_ids(tokenizer, QUESTION)
        steps: list[Step] = list(decode(second, settings))
    known = [*first, *answered.token_ids]
    same = sum(
        1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(known, second, strict=False))
    )
    assert same > len(first)
    prefilled = sum(step.rows for step in steps if step.kind is PassKind.PREFILL)
    assert prefilled <= len(second) - same + settings.block_size
    (alone,) = generate(model, [second], settings)
    assert steps[-1].finished is not None
    assert steps[-1].finished.token_ids == alone.token_ids
