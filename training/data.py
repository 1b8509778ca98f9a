"""Batches of token rows for both phases, each a pure function of the seed.

A batch has no padding between rows of different length: rows are grouped by their number of blocks
and by the block in which the answer starts, and each row is filled up to whole blocks after its
stop. Knows tokens and blocks, nothing of models or noise.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from fastdllm.common.errors import UserError
from training.drills import draw_drill
from training.multi_step import STEPS, draw_multi_step
from training.problems import Problem, draw_problem, is_held_out
from training.tokenizer import render_prompt

BLOCK_SIZE = 32
BATCH_SIZE = 16
# Multi-step problems: half as many rows where they are long.
LONG_BATCH_SIZE, LONG_TOKENS = 8, 160
# Drawn at once and then grouped; the rows left over in a group are dropped, so a pool is large.
POOL_SIZE = 2048
# Six calculations fill about 54 tokens; one block holds about four.
DRILL_CALCULATIONS, BLOCK_DRILL_CALCULATIONS = 6, 5

Kind = Literal["words", "multi_step", "drill"]


@dataclass(frozen=True, slots=True)
class Batch:
    """tokens [B, T] int64; trained [B, T] bool.

    `trained` positions are predicted and may be masked: from the answer's first token to the end of
    the row (`words`, `multi_step`), or result digits alone (`drill`).
    """

    kind: Kind
    tokens: Tensor
    trained: Tensor

    @property
    def first_block(self) -> int:
        """The block in which every row's first trained token lies."""
        return int(self.trained.float().argmax(1).min()) // BLOCK_SIZE


class Row(NamedTuple):
    """Token ids padded to whole blocks, and where the answer starts."""

    ids: list[int]
    answer_start: int


def batches(
    tokenizer: PreTrainedTokenizerBase,
    *,
    seed: int,
    phase: str,
    drills: float,
    multi_step: float,
    steps: tuple[int, int] = STEPS,
    one_block: bool,
) -> Iterator[Batch]:
    """Yield the batches of a phase, for ever; the same ones for the same arguments.

    A batch is one of drills with probability `drills`, of multi-step problems with probability
    `multi_step` (of `steps` calculations), else of word problems. `one_block` makes drills of
    exactly one block; otherwise they are longer rows.
    """
    rng = Random(f"{seed}/{phase}/kinds")
    words = _problem_batches(tokenizer, "words", draw_problem, Random(f"{seed}/{phase}/words"))
    longer = _problem_batches(
        tokenizer,
        "multi_step",
        partial(draw_multi_step, steps=steps),
        Random(f"{seed}/{phase}/multi_step"),
    )
    drill_rng = Random(f"{seed}/{phase}/drill")
    while True:
        share = rng.random()
        if share < drills:
            yield _drill_batch(tokenizer, drill_rng, one_block=one_block)
        elif share < drills + multi_step:
            yield next(longer)
        else:
            yield next(words)


def encode_row(tokenizer: PreTrainedTokenizerBase, question: str, answer: str) -> Row:
    """Tokens of one question and its answer, stop included, padded to whole blocks."""
    prompt = tokenizer.encode(render_prompt(question))
    ids = prompt + tokenizer.encode(answer) + [tokenizer.eos_token_id]
    padding = -len(ids) % BLOCK_SIZE
    return Row(ids + [tokenizer.pad_token_id] * padding, len(prompt))


def _problem_batches(
    tokenizer: PreTrainedTokenizerBase, kind: Kind, draw: Callable[..., Problem], rng: Random
) -> Iterator[Batch]:
    while True:
        groups: dict[tuple[int, int], list[Row]] = defaultdict(list)
        for _ in range(POOL_SIZE):
            problem = draw(rng, held_out=False)
            if is_held_out(problem.question):
                raise UserError(f"a held-out question was drawn: {problem.question!r}")
            row = encode_row(tokenizer, problem.question, problem.answer)
            groups[len(row.ids), row.answer_start // BLOCK_SIZE].append(row)
        made = []
        for (length, _), rows in sorted(groups.items()):
            is_long = kind == "multi_step" and length > LONG_TOKENS
            size = LONG_BATCH_SIZE if is_long else BATCH_SIZE
            made += [
                _problem_batch(kind, rows[start : start + size])
                for start in range(0, len(rows) - size + 1, size)
            ]
        rng.shuffle(made)
        yield from made


def _problem_batch(kind: Kind, rows: list[Row]) -> Batch:
    tokens = torch.tensor([row.ids for row in rows])
    starts = torch.tensor([row.answer_start for row in rows])
    return Batch(kind, tokens, torch.arange(tokens.shape[1]) >= starts[:, None])


def _drill_batch(tokenizer: PreTrainedTokenizerBase, rng: Random, *, one_block: bool) -> Batch:
    ids, trained = [], []
    for _ in range(BATCH_SIZE * 2 if one_block else BATCH_SIZE):
        pieces = draw_drill(rng, BLOCK_DRILL_CALCULATIONS if one_block else DRILL_CALCULATIONS)
        encoded = [(tokenizer.encode(piece.text), piece.trained) for piece in pieces]
        ids.append([token for tokens, _ in encoded for token in tokens])
        trained.append([flag for tokens, flag in encoded for _ in tokens])
    # Rows differ by a few tokens at the end, which no earlier token depends on.
    length = BLOCK_SIZE if one_block else min(map(len, ids))
    tokens = torch.tensor([row[:length] for row in ids])
    digits = torch.tensor([row[:length] for row in trained])
    return Batch("drill", tokens, digits)
