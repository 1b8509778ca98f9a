"""What to decode with: a preset, and a form of all settings, made from their own descriptions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

import gradio as gr

from fastdllm.common.errors import UserError, unknown_name
from fastdllm.decoding.admission import check_settings
from fastdllm.model.config import ModelConfig
from fastdllm.policy import Policy
from fastdllm.settings import LAYER_SUBSETS, DecodingSettings
from fastdllm.validation import validated
from fastdllm.web.look import text_line
from fastdllm.web.presets import Presets

# The numbers of a browser are whole up to here.
MOST_WHOLE = 2**53 - 1
# Of a setting, in pixels: two stand side by side, a slider takes a row.
MIN_WIDTH, SLIDER_WIDTH = 180, 400
# Those that people try first; the others are a click further away.
FREQUENT = ("threshold", "reuse_k", "layer_subset", "max_new_tokens", "temperature")
PLAIN = ("none: the settings below", "")


class DecodingChoice:
    """A choice of preset, and one component per decoding setting.

    inputs: the components whose values `policy` takes.
    """

    def __init__(self, presets: Presets, base: DecodingSettings, config: ModelConfig) -> None:
        """Make the components; base: the settings that the form shows at first."""
        self._presets, self._base, self._config = presets, base, config
        names = [(name, name) for name in presets.by_name]
        preset = gr.Dropdown(
            [PLAIN, *names],
            value="",
            label="preset",
            info="A config of an experiment: its policy, and its settings in the form below.",
        )
        note = text_line()
        shown = dict(_shown(base))
        made = _form({name: shown[name] for name in FREQUENT})
        with gr.Accordion("More settings", open=False):
            made |= _form({name: shown[name] for name in shown if name not in FREQUENT})
        form = [made[name] for name in shown]
        self.inputs, self._span = [preset, *form], made["layer_subset"]
        preset.change(
            self._chosen, preset, [note, *form], api_visibility="private", show_progress="hidden"
        )

    def policy(self, data: Mapping[Any, Any]) -> Policy:
        """Return the policy that the values of `inputs` describe, by component.

        A setting that has its default counts as not set, unless the preset or the server sets it:
        some must not be set for some models. Where there is a span, reuse_k is set.

        Raises:
            UserError: a value is not allowed, two do not fit together, or one not the model.
        """
        name, *values = (data[component] for component in self.inputs)
        if name and name not in self._presets.by_name:
            raise unknown_name("preset", str(name), self._presets.by_name)
        preset = self._presets.by_name.get(name)
        fields, told = DecodingSettings.model_fields, set(self._base.model_fields_set)
        told |= preset.settings.model_fields_set if preset is not None else set()
        if data[self._span]:
            told.add("reuse_k")
        given = {
            field: value
            for field, value in zip(fields, values, strict=True)
            if value not in (None, "") and (value != fields[field].default or field in told)
        }
        for field, value in given.items():
            if isinstance(value, int) and abs(value) > MOST_WHOLE:
                raise UserError(f"settings: {field}: {value} is more than a page can count")
        settings = validated(DecodingSettings, given, "settings")
        check_settings(self._config, settings)
        return self._presets.policy(name, settings, self._config.num_layers)

    def _chosen(self, name: str) -> list[Any]:
        """Show the settings of a preset, and the parameters of its policy."""
        preset = self._presets.by_name.get(name)
        if preset is None:
            return ["", *(value for _, value in _shown(self._base))]
        parameters = preset.parameters.model_dump(mode="json")
        words = ", ".join(f"{key} {value}" for key, value in parameters.items()) or "no parameters"
        note = f"policy {preset.policy.__name__}, {words}"
        return [note, *(value for _, value in _shown(preset.settings))]


def _shown(settings: DecodingSettings) -> list[tuple[str, Any]]:
    values = settings.model_dump(mode="json")
    if isinstance(values["layer_subset"], list):
        values["layer_subset"] = ":".join(map(str, values["layer_subset"]))
    return [(name, "" if value is None else value) for name, value in values.items()]


def _form(values: Mapping[str, Any]) -> dict[str, gr.components.Component]:
    """Make a component for each setting, from its value."""
    made = {}
    with gr.Row():
        for name, value in values.items():
            made[name] = _component(name, value)
    return made


def _component(name: str, value: Any) -> gr.components.Component:
    field = DecodingSettings.model_fields[name]
    kinds = get_args(field.annotation) or (field.annotation,)
    bounds = {
        bound: getattr(rule, bound)
        for rule in field.metadata
        for bound in ("ge", "gt", "le")
        if hasattr(rule, bound)
    }
    about: dict[str, Any] = {"label": name, "info": field.description, "value": value}
    if bool in kinds:
        return gr.Checkbox(**about, min_width=MIN_WIDTH)
    if name == "layer_subset":
        return gr.Dropdown(
            ["", *LAYER_SUBSETS], allow_custom_value=True, **about, min_width=MIN_WIDTH
        )
    if type(None) in kinds:
        # A number has no way to be empty.
        return gr.Textbox(**about, placeholder="not set", min_width=MIN_WIDTH)
    if float in kinds and "le" in bounds:
        least = bounds.get("ge", bounds.get("gt", 0.0))
        return gr.Slider(least, bounds["le"], step=0.01, **about, min_width=SLIDER_WIDTH)
    precision = 0 if int in kinds else None
    return gr.Number(minimum=bounds.get("ge"), precision=precision, **about, min_width=MIN_WIDTH)
