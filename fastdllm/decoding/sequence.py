"""One request while it is decoded: its tokens, which are masked, and when it is finished.

Plain Python state, without tensors except the stored logits of a sampled sequence. Knows the
geometry of blocks and sub-blocks; knows nothing of models, caches or batches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Literal, NamedTuple

from fastdllm.policy import PassKind, Policy, SequenceState

if TYPE_CHECKING:
    # The records of answers import this module, and must import no torch.
    from torch import Generator, Tensor


@dataclass(slots=True)
class PassCounts:
    """Passes of one sequence by kind, and the layers they ran or skipped.

    A layer-forward is one layer run in one pass of one sequence, whatever the number of positions.
    """

    prefill: int = 0
    full_block: int = 0
    sub_block: int = 0
    commit: int = 0
    reused: int = 0
    layer_forwards_computed: int = 0
    layer_forwards_skipped: int = 0

    @property
    def forwards(self) -> int:
        """NFE: forward evaluations after the prefill; a reused pass evaluates nothing."""
        return self.full_block + self.sub_block + self.commit

    def add_pass(self, kind: PassKind, *, computed: int, skipped: int) -> None:
        """Count one pass that ran `computed` layers and skipped `skipped`."""
        name = kind.value
        setattr(self, name, getattr(self, name) + 1)
        self.layer_forwards_computed += computed
        self.layer_forwards_skipped += skipped

    def __add__(self, other: PassCounts) -> PassCounts:
        return PassCounts(
            **{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        )


Window = tuple[int, int]


class Candidate(NamedTuple):
    """A token that a position may hold, and its probability."""

    token: int
    probability: float


class Proposed(NamedTuple):
    """What a pass proposed for a position that it left masked, and its confidence."""

    position: int
    token: int
    probability: float


class Proposals(NamedTuple):
    """One token and its confidence for each block offset of a window.

    Of a prefill or commit: for the position after its last row. logits: [W, V], if the tokens were
    sampled from them. likeliest: per offset, the most likely tokens, one more than the request has
    runners-up, since the proposed token is mostly the first; [] if it asked for none.
    """

    window: Window
    tokens: list[int]
    confidences: list[float]
    logits: Tensor | None
    likeliest: list[list[Candidate]]

    def without_logits(self) -> Proposals:
        """Return the same proposals, which hold no memory of a device."""
        return self if self.logits is None else self._replace(logits=None)


FinishReason = Literal["stop", "length", "stop_when", "refused", "cancelled"]


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt to answer; None stands for the value of the settings.

    max_new_tokens: 0 asks for an empty answer, which costs no pass.
    stop_when: called with the generated ids known without a gap, after each further one; True ends
        the request there (for stop strings, which only a tokenizer can see).
    runners_up: how many of the most likely other tokens each `Step` reports for a committed one
        (`Step.choices`), with what is proposed for positions that stay masked; 0 reports neither.
    from_scratch: compute the whole prompt, whatever is kept of earlier ones, so that costs compare.
    """

    prompt_ids: tuple[int, ...]
    max_new_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop_when: Callable[[Sequence[int]], bool] | None = None
    seed: int | None = None
    runners_up: int = 0
    from_scratch: bool = False


@dataclass(frozen=True, slots=True)
class Generation:
    """The answer to a request: ids up to and including the first stop token, and the cost.

    error: why the request was refused, in one line that does not say which it was; only with the
        finish reason `refused`.
    """

    token_ids: list[int]
    finish_reason: FinishReason
    passes: PassCounts
    error: str | None = None

    @property
    def tokens_per_forward(self) -> float | None:
        """TPF: generated tokens over forward evaluations; None if no pass was needed."""
        return len(self.token_ids) / self.passes.forwards if self.passes.forwards else None


