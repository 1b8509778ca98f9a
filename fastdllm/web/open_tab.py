"""What was decoded elsewhere, in the denoising view: traces, and answers of runs.

The address `/?run=RUN&other=RUN&item=N` opens answers of runs, as the report links to them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import gradio as gr

from fastdllm.common.errors import UserError
from fastdllm.traces.page_links import linked_answers
from fastdllm.traces.record import Trace, read_trace
from fastdllm.traces.recording import RUNNERS_UP
from fastdllm.traces.samples import SampledAnswer
from fastdllm.traces.token_grid import check_comparable
from fastdllm.web.answer_words import AnswerWords
from fastdllm.web.answering import Answering, WatchedAnswer
from fastdllm.web.denoising_panel import DenoisingPanel
from fastdllm.web.in_turn import decoded_in_turn
from fastdllm.web.look import text_line
from fastdllm.web.presets import Presets
from fastdllm.web.sampled_runs import sampled_answer, sampled_runs
from fastdllm.web.visitors import AT_ONCE, EVENT, said_on_the_page, visitor_of

Outputs = tuple[Any, ...]
OPEN = "open"  # id of the tab
NO_RUN = ("none", "")
_ABOUT_TRACES = (
    "A trace, or two to compare: JSON files, as <code>fastdllm generate --trace</code> writes."
)
_ABOUT_RUNS = "Or an answer of a run of this project, decoded once more to see its steps:"


class OpenTab:
    """Its components, and what happens when they are used."""

    def __init__(
        self,
        answering: Answering,
        presets: Presets,
        panel: DenoisingPanel,
        page: gr.Blocks,
        tabs: gr.Tabs,
    ) -> None:
        self._answering, self._presets, self._panel = answering, presets, panel
        self._words = AnswerWords(answering.served)
        gr.HTML(_ABOUT_TRACES, elem_classes=["hint"], apply_default_css=False)
        uploaded = gr.File(label="Traces", file_count="multiple", file_types=[".json"], height=150)
        gr.HTML(_ABOUT_RUNS, elem_classes=["hint"], apply_default_css=False)
        run = gr.Dropdown([NO_RUN], value="", label="run", allow_custom_value=True)
        other = gr.Dropdown([NO_RUN], value="", label="compared with", allow_custom_value=True)
        item = gr.Number(0, label="item, from 0", precision=0, minimum=0)
        show = gr.Button("Show", variant="primary")
        line = text_line()
        outputs = [line, *panel.outputs]
        # One at a time: to check a trace takes a core, and up to 400 MiB.
        uploaded.upload(self._open, uploaded, outputs, **EVENT, concurrency_limit=1)
        show.click(self._show, [run, other, item], outputs, **EVENT)
        linked = gr.Checkbox(visible=False)
        page.load(self._asked_for, None, [tabs, run, other, item, linked], **AT_ONCE)
        linked.change(self._show_linked, None, outputs, **EVENT)

    async def _open(self, paths: Sequence[str]) -> tuple[Any, ...]:
        with said_on_the_page():
            if len(paths) > 2:
                raise UserError(f"{len(paths)} files: the view shows one trace, or two")
            # On another thread, as a long trace takes a while.
            return await asyncio.to_thread(self._opened, paths)

    def _opened(self, paths: Sequence[str]) -> tuple[Any, ...]:
        traces = _read(paths)
        return ", ".join(map(_name, paths)), *self._panel.opened(traces)

    def _asked_for(self, request: gr.Request) -> list[Any]:
        """Offer the runs that there are now; choose what the address names."""
        asked = linked_answers(request.query_params)
        choices = [NO_RUN, *((name, name) for name in sampled_runs())]
        run, other, item = (asked.run, asked.other, asked.item) if asked else ("", "", 0)
        return [
            gr.Tabs(selected=OPEN) if asked else gr.skip(),
            gr.Dropdown(choices, value=run),
            gr.Dropdown(choices, value=other),
            item,
            asked is not None,
        ]

    async def _show_linked(self, request: gr.Request) -> AsyncGenerator[Outputs]:
        """Show what the address names: the components may not have taken it over yet."""
        asked = linked_answers(request.query_params)
        assert asked is not None
        async for outputs in self._show(request, asked.run, asked.other, asked.item):
            yield outputs

    async def _show(
        self, request: gr.Request, run: str, other: str, item: int
    ) -> AsyncGenerator[Outputs]:
        """Decode answers of runs once more; what differs from the run is not shown as its."""
        visitor, names = visitor_of(request), [name for name in (run, other) if name]
        with said_on_the_page(), self._answering.turn_of(visitor):
            if not names:
                raise UserError("choose a run; those with answers on this machine are listed")
            samples = await asyncio.to_thread(_sampled, names, item)
            answers = [
                self._answer(visitor, name, sample)
                for name, sample in zip(names, samples, strict=True)
            ]

            def problem(traces: Sequence[Trace]) -> str | None:
                """Return why these are not the answers of the runs."""
                if any(self._words.is_stopped(answer) for answer in answers):
                    return None
                try:
                    for sample, trace in zip(samples, traces, strict=True):
                        sample.check(trace)
                except UserError as error:
                    return str(error)
                return None

            shown = decoded_in_turn(answers, self._panel, self._words, problem)
            async with aclosing(shown) as updates:
                async for outputs in updates:
                    yield outputs

    def _answer(self, visitor: str, run: str, sample: SampledAnswer) -> WatchedAnswer:
        experiment, _, config = run.split("/")
        served, preset = self._answering.served, f"{experiment}/{config}"
        policy = self._presets.policy(preset, sample.settings, served.model.config.num_layers)
        request = sample.request(served.tokenizer, RUNNERS_UP)
        return self._answering.answer(visitor, request, policy)


def _read(paths: Sequence[str]) -> list[Trace]:
    traces = [read_trace(path, _name(path)) for path in paths]
    if len(traces) == 2:
        check_comparable(traces[0], traces[1], "the two traces")
    return traces


def _name(path: str) -> str:
    """Return what the visitor calls a file; its place here is nobody's business."""
    return Path(path).name


def _sampled(runs: Sequence[str], item: int) -> list[SampledAnswer]:
    return [sampled_answer(run, int(item)) for run in runs]
