"""The denoising view as a component of the page, and the files made of what it shows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from secrets import token_urlsafe
from typing import Any, Literal

import gradio as gr
from gradio.processing_utils import save_bytes_to_cache
from pydantic import Field

from fastdllm.common.errors import UserError
from fastdllm.traces.exports import exported
from fastdllm.traces.record import Trace, trace_text
from fastdllm.validation import StrictModel, validated
from fastdllm.web.answering import WatchedAnswer
from fastdllm.web.look import asset
from fastdllm.web.trace_shelf import TraceShelf
from fastdllm.web.visitors import said_on_the_page

JSON = ".json"
FORMATS = {
    "Steps, JSON": JSON,
    "Page, HTML": ".html",
    "Picture, PNG": ".png",
    "Animation, GIF": ".gif",
}
# The browser takes the files at once; the list of them stays for those who want them again.
_TAKE = """() => {
  for (const link of document.querySelectorAll("#files a[download]")) link.click();
}"""
# Where the reader is: the step, what colours say, and the theme.
_LOOK = """() => {
  const root = document.querySelector("#denoising .denoising");
  const isDark = document.body.classList.contains("dark");
  const byConfidence = root.classList.contains("dn-by-confidence");
  const step = Number(root.querySelector("input[type=range]")?.value ?? 0);
  const [colour, theme] = [byConfidence ? "confidence" : "step", isDark ? "dark" : "light"];
  return [null, { step, colour, theme }];
}"""
_TEMPLATE = """
<p class="empty">Each token of an answer appears here in the pass that commits it: out of order
within a block, with its probability and with what else was likely.</p>
<p class="caption"></p>
<div class="denoising"></div>
"""
_EXAMPLE = "An example, until you ask. Step through it: the slider, play, or the arrow keys."


class _Look(StrictModel):
    step: int = Field(ge=0)
    colour: Literal["step", "confidence"]
    theme: Literal["light", "dark"]


class DenoisingPanel:
    """The view, and buttons that make files of what it shows.

    outputs: the components that `while_decoding` and `of_traces` return values for.
    """

    def __init__(self, shelf: TraceShelf, example: Trace | None = None) -> None:
        """Make the components; example: shown until a visitor asks something."""
        self._shelf = shelf
        shown, names = self.empty()
        if example is not None:
            shown, names = self.opened([example])
            shown["caption"] = _EXAMPLE
        self._view = gr.HTML(
            shown,
            html_template=_TEMPLATE,
            js_on_load=asset("panel.js"),
            apply_default_css=False,
            elem_id="denoising",
        )
        self._names = gr.State(names)  # of the traces shown, on the shelf
        self.outputs = [self._view, self._names]
        with gr.Row(elem_id="downloads"):
            gr.HTML("Download what is shown:", elem_classes=["hint"], apply_default_css=False)
            buttons = {
                gr.Button(label, size="sm", min_width=110): ending
                for label, ending in FORMATS.items()
            }
        # Without a file, Gradio's component is an empty box.
        files_made = gr.File(label="Files", interactive=False, visible=False, elem_id="files")
        look = gr.JSON(visible=False)
        for button, ending in buttons.items():
            button.click(
                partial(self._make_files, ending=ending),
                [self._names, look],
                files_made,
                js=_LOOK,
                api_visibility="private",
                # An animation takes a core and much memory.
                concurrency_limit=1,
                concurrency_id="files",
            ).success(None, None, None, js=_TAKE)

    # Traces and steps are text: Gradio would look through all that is in them, and send piece by
    # piece what differs from the last value.

    def while_decoding(self, answers: Sequence[WatchedAnswer]) -> tuple[dict[str, Any], list[str]]:
        """Return what shows answers that are being decoded; there are no files of them yet."""
        value = {
            "id": answers[0].name,
            "traces": [trace_text(answer.opening) for answer in answers],
            "latest": [json.dumps(answer.latest()) for answer in answers],
            "whole": None,
        }
        return value, []

    def of_traces(self, name: str, traces: Sequence[Trace]) -> tuple[dict[str, Any], list[str]]:
        """Return what shows whole traces, one or two.

        name: of the answer that was shown before it was whole; the reader stays where they are.
        """
        return self._whole(name, traces), [self._shelf.put(trace) for trace in traces]

    def _whole(self, name: str, traces: Sequence[Trace]) -> dict[str, Any]:
        return {"id": name, "traces": [], "latest": [], "whole": [trace_text(t) for t in traces]}

    def empty(self) -> tuple[dict[str, Any] | None, list[str]]:
        """Return what shows nothing."""
        return None, []

    def opened(self, traces: Sequence[Trace]) -> tuple[dict[str, Any], list[str]]:
        """Return what shows traces that were decoded elsewhere."""
        return self.of_traces(token_urlsafe(8), traces)

    def of_kept(self, names: list[str]) -> tuple[dict[str, Any], list[str]]:
        """Return what shows traces that are on the shelf.

        Raises:
            UserError: one is not kept any more.
        """
        traces = [self._shelf.take(name) for name in names]
        return self._whole(token_urlsafe(8), traces), names

    def _make_files(self, names: list[str], look: Any, ending: str) -> gr.File:
        with said_on_the_page():
            if not names:
                raise UserError("nothing whole is shown yet; ask, and keep the answer then")
            traces = [self._shelf.take(name) for name in names]
            chosen = validated(_Look, look, "the view")
            if ending == JSON:
                letters = [""] if len(traces) == 1 else ["_a", "_b"]
                contents = {
                    f"trace{letter}{JSON}": trace_text(trace).encode()
                    for letter, trace in zip(letters, traces, strict=True)
                }
            else:
                step = min(chosen.step, max(len(trace.steps) for trace in traces))
                content = exported(
                    traces, ending, step=step, colour=chosen.colour, theme=chosen.theme
                )
                contents = {f"trace{ending}": content}
        cache = self._view.GRADIO_CACHE
        made = [save_bytes_to_cache(content, name, cache) for name, content in contents.items()]
        return gr.File(made, visible=True)
