"""The network equals transformers' own Qwen2, mask and all."""

from __future__ import annotations

import pytest
import torch

from fastdllm.model.loading import load_plain_model
from tests.support.likelihoods import block_causal_mask

BLOCK = 32


@pytest.fixture(scope="module", params=[(4, 2, False), (4, 4, True), (6, 1, False)])
def pair(request, tmp_path_factory):
    """A random Qwen2 saved by transformers, and the same folder loaded by us."""
    # It imports far more than a collection of tests needs.
    from transformers import Qwen2Config, Qwen2ForCausalLM

    heads, kv_heads, tied = request.param
    torch.manual_seed(heads)
    config = Qwen2Config(
        vocab_size=130,
        hidden_size=heads * 12,
        intermediate_size=50,
        num_hidden_layers=5,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        tie_word_embeddings=tied,
        max_position_embeddings=512,
        initializer_range=0.3,
    )
    theirs = Qwen2ForCausalLM._from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for name, weight in theirs.named_parameters():
            if "norm" in name or "bias" in name:
                weight.add_(torch.randn_like(weight) * 0.3)
    folder = tmp_path_factory.mktemp("qwen2")
    theirs.save_pretrained(folder)
    return theirs, load_plain_model(folder, device="cpu", dtype="float32")


@torch.inference_mode()
def test_logits_under_the_block_causal_mask_equal_transformers(pair):
    theirs, ours = pair
    ids = torch.randint(0, 130, (2, 3 * BLOCK))
    mask = block_causal_mask(ids.shape[1], BLOCK)
    additive = torch.zeros(1, 1, *mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
    expected = theirs(ids, attention_mask=additive).logits
    hidden = ours.run_layers(ours.embed(ids), 0, 5, positions=torch.arange(ids.shape[1]), mask=mask)
    torch.testing.assert_close(ours.head(hidden), expected, atol=1e-3, rtol=1e-4)
    assert (ours.head(hidden).argmax(-1) == expected.argmax(-1)).all()


@torch.inference_mode()
def test_walking_two_ranges_equals_walking_one(golden_model):
    model = golden_model("m14")
    hidden, positions = model.embed(torch.randint(0, 250, (1, BLOCK))), torch.arange(BLOCK)
    one_range = model.run_layers(hidden, 0, 14, positions=positions)
    head = model.run_layers(hidden, 0, 5, positions=positions)
    assert torch.equal(model.run_layers(head, 5, 14, positions=positions), one_range)


def test_the_block_causal_mask_sees_its_block_and_all_earlier_ones():
    mask = block_causal_mask(7, 3)
    assert mask.tolist() == [[q // 3 <= p // 3 for q in range(7)] for p in range(7)]
