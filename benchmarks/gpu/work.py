"""One part in this process: `python -m benchmarks.gpu.work PART ROWS --device D --limit S`.

Rows are written as they are measured, so that what came before a failure or the time limit is kept.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.machine import how_to_install, why_no_gpu
from benchmarks.gpu.parts import NOT_HERE, ROOT
from fastdllm.common.errors import UserError
from fastdllm.engine.cache import KVCache
from fastdllm.engine.eager import EagerEngine
from fastdllm.engine.engines import Engine, drop_idle, make_engine
from fastdllm.engine.static import StaticEngine, run_directly
from fastdllm.engine.static_attention import PaddedAttention
from fastdllm.model.config import ModelConfig
from fastdllm.model.fused import FusedModel
from fastdllm.model.loading import load_model, resolve_device, resolve_dtype
from fastdllm.tools.bench.random_models import PREFIX, SHAPES, RandomWeights, random_model
from tests.support.engines import traced

GOLDEN = ROOT / "tests" / "golden"
# Where each part is; a module is imported only for its own parts.
HOMES = {
    "machine": "description",
    "tests": "gpu_tests",
    "golden": "exactness",
    "half": "exactness",
    "memory": "lack_of_memory",
    "graphs": "graphs",
    "7b": "speed",
    "1.5b": "speed",
    "7b-pairs": "speed",
    "1.5b-pairs": "speed",
    "tiny-pairs": "speed",
}
RECORDED, DIRECT, EAGER = "recorded", "launched one by one", "without padding"


@dataclass(frozen=True, slots=True)
class Work:
    """What a part works with.

    small: a rehearsal, with a few layers and requests. tell: keeps a row.
    """

    part: str
    device: torch.device
    small: bool
    write: Callable[[dict[str, Any]], None]

    def tell(self, what: str, result: str, *, holds: bool | None = None, **figures: Any) -> None:
        """Keep a row: what was looked at, the result in words, whether a check holds, figures."""
        check = {} if holds is None else {"holds": holds}
        self.write({"what": what, "result": result} | check | figures)

    @property
    def half(self) -> torch.dtype:
        """The half precision that suits the device; float32 on a CPU."""
        return resolve_dtype("auto", self.device)

    def golden(self, name: str, dtype: torch.dtype = torch.float32) -> FusedModel:
        """A golden model (m6, m14, m28) on the device, at fixed shapes on a CPU too."""
        return self.at_fixed_shapes(self.load(GOLDEN / name, dtype))

    def load(self, path: Path, dtype: torch.dtype) -> FusedModel:
        """A model of this project on the device."""
        name = str(dtype).removeprefix("torch.")
        return load_model(path, device=str(self.device), dtype=name)

    def random(self, shape: str) -> FusedModel:
        """Random weights in one of the published shapes; a few narrow layers in a rehearsal."""
        if self.small:
            config = narrow(SHAPES[shape])
            return FusedModel(RandomWeights(config, device=self.device, dtype=self.half))
        return random_model(f"{PREFIX}{shape}", device=str(self.device))

    def named(self, shape: str) -> str:
        """What rows call a random model: figures of a narrow one must not look like the real's."""
        return f"{shape} (narrow)" if self.small else shape

    def at_fixed_shapes(self, model: FusedModel) -> FusedModel:
        """Let a CPU run a model as a GPU does, but for the recording."""
        if self.device.type != "cuda":
            model.make_engine = lambda model, capacity: self.engine(model, DIRECT, capacity)
        return model

    def engine(self, model: FusedModel, kind: str, capacity: int) -> Engine:
        """An engine of a kind; what a CPU records is a list of operations."""
        if self.device.type == "cuda" and kind != EAGER:
            return make_engine(model, capacity, run_directly if kind == DIRECT else None)
        cache = KVCache(model.config, capacity=capacity, device=model.device, dtype=model.dtype)
        if kind == EAGER:
            return EagerEngine(model, cache)
        record = run_directly if kind == DIRECT else traced
        return StaticEngine(model, cache, attention=PaddedAttention, record=record)

    def use(self, model: FusedModel, kind: str) -> None:
        """Let a model decode with engines of a kind."""
        drop_idle(model)
        model.make_engine = lambda model, capacity: self.engine(model, kind, capacity)


def narrow(config: ModelConfig) -> ModelConfig:
    """Return a small config with the same groups of heads."""
    heads = config.num_heads // config.num_kv_heads
    return replace(
        config,
        num_layers=2,
        hidden_size=16 * heads,
        intermediate_size=64,
        num_heads=heads,
        num_kv_heads=1,
        head_dim=16,
        vocab_size=512,
        mask_id=511,
        max_positions=2048,
    )


def run_part(work: Work) -> None:
    """Run the part that `work` names."""
    importlib.import_module(f"benchmarks.gpu.{HOMES[work.part]}").run(work)


def main(words: Sequence[str]) -> int:
    """Run one part; 3 if it cannot be measured here, with the reason as the last line."""
    parser = argparse.ArgumentParser(prog="benchmarks.gpu.work")
    parser.add_argument("part", choices=HOMES)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--device", required=True)
    parser.add_argument("--limit", type=float, required=True)
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args(words)
    # Should whoever started this be gone by then, and whatever the device does.
    signal.alarm(math.ceil(options.limit) + 5)
    with options.rows.open("a", encoding="utf-8", buffering=1) as rows:

        def write(row: dict[str, Any]) -> None:
            rows.write(json.dumps(row, allow_nan=False) + "\n")

        try:
            if options.device != "cpu" and not torch.cuda.is_available():
                raise UserError(f"torch {torch.__version__} sees no GPU: {why_no_gpu()}")
            device = resolve_device(options.device)
            if device.type == "cuda":  # some functions of torch want its number
                device = torch.device("cuda", device.index or 0)
            run_part(Work(options.part, device, options.small, write))
        except UserError as error:
            reason = str(error)
        except ModuleNotFoundError as error:
            name = str(error.name).partition(".")[0]
            reason = f"{name} is missing: {how_to_install([name])}"
        else:
            return 0
    sys.stderr.write(f"{reason}\n")
    return NOT_HERE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
