"""A trace: what one decoding did, step by step, as JSON that anyone may read, keep and show.

Owns the record and its file. Reading checks everything that a view shows or a figure is computed
from. Documented in docs/traces.md. Imports no torch.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidatorFunctionWrapHandler, WrapValidator, model_validator

from fastdllm.common.errors import UserError
from fastdllm.common.files import cannot, json_of, write_text_atomically
from fastdllm.records.summary import Passes
from fastdllm.settings import DecodingSettings
from fastdllm.traces.parts import (
    Count,
    Text,
    TokenPiece,
    TracedAnswer,
    TracedCode,
    TracedModel,
    TracedPrompt,
    TracedStep,
)
from fastdllm.traces.replay import StepReplay
from fastdllm.validation import Several, StrictModel, validated

FORMAT: Literal["fastdllm trace"] = "fastdllm trace"
TRACE_SCHEMA_VERSION: Literal[1] = 1
# A token takes 0.2 to 1 kB. Reading so much takes up to 2 s and 400 MiB, whatever it holds.
MAX_TRACE_BYTES = 8 * 2**20
# A view draws blocks whole.
MAX_BLOCK_SIZE = 2**14


def _one_by_one(values: Any, checked: ValidatorFunctionWrapHandler) -> Any:
    """Check the entries of a mapping up to the first wrong one, as `Several` those of a list."""
    if not isinstance(values, dict):
        return checked(values)
    made: dict[Any, Any] = {}
    for key, value in values.items():
        made |= checked({key: value})
    return made


class Trace(StrictModel):
    """One decoding of one prompt."""

    format: Literal["fastdllm trace"] = Field(FORMAT, description="Tells what the file is.")
    schema_version: Literal[1] = Field(TRACE_SCHEMA_VERSION, description="Version of this record.")
    code: TracedCode = Field(description="What decoded: the code.")
    model: TracedModel = Field(description="What decoded: the model.")
    device: Text = Field(description="What decoded: the device, such as `cuda:0`.")
    dtype: Text = Field(description="What the model computed in, such as `float32`.")
    policy: Text = Field(description="Class of the decoding policy.")
    settings: DecodingSettings = Field(
        description="The decoding settings, with what the request set itself; see "
        "[decoding.md](decoding.md)."
    )
    prompt: TracedPrompt = Field(description="The prompt.")
    steps: Several[TracedStep] = Field(description="The passes, in order.")
    pieces: Annotated[dict[Count, TokenPiece], WrapValidator(_one_by_one)] = Field(
        description="What each token says that the trace names, by its id."
    )
    answer: TracedAnswer = Field(description="The answer.")
    passes: Passes = Field(description="Passes by kind, and the layers that they ran.")
    tokens_per_forward: float | None = Field(
        None,
        description="Tokens of the answer over forward passes (full_block, sub_block, commit); "
        "absent without such a pass.",
    )
    seconds: float = Field(
        ge=0, description="Seconds of the decoding, without loading and warm-up."
    )

    @model_validator(mode="after")
    def _steps_agree(self) -> Trace:
        """Refuse what cannot have been: an edited trace, or one put together from two."""
        reason, ids = self.answer.finish_reason, self.answer.ids
        if self.settings.block_size > MAX_BLOCK_SIZE:
            raise ValueError(f"settings.block_size: more than {MAX_BLOCK_SIZE}")
        for token in self.prompt.ids:
            if token >= self.model.vocab_size:
                raise ValueError(f"prompt.ids: {token} is outside the vocabulary")
        replay = StepReplay(
            self.model,
            self.settings,
            len(self.prompt.ids),
            ends_after=len(ids) if reason == "stop_when" else None,
        )
        replay.follow(self.steps)
        if list(ids) != replay.answer:
            raise ValueError("answer.ids: not what the steps committed")
        if reason != replay.finish_reason and (
            replay.finish_reason is not None or reason not in ("cancelled", "unfinished")
        ):
            raise ValueError(
                f"answer.finish_reason: {reason}, but the steps give {replay.finish_reason}"
            )
        for name in Passes.model_fields:
            count, counted = getattr(self.passes, name), getattr(replay.passes, name)
            if count != counted:
                raise ValueError(f"passes.{name}: {count}, but the steps give {counted}")
        forwards = replay.passes.forwards
        per_forward = len(ids) / forwards if forwards else None
        if (self.tokens_per_forward is None) != (per_forward is None) or not math.isclose(
            self.tokens_per_forward or 0, per_forward or 0
        ):
            raise ValueError(
                f"tokens_per_forward: {self.tokens_per_forward}, but the steps give {per_forward}"
            )
        if self.seconds < replay.seconds:
            raise ValueError("seconds: fewer than those of the last step")
        named = {*self.prompt.ids, *(token for step in self.steps for token in step.token_ids())}
        missing = min(named - self.pieces.keys(), default=None)
        if missing is not None:
            raise ValueError(f"pieces: token {missing} has none")
        return self


def trace_text(trace: Trace) -> str:
    """Return a trace as JSON, a line per step; what is absent is left out."""
    values = trace.model_dump(mode="json", exclude_none=True)
    steps = ",\n  ".join(map(_one_line, values.pop("steps")))
    rest = _one_line(values)
    return f'{rest[:-1]},\n "steps": [\n  {steps}\n ]}}\n'


def _one_line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def write_trace(path: Path | str, trace: Trace) -> None:
    """Write a trace atomically.

    Raises:
        UserError: the file cannot be written.
    """
    write_text_atomically(path, trace_text(trace))


def read_trace(path: Path | str, where: str | None = None) -> Trace:
    """Read and check a trace; `where` opens the error line, if it is not the path.

    Raises:
        UserError: the file is missing, too large, no trace of this version, or contradicts itself.
    """
    try:
        with Path(path).open("rb") as stream:
            content = stream.read(MAX_TRACE_BYTES + 1)
    except OSError as error:
        raise cannot("read", where or path, error) from None
    return trace_of(content, where or str(path))


def trace_of(content: bytes, where: str) -> Trace:
    """Check the content of a trace's file; `where` opens the error line.

    Raises:
        UserError: it is too large, no trace of this version, or contradicts itself.
    """
    if len(content) > MAX_TRACE_BYTES:
        raise UserError(f"{where}: larger than {MAX_TRACE_BYTES // 2**20} MiB, the most of a trace")
    values = json_of(content, where)
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise UserError(f"{where}: no trace; `fastdllm generate --trace FILE` makes one")
    version = values.get("schema_version")
    if version != TRACE_SCHEMA_VERSION or isinstance(version, bool):
        raise UserError(
            f"{where}: schema_version {version!r} is not {TRACE_SCHEMA_VERSION}; make the trace "
            "again with this version of fastdllm"
        )
    return validated(Trace, values, where)


def trace_json_schema() -> dict[str, Any]:
    """JSON schema of a trace, for docs/schemas/trace.schema.json."""
    schema = Trace.model_json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
