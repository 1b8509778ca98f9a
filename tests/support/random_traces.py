"""Random traces that keep the rules of decoding, made by a small decoder without a model."""

from __future__ import annotations

import random
from typing import Any

from tests.support.trace_values import trace_values

LAYERS, VOCABULARY, STOP, MASK = 4, 40, 2, 3


def random_trace(rng: random.Random) -> dict[str, Any]:
    """A trace as JSON holds it, with blocks of 4 or 8 tokens and an answer of up to 20."""
    size = rng.choice([4, 8])
    small, length, limit = size // 2, rng.randrange(3 * size), rng.randint(1, 20)
    temperature = rng.choice([0.0, 1.0])
    tokens: dict[int, int] = {}
    answer: list[int] = []
    steps: list[dict[str, Any]] = []
    reason, block = "unfinished", length // size

    def others(*but: int) -> list[int]:
        return rng.sample([t for t in range(4, VOCABULARY) if t not in but], 2)

    def step(kind: str, positions: list[int], skipped: int = 0, **more: Any) -> None:
        written = [STOP if rng.random() < 0.1 else rng.randrange(4, VOCABULARY) for _ in positions]
        tokens.update(zip(positions, written, strict=True))
        shares = [rng.uniform(0.4, 0.9) for _ in positions]
        steps.append(
            {
                "kind": kind,
                "block": block,
                "positions": positions,
                "tokens": written,
                "probabilities": shares,
                "runners_up": [
                    [[t, (1 - p) / n] for n, t in enumerate(others(token), start=2)]
                    for token, p in zip(written, shares, strict=True)
                ],
                "rows": {"reused": 0, "sub_block": small, "prefill": block * size}.get(kind, size),
                "layers_computed": LAYERS - skipped,
                "layers_skipped": skipped,
                "seconds": len(steps) / 8,
                **more,
            }
        )

    if block:
        step("prefill", [length] if length == block * size else [])
    most_steps = rng.choice([5, 100])
    while True:
        while reason == "unfinished" and length + len(answer) in tokens:
            answer.append(tokens[length + len(answer)])
            if answer[-1] == STOP:
                reason = "stop"
            elif len(answer) == limit:
                reason = "length"
        if reason != "unfinished" or len(steps) >= most_steps:
            break
        block_positions = range(max(block * size, length), (block + 1) * size)
        masks = [p for p in block_positions if p not in tokens]
        if not masks:
            step("commit", [(block + 1) * size])
            block += 1
            continue
        positions = sorted(rng.sample(masks, rng.randint(1, len(masks))))
        kind = rng.choice(["full_block", "sub_block", "reused"])
        skipped = {"full_block": 0, "reused": LAYERS}.get(kind, rng.randint(0, LAYERS))
        left = [[p, others()[0], rng.random()] for p in masks if p not in positions]
        place = {"sub_block": masks[0] % size // small, **({"proposed": left} if left else {})}
        step(kind, positions, skipped, **place)
    return trace_values(
        steps,
        model={
            "name": "made-up",
            "num_layers": LAYERS,
            "vocab_size": VOCABULARY,
            "mask_id": MASK,
            "stop_tokens": [STOP],
        },
        answer={"ids": answer, "text": "made up", "finish_reason": reason},
        settings={
            "block_size": size,
            "small_block_size": small,
            "max_new_tokens": limit,
            "temperature": temperature,
        },
        prompt={"ids": [5] * length, "text": "?" * length},
        pieces={str(token): {"text": f"t{token}"} for token in range(VOCABULARY)},
        seconds=len(steps) / 8,
    )
