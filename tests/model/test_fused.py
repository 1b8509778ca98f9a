"""The fused form of the network equals the plain one, in every dtype and layout."""

from __future__ import annotations

import pytest
import torch

from fastdllm.engine.batch import Segment
from fastdllm.engine.cache import KVCache
from fastdllm.engine.eager import GATHER_UP_TO, EagerEngine
from fastdllm.model.config import ModelConfig
from fastdllm.model.fused import FusedModel, norm
from fastdllm.model.plain import BlockDiffusionModel, RMSNorm
from fastdllm.model.products import PACKED_FROM
from tests.support.likelihoods import block_causal_mask

BLOCK = 8


def random_model(*, heads=4, kv_heads=2, tied=False, hidden=48, dtype=torch.float32, layers=3):
    """A plain model with weights that matter, biases and norms included."""
    torch.manual_seed(heads * 10 + kv_heads)
    config = ModelConfig(
        num_layers=layers,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=12,
        vocab_size=90,
        rope_theta=1e4,
        rms_norm_eps=1e-6,
        tie_word_embeddings=tied,
        max_positions=128,
        block_size=BLOCK,
    )
    model = BlockDiffusionModel(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.to(dtype)


def logits_of(model, prompts, *, only_read=True):
    """Logits of every row of `prompts`, whole blocks each, in one flat pass."""
    fast = FusedModel(model)
    cache = KVCache(model.config, capacity=512, device=model.device, dtype=model.dtype)
    segments = []
    for prompt in prompts:
        start = cache.allocate(len(prompt))
        segments += [
            Segment(start, at, prompt[at : at + BLOCK], at + BLOCK, (0, BLOCK))
            for at in range(0, len(prompt), BLOCK)
        ]
    opened = EagerEngine(fast, cache).open(segments)
    layers = model.config.num_layers
    hidden = opened.layers(opened.embed(), 0, layers, only_read=only_read)
    hidden = hidden if only_read else opened.read_rows(hidden)
    return fast.logits(hidden)


def plain_logits(model, prompt):
    mask = block_causal_mask(len(prompt), BLOCK)
    hidden = model.run_layers(
        model.embed(torch.tensor([prompt])),
        0,
        model.config.num_layers,
        positions=torch.arange(len(prompt)),
        mask=mask,
    )
    return model.head(hidden)[0].float()


PROMPTS = [[(7 * n + 3 * i) % 90 for i in range(BLOCK * n)] for n in (1, 3, 2, 3, 5)]


@pytest.mark.parametrize(
    ("heads", "kv_heads", "tied"), [(4, 2, False), (4, 4, True), (6, 1, False)]
)
@torch.inference_mode()
def test_prompts_of_mixed_length_in_one_pass_equal_each_alone_in_the_plain_form(
    heads, kv_heads, tied
):
    model = random_model(heads=heads, kv_heads=kv_heads, tied=tied)
    together = logits_of(model, PROMPTS)
    expected = torch.cat([plain_logits(model, prompt) for prompt in PROMPTS])
    torch.testing.assert_close(together, expected, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_keys_and_values_that_are_not_copied_side_by_side_give_the_same():
    model = random_model(heads=40, kv_heads=40, hidden=64)
    wide = [[i % 90 for i in range(n)] for n in (72, 16, 72, 72)]
    assert 72 * 2 * 40 * 12 * 4 > GATHER_UP_TO > 16 * 2 * 40 * 12 * 4
    expected = torch.cat([plain_logits(model, prompt) for prompt in wide])
    torch.testing.assert_close(logits_of(model, wide), expected, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_keys_and_values_that_lie_equally_far_apart_give_the_same():
    model = random_model()
    alike = [[(n + 5 * i) % 90 for i in range(3 * BLOCK)] for n in range(3)]
    expected = torch.cat([plain_logits(model, prompt) for prompt in alike])
    torch.testing.assert_close(logits_of(model, alike), expected, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_weights_in_the_packed_layout_give_the_same_as_plain_ones():
    model = random_model(hidden=264)
    assert PACKED_FROM <= 2 * 2 * 264 * 264
    expected = torch.cat([plain_logits(model, prompt) for prompt in PROMPTS])
    torch.testing.assert_close(logits_of(model, PROMPTS), expected, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.inference_mode()
def test_half_precision_is_as_close_to_float32_as_the_plain_form(dtype):
    exact = random_model()
    model = random_model(dtype=dtype)
    expected = torch.cat([plain_logits(exact, prompt) for prompt in PROMPTS])
    plain = torch.cat([plain_logits(model, prompt) for prompt in PROMPTS])
    ours = (logits_of(model, PROMPTS) - expected).abs().mean()
    assert ours < 1.5 * (plain - expected).abs().mean() + 1e-3


@torch.inference_mode()
def test_reading_all_rows_late_equals_reading_them_early():
    model = random_model()
    assert torch.equal(logits_of(model, PROMPTS), logits_of(model, PROMPTS, only_read=False))


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e3])
def test_the_short_form_of_the_norm_equals_the_plain_one(scale):
    torch.manual_seed(0)
    plain = RMSNorm(24, 1e-6)
    plain.weight.data.normal_()
    rows = torch.randn(50, 24) * scale
    short = norm(plain.weight.detach(), plain.eps)(rows)
    torch.testing.assert_close(short, plain(rows).detach(), atol=1e-6, rtol=1e-5)


def test_extents_are_reused_and_never_overlap():
    model = random_model()
    cache = KVCache(model.config, capacity=64, device=model.device, dtype=model.dtype)
    starts = [cache.allocate(16) for _ in range(4)]
    assert sorted(starts) == [0, 16, 32, 48]
    assert cache.allocate(1) is None
    cache.release(starts[1], 16)
    cache.release(starts[2], 16)
    assert cache.allocate(32) == starts[1]
    for start, length in ((starts[1], 32), (starts[0], 16), (starts[3], 16)):
        cache.release(start, length)
    assert cache.allocate(64) == 0
