"""The published loop of the benchmarks and the decoder have the same tokens, whatever the batch."""

from __future__ import annotations

import random

import pytest

from benchmarks.published_loop import compared
from fastdllm import DecodingSettings, generate
from fastdllm.model.fused import FusedModel

# Shorter than a block, one and two blocks exactly, and in between.
LENGTHS = (3, 40, 64, 32, 70, 33)
TOKENS, MASK = 45, 255


@pytest.mark.parametrize(("batch", "is_cached"), [(1, True), (4, True), (4, False), (6, False)])
def test_the_published_loop_has_the_decoders_tokens(golden_model, batch, is_cached):
    # It imports the models of transformers, for seconds.
    from benchmarks.published_decoder import PublishedLoop

    weights = golden_model("m6")
    draw = random.Random(0)
    prompts = [[draw.randrange(100) for _ in range(length)] for length in LENGTHS]
    settings = DecodingSettings(
        threshold=0.9, max_new_tokens=TOKENS, use_block_cache=is_cached, mask_id=MASK
    )
    model = FusedModel(weights)
    expected = [answer.token_ids for answer in generate(model, prompts, settings)]
    assert PublishedLoop(weights, settings).generate(prompts, batch=batch) == expected


def test_no_speed_is_shown_if_tokens_differ():
    with pytest.raises(SystemExit, match="1 of 2 answers differ"):
        compared(lambda: [[1], [2]], lambda: [[1], [3]], rounds=1)
