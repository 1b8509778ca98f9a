"""The page: what is on it, and where."""

from __future__ import annotations

import html
from pathlib import Path
from typing import TYPE_CHECKING

import gradio as gr
from fastapi import FastAPI
from gradio.utils import get_upload_folder

from fastdllm.endpoint.access import is_key
from fastdllm.model.config import EMBEDDED_MODEL
from fastdllm.policy import default_policy
from fastdllm.traces.record import MAX_TRACE_BYTES
from fastdllm.web.answering import Answering
from fastdllm.web.chat_tab import ChatTab
from fastdllm.web.compare_tab import CompareTab
from fastdllm.web.decoding_choice import DecodingChoice
from fastdllm.web.denoising_panel import DenoisingPanel
from fastdllm.web.gate import PageGate
from fastdllm.web.look import page_head, page_theme
from fastdllm.web.open_tab import OPEN, OpenTab
from fastdllm.web.presets import Presets
from fastdllm.web.trace_shelf import TraceShelf
from fastdllm.web.visitors import visitor_of

if TYPE_CHECKING:
    from fastdllm.endpoint.served import Served

TITLE = "fastdllm"
# Of a column, in pixels; on a narrower screen one stands below the other.
MIN_WIDTH = 340
# What the embedded model was trained for.
EXAMPLES = (
    "Tom has 3 boxes with 12 pens each. He loses 9 pens. How many pens does Tom have now?",
    "Lena has 10 cups. Leo has 42 cups. How many cups do they have together?",
)
# Of files that were made for visitors: how often they are looked through, and how long they stay.
CLEAN_EVERY_S, KEPT_S = 600, 3600
# Events at work, most of which wait for an answer, and as many that wait for them.
MOST_EVENTS = 256
# Visitors whose conversation is kept, with some 200 kB of Gradio and what the page shows; who was
# not seen for longest goes first.
MOST_VISITORS = 256
_HEAD = """
<h1>fastdllm</h1>
<p>Watch a block-diffusion language model decode: tokens appear out of order within a block, each in
the pass that is sure enough of it. The model here: <strong>{place}</strong>. {more}</p>
"""
_ABOUT_EMBEDDED = """It is small, and answers word problems like the examples alone, with numbers
below 100; other texts, and questions about an earlier answer, give nonsense."""


def build_page(served: Served, presets: Presets) -> gr.Blocks:
    """Return the page, ready to be mounted."""
    model = served.model
    place = f"{served.name} on {model.device}, {str(model.dtype).removeprefix('torch.')}"
    is_embedded = Path(served.tokenizer.name_or_path).resolve() == EMBEDDED_MODEL.resolve()
    head = _HEAD.format(place=html.escape(place), more=_ABOUT_EMBEDDED if is_embedded else "")
    answering = Answering(served)
    policy = default_policy(served.settings, model.config.num_layers)
    answering.warm_up(policy).result()
    examples = EXAMPLES if is_embedded else ()
    example = answering.example(examples[0], policy) if examples else None
    with gr.Blocks(
        analytics_enabled=False,
        title=TITLE,
        fill_width=True,
        delete_cache=(CLEAN_EVERY_S, KEPT_S),
    ) as page:
        gr.HTML(head, elem_id="head", apply_default_css=False)
        with gr.Row():
            with gr.Column(scale=2, min_width=MIN_WIDTH):
                tabs = gr.Tabs()
                with gr.Accordion("Decoding settings", open=False, elem_id="settings"):
                    choice = DecodingChoice(presets, served.settings, model.config)
                    about = "What the model is told before the conversation."
                    system = gr.Textbox("", label="system text", info=about)
            with gr.Column(scale=3, min_width=MIN_WIDTH):
                panel = DenoisingPanel(TraceShelf(), example)
        with tabs:
            with gr.Tab("Chat"):
                ChatTab(answering, choice, system, panel, examples)
            with gr.Tab("Side by side"):
                CompareTab(answering, choice, presets, system, panel, examples)
            with gr.Tab("Open", id=OPEN):
                OpenTab(answering, presets, panel, page, tabs)

        def leave(request: gr.Request) -> None:
            answering.stop(visitor_of(request))

        page.unload(leave)
    # Who waits for an answer takes one of the places.
    page.max_threads = MOST_EVENTS
    page.state_session_capacity = MOST_VISITORS
    page.queue(default_concurrency_limit=None, max_size=MOST_EVENTS, api_open=False)
    # Else a page that was not launched, but mounted, takes any file of the machine for an upload.
    page.has_launched = True
    return page


def add_page(app: FastAPI, served: Served, presets: Presets, *, key: str | None = None) -> None:
    """Add the page to the app of the endpoint, at its root.

    key: the password that visitors must give; None for no password.
    """

    def is_right(_: str, password: str) -> bool:
        return key is not None and is_key(password, key)

    # Of Gradio alone: its own addresses of documentation are not reached.
    gradio, page = FastAPI(), build_page(served, presets)
    gr.mount_gradio_app(
        gradio,
        page,
        path="/",
        auth=is_right if key is not None else None,
        auth_message="Any user name; the password is the key that the server was started with.",
        theme=page_theme(),
        head=page_head(),
        footer_links=[],
        max_file_size=MAX_TRACE_BYTES,
        run_history=False,
        show_error=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
    )
    app.router.lifespan_context = gradio.router.lifespan_context
    folder = Path(get_upload_folder()).resolve()
    app.mount("/", PageGate(gradio, folder, page.fns, is_locked=key is not None))
