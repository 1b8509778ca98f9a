"""The parts of a trace: what decoded, what was asked, each step, each token's text, the answer.

Each checks itself; replay.py checks that the steps agree. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from fastdllm.decoding.sequence import Candidate, Proposed
from fastdllm.policy import PassKind
from fastdllm.validation import Several, StrictModel

Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


def _whole(text: str) -> str:
    """Refuse half of a surrogate pair, which JSON can spell and no file can hold."""
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("the text holds half a character")
    return text


Text = Annotated[str, AfterValidator(_whole)]


def _short(values: Any) -> Any:
    """Refuse a long list, of which each surplus value would be an error of its own."""
    if isinstance(values, list | dict) and len(values) > 4:
        raise ValueError(f"{len(values)} values are too many")
    return values


Item = TypeVar("Item")
Few = Annotated[Item, BeforeValidator(_short)]
# Of float32 probabilities that are added.
ROUNDING = 1e-4


class TracedCode(StrictModel):
    """The code that decoded."""

    version: Text = Field(description="Version of fastdllm.")
    decoder_version: int = Field(
        description="Raised whenever the same settings may give other tokens."
    )
    commit: Text | None = Field(None, description="Commit of the project's folder, if git has one.")
    is_dirty: bool | None = Field(None, description="Whether its files differed from the commit.")


class TracedModel(StrictModel):
    """The model that decoded."""

    name: Text = Field(description="Hub id, or name of the checkpoint's folder.")
    revision: Text | None = Field(None, description="Branch, tag or commit of a hub id, if named.")
    num_layers: int = Field(ge=1, description="Layers.")
    vocab_size: int = Field(ge=1, description="Token ids are below this.")
    mask_id: Count = Field(description="The mask token, which stands for a token not known yet.")
    stop_tokens: Several[Count] = Field(description="Each of them ends an answer.")


class TracedPrompt(StrictModel):
    """The prompt as the model saw it."""

    ids: Several[Count] = Field(description="Token ids, those of a chat template included.")
    text: Text = Field(description="Their text, special tokens included.")


class TracedStep(StrictModel):
    """One pass of the sequence; the number of a step is its place in the list, from 1."""

    kind: PassKind = Field(description="What the pass ran; `reused` ran nothing.")
    block: Count = Field(
        description="Index of the block from the start of the prompt: of a prefill the first one "
        "that is denoised, of a commit the one that it leaves."
    )
    sub_block: Count | None = Field(
        None, description="Leftmost sub-block with a mask; absent of a prefill and a commit."
    )
    positions: Several[Count] = Field(
        description="What the step committed: absolute positions, prompt included, ascending. A "
        "commit, and a prefill whose prompt ends with its block, writes the first token of the "
        "next block. Positions behind the end of the answer may be among them."
    )
    tokens: Several[Count] = Field(description="Token id of each position.")
    probabilities: Several[Share] = Field(
        description="Confidence of each token; of a sampled one its share of the nucleus."
    )
    runners_up: Several[Several[Few[Candidate]]] | None = Field(
        None,
        description="For each position the most likely other tokens, in order, with the "
        "probabilities that the model gives them; absent if not asked for.",
    )
    proposed: Several[Few[Proposed]] | None = Field(
        None,
        description="What the step proposed for positions that it left masked; absent if not "
        "asked for or none.",
    )
    rows: Count = Field(description="Positions that went through the layers.")
    layers_computed: Count = Field(description="Layers that were run.")
    layers_skipped: Count = Field(description="Layers that the policy left out.")
    seconds: float = Field(
        ge=0, description="When the step was complete, since the start of the decoding."
    )

    @model_validator(mode="after")
    def _lists_agree(self) -> TracedStep:
        n = len(self.positions)
        parallel: dict[str, Sequence[object]] = {
            "tokens": self.tokens,
            "probabilities": self.probabilities,
        }
        if self.runners_up is not None:
            parallel["runners_up"] = self.runners_up
        for name, values in parallel.items():
            if len(values) != n:
                raise ValueError(f"{name} has {len(values)} entries for {n} positions")
        for token, candidates in zip(self.tokens, self.runners_up or (), strict=False):
            probabilities = [candidate.probability for candidate in candidates]
            if len({token, *(c.token for c in candidates)}) <= len(candidates):
                raise ValueError("runners_up names a token twice")
            if probabilities != sorted(probabilities, reverse=True):
                raise ValueError("runners_up is not in the order of the probabilities")
            _check_shares(probabilities, "runners_up")
        _check_shares([p.probability for p in self.proposed or ()], "proposed", most=None)
        return self

    @property
    def denoises(self) -> bool:
        """Whether a policy chose what it committed."""
        return self.kind not in (PassKind.PREFILL, PassKind.COMMIT)

    def token_ids(self) -> Iterator[int]:
        """Yield each id that the step names."""
        yield from self.tokens
        yield from (c.token for group in self.runners_up or () for c in group)
        yield from (proposed.token for proposed in self.proposed or ())


def _check_shares(values: list[float], name: str, most: float | None = 1 + ROUNDING) -> None:
    """Refuse what are no probabilities, or add up to more than one."""
    # A NaN is not in the range.
    if not all(0 <= value <= 1 for value in values) or (most is not None and sum(values) > most):
        raise ValueError(f"{name} has probabilities that are none")


class TokenPiece(StrictModel):
    """What one token says."""

    text: Text = Field(description=r"Text to show; bytes that are no whole characters as `\xf0`.")
    bytes: str | None = Field(
        None,
        pattern="^([0-9a-f]{2})+$",
        description="Its bytes in hexadecimal, if they are no whole characters: those of "
        "neighbouring tokens together are.",
    )
    is_special: Literal[True] | None = Field(
        None, description="Whether it is no text, such as a stop token; absent if it is."
    )


class TracedAnswer(StrictModel):
    """The answer, so far as it is known."""

    ids: Several[Count] = Field(
        description="Token ids known without a gap, up to and including the first stop token."
    )
    text: Text = Field(description="Their text, without special tokens.")
    finish_reason: Literal["stop", "length", "stop_when", "cancelled", "unfinished"] = Field(
        description="`stop`: a stop token; `length`: max_new_tokens; `stop_when`: a stop string; "
        "`cancelled`; `unfinished`: the trace was made meanwhile."
    )
