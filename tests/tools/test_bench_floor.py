"""The floor of a benchmark and its random models: counts and shapes worked out by hand."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from fastdllm.common.errors import UserError
from fastdllm.decoding.events import PassRecord, SegmentShape
from fastdllm.model.config import ModelConfig
from fastdllm.tools.bench import random_models
from fastdllm.tools.bench.floor import PassFloor, floor_of, representatives
from fastdllm.tools.bench.products_floor import AttentionShape, ProductsFloor, attention_shapes
from fastdllm.tools.bench.random_models import SHAPES, RandomWeights, random_model
from fastdllm.tools.bench.roofline import DeviceRates, RooflineFloor, measured_rates

CPU = torch.device("cpu")
# 3 layers; 4 heads of 2 on 2 kv heads: 8 and 4 wide.
SMALL = ModelConfig(
    num_layers=3,
    hidden_size=6,
    intermediate_size=10,
    num_heads=4,
    num_kv_heads=2,
    head_dim=2,
    vocab_size=20,
    rope_theta=10_000.0,
    rms_norm_eps=1e-6,
    tie_word_embeddings=False,
    max_positions=64,
    block_size=4,
    mask_id=19,
)


def a_pass(*segments):
    return PassRecord(tuple(SegmentShape(*segment) for segment in segments), 1.0)


# Two sub-blocks that see 8 positions, read whole or in part, and a block of a prompt.
MIXED = a_pass((2, 8, 2), (2, 8, 1), (4, 4, 0))


class Ones:
    """A floor that knows the seconds of each pass by its rows."""

    def __init__(self, most_passes):
        self.most_passes, self.asked = most_passes, []

    def of_pass(self, record):
        self.asked.append(record.rows)
        return PassFloor(float(record.rows), "memory" if record.rows < 4 else "compute")


def test_passes_of_one_shape_are_timed_once_and_counted_each():
    floor = Ones(most_passes=2)
    run = floor_of([a_pass((2, 8, 1)), a_pass((3, 8, 1)), a_pass((2, 8, 1))], floor)
    assert floor.asked == [2, 3]
    assert (run.seconds, run.passes_timed, run.bound) == (7.0, 2, "memory")


def test_the_bound_is_that_of_most_of_the_time():
    run = floor_of([a_pass((1, 8, 1)), a_pass((2, 8, 1)), a_pass((9, 8, 1))], Ones(9))
    assert (run.seconds, run.bound) == (12.0, "compute")


def test_of_many_shapes_evenly_spaced_ones_stand_for_all():
    passes = [a_pass((width, 16, 1)) for width in (5, 3, 1, 6, 2, 4)]
    chosen = representatives(passes, 3)
    assert [(record.rows, weight) for record, weight in chosen] == [(2, 2.0), (4, 2.0), (6, 2.0)]


def test_segments_of_one_shape_share_their_attention_products():
    assert attention_shapes(MIXED, only_read=False) == [
        AttentionShape(2, 2, 8),
        AttentionShape(1, 4, 4),
    ]
    assert attention_shapes(MIXED, only_read=True) == [
        AttentionShape(1, 1, 8),
        AttentionShape(1, 2, 8),
    ]


def counting_model(called):
    def product(name, width):
        def multiply(x):
            called.append((name, tuple(x.shape)))
            return x.new_empty(len(x), width)

        return multiply

    layers = [
        SimpleNamespace(
            qkv=product(f"qkv{n}", 16),
            output=product(f"output{n}", 6),
            gated=SimpleNamespace(both=product(f"gate_up{n}", 20)),
            down=product(f"down{n}", 6),
        )
        for n in range(SMALL.num_layers)
    ]
    unembed = product("head", SMALL.vocab_size)
    return SimpleNamespace(
        config=SMALL, layers=layers, unembed=unembed, device=CPU, dtype=torch.float32
    )


def test_the_floor_on_a_cpu_is_the_products_of_a_pass_and_no_more(monkeypatch):
    called: list[tuple] = []
    times = iter([0.0, 5.0, 5.0, 7.0, 7.0, 10.0])
    floor = ProductsFloor(counting_model(called), clock=lambda: next(times))
    multiply = torch.bmm

    def bmm(left, right, *, out):
        called.append(("bmm", tuple(left.shape), tuple(right.shape)))
        return multiply(left, right, out=out)

    monkeypatch.setattr(torch, "bmm", bmm)
    assert floor.of_pass(MIXED) == PassFloor(3.0, "products")
    assert len(called) % 3 == 0
    once = called[: len(called) // 3]
    assert called == once * 3
    # Per kv head: the queries of its 2 heads against keys of 2 numbers.
    attention = [
        ("bmm", (4, 4, 2), (4, 2, 8)),
        ("bmm", (4, 4, 8), (4, 8, 2)),
        ("bmm", (2, 8, 2), (2, 2, 4)),
        ("bmm", (2, 8, 4), (2, 4, 2)),
    ]
    expected: list[tuple] = []
    for n in (0, 1):
        expected += [(f"qkv{n}", (8, 6)), *attention, (f"output{n}", (8, 8))]
        expected += [(f"gate_up{n}", (8, 6)), (f"down{n}", (8, 10))]
    expected += [("qkv2", (8, 6))]
    expected += [("bmm", (2, 2, 2), (2, 2, 8)), ("bmm", (2, 2, 8), (2, 8, 2))]
    expected += [("bmm", (2, 4, 2), (2, 2, 8)), ("bmm", (2, 4, 8), (2, 8, 2))]
    expected += [("output2", (3, 8)), ("gate_up2", (3, 6)), ("down2", (3, 10)), ("head", (3, 6))]
    assert once == expected


def test_a_pass_that_reads_nothing_ends_with_the_keys_of_the_last_layer():
    called: list[tuple] = []
    ProductsFloor(counting_model(called)).of_pass(a_pass((4, 4, 0)))
    assert called[-1] == ("qkv2", (4, 6))


def test_the_floor_on_a_gpu_counts_bytes_and_operations():
    qkv, rest, head = 6 * 16, 6 * 8 + 3 * 6 * 10, 6 * 20
    floor = RooflineFloor(SMALL, torch.bfloat16, DeviceRates(1.0, 1.0))
    cache = (8 + 8) * 2 * 3 * 2 * 2 * 2  # positions, keys and values, layers, kv heads, d, bytes
    assert floor.bytes_read(MIXED) == 2 * (3 * qkv + 3 * rest + head) + cache
    assert floor.bytes_read(a_pass((4, 4, 0))) == 2 * (3 * qkv + 2 * rest)
    products = 8 * (3 * qkv + 2 * rest) + 3 * (rest + head)
    pairs = 2 * (2 * 8 + 2 * 8 + 4 * 4) + (2 * 8 + 1 * 8)
    assert floor.operations(MIXED) == 2 * products + 2 * 2 * pairs * 4 * 2


def test_the_slower_of_reading_and_multiplying_bounds_a_pass():
    slow_memory = RooflineFloor(SMALL, torch.float32, DeviceRates(1.0, 1e9))
    assert slow_memory.of_pass(MIXED) == PassFloor(slow_memory.bytes_read(MIXED), "memory")
    slow_products = RooflineFloor(SMALL, torch.float32, DeviceRates(1e9, 2.0))
    assert slow_products.of_pass(MIXED) == PassFloor(slow_products.operations(MIXED) / 2, "compute")


def test_rates_are_measured_where_the_model_is():
    rates = measured_rates(CPU, torch.float32, copy_bytes=4096, side=16)
    assert rates.copy_bytes_per_s > 0
    assert rates.flop_per_s > 0


def test_random_weights_are_the_same_in_any_order_and_norms_are_one():
    def weights(order):
        source = RandomWeights(SMALL, device=CPU, dtype=torch.float32)
        made = {name: torch.empty(source.shape(name)) for name in order(source.shapes)}
        for name, weight in made.items():
            source.write(name, weight)
        return made

    one, two = weights(list), weights(lambda names: reversed(list(names)))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert all(bool((w == 1).all()) for name, w in one.items() if name.endswith("norm.weight"))
    rest = torch.cat([w.flatten() for n, w in one.items() if not n.endswith("norm.weight")])
    assert 0.018 < float(rest.std()) < 0.022
    assert not torch.equal(one["lm_head.weight"], one["model.embed_tokens.weight"])


def test_shapes_have_the_sizes_that_they_are_named_after():
    def weights(name):
        with torch.device("meta"):
            return sum(
                p.numel() for p in random_models.BlockDiffusionModel(SHAPES[name]).parameters()
            )

    assert weights("7b") == 7_615_616_512  # Qwen2.5-7B
    assert weights("1.5b") == 1_543_714_304  # Qwen2.5-1.5B
    assert 42e6 < weights("42m") < 46e6


def test_a_model_larger_than_the_memory_is_refused(monkeypatch):
    monkeypatch.setattr(random_models, "free_bytes", lambda _: 10 * 2**30)
    with pytest.raises(UserError, match=r"random:7b in float32 needs .* 10\.0 GiB free; choose a"):
        random_model("random:7b", device="cpu", dtype="float32")
