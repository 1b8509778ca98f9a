"""Recorded logits, cache rows and log-likelihoods, to the noise of float32."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from fastdllm.cache import KVCache
from fastdllm.likelihood import LikelihoodRequest, score
from fastdllm.model import block_causal_mask
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

    cache = KVCache(model.config, slots=rows, capacity=96, device=model.device, dtype=model.dtype)

    def cached_pass(tokens, start, visible, mask=None):
        view = cache.view(
            range(rows), starts=[start] * rows, width=tokens.shape[1], visible=[visible] * rows
        )
        hidden = model.run_layers(
            model.embed(tokens), 0, layers, positions=view.positions, cache=view, mask=mask
        )
        return model.head(hidden)

    cached_pass(ids[:, :PREFILL], 0, PREFILL, block_causal_mask(PREFILL, BLOCK))
    close(cache.keys[0][:, :, :PREFILL], "k0")
    close(cache.values[-1][:, :, :PREFILL], "v_last")
    close(cached_pass(ids[:, PREFILL:], PREFILL, PREFILL + BLOCK), "logits_full_block")
    small = torch.from_numpy(recorded[f"{name}_small_ids"])
    close(cached_pass(small, PREFILL + OFFSET, PREFILL + BLOCK), "logits_small_block_rp8")


LIKELIHOODS = json.loads((GOLDEN / "loglikelihood.json").read_text())


@pytest.mark.parametrize("name", ["m6", "m14"])
def test_published_log_likelihoods(golden_model, name):
    own = [case for case in LIKELIHOODS if case["model"] == name]
    assert own
    requests = [LikelihoodRequest(tuple(c["prefix"]), tuple(c["target"])) for c in own]
    scores = score(golden_model(name), requests, mask_id=255, eos_id=254)
    for case, likelihood in zip(own, scores, strict=True):
        assert likelihood.logprob == pytest.approx(case["loglikelihood"], abs=TOLERANCE)
