"""Recorded logits, cache rows and log-likelihoods, to the noise of float32."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from fastdllm.decoding.likelihood import LikelihoodRequest, score
from fastdllm.engine.batch import FlatBatch, Segment
from fastdllm.engine.cache import KVCache
from fastdllm.engine.eager import SegmentAttention
from fastdllm.model.fused import fused
from tests.support.likelihoods import block_causal_mask
from tests.support.traces import GOLDEN

TOLERANCE = 1e-3  # the recording's own float32 noise reaches 5e-4
BLOCK, PREFILL, OFFSET, SUB_BLOCK = 32, 64, 8, 8


@pytest.fixture(scope="module")
def recorded():
    return np.load(GOLDEN / "logits.npz")


@pytest.mark.parametrize("name", ["m6", "m14", "m28"])
@torch.inference_mode()
def test_logits_and_caches_of_each_kind_of_pass_equal_the_recording(golden_model, recorded, name):
    model = golden_model(name)
    layers = model.config.num_layers
    ids = torch.from_numpy(recorded[f"{name}_ids"])
    rows = ids.shape[0]

    def close(ours, key):
        difference = np.abs(ours.numpy() - recorded[f"{name}_{key}"]).max()
        assert difference < TOLERANCE, f"{key}: {difference}"

    hidden = model.run_layers(
        model.embed(ids),
        0,
        layers,
        positions=torch.arange(ids.shape[1]),
        mask=block_causal_mask(ids.shape[1], BLOCK),
    )
    close(model.head(hidden), "logits_uncached")

    fast = fused(model)
    cache = KVCache(model.config, capacity=96 * rows, device=model.device, dtype=model.dtype)
    starts = [cache.allocate(96) for _ in range(rows)]

    def cached_pass(tokens, first):
        """A prompt of several blocks is one segment a block; other passes are one segment a row."""
        segments = [
            Segment(start, first + at, row[at : at + BLOCK], visible=seen, read=(0, BLOCK))
            for row, start in zip(tokens.tolist(), starts, strict=True)
            for at in range(0, len(row), BLOCK)
            for seen in [(first + at) // BLOCK * BLOCK + BLOCK]
        ]
        segments = [replace(s, read=(0, s.width)) for s in segments]
        batch = FlatBatch(segments, model.device)
        hidden = fast.run_layers(
            fast.embed(batch.tokens),
            0,
            layers,
            rotation=fast.rotations[batch.positions],
            attend=SegmentAttention(model.config, cache, batch),
            only_read=True,
        )
        return fast.logits(hidden).unflatten(0, (rows, -1))

    cached_pass(ids[:, :PREFILL], 0)
    kv_heads, d = model.config.num_kv_heads, model.config.head_dim
    slots = torch.stack([torch.arange(start, start + PREFILL) for start in starts])
    # The fused form keeps the two halves of a rotated head side by side.
    keys = cache.layers[0][slots][:, :, :kv_heads].unflatten(-1, (d // 2, 2)).mT.flatten(-2)
    close(keys.transpose(1, 2), "k0")
    close(cache.layers[-1][slots][:, :, kv_heads:].transpose(1, 2), "v_last")
    close(cached_pass(ids[:, PREFILL:], PREFILL), "logits_full_block")
    small = torch.from_numpy(recorded[f"{name}_small_ids"])
    close(cached_pass(small, PREFILL + OFFSET), "logits_small_block_rp8")


LIKELIHOODS = json.loads((GOLDEN / "loglikelihood.json").read_text())


@pytest.mark.parametrize("name", ["m6", "m14"])
def test_published_log_likelihoods(golden_model, name):
    cases = [case for case in LIKELIHOODS if case["model"] == name]
    assert cases
    requests = [LikelihoodRequest(tuple(c["prefix"]), tuple(c["target"])) for c in cases]
    scores = score(golden_model(name), requests, mode="published", mask_id=255, stop_token=254)
    for case, likelihood in zip(cases, scores, strict=True):
        assert likelihood.logprob == pytest.approx(case["loglikelihood"], abs=TOLERANCE)
