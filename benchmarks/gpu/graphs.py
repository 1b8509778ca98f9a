"""Recorded CUDA graphs against the same passes launched one by one, and against no padding at all.

Their tokens in float32, their hidden states and seconds in half precision.
"""

from __future__ import annotations

import torch

from benchmarks.gpu.work import DIRECT, EAGER, RECORDED, Work
from fastdllm.decoding.loop import generate
from fastdllm.engine.batch import Segment
from fastdllm.model.fused import FusedModel
from fastdllm.settings import DecodingSettings
from fastdllm.tools.bench.timing import interleaved, median_s
from fastdllm.tools.bench.workload import random_prompts

KINDS = (RECORDED, DIRECT, EAGER)
PROMPT_LENGTHS = (5, 31, 32, 37, 64, 95)
VISIBLE, WIDTH = 160, 8
# How far hidden states may be apart, relative to their mean size: random layers make much of other
# orders of adding in half precision, and rows in the wrong place are as far apart as can be.
MOST_ERROR = 0.25


def run(work: Work) -> None:
    """Compare tokens, then passes of one sub-block per sequence."""
    for name in ("m6",) if work.small else ("m6", "m14"):
        tell_tokens(work, name)
    model = work.random("1.5b")
    for sequences in (2,) if work.small else (1, 8, 32):
        tell_passes(work, model, sequences)


def tell_tokens(work: Work, name: str) -> None:
    """Decode the same requests with engines of each kind, in float32."""
    model = work.golden(name)
    settings = DecodingSettings(max_new_tokens=24, mask_id=255, stop_token=254)
    prompts = random_prompts(model.config, PROMPT_LENGTHS)
    answers = {}
    for kind in KINDS:
        work.use(model, kind)
        answers[kind] = [answer.token_ids for answer in generate(model, prompts, settings, slots=3)]
    others = [kind for kind in KINDS if answers[kind] != answers[EAGER]]
    work.tell(
        f"golden model {name}, {len(prompts)} answers in float32",
        f"other tokens {', '.join(others)}" if others else f"the same tokens {', '.join(KINDS)}",
        holds=not others,
    )


@torch.inference_mode()
def tell_passes(work: Work, model: FusedModel, sequences: int) -> None:
    """Time one pass of each kind in mirrored turns, and compare what they return."""
    segments = [
        Segment(n * VISIBLE, VISIBLE - WIDTH, range(WIDTH), VISIBLE, (0, WIDTH))
        for n in range(sequences)
    ]
    hidden: dict[str, torch.Tensor] = {}

    def one(kind: str) -> None:
        opened = engines[kind].open(segments)
        hidden[kind] = opened.layers(opened.embed(), 0, model.config.num_layers, only_read=True)

    engines = {kind: work.engine(model, kind, sequences * VISIBLE) for kind in KINDS}
    calls = {kind: (lambda kind=kind: median_s(work.device, lambda: one(kind))) for kind in KINDS}
    for kind in KINDS:
        one(kind)
    recording_s = engines[RECORDED].recording_s
    there = interleaved(calls, 1, lambda: None)
    back = interleaved(dict(reversed(calls.items())), 1, lambda: None)
    seconds = {kind: (there[kind][0] + back[kind][0]) / 2 for kind in KINDS}
    size = hidden[EAGER].abs().mean()
    errors = {
        kind: float((hidden[kind] - hidden[EAGER]).abs().mean() / size)
        for kind in (RECORDED, DIRECT)
    }
    work.tell(
        f"{work.named('1.5b')}, a pass of {sequences} x {WIDTH} rows",
        ", ".join(f"{kind} {1000 * seconds[kind]:.2f} ms" for kind in KINDS)
        + f"; recording {recording_s:.2f} s; hidden states {max(errors.values()):.1%} apart",
        holds=max(errors.values()) < MOST_ERROR,
        ms={kind: 1000 * spent for kind, spent in seconds.items()},
        recording_s=recording_s,
        error=errors,
    )
