"""The chat of the page: questions, answers that fill in, and what one does with them afterwards."""

from __future__ import annotations

import asyncio
import html
import re
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import gradio as gr
from gradio.blocks import Block

from fastdllm.common.console import counted
from fastdllm.decoding.sequence import Request
from fastdllm.serving.conversation import Conversation, Turn
from fastdllm.traces.recording import RUNNERS_UP
from fastdllm.web.answer_words import AnswerWords
from fastdllm.web.answering import Answering
from fastdllm.web.decoding_choice import DecodingChoice
from fastdllm.web.denoising_panel import DenoisingPanel
from fastdllm.web.look import text_line
from fastdllm.web.visitors import (
    AT_ONCE,
    EVENT,
    check_question,
    said_on_the_page,
    stop_button,
    visitor_of,
)

# The values of components.
Data = Mapping[Any, Any]
Outputs = tuple[Any, ...]
# Between two characters that a browser would take for the start of markup: Gradio shows messages as
# HTML, less what it thinks harmful. It has no width, and copy.js leaves it out of what is copied.
APART = "\u2060"
# Below an answer that the visitor stopped.
STOPPED = "\n[stopped]"


class ChatTab:
    """The components of the chat, and what happens when they are used.

    examples: questions to begin with.
    """

    def __init__(
        self,
        answering: Answering,
        choice: DecodingChoice,
        system: gr.Textbox,
        panel: DenoisingPanel,
        examples: Sequence[str],
    ) -> None:
        self._answering, self._choice, self._panel = answering, choice, panel
        self._words = AnswerWords(answering.served)
        self._system = system
        self._conversation = gr.State(Conversation())
        self._kept = gr.State([])  # for each turn the name of its trace
        chat = gr.Chatbot(
            label="Conversation",
            height="min(25rem, 42vh)",
            render_markdown=False,
            latex_delimiters=[],
            buttons=["copy", "copy_all"],
            editable="user",
            placeholder="Ask a question, and watch the answer being denoised.",
        )
        self._which = gr.Radio([], label="steps shown of answer", visible=False)
        figures = text_line()
        with gr.Row():
            self._line = gr.Textbox(
                label="Question",
                show_label=False,
                container=False,
                scale=8,
                min_width=120,
                placeholder="Your question",
                lines=1,
                max_lines=8,
            )
            send = gr.Button("Send", variant="primary", scale=1, min_width=70)
            stop_button(answering)
        asks: list[tuple[Any, Callable[..., AsyncGenerator[Outputs]]]] = [
            (self._line.submit, self._send),
            (send.click, self._send),
            (chat.retry, self._retry),
            (chat.edit, self._edit),
        ]
        for text in examples:
            button = gr.Button(text, size="sm", elem_classes=["example"])
            asks.append((button.click, self._sender(text)))
        inputs: set[Block] = {self._line, self._conversation, self._kept, system, *choice.inputs}
        talk = [chat, self._conversation, self._kept, self._which]
        self._outputs = [self._line, *talk, figures, *panel.outputs]
        # A refusal would cover the conversation.
        spared = {**EVENT, "show_progress_on": figures}
        for event, answer in asks:
            event(answer, inputs, self._outputs, **spared)
        chat.undo(self._undo, inputs, [self._line, *talk, figures], **spared)
        chat.clear(self._clear, None, [*talk, figures], **spared)
        chat.select(self._select, self._kept, [self._which, *panel.outputs], **AT_ONCE)
        self._which.input(self._show, [self._which, self._kept], panel.outputs, **AT_ONCE)

    async def _send(self, request: gr.Request, data: Data) -> AsyncGenerator[Outputs]:
        async for outputs in self._ask(request, data, data[self._line] or ""):
            yield outputs

    def _sender(self, question: str) -> Callable[..., AsyncGenerator[Outputs]]:
        """Return what sends one question."""

        async def send(request: gr.Request, data: Data) -> AsyncGenerator[Outputs]:
            async for outputs in self._ask(request, data, question):
                yield outputs

        return send

    async def _retry(
        self, request: gr.Request, chosen: gr.RetryData, data: Data
    ) -> AsyncGenerator[Outputs]:
        turn = _turn_of(chosen.index)
        question = data[self._conversation].turns[turn].question
        async for outputs in self._ask(request, data, question, before=turn):
            yield outputs

    async def _edit(
        self, request: gr.Request, chosen: gr.EditData, data: Data
    ) -> AsyncGenerator[Outputs]:
        turn = _turn_of(chosen.index)
        question = str(chosen.value).replace(APART, "")
        async for outputs in self._ask(request, data, question, before=turn):
            yield outputs

    async def _ask(
        self, request: gr.Request, data: Data, question: str, before: int | None = None
    ) -> AsyncGenerator[Outputs]:
        """Answer a question; before: the turn whose place it takes, with all after it."""
        visitor = visitor_of(request)
        with said_on_the_page(), self._answering.turn_of(visitor):
            system = data[self._system] or ""
            check_question(question, system)
            turns, kept = data[self._conversation].turns[:before], data[self._kept][:before]
            talk = Conversation(system=system, turns=turns)
            policy = self._choice.policy(data)
            prompt = await self._answering.prompt(talk, question, policy)
            rest = prompt.conversation
            asked = Request(prompt.ids, runners_up=RUNNERS_UP)
            answer = self._answering.answer(visitor, asked, policy)
            async with aclosing(answer.follow()) as updates:
                async for _ in updates:
                    history = _messages(rest, question, self._words.so_far(answer))
                    line = self._words.progress(answer)
                    view = self._panel.while_decoding([answer])
                    yield "", history, *(gr.skip() for _ in range(3)), line, *view
            turn = Turn(
                question=question,
                answer=self._words.text(answer),
                stopped=self._words.is_stopped(answer),
            )
            talk, trace = rest.with_turn(turn), await asyncio.to_thread(answer.trace)
            line = self._words.figures(answer)
            if prompt.dropped:
                gone = counted(prompt.dropped, "turn")
                line = f"the context is full: the oldest {gone} went | {line}"
            view = await asyncio.to_thread(self._panel.of_traces, answer.name, [trace])
            if self._answering.is_dropped(visitor):
                # Gradio sends the last outputs of an event again at its end, which may be after
                # the visitor took the answer away.
                yield tuple(gr.skip() for _ in self._outputs)
                return
            yield "", *_talk(talk, [*kept[prompt.dropped :], *view[1]]), line, *view

    async def _undo(self, request: gr.Request, chosen: gr.UndoData, data: Data) -> Outputs:
        """Take the last question back into the line."""
        await self._answering.drop(visitor_of(request))
        talk, turn = data[self._conversation], _turn_of(chosen.index)
        question = talk.turns[turn].question if turn < len(talk.turns) else data[self._line]
        rest = Conversation(turns=talk.turns[:turn])
        return question, *_talk(rest, data[self._kept][:turn]), ""

    async def _clear(self, request: gr.Request) -> Outputs:
        await self._answering.drop(visitor_of(request))
        return *_talk(Conversation(), []), ""

    def _select(self, chosen: gr.SelectData, kept: list[str]) -> Outputs:
        """Show the denoising of an answer that was clicked on."""
        turn = _turn_of(chosen.index)
        if turn >= len(kept):
            return gr.skip(), gr.skip(), gr.skip()
        return turn + 1, *self._show(turn + 1, kept)

    def _show(self, number: int, kept: list[str]) -> Outputs:
        """Show the denoising of an answer by its number, from 1."""
        with said_on_the_page():
            return self._panel.of_kept([kept[number - 1]])


