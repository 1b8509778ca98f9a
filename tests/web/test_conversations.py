"""Visitors who talk, stop, take back and go away: each whole answer is the one of `generate`."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import pytest

from fastdllm import DecodingSettings, Request, generate
from fastdllm.serving.conversation import Conversation, Turn, fitted, prompt_room
from fastdllm.tasks.generation import AnswerText
from tests.web.running_page import running_page
from tests.web.visitor import API, Visitor

pytestmark = pytest.mark.slow

VISITORS, MESSAGES = 4, 6
NAMES, THINGS = ("Tom", "Lena", "Leo", "Mia"), ("pens", "cups", "boxes")
# Of which some share a lane of the batch, and one samples.
SETTINGS: tuple[dict[str, Any], ...] = (
    {"max_new_tokens": 40},
    {"max_new_tokens": 40, "threshold": 0.5},
    {"max_new_tokens": 40, "temperature": 0.8, "seed": 3},
    {"max_new_tokens": 30, "small_block_size": 16, "reuse_k": 2, "layer_subset": "last"},
)


@dataclass
class Said:
    """A whole answer, and what it answers."""

    before: list[Turn]
    question: str
    settings: dict[str, Any]
    answer: str


@dataclass
class Talk:
    """What one visitor does, at random, and what came of it."""

    visitor: Visitor
    chance: random.Random
    turns: list[Turn] = field(default_factory=list)
    said: list[Said] = field(default_factory=list)

    def go_on(self) -> None:
        """Do one thing."""
        name, thing = self.chance.choice(NAMES), self.chance.choice(THINGS)
        first, second = self.chance.randrange(2, 50), self.chance.randrange(2, 50)
        question = f"{name} has {first} {thing}, and finds {second}. How many has {name} now?"
        kinds = ["send", "send", "stop", "close"]
        if self.turns:
            kinds += ["retry", "edit", "undo", "clear"]
        kind = self.chance.choice(kinds)
        last = 2 * len(self.turns) - 2
        if kind == "undo":
            self._finished("undo", {"index": last, "value": ""})
            self.turns.pop()
        elif kind == "clear":
            self._finished("clear", None)
            self.turns.clear()
        elif kind == "retry":
            turn = self.turns.pop()
            self._ask(turn.question, "retry", {"index": last + 1, "value": turn.answer})
        elif kind == "edit":
            turn = self.turns.pop()
            data = {"index": last, "value": question, "previous_value": turn.question}
            self._ask(question, "edit", data)
        else:
            self._ask(question, "submit", None, leaves=kind)

    def _ask(self, question: str, name: str, event_data: Any, leaves: str = "") -> None:
        from fastdllm.web.chat_tab import APART, STOPPED

        settings = self.chance.choice(SETTINGS)
        messages = self._caused(name, event_data, Question=question, **settings)
        read = []
        if leaves in ("stop", "close"):
            read = list(islice(messages, self.chance.randrange(1, 6)))
        if leaves == "close":
            messages.close()
            self.visitor.tab += "x"
            self.turns = []
            return
        if leaves == "stop":
            self.visitor.at_once(self.visitor.event("click", "Stop"), []).raise_for_status()
        output = [*read, *messages][-1]["output"]
        history = output["data"][1]
        texts = [message["content"][0]["text"].replace(APART, "") for message in history]
        shown = [turn.question for turn in self.turns] + [question]
        dropped = len(shown) - len(texts) // 2  # as the context is full
        assert texts[::2] == shown[dropped:]
        answer = texts[-1].removesuffix(STOPPED)
        is_stopped = answer != texts[-1]
        if not is_stopped:
            self.said.append(Said(list(self.turns), question, settings, answer))
        self.turns = self.turns[dropped:]
        self.turns.append(Turn(question=question, answer=answer, stopped=is_stopped))

    def _finished(self, name: str, event_data: Any) -> None:
        *_, done = self._caused(name, event_data)
        assert done["success"], done

    def _caused(self, name: str, event_data: Any, **given: Any) -> Any:
        event = self.visitor.event(name, "Question" if name == "submit" else None)
        values = self.visitor.values(event, **given)
        self.visitor.join(event, values, event_data).raise_for_status()
        return self.visitor.messages()


def talk(address: str, seed: int, messages: int) -> list[Said]:
    """Do so many things at a page as one visitor, and return the whole answers."""
    with closing(Visitor(address)) as visitor:
        one = Talk(visitor, random.Random(seed))
        with visitor.http.stream("GET", f"{API}/heartbeat/{visitor.tab}"):
            for _ in range(messages):
                one.go_on()
        return one.said


def check(said: Sequence[Said], model: Any, tokenizer: Any) -> None:
    """Compare answers with those that `generate` gives alone."""
    text = AnswerText(tokenizer, until=None).text
    for one in said:
        settings = DecodingSettings(**one.settings)
        room = prompt_room(model.config, settings)
        asked = fitted(Conversation(turns=one.before), one.question, tokenizer, room=room)
        (expected,) = generate(model, [Request(asked.ids)], settings)
        assert one.answer == text(expected.token_ids, finish_reason=expected.finish_reason), one


def talks(address: str, visitors: int, messages: int) -> Iterator[list[Said]]:
    """Let visitors talk at the same time."""
    with ThreadPoolExecutor(visitors) as pool:
        yield from pool.map(lambda seed: talk(address, seed, messages), range(visitors))


def test_whole_answers_are_those_of_generate_whoever_comes_and_goes() -> None:
    with running_page(slots=VISITORS - 1) as server:
        address = f"http://localhost:{server.port}"
        said = [one for each in talks(address, VISITORS, MESSAGES) for one in each]
        server.wait_until_idle()
        assert len(said) > VISITORS
        check(said, server.served.model, server.served.tokenizer)
        assert server.service.figures().answers.get("cancelled", 0) > 0
