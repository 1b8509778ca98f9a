"""What made-up traces hold around their steps, as JSON; the counts are those of the steps."""

from __future__ import annotations

from collections import Counter
from typing import Any

KINDS = ("prefill", "full_block", "sub_block", "commit", "reused")


def trace_values(
    steps: list[dict[str, Any]], *, model: dict[str, Any], answer: dict[str, Any], **rest: Any
) -> dict[str, Any]:
    """A trace of these steps; rest: settings, prompt, pieces and seconds."""
    passes = Counter(step["kind"] for step in steps)
    forwards = passes["full_block"] + passes["sub_block"] + passes["commit"]
    return {
        "format": "fastdllm trace",
        "schema_version": 1,
        "code": {"version": "0.1.0", "decoder_version": 1},
        "model": model,
        "device": "cpu",
        "dtype": "float32",
        "policy": "Policy",
        "steps": steps,
        "answer": answer,
        "passes": {kind: passes[kind] for kind in KINDS}
        | {
            f"layer_forwards_{what}": sum(step[f"layers_{what}"] for step in steps)
            for what in ("computed", "skipped")
        },
        **({"tokens_per_forward": len(answer["ids"]) / forwards} if forwards else {}),
        **rest,
    }