def _talk(talk: Conversation, kept: list[str]) -> Outputs:
    """Return what the chat, both states and the choice of an answer show."""
    numbers = list(range(1, len(kept) + 1))
    which = gr.Radio(numbers, value=len(kept), visible=len(kept) > 1)
    return _messages(talk), talk, kept, which


def _turn_of(index: int | tuple[int, int]) -> int:
    """Return the number of the turn that a message belongs to: a question, then its answer."""
    return (index if isinstance(index, int) else index[0]) // 2


def _messages(talk: Conversation, question: str = "", answer: str = "") -> list[gr.MessageDict]:
    turns = [(turn.question, turn.answer + STOPPED * turn.stopped) for turn in talk.turns]
    if question:
        turns.append((question, answer))
    messages: list[gr.MessageDict] = []
    for asked, answered in turns:
        messages.append({"role": "user", "content": _content(asked)})
        messages.append({"role": "assistant", "content": _content(answered)})
    return messages


def _content(text: str) -> Any:
    """Return the content of a message that shows just this text."""
    # As a bare string, Gradio would take it for a docstring and change its indentation.
    return {"type": "text", "text": literal(text)}


def literal(text: str) -> str:
    """Return a text that reads the same as HTML, with `APART` where it would be markup."""
    text = re.sub("<(?=[a-zA-Z!?/])", f"<{APART}", text)
    return re.sub(
        "&(?=[#a-zA-Z])[#a-zA-Z0-9]+;?",
        lambda name: f"&{APART}{name[0][1:]}" if html.unescape(name[0]) != name[0] else name[0],
        text,
    )
