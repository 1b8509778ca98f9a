"""Made-up traces for the denoising view: a prompt of 35 tokens, words that arrive out of order."""

from __future__ import annotations

from typing import Any

from tests.support.trace_values import trace_values

WORDS = (
    "So Lin has 3 boxes of 12 apples each . That is 3 * 12 = 36 apples . She gives 5 away , which "
    "leaves 36 - 5 = 31 apples . Half of them are red , so 31 / 2 = 15 and one is cut in two . \n"
    "Thus the answer is 15 . <|im_end|>"
)
PROMPT_LENGTH, LAYERS = 35, 6


def made_up_trace(*, per_step: int = 2, words: list[str] | None = None) -> dict[str, Any]:
    """A trace whose steps commit up to `per_step` tokens, the even positions before the odd ones.

    words: the tokens of the answer, the last of which ends it.
    """
    texts = words or [word if word == "\n" else f" {word}" for word in WORDS.split(" ")]
    pieces = {str(100 + i): {"text": text} for i, text in enumerate(texts)}
    pieces[str(99 + len(texts))]["is_special"] = True
    pieces |= {str(i): {"text": f" other{i}"} for i in (7, 8, 9)} | {"3": {"text": "<|mask|>"}}
    steps: list[dict[str, Any]] = []

    def step(kind: str, position: int, positions: list[int], **more: Any) -> None:
        skipped = LAYERS if kind == "reused" else 0
        indices = [p - PROMPT_LENGTH for p in positions]
        shares = [0.999 - 0.07 * (i % 8) for i in indices]
        steps.append(
            {
                "kind": kind,
                "block": position // 32,
                "positions": positions,
                "tokens": [100 + i for i in indices],
                "probabilities": shares,
                "runners_up": [[[7, (1 - p) / 2], [8, (1 - p) / 4]] for p in shares],
                "rows": {"sub_block": 8, "reused": 0}.get(kind, 32),
                "layers_computed": LAYERS - skipped,
                "layers_skipped": skipped,
                "seconds": round(0.01 * (len(steps) + 1), 3),
                **more,
            }
        )

    step("prefill", PROMPT_LENGTH, [])
    stop = PROMPT_LENGTH + len(texts)
    known: set[int] = set()
    for position in range(PROMPT_LENGTH, stop):
        if position % 32 == 0:
            step("commit", position - 1, [position])
            known.add(position)
        sub = range(position, min(stop, position - position % 8 + 8))
        while masked := sorted((p for p in sub if p not in known), key=lambda p: (p % 2, p)):
            chosen = sorted(masked[:per_step])
            known.update(chosen)
            first = ("full_block", position // 32) not in [(s["kind"], s["block"]) for s in steps]
            kind = "full_block" if first else ("reused" if len(masked) <= 2 else "sub_block")
            left = [[p, 100 + p - PROMPT_LENGTH, 0.4] for p in sorted(masked[per_step:])]
            step(kind, position, chosen, sub_block=position % 32 // 8, proposed=left)
    answer = [100 + i for i in range(len(texts))]
    return trace_values(
        steps,
        model={
            "name": "models/tiny",
            "num_layers": LAYERS,
            "vocab_size": 512,
            "mask_id": 3,
            "stop_tokens": [answer[-1]],
        },
        answer={"ids": answer, "text": "".join(texts[:-1]), "finish_reason": "stop"},
        settings={
            "threshold": round(1 - per_step / 10, 1),
            "block_size": 32,
            "small_block_size": 8,
            "max_new_tokens": 256,
        },
        prompt={"ids": [7] * PROMPT_LENGTH, "text": "Lin has 3 boxes of 12 apples each."},
        pieces=pieces,
        seconds=steps[-1]["seconds"],
    )