@dataclass(slots=True, eq=False)
class DecodedSequence:
    """Mutable state of one request; `index` is its index in the list of requests."""

    index: int
    prompt_length: int
    limit: int  # prompt length + max_new_tokens: one past the last wanted position
    block_size: int
    small_block_size: int
    mask_id: int
    stop_tokens: tuple[int, ...]
    temperature: float
    top_p: float
    generator: Generator | None  # of one whose tokens are sampled
    stop_when: Callable[[Sequence[int]], bool] | None
    runners_up: int
    from_scratch: bool
    tokens: list[int]  # up to the end of the current block, masks included
    masked: list[bool] = field(default_factory=list)  # of the current block
    block: int = 0
    block_start: int = 0  # absolute position of the current block; the length of the prefix cache
    known: int = 0  # positions known without a gap, from the start
    block_step: int = 0
    sub_block_step: int = 0
    has_block_cache: bool = False
    committed_since_compute: int = 0
    passes_since_compute: int = 0
    lowest_confidence: float | None = None
    stored: Proposals | None = None  # of the last computed pass, for passes that reuse it
    ahead: Proposals | None = None  # of the last full-block pass, for passes that look ahead
    passes: PassCounts = field(default_factory=PassCounts)
    finish_reason: FinishReason | None = None
    prefilled: int = 0  # whole blocks of the prompt that are in the prefix cache
    restored: int = 0  # those of them that no pass of this sequence computed
    policy: Policy = field(init=False)  # this, slot and cache_start are set by the scheduler
    slot: int = -1
    cache_start: int = -1

    def start(self) -> None:
        """Lay out the first block: the prompt's whole blocks are prefilled, its rest is known."""
        self.known = self.prompt_length
        self._open_block(self.prompt_length // self.block_size)

    def _open_block(self, block: int) -> None:
        self.block, self.block_start = block, block * self.block_size
        end = self.block_start + self.block_size
        self.masked = [position >= self.known for position in range(self.block_start, end)]
        self.tokens.extend([self.mask_id] * (end - len(self.tokens)))
        self.block_step = self.sub_block_step = 0
        self.has_block_cache = False
        self.committed_since_compute = self.passes_since_compute = 0
        self.lowest_confidence = None
        self.stored = self.ahead = None

    @property
    def needs_prefill(self) -> bool:
        """Whether whole blocks of the prompt are not in the prefix cache yet."""
        return self.prefilled < self.prompt_length // self.block_size

    @property
    def whole_blocks(self) -> int:
        """Blocks at the beginning of the cache that hold final tokens only."""
        return self.prefilled if self.needs_prefill else self.block

    @property
    def capacity(self) -> int:
        """The most positions of the sequence: whole blocks up to its limit."""
        return -(-self.limit // self.block_size) * self.block_size

    @property
    def written(self) -> int:
        """The most positions that the cache holds by now: up to the end of the current block."""
        return min((self.block + 1) * self.block_size, self.capacity)

    @property
    def is_full(self) -> bool:
        """Whether the current block has no mask left."""
        return True not in self.masked

    @property
    def sub_block(self) -> int:
        """Index of the leftmost sub-block with a mask; valid only while the block has one."""
        return self.masked.index(True) // self.small_block_size

    def state(self) -> SequenceState:
        """The read-only view that a policy decides on."""
        sub_block = self.sub_block
        first = sub_block * self.small_block_size
        covered = self.stored is not None and (
            self.stored.window[0] <= first
            and first + self.small_block_size <= self.stored.window[1]
        )
        return SequenceState(
            request=self.index,
            block=self.block,
            sub_block=sub_block,
            block_step=self.block_step,
            sub_block_step=self.sub_block_step,
            has_block_cache=self.has_block_cache,
            has_stored_logits=covered,
            predicted=(0, 0) if self.ahead is None else self.ahead.window,
            masked=tuple(self.masked),
            committed_since_compute=self.committed_since_compute,
            passes_since_compute=self.passes_since_compute,
            lowest_confidence=self.lowest_confidence,
        )

    def commit_tokens(self, written: dict[int, int]) -> None:
        """Write tokens at block offsets; they are final. Finish at a stop or at the limit."""
        before, start = None if self.is_full else self.sub_block, self.block_start
        for offset, token in written.items():
            self.tokens[start + offset] = token
            self.masked[offset] = False
        if self.is_full or self.sub_block != before:
            self.sub_block_step = 0
        self._advance()

    def enter_next_block(self) -> None:
        """Leave a committed block; everything stored for it is dropped."""
        self._open_block(self.block + 1)

    def _advance(self) -> None:
        """Advance `known` to the next mask, and finish at a stop or at the limit."""
        end = self.block_start + self.block_size
        while self.finish_reason is None and self.known < end:
            if self.masked[self.known - self.block_start]:
                return
            token = self.tokens[self.known]
            self.known += 1
            if token in self.stop_tokens:
                self.finish_reason = "stop"
            elif self.stop_when is not None and self.stop_when(self.generated):
                self.finish_reason = "stop_when"
            elif self.known >= self.limit:
                self.finish_reason = "length"

    @property
    def generated(self) -> list[int]:
        """The answer so far, up to the first mask."""
        return self.tokens[self.prompt_length : self.known]

    def generation(self) -> Generation:
        """The finished answer."""
        assert self.finish_reason is not None
        return Generation(self.generated, self.finish_reason, replace(self.passes))

    def count(self, kind: PassKind, *, computed: int, skipped: int) -> None:
        """Count one pass, and update what policies look at."""
        self.passes.add_pass(kind, computed=computed, skipped=skipped)
        if kind in (PassKind.PREFILL, PassKind.COMMIT):
            return
        self.block_step += 1
        self.sub_block_step += 1
        if skipped:
            self.passes_since_compute += 1
        else:
            self.passes_since_compute = self.committed_since_compute = 0
        if kind is PassKind.FULL_BLOCK:
            self.has_block_cache = True
