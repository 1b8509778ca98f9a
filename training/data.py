"""Batches of token rows for both phases, each a pure function of the seed.

A batch has no padding between rows of different length: rows are grouped by their number of blocks
and by the block in which the answer starts, and each row is filled up to whole blocks after its
stop. Knows tokens and blocks, nothing of models or noise.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from fastdllm.errors import UserError
from training.choices import draw_choice, draw_packed_choices
from training.drills import draw_drill
from training.problems import draw_problem, is_held_out
from training.tokenizer import render_prompt

BLOCK_SIZE = 32
BATCH_SIZE = 16
# Drawn at once and then grouped; the rows left over in a group are dropped, so a pool is large.
POOL_SIZE = 2048
# Six calculations fill about 54 tokens; one block holds about four.
DRILL_CALCULATIONS, BLOCK_DRILL_CALCULATIONS = 6, 5
PACKED_CHOICES = 4

Kind = Literal["words", "choice", "drill"]


@dataclass(frozen=True, slots=True)
class Batch:
    """tokens [B, T] int64; trained, scored [B, T] bool.

    `trained` positions are predicted and may be masked: from the answer's first token to the end of
    the row (`words`, `choice`), or result digits and letters alone (`drill`). `scored` are those
    that count in the loss: all but the padding of `choice` rows, which would drown the one letter.
    """

    kind: Kind
    tokens: Tensor
    trained: Tensor
    scored: Tensor

    @property
    def first_block(self) -> int:
        """The block in which every row's first trained token lies."""
        return int(self.trained.float().argmax(1).min()) // BLOCK_SIZE


class Row(NamedTuple):
    """Token ids padded to whole blocks, and where the answer starts."""

    ids: list[int]
    answer_start: int


@dataclass(frozen=True, slots=True)
class Mixture:
    """Probabilities of drill and choice batches in a phase; the rest are word problems."""

    drill: float
    choice: float


def batches(
    tokenizer: PreTrainedTokenizerBase, *, seed: int, phase: str, mixture: Mixture, one_block: bool
) -> Iterator[Batch]:
    """Yield the batches of a phase, for ever; the same ones for the same arguments.

    `one_block` makes drills of exactly one block (bare arithmetic only); otherwise drills are
    longer rows, a third of them multiple-choice ones.
    """
    rng = Random(f"{seed}/{phase}/kinds")
    words = _grouped(tokenizer, Random(f"{seed}/{phase}/words"), "words")
    choice = _grouped(tokenizer, Random(f"{seed}/{phase}/choice"), "choice")
    drill_rng = Random(f"{seed}/{phase}/drill")
    while True:
        draw = rng.random()
        if draw < mixture.drill:
            yield _drill_batch(tokenizer, drill_rng, one_block=one_block)
        elif draw < mixture.drill + mixture.choice:
            yield next(choice)
        else:
            yield next(words)


def encode_row(tokenizer: PreTrainedTokenizerBase, content: str, answer: str) -> Row:
    """Tokens of one user turn and its answer, stop included, padded to whole blocks."""
    prompt = tokenizer.encode(render_prompt(content))
    ids = prompt + tokenizer.encode(answer) + [tokenizer.eos_token_id]
    padding = -len(ids) % BLOCK_SIZE
    return Row(ids + [tokenizer.pad_token_id] * padding, len(prompt))


def _grouped(tokenizer: PreTrainedTokenizerBase, rng: Random, kind: Kind) -> Iterator[Batch]:
    while True:
        groups: dict[tuple[int, int], list[Row]] = defaultdict(list)
        for _ in range(POOL_SIZE):
            row = encode_row(tokenizer, *_draw_text(rng, kind))
            groups[len(row.ids), row.answer_start // BLOCK_SIZE].append(row)
        made = [
            _batch(kind, rows[start : start + BATCH_SIZE], tokenizer.pad_token_id)
            for _, rows in sorted(groups.items())
            for start in range(0, len(rows) - BATCH_SIZE + 1, BATCH_SIZE)
        ]
        rng.shuffle(made)
        yield from made


def _draw_text(rng: Random, kind: Kind) -> tuple[str, str]:
    if kind == "choice":
        choice = draw_choice(rng, held_out=False)
        question, content, answer = choice.question, choice.prompt, choice.letter
    else:
        problem = draw_problem(rng, held_out=False)
        question, content, answer = problem.question, problem.question, problem.answer
    if is_held_out(question):
        raise UserError(f"a held-out question was drawn for training: {question!r}")
    return content, answer


def _batch(kind: Kind, rows: list[Row], pad_id: int) -> Batch:
    tokens = torch.tensor([row.ids for row in rows])
    starts = torch.tensor([row.answer_start for row in rows])
    trained = torch.arange(tokens.shape[1]) >= starts[:, None]
    scored = trained & (tokens != pad_id) if kind == "choice" else trained
    return Batch(kind, tokens, trained, scored)


def _drill_batch(tokenizer: PreTrainedTokenizerBase, rng: Random, *, one_block: bool) -> Batch:
    packed = not one_block and rng.random() < 1 / 3
    ids, trained = [], []
    for _ in range(BATCH_SIZE * 2 if one_block else BATCH_SIZE):
        if packed:
            pieces = draw_packed_choices(rng, PACKED_CHOICES)
        else:
            pieces = draw_drill(rng, BLOCK_DRILL_CALCULATIONS if one_block else DRILL_CALCULATIONS)
        encoded = [(tokenizer.encode(piece.text), piece.trained) for piece in pieces]
        ids.append([token for tokens, _ in encoded for token in tokens])
        trained.append([flag for tokens, flag in encoded for _ in tokens])
    # Rows differ by a few tokens at the end, which no earlier token depends on.
    length = BLOCK_SIZE if one_block else min(map(len, ids))
    tokens = torch.tensor([row[:length] for row in ids])
    digits = torch.tensor([row[:length] for row in trained])
    return Batch("drill", tokens, digits, digits)
