"""An answer in samples.jsonl as a trace: decoded again, since the file has no steps.

A line has the prompt, the tokens, and the pass that committed each; it lacks the kinds of the
passes, the probabilities, and what else was likely. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, Field

from fastdllm.common.errors import UserError
from fastdllm.common.files import cannot, json_of
from fastdllm.decoding.sequence import Request
from fastdllm.model.tokenizer import encode
from fastdllm.policy import PassKind
from fastdllm.records.summary import read_summary
from fastdllm.settings import DecodingSettings
from fastdllm.validation import validated

if TYPE_CHECKING:
    from fastdllm.traces.record import Trace

# Of one line; a prompt with many worked examples has some 20 kB.
MOST_BYTES_OF_A_LINE = 4 * 2**20


class _Line(BaseModel):
    """What is read of a line of samples.jsonl."""

    prompt: str
    token_ids: list[int] = Field(min_length=1)
    committed_at: list[int]
    passes: dict[str, int]
    finish_reason: Literal["stop", "length", "stop_when"]


@dataclass(frozen=True, slots=True)
class SampledAnswer:
    """A generated answer of a run.

    where: its file and line. settings, policy, dtype: those of the run. committed_at: for each
    token the pass that committed it, from 1 after the prefill. passes: their number by kind.
    """

    where: str
    settings: DecodingSettings
    policy: str
    dtype: str
    prompt: str
    token_ids: list[int]
    committed_at: list[int]
    passes: Mapping[str, int]
    finish_reason: str

    def request(self, tokenizer: Any, runners_up: int) -> Request:
        """Return what decodes it again, with the settings of the run, up to the same length."""
        count, is_ended = len(self.token_ids), self.finish_reason == "stop_when"
        return Request(
            encode(tokenizer, self.prompt),
            max_new_tokens=count,
            stop_when=(lambda ids: len(ids) == count) if is_ended else None,
            runners_up=runners_up,
            from_scratch=True,
        )

    def check(self, trace: Trace) -> None:
        """Refuse a trace whose steps are not those of the run, kind by kind and token by token.

        Raises:
            UserError: the model, dtype or device is another, or the policy was not the built-in.
        """
        number, committed_at = 0, dict[int, int]()
        for step in trace.steps:
            number += step.kind is not PassKind.PREFILL
            committed_at |= dict.fromkeys(step.positions, number)
        start = len(trace.prompt.ids)
        kinds = [kind for kind in PassKind if kind is not PassKind.PREFILL]
        if (
            list(trace.answer.ids) != self.token_ids
            or [committed_at[start + i] for i in range(len(self.token_ids))] != self.committed_at
            or any(getattr(trace.passes, kind) != self.passes.get(kind) for kind in kinds)
        ):
            raise UserError(
                f"{self.where}: decoded again, its steps differ; they can be shown with the model, "
                f"the device and the dtype of the run ({self.dtype}) only, and if its policy "
                f"({self.policy}) decides like the built-in one"
            )


def read_sample(path: Path | str, number: int) -> SampledAnswer:
    """Read line `number`, from 1, of a run's samples.jsonl, with the summary.json beside it.

    Raises:
        UserError: there is no such line or summary, or the line has no generated answer.
    """
    path, where = Path(path), f"{path}, line {number}"
    values = json_of(_line(path, number), where)
    if not isinstance(values, dict) or values.get("token_ids") is None:
        raise UserError(f"{where}: no generated answer, so there are no steps to show")
    line = validated(_Line, values, where)
    summary = read_summary(path.with_name("summary.json"))
    own = {
        name.removeprefix("decoding."): value
        for name, value in summary.decides.items()
        if name.startswith("decoding.") and value is not None
    }
    return SampledAnswer(
        where,
        validated(DecodingSettings, own, f"{path.with_name('summary.json')}: decides"),
        str(summary.decides.get("policy")),
        summary.dtype,
        **dict(line),
    )


def _line(path: Path, number: int) -> bytes:
    try:
        with path.open("rb") as stream:
            for _ in range(number):
                content = stream.readline(MOST_BYTES_OF_A_LINE + 1)
                if not content:
                    break
                if len(content) > MOST_BYTES_OF_A_LINE:
                    raise UserError(f"{path}: a line of more than {MOST_BYTES_OF_A_LINE} bytes")
    except OSError as error:
        raise cannot("read", path, error) from None
    if number < 1 or not content:
        raise UserError(f"{path}: has no line {number}; the lines are the items, from 1")
    return content
