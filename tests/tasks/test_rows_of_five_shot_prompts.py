"""How many rows five-shot prompts cost, against one whole pass per option.

Counted are all rows that go through the layers, whole blocks with their masks included, in chunks
of the default size. The other side of the factor is the published way: each option of a question
is an input of its own, run from its first token to the end of the block that is read.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fastdllm.decoding.events import PassRecord
from fastdllm.decoding.likelihood import LikelihoodRequest, score
from fastdllm.model.fused import FusedModel
from fastdllm.tasks.plan import PlannedRequest, fixed_chunks
from fastdllm.workflow.project.config_files import TaskOptions

MMLU = Path(__file__).parents[3] / "shared/data/mmlu"
BLOCK = 32
FACTOR = 20
LETTERS = "ABCD"
# Words with the space before them, single digits, runs of signs, line ends: what byte-level
# tokenizers begin with. They cut long words further, and longer prompts share more.
PIECES = re.compile(r" ?[A-Za-z]+|\d|[^\sA-Za-z\d]+|\s")


class Tokens:
    """Token ids of a text, numbered as they appear; the letters of options come first."""

    def __init__(self) -> None:
        self.ids = {f" {letter}": number for number, letter in enumerate(LETTERS)}

    def __call__(self, text: str) -> tuple[int, ...]:
        return tuple(self.ids.setdefault(p, len(self.ids)) for p in PIECES.findall(text))


class CountedModel(FusedModel):
    """Runs no layer, so that a third of MMLU takes seconds; every logit is 0."""

    def __init__(self, model) -> None:
        super().__init__(model, make_engine=lambda *_: self)
        self.config = replace(self.config, vocab_size=10**6)
        self.cache = SimpleNamespace(copy=lambda *_: None)

    def open(self, segments):
        read = sum(segment.read[1] - segment.read[0] for segment in segments)
        hidden = torch.zeros(read, len(LETTERS))
        return SimpleNamespace(embed=lambda: hidden, layers=lambda *_, **__: hidden)

    def logits(self, hidden):
        return hidden


def questions(context: tuple[int, ...]) -> list[PlannedRequest]:
    """The four options of one context."""
    return [
        PlannedRequest(
            id=f"{len(context)} {letter}",
            kind="loglikelihood",
            item="mmlu:0",
            prompt_ids=context,
            args=(),
            target_ids=(letter,),
        )
        for letter in range(len(LETTERS))
    ]


def rows_per_option(requests: list[PlannedRequest]) -> int:
    """Rows of one pass per option, up to the end of the block that holds the context's last row."""
    return sum(-(-len(request.prompt_ids) // BLOCK) * BLOCK for request in requests)


def rows_shared(model, requests: list[PlannedRequest], chunk_size: int) -> int:
    """Rows that scoring chunk by chunk runs through the layers."""
    records: list[PassRecord] = []
    for chunk in fixed_chunks(requests, chunk_size):
        scored = [LikelihoodRequest(requests[i].prompt_ids, requests[i].target_ids) for i in chunk]
        score(model, scored, mask_id=255, stop_token=254, observe=records.append)
    return sum(record.rows for record in records if isinstance(record, PassRecord))


def mmlu_contexts(tokens: Tokens) -> Iterator[tuple[int, ...]]:
    """Each question of every third subject, behind its five examples, in lm-eval's words."""

    def lines(path: Path) -> list[dict]:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

    def asked(row: dict) -> str:
        choices = (f"{a}. {b}\n" for a, b in zip(LETTERS, row["choices"], strict=True))
        return f"{row['question'].strip()}\n{''.join(choices)}Answer:"

    for path in sorted((MMLU / "test").glob("*.jsonl"))[::3]:
        name = path.stem.replace("_", " ")
        shots = "".join(
            f"{asked(row)} {LETTERS[row['answer']]}\n\n" for row in lines(MMLU / "dev" / path.name)
        )
        head = (
            f"The following are multiple choice questions (with answers) about {name}.\n\n{shots}"
        )
        # A subject's own tokens once, and each question's behind them.
        prefix = tokens(head)
        for row in lines(path):
            yield prefix + tokens(asked(row))


@pytest.mark.skipif(not MMLU.is_dir(), reason="needs the MMLU questions in ../shared/data/mmlu")
def test_five_shot_mmlu_runs_twenty_times_fewer_rows(golden_model) -> None:
    """Nineteen subjects, each question once; the tokens are words, digits and signs."""
    contexts = dict.fromkeys(mmlu_contexts(Tokens()))
    assert len(contexts) > 4_000
    requests = [request for context in contexts for request in questions(context)]
    shared = rows_shared(CountedModel(golden_model("m6")), requests, TaskOptions().chunk_size)
    assert rows_per_option(requests) >= FACTOR * shared


def test_five_shot_prompts_run_twenty_times_fewer_rows(golden_model) -> None:
    """Three subjects with prefixes of 900 to 1,100 tokens, fifty questions of 40 to 100 each."""
    rng = random.Random(0)

    def some(least: int, most: int) -> tuple[int, ...]:
        return tuple(rng.randrange(250) for _ in range(rng.randint(least, most)))

    prefixes = [some(900, 1100) for _ in range(3)]
    contexts = [prefix + some(40, 100) for _ in range(50) for prefix in prefixes]
    requests = [request for context in contexts for request in questions(context)]
    shared = rows_shared(golden_model("m6"), requests, TaskOptions().chunk_size)
    # One subject a chunk, so every block that differs runs once in all.
    ends = range(BLOCK, 1300, BLOCK)
    padded = [context + (255,) * (-len(context) % BLOCK) for context in contexts]
    distinct = {context[:end] for context in padded for end in ends if end <= len(context)}
    assert shared == len(distinct) * BLOCK
    assert rows_per_option(requests) >= FACTOR * shared
