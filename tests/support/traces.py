"""Run the decoder on a recorded case and bring its steps into the shape of the recording."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastdllm import DecodingSettings, Generation, Request, decode
from fastdllm.model.plain import BlockDiffusionModel
from fastdllm.policy import Policy, default_policy

GOLDEN = Path(__file__).parents[1] / "golden"
LETTERS = {"prefill": "P", "full_block": "F", "sub_block": "S", "reused": "S", "commit": "C"}

# What must be equal in a denoising step: block, sub-block, positions, tokens.
TraceStep = tuple[int, int, tuple[int, ...], tuple[int, ...]]


def cases(name: str) -> list[dict[str, Any]]:
    """The recorded cases of tests/golden/cases_<name>.json."""
    return json.loads((GOLDEN / f"cases_{name}.json").read_text())


def exact_cases() -> list[dict[str, Any]]:
    """The recorded cases of one sequence in which every step must be equal.

    The published decoder ignores a prompt of exactly one block; cases_fixedprefill holds the answer
    of the corrected rule for the same lengths.
    """
    plain = [case for case in cases("plain") if len(case["prompts"][0]) != 32]
    corrected = [case for case in cases("fixedprefill") if case["batch"] == 1]
    return [*plain, *cases("blocks"), *cases("reuse"), *corrected]


def case_ids(recorded: list[dict[str, Any]]) -> list[str]:
    return [case["id"] for case in recorded]


@dataclass
class Trace:
    """What one row did."""

    generation: Generation
    order: str
    steps: list[TraceStep]
    confidences: list[float]


def settings_of(case: dict[str, Any], **changes: Any) -> DecodingSettings:
    """The settings of a recorded case."""
    params = case["params"]
    names = ("block_size", "small_block_size", "threshold", "use_block_cache", "mask_id")
    values = {name: params[name] for name in (*names, "stop_token")}
    if params.get("reuse_k", 1) > 1:
        values |= {name: params[name] for name in ("reuse_k", "layer_subset")}
    return DecodingSettings(**values | {"max_new_tokens": params["max_new_tokens"]} | changes)


def run(
    model: BlockDiffusionModel,
    requests: list[Request],
    settings: DecodingSettings,
    policy: Policy | None = None,
) -> list[Trace]:
    """Decode `requests` as one batch and sort the steps by row."""
    policy = policy or default_policy(settings, model.config.num_layers)
    steps = list(decode(model, requests, policy))
    traces = []
    for row in range(len(requests)):
        own = [step for step in steps if step.request == row]
        denoising = [step for step in own if step.sub_block is not None]
        assert own[-1].finished is not None
        traces.append(
            Trace(
                generation=own[-1].finished,
                order="".join(LETTERS[step.kind] for step in own),
                steps=[(s.block, s.sub_block or 0, s.positions, s.tokens) for s in denoising],
                confidences=[value for step in denoising for value in step.confidences],
            )
        )
    return traces


def recorded_steps(case: dict[str, Any], row: int = 0) -> list[TraceStep]:
    """The denoising steps of one row of a recorded case, passes without a token left out."""
    return [
        (step["block"], step["sub"], tuple(own["pos"]), tuple(own["tok"]))
        for step in case["steps"]
        for own in step["rows"]
        if own["row"] == row and own["pos"]
    ]


def recorded_answer(case: dict[str, Any], row: int = 0) -> list[int]:
    """The generated ids of one row, cut after the first stop token."""
    answer = case["output_ids"][row][len(case["prompts"][row]) :]
    stop = case["params"]["stop_token"]
    return answer[: answer.index(stop) + 1] if stop in answer else answer
