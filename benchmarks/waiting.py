"""Tokens/s of the 42M shape by how waiting threads wait, on quiet and on busy cores.

`python -m benchmarks.waiting`, on a machine that does nothing else. Each speed is that of a process
of its own, as the variables are read when torch is imported; the ways to wait take turns, in
mirrored order. A number of rounds is for a quick look; then nothing is kept.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from statistics import median

from benchmarks.record import ROOT, record
from benchmarks.threads import busy
from fastdllm.machine.threads import SPINS, allowed_threads

COMMAND = "python -m benchmarks.waiting"
ROUNDS = 6
NAMES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
# As commands do, at once asleep, and as GNU OpenMP does by itself.
WAYS: dict[str, Mapping[str, str]] = {
    f"GOMP_SPINCOUNT={SPINS}": {"GOMP_SPINCOUNT": SPINS},
    "OMP_WAIT_POLICY=passive": {"OMP_WAIT_POLICY": "passive"},
    "neither": {},
}
# One thread for each core, after a run that is not timed.
RUN = """
import torch
from fastdllm import DecodingSettings, Request
from fastdllm.machine.threads import allowed_threads
from fastdllm.policy import default_policy
from fastdllm.tools.bench.random_models import random_model
from fastdllm.tools.bench.timing import timed_run
from fastdllm.tools.bench.workload import random_prompts

torch.set_num_threads(allowed_threads())
model = random_model("random:42m", device="cpu")
policy = default_policy(DecodingSettings(max_new_tokens=16), model.config.num_layers)
requests = [Request(prompt) for prompt in random_prompts(model.config, [40])]
print([timed_run(model, [requests], policy, slots=1).tokens_per_s for _ in range(2)][1])
"""


def main(arguments: Sequence[str]) -> None:
    """Measure and record."""
    rounds = int(arguments[0]) if arguments else ROUNDS
    figures: dict[str, str] = {}
    for processes, name in ((0, "quiet"), (allowed_threads(), "busy")):
        speeds: dict[str, list[float]] = {way: [] for way in WAYS}
        with busy(processes):
            for index in range(rounds):
                for way in WAYS if index % 2 else reversed(WAYS):
                    speeds[way].append(tokens_per_s(WAYS[way]))
        for way, values in speeds.items():
            figures[f"random:42m, batch 1, {allowed_threads()} threads, {name} cores: {way}"] = (
                f"{median(values):,.0f} tokens/s ({min(values):,.0f} to {max(values):,.0f})"
            )
    if not arguments:
        record("waiting", command=COMMAND, figures=figures)
    for figure, value in figures.items():
        sys.stdout.write(f"{figure}: {value}\n")


def tokens_per_s(variables: Mapping[str, str]) -> float:
    """Decode in a process with these variables; return its speed."""
    others = {name: value for name, value in os.environ.items() if name not in NAMES}
    done = subprocess.run(
        (sys.executable, "-c", RUN),
        cwd=ROOT,
        env={**others, **variables},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return float(done.stdout)


if __name__ == "__main__":
    main(sys.argv[1:])
