"""How the page looks: in the colours of the denoising view, with nothing from a network.

Also its lines of text, which show what they are given as text, whatever it holds.
"""

from __future__ import annotations

from importlib.resources import files

import gradio as gr

from fastdllm.traces.palette import THEMES, ink_on
from fastdllm.traces.trace_page import component_css, component_js

# Gradio has the class on the body of a dark page.
DARK = ".dark"
FONTS = ["system-ui", "sans-serif"]
CODE_FONTS = ["ui-monospace", "monospace"]
# What Gradio's theme calls each colour.
_GRADIO_NAMES = {
    "ground": "body_background_fill background_fill_secondary",
    "card": "background_fill_primary block_background_fill block_label_background_fill "
    "input_background_fill checkbox_background_color checkbox_label_background_fill",
    "ink": "body_text_color accordion_text_color block_title_text_color checkbox_label_text_color "
    "button_secondary_text_color button_cancel_text_color",
    "soft": "body_text_color_subdued block_info_text_color block_label_text_color "
    "input_placeholder_color",
    "line": "border_color_primary border_color_accent_subdued block_border_color "
    "block_label_border_color input_border_color checkbox_border_color checkbox_label_border_color "
    "button_secondary_border_color",
    "mask": "color_accent_soft button_secondary_background_fill button_cancel_background_fill",
    "accent": "border_color_accent slider_color input_border_color_focus "
    "link_text_color link_text_color_hover link_text_color_visited link_text_color_active "
    "checkbox_background_color_selected checkbox_border_color_selected "
    "button_primary_background_fill button_primary_background_fill_hover",
}

_SAY = """
const line = element.querySelector("p");
const say = () => { line.textContent = props.value ?? ""; };
say();
watch("value", say);
"""


def page_theme() -> gr.themes.Base:
    """Return Gradio's plainest theme, in the colours of the view."""
    values = {
        "color_accent": THEMES["light"]["accent"],
        "input_border_width": "1px",
        "checkbox_label_border_width": "1px",
        "button_border_width": "1px",
        "button_large_text_size": "*text_md",
        "block_radius": "8px",
        "block_shadow": "none",
        "layout_gap": "12px",
    }
    for suffix, colours in (("", THEMES["light"]), ("_dark", THEMES["dark"])):
        for own, names in _GRADIO_NAMES.items():
            values |= {f"{name}{suffix}": colours[own] for name in names.split()}
        values[f"button_primary_border_color{suffix}"] = colours["accent"]
        values[f"button_primary_text_color{suffix}"] = ink_on(colours["accent"])
        values[f"button_secondary_background_fill_hover{suffix}"] = colours["line"]
    return gr.themes.Base(font=FONTS, font_mono=CODE_FONTS, radius_size="md").set(**values)


def page_head() -> str:
    """Return what the page and its view need in the head."""
    # The one colour that Gradio's themes cannot tell of a dark page.
    accent = f":root body{DARK}{{--color-accent:{THEMES['dark']['accent']}}}"
    style = component_css(DARK) + accent + asset("page.css")
    return f"<style>{style}</style><script>{component_js()}{asset('copy.js')}</script>"


def asset(name: str) -> str:
    """Return a file of the page as text."""
    return (files("fastdllm.web") / "assets" / name).read_text(encoding="utf-8")


def text_line() -> gr.HTML:
    """Make a component that shows its value as text; screen readers read it when it changes."""
    return gr.HTML(
        "",
        html_template='<p role="status"></p>',
        js_on_load=_SAY,
        apply_default_css=False,
        elem_classes=["said"],
    )
