"""The floor on a GPU: bytes over copy bandwidth, or operations over the rate of a large product.

Counts only what no implementation can leave out, so it is rather too low than too high.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fastdllm.decoding.events import PassRecord
from fastdllm.engine.cache import bytes_per_position
from fastdllm.machine.device import free_bytes
from fastdllm.model.config import ModelConfig
from fastdllm.tools.bench.floor import PassFloor
from fastdllm.tools.bench.timing import median_s

COPY_BYTES, PRODUCT_SIZE = 2**30, 8192


@dataclass(frozen=True, slots=True)
class DeviceRates:
    """Measured rates of a device: bytes read and written by a copy, and operations.

    flop_per_s: of a large matrix product; a multiplication and an addition are two.
    """

    copy_bytes_per_s: float
    flop_per_s: float


@dataclass(frozen=True, slots=True)
class WeightCounts:
    """Numbers of weights: up to the keys and values of a layer, in the rest of it, in the head."""

    qkv: int
    rest: int
    head: int

    @classmethod
    def of(cls, config: ModelConfig) -> WeightCounts:
        """Count from the shapes; norms and biases are left out."""
        heads = config.num_heads * config.head_dim
        kv_heads = config.num_kv_heads * config.head_dim
        hidden = config.hidden_size
        return cls(
            qkv=hidden * (heads + 2 * kv_heads),
            rest=hidden * heads + 3 * hidden * config.intermediate_size,
            head=hidden * config.vocab_size,
        )


class RooflineFloor:
    """`Floor` by counting."""

    # Counting costs nothing, so each pass is counted.
    most_passes = 2**62

    def __init__(self, config: ModelConfig, dtype: torch.dtype, rates: DeviceRates) -> None:
        self.config, self.dtype, self.rates = config, dtype, rates
        self.weights = WeightCounts.of(config)

    def of_pass(self, record: PassRecord) -> PassFloor:
        """Return the larger of the time to read and the time to multiply."""
        reading_s = self.bytes_read(record) / self.rates.copy_bytes_per_s
        multiplying_s = self.operations(record) / self.rates.flop_per_s
        if reading_s >= multiplying_s:
            return PassFloor(reading_s, "memory")
        return PassFloor(multiplying_s, "compute")

    def bytes_read(self, record: PassRecord) -> int:
        """Return the bytes of weights and cache that the pass must read.

        A segment of which nothing is read is a block of a prompt: mostly the next block sees its
        positions too, so they are not counted.
        """
        weights, layers = self.weights, self.config.num_layers
        count = layers * weights.qkv + (layers - 1) * weights.rest
        if record.rows_read:
            count += weights.rest + weights.head
        positions = sum(segment.visible for segment in record.segments if segment.read)
        cache = positions * bytes_per_position(self.config, self.dtype)
        return count * self.dtype.itemsize + cache

    def operations(self, record: PassRecord) -> int:
        """Count multiplications and additions; the last layer ends with the rows read."""
        weights, layers = self.weights, self.config.num_layers
        products = record.rows * (layers * weights.qkv + (layers - 1) * weights.rest)
        products += record.rows_read * (weights.rest + weights.head)
        pairs = sum(
            segment.visible * ((layers - 1) * segment.width + segment.read)
            for segment in record.segments
        )
        return 2 * products + 4 * pairs * self.config.num_heads * self.config.head_dim


def measured_rates(
    device: torch.device,
    dtype: torch.dtype,
    *,
    copy_bytes: int = COPY_BYTES,
    side: int = PRODUCT_SIZE,
) -> DeviceRates:
    """Measure copy bandwidth and the rate of a large square matrix product on `device`."""
    return DeviceRates(
        _copy_bytes_per_s(device, min(copy_bytes, free_bytes(device) // 4)),
        _flop_per_s(device, dtype, side),
    )


def _copy_bytes_per_s(device: torch.device, size: int) -> float:
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / median_s(device, lambda: target.copy_(source))


def _flop_per_s(device: torch.device, dtype: torch.dtype, side: int) -> float:
    factor = torch.randn(side, side, device=device).to(dtype)
    return 2 * side**3 / median_s(device, lambda: factor @ factor)
