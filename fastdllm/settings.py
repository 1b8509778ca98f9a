"""The settings of one decoding run: every number that decides which tokens come out.

Validated here and nowhere else; imports no torch, so that the workflow can check a grid on a login
node. The names are those of the published `--model_args`.
"""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from fastdllm.validation import StrictModel

NamedSubset = Literal["first", "middle", "last"]
LAYER_SUBSETS: tuple[NamedSubset, ...] = ("first", "middle", "last")
# A name, or the half-open range of layers itself.
LayerSubset = NamedSubset | tuple[int, int]

# 12 of 28 layers: the span that the published layer-reuse code patches.
PUBLISHED_SPAN, PUBLISHED_LAYERS = 12, 28


class DecodingSettings(StrictModel):
    """How to decode (defaults: the published evaluation settings of Fast-dLLM v2)."""

    threshold: float = Field(
        0.9,
        ge=0.0,
        le=1.0,
        description="Confidence threshold: a token is committed when its probability exceeds it. "
        "1.0 commits exactly one token per denoising step.",
    )
    block_size: int = Field(32, ge=1, description="Tokens per block.")
    small_block_size: int = Field(
        8, ge=1, description="Tokens per sub-block; must divide block_size."
    )
    use_block_cache: bool = Field(
        True,
        description="Keep keys and values of the current block, so that most denoising steps run "
        "only the current sub-block.",
    )
    max_new_tokens: int = Field(
        256,
        ge=1,
        description="Most tokens to generate, an exact limit; a request may set its own.",
    )
    temperature: float = Field(
        0.0,
        ge=0.0,
        allow_inf_nan=False,
        description="0 takes the most likely token; above 0 samples.",
    )
    top_p: float = Field(
        0.95, gt=0.0, le=1.0, description="Nucleus for sampling; without effect at temperature 0."
    )
    seed: int = Field(0, ge=0, description="Seed of sampling; each request has its own generator.")
    mask_id: int | None = Field(None, ge=0, description="Mask token; default: the model's own.")
    stop_token: int | None = Field(None, ge=0, description="Stop token; default: the model's own.")
    reuse_k: int = Field(
        1, ge=1, description="Compute only every k-th denoising step of a block; 1 reuses nothing."
    )
    layer_subset: LayerSubset | None = Field(
        None,
        description="Which span of layers is reused: first, middle or last, or a half-open range "
        "of layers such as [3, 8] (3:8 on a command line).",
    )
    lookahead_depth: int = Field(
        0,
        ge=0,
        description="How many sub-blocks ahead confident tokens are committed once all before them "
        "are known; 0 commits in the current sub-block only, as published.",
    )
    lookahead_threshold: float = Field(
        0.95,
        ge=0.0,
        le=1.0,
        description="Confidence that a token ahead must exceed; without effect at lookahead_depth "
        "0.",
    )

    @field_validator("layer_subset", mode="before")
    @classmethod
    def _range_of_layers(cls, value: Any) -> Any:
        """Read a range as text (3:8), and refuse what is neither a name nor a range."""
        if value is None or (isinstance(value, str) and value in LAYER_SUBSETS):
            return value
        # As text also as it stands in YAML, and as in the name of a config (3-8).
        parts = re.split("[:,-]", value.strip("[] ")) if isinstance(value, str) else value
        if isinstance(parts, list | tuple) and len(parts) == 2:
            ends = [int(part) if str(part).strip().isdecimal() else -1 for part in parts]
            if 0 <= ends[0] < ends[1]:
                return tuple(ends)
        raise ValueError(
            f"{value!r} is not allowed; it should be {', '.join(LAYER_SUBSETS)}, or the first "
            "layer and the one after the last, such as [3, 8] (3:8 on a command line)"
        )

    @model_validator(mode="after")
    def _fields_agree(self) -> DecodingSettings:
        if self.block_size % self.small_block_size:
            raise ValueError(
                f"small_block_size {self.small_block_size} does not divide block_size "
                f"{self.block_size}; choose a divisor"
            )
        if self.layer_subset is not None and "reuse_k" not in self.model_fields_set:
            raise ValueError(
                f"layer_subset {self.layer_subset!r} needs reuse_k as well (1, 2, 3, ...)"
            )
        if self.reuse_k > 1 and self.layer_subset is None:
            raise ValueError(
                f"reuse_k {self.reuse_k} needs layer_subset as well: {', '.join(LAYER_SUBSETS)}, "
                "or a range such as [3, 8]"
            )
        if self.reuse_k > 1 and not self.use_block_cache:
            raise ValueError(
                f"reuse_k {self.reuse_k} needs the block cache; set use_block_cache to true"
            )
        return self


def check_block_size(settings: DecodingSettings, trained: int | None) -> None:
    """Refuse the default block size for a model that was trained with another one.

    trained: None if the model does not say.

    Raises:
        ValueError: the sizes differ, or one is unknown, and `block_size` was not set.
    """
    if "block_size" in settings.model_fields_set:
        return
    if trained is None:
        raise ValueError(
            "the model's config.json does not say which block size it was trained with (bd_size); "
            "give the setting block_size"
        )
    if settings.block_size != trained:
        raise ValueError(
            f"the model was trained with blocks of {trained} tokens (bd_size in its config.json), "
            f"not {settings.block_size}; give the setting block_size"
        )


def layer_span(layer_subset: LayerSubset, num_layers: int) -> tuple[int, int]:
    """Return the half-open range of layers that `layer_subset` means in a model of `num_layers`.

    A named span has round(12 n / 28) layers, the published share; `first` leaves layer 0 out.

    Raises:
        ValueError: the model is too shallow to hold such a span beside one other layer, or lacks a
            layer of the range.
    """
    if not isinstance(layer_subset, str):
        if layer_subset[1] > num_layers:
            raise ValueError(
                f"layer_subset {list(layer_subset)} ends after the {num_layers} layers of the "
                f"model; choose an end of at most {num_layers}"
            )
        return layer_subset
    span = round(PUBLISHED_SPAN * num_layers / PUBLISHED_LAYERS)
    if span < 1 or span >= num_layers:
        raise ValueError(
            f"layer_subset {layer_subset!r} needs a model with at least 2 layers; "
            f"this one has {num_layers}"
        )
    start = {"first": 1, "middle": num_layers // 2 - span // 2, "last": num_layers - span}
    return start[layer_subset], start[layer_subset] + span
