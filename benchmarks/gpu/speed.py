"""Speed: batch sizes with their share of the least time, and other settings over plain decoding.

Random weights in the published shapes are never sure of a token, so that every setting commits one
per denoising step: there, pairs show what a pass costs, and the trained model what is gained.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.gpu.work import Work
from fastdllm.decoding.sequence import Request
from fastdllm.model.config import EMBEDDED_MODEL
from fastdllm.model.fused import FusedModel
from fastdllm.policy import default_policy
from fastdllm.settings import DecodingSettings
from fastdllm.statistics.paired_speed import hodges_lehmann, signed_rank_interval
from fastdllm.tools.bench.batches import Bench, batch_figures, bench_batches
from fastdllm.tools.bench.suite import floor_for
from fastdllm.tools.bench.timing import TimedRun, interleaved, timed_run
from fastdllm.tools.bench.workload import Prompts, question_prompts, random_prompts, requests_for

BATCHES = (1, 8, 32, 64)
PROMPT_LENGTH = 128
TOKENS, REPEATS, LEAST_REQUESTS = 64, 3, 4
PLAIN = "plain"
VARIANTS: dict[str, dict[str, Any]] = {
    PLAIN: {},
    "reuse k = 2, last": {"reuse_k": 2, "layer_subset": "last"},
    "look-ahead, depth 3": {"lookahead_depth": 3},
    "look-ahead, depth 3, sub-blocks of 4": {"lookahead_depth": 3, "small_block_size": 4},
}
PAIR_BATCHES, ROUNDS = (1, 32), 8
# Tokens of an answer, and the fewest requests: a run of some tenths of a second on a large GPU.
PAIR_SIZES = {"models/tiny": (96, 16)}
USUAL_SIZES, SMALL_SIZES = (32, 1), (4, 1)


def run(work: Work) -> None:
    """Run the part that `work` names."""
    shape, _, kind = work.part.partition("-")
    make: Callable[[int], Prompts]
    if shape == "tiny":
        name = "models/tiny"
        model = work.load(EMBEDDED_MODEL, work.half)
        make = partial(question_prompts, str(EMBEDDED_MODEL), None)
    else:
        name, model = work.named(shape), work.random(shape)

        def make(count: int) -> Prompts:
            return random_prompts(model.config, [PROMPT_LENGTH] * count)

    if kind == "pairs":
        for batch in (1, 2) if work.small else PAIR_BATCHES:
            tell_pairs(work, model, make, batch, name)
    else:
        tell_batches(work, model, make, name)


def tell_batches(work: Work, model: FusedModel, make: Callable[[int], Prompts], name: str) -> None:
    """Keep tokens/s of each batch size, one after the other, the smallest first."""
    batches = BATCHES[:2] if work.small else BATCHES
    repeats, tokens, least = (1, 4, 2) if work.small else (REPEATS, TOKENS, LEAST_REQUESTS)
    settings = DecodingSettings(max_new_tokens=tokens)
    policy = default_policy(settings, model.config.num_layers)
    bench = Bench(model, settings, policy, repeats, lambda: None)
    floor, rates = floor_for(model)
    measured = [f"{value:,.0f} {unit}" for key, unit in RATES.items() if (value := rates.get(key))]
    work.tell(f"{name}, what the shares are of", ", ".join([rates["kind"], *measured]), **rates)
    prompts, alone = make(requests_for(max(batches), least)), None
    for batch in batches:
        (result,) = bench_batches(bench, [batch], prompts, least=least, floor=floor)
        figures = batch_figures(result, alone)
        alone = alone or result
        fewer = f", only {figures['slots']} fit" if figures["slots"] < batch else ""
        differing = figures.get("share_differing_from_batch_1")
        work.tell(
            f"{name}, batch {batch}",
            f"{figures['tokens_per_s']:,.0f} tokens/s, {figures['ms_per_pass']:.2f} ms a pass, "
            f"{figures['share_of_floor']:.0%} of the floor ({figures['floor_bound']}){fewer}"
            + ("" if differing is None else f", {differing:.0%} of answers unlike batch 1"),
            **figures,
        )


RATES = {"copy_gb_per_s": "GB/s copied", "product_tflop_per_s": "TFLOP/s of a large product"}


def tell_pairs(
    work: Work, model: FusedModel, make: Callable[[int], Prompts], batch: int, name: str
) -> None:
    """Keep the seconds of each variant over plain decoding's, from rounds in mirrored turns."""
    rounds = 2 if work.small else ROUNDS
    tokens, least = SMALL_SIZES if work.small else PAIR_SIZES.get(name, USUAL_SIZES)
    requests = [Request(prompt) for prompt in make(max(batch, least))]

    def once(values: dict[str, Any]) -> TimedRun:
        settings = DecodingSettings(max_new_tokens=tokens, **values)
        policy = default_policy(settings, model.config.num_layers)
        return timed_run(model, [requests], policy, slots=batch)

    calls = {variant: partial(once, values) for variant, values in VARIANTS.items()}
    backwards = dict(reversed(calls.items()))
    # The first round makes the cache and the recordings, each for the largest of the variants.
    for _ in range(2):
        interleaved(calls, 1, lambda: None)
    logs: dict[str, list[float]] = {variant: [] for variant in VARIANTS if variant != PLAIN}
    recording_s = 0.0
    for _ in range(rounds):
        halves = [interleaved(order, 1, lambda: None) for order in (calls, backwards)]
        runs = {variant: [half[variant][0] for half in halves] for variant in VARIANTS}
        seconds = {variant: sum(run.elapsed_s for run in both) for variant, both in runs.items()}
        recording_s += sum(p.recording_s for both in runs.values() for r in both for p in r.passes)
        for variant, values in logs.items():
            values.append(math.log(seconds[variant] / seconds[PLAIN]))
    for variant, values in logs.items():
        ratio, interval = math.exp(hodges_lehmann(values)), signed_rank_interval(values)
        ends = None if interval is None else [math.exp(end) for end in interval]
        run, plain = runs[variant][0], runs[PLAIN][0]
        passes = len(run.passes) / len(plain.passes)
        within = "" if ends is None else f" ({ends[0]:.3f} to {ends[1]:.3f})"
        work.tell(
            f"{name}, batch {batch}, {variant}",
            f"{ratio:.3f}{within} of plain's seconds, {passes:.2f} of its passes",
            seconds_over_plain=ratio,
            passes_over_plain=passes,
            tokens_per_forward=run.tokens_per_forward,
            tokens_per_forward_of_plain=plain.tokens_per_forward,
            rounds=rounds,
            **({} if ends is None else {"interval": ends}),
            **({"recording_s": recording_s} if recording_s else {}),
        )
