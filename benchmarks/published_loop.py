"""Tokens/s of the decoder over the published loop, rebuilt: `python -m benchmarks.published_loop`.

Both decode the same prompts to the same length in one process, in turn (A B B A), and give the same
tokens: otherwise nothing is shown. Models, batch sizes or rounds given as options are for a quick
look; then nothing is kept.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from fastdllm.machine.threads import allowed_threads, spin_briefly

COMMAND = "python -m benchmarks.published_loop"
ROUNDS = 7
# Model, threads (0: as many as are allowed), tokens of each answer, and requests per batch size: a
# run of about a second.
CASES: tuple[tuple[str, int, int, dict[int, int]], ...] = (
    ("models/tiny", 1, 96, {1: 8, 8: 32, 32: 64}),
    ("random:42m", 0, 16, {1: 1, 8: 8}),
)


def main(arguments: Sequence[str]) -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=[case[0] for case in CASES])
    parser.add_argument("--batch", type=int)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args(arguments)
    # As in every command: before torch is imported.
    spin_briefly()
    import torch

    from benchmarks.record import record

    figures: dict[str, str] = {}
    for name, threads, tokens, sizes in CASES:
        if options.model not in (None, name):
            continue
        torch.set_num_threads(threads or allowed_threads())
        for batch, count in sizes.items():
            if options.batch not in (None, batch):
                continue
            for is_cached in (True, False):
                pair = runs(name, count, tokens, batch=batch, is_cached=is_cached)
                figure = (
                    f"{name}, batch {batch}, block cache {'on' if is_cached else 'off'}, "
                    f"{torch.get_num_threads()} thread(s): over the published loop"
                )
                figures[figure] = compared(*pair, rounds=options.rounds)
                sys.stdout.write(f"{figure}: {figures[figure]}\n")
                sys.stdout.flush()
    if not arguments:
        record("published_loop", command=COMMAND, figures=figures)


def runs(
    name: str, count: int, tokens: int, *, batch: int, is_cached: bool
) -> tuple[Callable[[], list[list[int]]], Callable[[], list[list[int]]]]:
    """The decoder and the published loop, each as a function that returns all answers."""
    import torch

    from benchmarks.published_decoder import PublishedLoop
    from fastdllm import DecodingSettings, generate
    from fastdllm.model.fused import FusedModel
    from fastdllm.model.loading import load_plain_model
    from fastdllm.tools.bench.random_models import PREFIX, RandomWeights, random_config
    from fastdllm.tools.bench.workload import question_prompts, random_prompts

    weights: Any
    if name.startswith(PREFIX):
        config = random_config(name)
        weights = RandomWeights(config, device=torch.device("cpu"), dtype=torch.float32)
        prompts = random_prompts(config, [40] * count)
    else:
        weights = load_plain_model(name, device="cpu", dtype="float32")
        prompts = question_prompts(name, None, count)
    settings = DecodingSettings(max_new_tokens=tokens, use_block_cache=is_cached)
    model, published = FusedModel(weights), PublishedLoop(weights, settings)
    # To a fixed length: no pass is saved by a stop token.
    model.config = dataclasses.replace(model.config, stop_tokens=())

    def ours() -> list[list[int]]:
        return [answer.token_ids for answer in generate(model, prompts, settings, slots=batch)]

    return ours, lambda: published.generate(prompts, batch=batch)


def compared(
    ours: Callable[[], list[list[int]]],
    published: Callable[[], list[list[int]]],
    *,
    rounds: int,
) -> str:
    """Time both in mirrored turns; say by how much ours is faster.

    Raises:
        SystemExit: the tokens differ.
    """
    mine, theirs = ours(), published()
    differ = sum(answer != other for answer, other in zip(mine, theirs, strict=True))
    if differ:
        raise SystemExit(f"{differ} of {len(mine)} answers differ; no speed is shown")
    tokens, clocks = sum(map(len, mine)), (time.perf_counter, time.process_time)
    ratios: list[list[float]] = []
    speeds: list[float] = []
    for _ in range(rounds):
        spent = {ours: [0.0, 0.0], published: [0.0, 0.0]}
        for run in (ours, published, published, ours):
            before = [clock() for clock in clocks]
            run()
            for index, clock in enumerate(clocks):
                spent[run][index] += clock() - before[index]
        ratios.append([p / o for p, o in zip(spent[published], spent[ours], strict=True)])
        speeds.append(2 * tokens / spent[ours][0])
    seconds, cpu_seconds = ([ratio[index] for ratio in ratios] for index in (0, 1))
    return (
        f"{median(seconds):.2f} times the tokens/s ({min(seconds):.2f} to {max(seconds):.2f}), "
        f"{median(cpu_seconds):.2f} times those per CPU second, {median(speeds):,.0f} tokens/s, "
        f"load {os.getloadavg()[0]:.1f}"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
