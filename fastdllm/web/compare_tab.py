"""One question under two choices of settings, side by side in the denoising view."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import gradio as gr
from gradio.blocks import Block

from fastdllm.decoding.sequence import Request
from fastdllm.serving.conversation import Conversation
from fastdllm.traces.recording import RUNNERS_UP
from fastdllm.web.answer_words import AnswerWords
from fastdllm.web.answering import Answering
from fastdllm.web.decoding_choice import DecodingChoice
from fastdllm.web.denoising_panel import DenoisingPanel
from fastdllm.web.in_turn import decoded_in_turn
from fastdllm.web.look import text_line
from fastdllm.web.presets import Presets
from fastdllm.web.visitors import EVENT, check_question, said_on_the_page, stop_button, visitor_of

# Low enough to commit some tokens too early.
THRESHOLD_OF_B = 0.3


class CompareTab:
    """Its components; A decodes with the settings of the page, B with those of the tab."""

    def __init__(
        self,
        answering: Answering,
        choice: DecodingChoice,
        presets: Presets,
        system: gr.Textbox,
        panel: DenoisingPanel,
        examples: Sequence[str],
    ) -> None:
        self._answering, self._panel = answering, panel
        self._words = AnswerWords(answering.served)
        self._system = system
        self._line = gr.Textbox(
            next(iter(examples), ""),
            label="Question",
            info="Decoded as A with the decoding settings at the end of the page, and as B with "
            "the settings of B, which begin with a lower threshold.",
            lines=2,
        )
        with gr.Row():
            start = gr.Button("Compare", variant="primary")
            stop_button(answering)
        figures = text_line()
        served = answering.served
        lower = served.settings.model_copy(update={"threshold": THRESHOLD_OF_B})
        with gr.Accordion("Settings of B", open=True):
            self._choices = (choice, DecodingChoice(presets, lower, served.model.config))
        inputs: set[Block] = {self._line, system, *(c for one in self._choices for c in one.inputs)}
        outputs = [figures, *panel.outputs]
        gr.on([start.click, self._line.submit], self._compare, inputs, outputs, **EVENT)

    async def _compare(
        self, request: gr.Request, data: Mapping[Any, Any]
    ) -> AsyncGenerator[tuple[Any, ...]]:
        visitor, question = visitor_of(request), data[self._line] or ""
        with said_on_the_page(), self._answering.turn_of(visitor):
            system = data[self._system] or ""
            check_question(question, system)
            talk = Conversation(system=system)
            answers = []
            for policy in [choice.policy(data) for choice in self._choices]:
                prompt = await self._answering.prompt(talk, question, policy)
                asked = Request(prompt.ids, runners_up=RUNNERS_UP, from_scratch=True)
                answers.append(self._answering.answer(visitor, asked, policy))
            async with aclosing(decoded_in_turn(answers, self._panel, self._words)) as updates:
                async for outputs in updates:
                    yield outputs
