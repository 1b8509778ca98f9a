"""The chat of the page: questions, answers that fill in, and what one does with them afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import gradio as gr
from gradio.blocks import Block

from fastdllm.common.console import counted
from fastdllm.decoding.sequence import Request
from fastdllm.serving.conversation import Conversation, Turn, fitted, prompt_room
from fastdllm.traces.recording import RUNNERS_UP
from fastdllm.web.answer_words import AnswerWords
from fastdllm.web.answering import Answering
from fastdllm.web.decoding_choice import DecodingChoice
from fastdllm.web.denoising_panel import DenoisingPanel
from fastdllm.web.visitors import EVENT, check_text, said_on_the_page, stop_button, visitor_of

# The values of components.
Data = Mapping[Any, Any]
Outputs = tuple[Any, ...]


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
            height=420,
            render_markdown=False,
            latex_delimiters=[],
            buttons=["copy", "copy_all"],
            editable="user",
            placeholder="Ask the model something, and watch the answer being denoised.",
            examples=[{"text": text} for text in examples],
        )
        figures = gr.Markdown(elem_id="figures")
        with gr.Row():
            self._line = gr.Textbox(
                label="Question",
                show_label=False,
                container=False,
                scale=8,
                placeholder="A question; Enter sends it, Shift-Enter breaks the line",
                lines=1,
                max_lines=8,
            )
            send = gr.Button("Send", variant="primary", scale=1, min_width=80)
            stop_button(answering)
        inputs: set[Block] = {self._line, self._conversation, self._kept, system, *choice.inputs}
        talk = [chat, self._conversation, self._kept]
        for event, answer in (
            (self._line.submit, self._send),
            (send.click, self._send),
            (chat.example_select, self._send_example),
            (chat.retry, self._retry),
            (chat.edit, self._edit),
        ):
            event(answer, inputs, [self._line, *talk, figures, *panel.outputs], **EVENT)
        chat.undo(self._undo, [self._conversation, self._kept], [self._line, *talk], **EVENT)
        chat.clear(self._clear, None, [self._conversation, self._kept, figures], **EVENT)
        chat.select(self._select, self._kept, panel.outputs, **EVENT)

    async def _send(self, request: gr.Request, data: Data) -> AsyncGenerator[Outputs]:
        async for outputs in self._ask(request, data, data[self._line]):
            yield outputs

    async def _send_example(
        self, request: gr.Request, chosen: gr.SelectData, data: Data
    ) -> AsyncGenerator[Outputs]:
        async for outputs in self._ask(request, data, chosen.value["text"]):
            yield outputs

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
        async for outputs in self._ask(request, data, str(chosen.value), before=turn):
            yield outputs

    async def _ask(
        self, request: gr.Request, data: Data, question: str, before: int | None = None
    ) -> AsyncGenerator[Outputs]:
        """Answer a question; before: the turn whose place it takes, with all after it."""
        visitor, served = visitor_of(request), self._answering.served
        with said_on_the_page(), self._answering.turn_of(visitor):
            check_text(question, "the question")
            turns, kept = data[self._conversation].turns[:before], data[self._kept][:before]
            talk = Conversation(system=data[self._system] or "", turns=turns)
            policy = self._choice.policy(data)
            room = prompt_room(served.model.config, policy.settings)
            # On another thread, as a long text takes a while.
            prompt = await asyncio.to_thread(fitted, talk, question, served.tokenizer, room=room)
            rest = prompt.conversation
            asked = Request(prompt.ids, runners_up=RUNNERS_UP)
            answer = self._answering.answer(visitor, asked, policy)
            async with aclosing(answer.follow()) as updates:
                async for _ in updates:
                    history = _messages(rest, question, self._words.so_far(answer))
                    line = self._words.progress(answer)
                    view = self._panel.while_decoding([answer])
                    yield "", history, gr.skip(), gr.skip(), line, *view
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
            whole, names = self._panel.of_traces(answer.name, [trace])
            yield "", _messages(talk), talk, [*kept[prompt.dropped :], *names], line, whole, names

    def _undo(
        self, chosen: gr.UndoData, talk: Conversation, kept: list[str]
    ) -> tuple[str, list[gr.MessageDict], Conversation, list[str]]:
        turn = _turn_of(chosen.index)
        rest = Conversation(turns=talk.turns[:turn])
        return talk.turns[turn].question, _messages(rest), rest, kept[:turn]

    def _clear(self) -> tuple[Conversation, list[str], str]:
        return Conversation(), [], ""

    def _select(self, chosen: gr.SelectData, kept: list[str]) -> tuple[Any, ...]:
        """Show the denoising of an answer that was clicked on."""
        turn = _turn_of(chosen.index)
        if turn >= len(kept):
            return gr.skip(), gr.skip()
        with said_on_the_page():
            return self._panel.of_kept([kept[turn]])


def _turn_of(index: int | tuple[int, int]) -> int:
    """Return the number of the turn that a message belongs to: a question, then its answer."""
    return (index if isinstance(index, int) else index[0]) // 2


def _messages(talk: Conversation, question: str = "", answer: str = "") -> list[gr.MessageDict]:
    turns = [(turn.question, turn.answer) for turn in talk.turns]
    if question:
        turns.append((question, answer))
    messages: list[gr.MessageDict] = []
    for asked, answered in turns:
        messages.append({"role": "user", "content": asked})
        messages.append({"role": "assistant", "content": answered})
    return messages
