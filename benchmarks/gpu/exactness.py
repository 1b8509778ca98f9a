"""Whether the device decodes right: recorded traces in float32, and logits in half precision."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.work import EAGER, GOLDEN, Work
from fastdllm.decoding.loop import generate
from fastdllm.decoding.sequence import Request
from fastdllm.engine.batch import Segment
from fastdllm.engine.engines import Engine, can_flash
from fastdllm.engine.static import StaticEngine, run_directly
from fastdllm.engine.static_attention import FlashAttention, PaddedAttention, StaticAttention
from fastdllm.model.config import EMBEDDED_MODEL
from fastdllm.model.fused import FusedModel
from fastdllm.settings import DecodingSettings
from fastdllm.tools.bench.workload import random_prompts
from tests.support import traces

# How far logits may be from float32, relative to their mean size: three times what a CPU gives.
# The golden models have random weights, which make more of each rounding than trained ones.
MODELS = {"models/tiny": EMBEDDED_MODEL, "golden model m14": GOLDEN / "m14"}
MOST_ERROR = {
    ("models/tiny", torch.bfloat16): 0.012,
    ("models/tiny", torch.float16): 0.002,
    ("golden model m14", torch.bfloat16): 0.35,
    ("golden model m14", torch.float16): 0.045,
}
# Two float32 kernels differ by up to 5e-4 in the logits of 28 random layers.
MOST_CONFIDENCE = 5e-4


def run(work: Work) -> None:
    """Run the part that `work` names."""
    (golden if work.part == "golden" else half)(work)


def golden(work: Work) -> None:
    """Decode each recorded case, with one model and its recordings for all of its cases."""
    for name in ("m6", "m14", "m28"):
        model = work.golden(name)
        cases = [case for case in traces.exact_cases() if case["model"] == name]
        # The largest cache first: the engine that has it decodes all others.
        cases.sort(key=lambda case: -len(case["prompts"][0]) - len(traces.recorded_answer(case)))
        cases = cases[::20] if work.small else cases
        differing, farthest = [], 0.0
        for case in cases:
            difference, distance = compare(model, case)
            farthest = max(farthest, distance)
            if difference:
                differing.append(f"{case['id']}: {difference}")
        work.tell(
            f"golden model {name}, {len(cases)} traces",
            f"{len(cases) - len(differing)} equal, confidences within {farthest:.0e}"
            + "".join(f"; {each}" for each in differing[:3]),
            holds=not differing and farthest <= MOST_CONFIDENCE,
            differing=differing,
            largest_difference_of_confidence=farthest,
        )


def compare(model: FusedModel, case: dict[str, Any]) -> tuple[str, float]:
    """Decode a recorded case; return what differs, or nothing, and how far confidences are."""
    recorded = traces.recorded_answer(case)
    settings = traces.settings_of(case, max_new_tokens=len(recorded))
    (trace,) = traces.run(model, [Request(tuple(case["prompts"][0]))], settings)
    steps = traces.recorded_steps(case)
    if trace.steps != steps:
        pairs = zip(trace.steps, steps, strict=False)
        first = next(
            (n for n, (a, b) in enumerate(pairs) if a != b), min(len(trace.steps), len(steps))
        )
        return f"other tokens or positions from step {first} of {len(steps)}", 0.0
    if trace.order != case["call_order"] or trace.generation.token_ids != recorded:
        return "other passes, or another end", 0.0
    known = [value for step in case["steps"] for value in step["rows"][0]["conf"]]
    distances = (abs(a - b) for a, b in zip(trace.confidences, known, strict=True))
    return "", max(distances, default=0.0)


def half(work: Work) -> None:
    """Compare logits in half precision with float32, for each kind of attention that runs here."""
    for name, path in MODELS.items():
        exact = logits_of(work, work.load(path, torch.float32), None)
        for dtype in (torch.bfloat16, torch.float16):
            if dtype == torch.bfloat16 and work.half == torch.float16:
                continue  # a GPU that is too old for it
            model = work.load(path, dtype)
            kinds = {"padded products": PaddedAttention, EAGER: None}
            if work.device.type == "cuda" and can_flash(model):
                kinds = {"FlashAttention": FlashAttention, **kinds}
            for kind, attention in kinds.items():
                logits = logits_of(work, model, attention)
                error = float((logits - exact).abs().mean() / exact.abs().mean())
                same = float((logits.argmax(-1) == exact.argmax(-1)).float().mean())
                work.tell(
                    f"{name}, {word(dtype)}, {kind}",
                    f"logits {error:.2%} from float32, the same token first in {same:.0%} of rows",
                    holds=error < MOST_ERROR[name, dtype],
                    error=error,
                    share_with_the_same_token=same,
                )
    tell_answers(work)


def word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@torch.inference_mode()
def logits_of(work: Work, model: FusedModel, attention: type[StaticAttention] | None) -> Tensor:
    """Logits of a prompt's blocks, a full block and sub-blocks, for sequences of four lengths.

    attention: at fixed shapes; None for passes without padding.
    """
    block, sequences = model.config.block_size or 32, 4
    capacity = (sequences + 2) * block
    total = sequences * capacity
    engine: Engine = work.engine(model, EAGER, total)
    if attention is not None:
        engine = StaticEngine(model, engine.cache, attention=attention, record=run_directly)
    prompts = random_prompts(model.config, [(n + 2) * block for n in range(sequences)])
    starts = [n * capacity for n in range(sequences)]
    # All blocks but the last, then the last whole, then a part of it again.
    passes: list[list[Segment]] = [[], [], []]
    for start, tokens in zip(starts, prompts, strict=True):
        last = len(tokens) - block
        for first in range(0, last, block):
            rows = tokens[first : first + block]
            passes[0].append(Segment(start, first, rows, first + block, (block - 1, block)))
        passes[1].append(Segment(start, last, tokens[last:], len(tokens), (0, block)))
        passes[2].append(
            Segment(start, last + 8, tokens[last + 8 : last + 16], len(tokens), (0, 8))
        )
    found = []
    for segments in passes:
        opened = engine.open(segments)
        hidden = opened.layers(opened.embed(), 0, model.config.num_layers, only_read=True)
        found.append(model.logits(hidden).cpu())
    return torch.cat(found)


def tell_answers(work: Work) -> None:
    """Keep how many answers of the trained model are others in half precision: no check."""
    count = 4 if work.small else 48
    settings = DecodingSettings(max_new_tokens=32)
    answers = []
    for dtype in (torch.float32, torch.float16 if work.half == torch.float16 else torch.bfloat16):
        model = work.at_fixed_shapes(work.load(EMBEDDED_MODEL, dtype))
        prompts = random_prompts(model.config, [40] * count)
        answers.append([a.token_ids for a in generate(model, prompts, settings, slots=8)])
    equal = sum(a == b for a, b in zip(*answers, strict=True))
    work.tell(
        f"models/tiny, answers in {word(dtype)} against float32",
        f"{equal} of {count} have the same tokens",
        answers=count,
        equal=equal,
    )
