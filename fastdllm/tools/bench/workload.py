"""What a benchmark decodes: prompts and lengths that are the same everywhere and every time."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path

from fastdllm.common.errors import UserError
from fastdllm.decoding.memory import MOST_SLOTS
from fastdllm.decoding.sequence import Request
from fastdllm.model.config import EMBEDDED_MODEL, ModelConfig
from fastdllm.model.tokenizer import load_tokenizer, prompt_ids

QUESTIONS = EMBEDDED_MODEL.parents[1] / "tasks" / "data" / "word_problems.jsonl"
SEED = 0
MIXED_REQUESTS = 200
MIXED_PROMPTS, MIXED_ANSWERS = (20, 600), (5, 300)

Prompts = list[tuple[int, ...]]


def random_prompts(config: ModelConfig, lengths: Sequence[int]) -> Prompts:
    """Seeded ids of ordinary tokens, one prompt per length; the first n are the same for any count.

    Ordinary: below the first of the special tokens (mask, stop, padding).
    """
    special = (config.mask_id, *config.stop_tokens, config.pad_id, config.vocab_size)
    end = min(token for token in special if token)
    draw = random.Random(SEED)
    return [tuple(draw.randrange(end) for _ in range(length)) for length in lengths]


def question_prompts(
    model: str, revision: str | None, count: int, questions: Path = QUESTIONS
) -> Prompts:
    """Return the first `count` word problems as token ids, repeated if there are fewer.

    Raises:
        UserError: the model has no usable tokenizer, or the questions are not there.
    """
    try:
        lines = questions.read_text(encoding="utf-8").splitlines()[:count]
    except OSError:
        raise UserError(
            f"{questions}: not found; give --prompt-length N for prompts of random ids"
        ) from None
    tokenizer = load_tokenizer(model, revision)
    templated = bool(tokenizer.chat_template)
    prompts = [
        prompt_ids(tokenizer, json.loads(line)["question"], chat_template=templated)
        for line in lines
    ]
    return list(islice(cycle(prompts), count))


def mixed_requests(config: ModelConfig, count: int) -> list[Request]:
    """Seeded requests with prompts of 20 to 600 tokens and answers of 5 to 300."""
    draw = random.Random(SEED)
    sizes = [(draw.randint(*MIXED_PROMPTS), draw.randint(*MIXED_ANSWERS)) for _ in range(count)]
    prompts = random_prompts(config, [length for length, _ in sizes])
    return [
        Request(prompt, max_new_tokens=answer)
        for prompt, (_, answer) in zip(prompts, sizes, strict=True)
    ]


def requests_for(slots: int | None, least: int) -> int:
    """Return the requests of a run: at least `least`, and twice the slots, so that they refill.

    slots: None means as many as memory allows.
    """
    return max(least, 2 * (MOST_SLOTS if slots is None else slots))
