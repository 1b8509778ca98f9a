"""A whole benchmark: which measurements it takes, in which order, as one record."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastdllm.common.errors import UserError
from fastdllm.decoding.sequence import Request
from fastdllm.model.fused import FusedModel
from fastdllm.policy import default_policy
from fastdllm.settings import DecodingSettings
from fastdllm.tools.bench.batches import Batch, Bench, batch_figures, bench_batches, compare_mixed
from fastdllm.tools.bench.floor import Floor
from fastdllm.tools.bench.products_floor import ProductsFloor
from fastdllm.tools.bench.profile import write_profile
from fastdllm.tools.bench.roofline import RooflineFloor, measured_rates
from fastdllm.tools.bench.timing import timed_run
from fastdllm.tools.bench.workload import MIXED_REQUESTS, Prompts, mixed_requests, requests_for

LEAST_REQUESTS = 16


@dataclass(frozen=True, slots=True)
class BenchPlan:
    """What to measure.

    requests: of a run at least, and of the mixed comparison; None: their defaults. profile: where
    a trace goes.
    """

    batches: Sequence[Batch]
    repeats: int
    requests: int | None = None
    mixed: bool = False
    profile: Path | None = None

    @property
    def least(self) -> int:
        """Least number of requests of a run."""
        return self.requests or LEAST_REQUESTS

    @property
    def prompts_needed(self) -> int:
        """Number of requests of the largest run."""
        return max(requests_for(batch, self.least) for batch in self.batches)

    @property
    def mixed_batches(self) -> list[int]:
        """Batch sizes at which fixed and continuous batches can differ."""
        return [batch for batch in self.batches if batch is not None and batch > 1]

    def runs(self, warm_up_rounds: int) -> int:
        """Return the number of runs."""
        count, pair = len(self.batches), 2 * (1 + self.repeats)
        runs = count * (1 + warm_up_rounds + self.repeats)
        return runs + (pair * len(self.mixed_batches) if self.mixed else 0)


def run_suite(
    plan: BenchPlan,
    model: FusedModel,
    settings: DecodingSettings,
    prompts: Prompts,
    show: Callable[[int, int], None],
) -> dict[str, Any]:
    """Take all measurements of `plan`; the record holds only what was asked for.

    Takes the stop token from the model's config, so that each answer has the length asked for.

    show: called with the number of runs done, and of all.

    Raises:
        UserError: a request does not fit the model or the memory.
    """
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        show(done, plan.runs(bench.warm_up_rounds))

    mixed = mixed_requests(model.config, plan.requests or MIXED_REQUESTS) if plan.mixed else []
    longest = max((len(r.prompt_ids) + (r.max_new_tokens or 0) for r in mixed), default=0)
    if longest > model.config.max_positions:
        raise UserError(
            f"--mixed decodes up to {longest} positions, and this model has "
            f"{model.config.max_positions}; leave --mixed out"
        )
    model.config = dataclasses.replace(model.config, stop_tokens=())
    policy = default_policy(settings, model.config.num_layers)
    bench = Bench(model, settings, policy, plan.repeats, tick)
    floor, kind = floor_for(model)
    results = bench_batches(bench, plan.batches, prompts, least=plan.least, floor=floor)
    alone = next((result for result in results if result.batch == 1), None)
    record: dict[str, Any] = {
        "floor": kind,
        "runs": [batch_figures(result, alone) for result in results],
    }
    if plan.mixed:
        record["mixed"] = [
            compare_mixed(bench, mixed, batch, floor) for batch in plan.mixed_batches
        ]
    if plan.profile is not None:
        record["profile_s"] = _profile(bench, prompts, plan.batches[0], plan.profile)
    return record


def floor_for(model: FusedModel) -> tuple[Floor, dict[str, Any]]:
    """Return the floor that suits the device, and what it is based on."""
    if model.device.type == "cpu":
        return ProductsFloor(model), {"kind": "matrix products"}
    rates = measured_rates(model.device, model.dtype)
    described = {
        "kind": "copy bandwidth or product rate",
        "copy_gb_per_s": rates.copy_bytes_per_s / 1e9,
        "product_tflop_per_s": rates.flop_per_s / 1e12,
    }
    return RooflineFloor(model.config, model.dtype, rates), described


def _profile(bench: Bench, prompts: Prompts, batch: Batch, file: Path) -> dict[str, float]:
    """Profile one request per slot, each for one block at most: a trace that a browser can hold."""
    length = min(bench.settings.block_size, bench.settings.max_new_tokens)
    count = requests_for(batch, 1) // 2
    requests = [Request(prompt, max_new_tokens=length) for prompt in prompts[:count]]
    return write_profile(
        lambda: timed_run(bench.model, [requests], bench.policy, slots=batch),
        bench.model.device,
        file,
    )
