"""Noise, losses and the written model: what training promises, on one small batch."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest
import torch

from fastdllm import load_model
from fastdllm.common.errors import UserError
from training import network
from training.checkpoint import Progress, load_checkpoint, save_checkpoint
from training.data import BLOCK_SIZE, batches
from training.noise import maskable_positions, two_views
from training.objectives import autoregressive_loss, diffusion_loss, views_mask
from training.tokenizer import build_tokenizer
from training.train import take_step

MODEL = Path(__file__).parents[2] / "models" / "tiny"
MAX_FOLDER_BYTES = 5 * 1024 * 1024


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def draw_batches(tokenizer, *, drills=0.0, multi_step=0.0):
    return batches(
        tokenizer, seed=1, phase="test", drills=drills, multi_step=multi_step, one_block=True
    )


def fresh_model(tokenizer, seed=0):
    config = network.build_config(
        mask_id=tokenizer.mask_token_id,
        stop_token=tokenizer.eos_token_id,
        pad_id=tokenizer.pad_token_id,
    )
    return network.build_model(config, seed=seed)


def test_batches_repeat_for_the_same_seed(tokenizer):
    pairs = zip(
        islice(draw_batches(tokenizer, drills=0.4), 6),
        islice(draw_batches(tokenizer, drills=0.4), 6),
        strict=True,
    )
    assert all(torch.equal(first.tokens, second.tokens) for first, second in pairs)


@pytest.mark.parametrize(("drills", "multi_step"), [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0)])
def test_first_token_of_a_block_and_the_prompt_are_never_masked(tokenizer, drills, multi_step):
    batch = next(draw_batches(tokenizer, drills=drills, multi_step=multi_step))
    masked = two_views(batch, torch.Generator().manual_seed(3))
    assert not masked[:, :, ::BLOCK_SIZE].any()
    assert not (masked & ~batch.trained).any()


def test_the_two_views_cover_everything_and_complete_each_other(tokenizer):
    drill = next(draw_batches(tokenizer, drills=1.0))
    first, second = two_views(drill, torch.Generator().manual_seed(3))
    assert torch.equal(first ^ second, maskable_positions(drill.trained))
    words = next(draw_batches(tokenizer))
    generator = torch.Generator().manual_seed(4)
    hidden_once = torch.zeros_like(words.trained)
    for _ in range(20):
        first, second = two_views(words, generator)
        # Both views may hide a token only right of a current sub-block, as decoding would.
        hidden_once |= first ^ second
    assert torch.equal(hidden_once, maskable_positions(words.trained))


def test_a_view_sees_itself_and_earlier_clean_blocks_only():
    mask = views_mask(clean_blocks=2, first_block=1)[::BLOCK_SIZE, ::BLOCK_SIZE].int().tolist()
    # Order of blocks: clean 0, 1; first view 1, 2; second view 1, 2.
    assert mask == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 0, 1, 0, 0, 0],
        [1, 1, 0, 1, 0, 0],
        [1, 0, 0, 0, 1, 0],
        [1, 1, 0, 0, 0, 1],
    ]


@pytest.mark.parametrize("objective", ["autoregressive", "diffusion"])
def test_steps_on_one_batch_lower_its_loss(tokenizer, objective):
    model, batch = fresh_model(tokenizer), next(draw_batches(tokenizer))
    masked = two_views(batch, torch.Generator().manual_seed(5))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def loss():
        if objective == "autoregressive":
            return autoregressive_loss(model, batch)
        return diffusion_loss(model, batch, masked, mask_id=tokenizer.mask_token_id)

    before = loss()
    take_step(model, optimizer, before, learning_rate=1e-3)
    after = loss().item()
    assert after < before.item(), f"{before.item():.3f} -> {after:.3f}"


def test_a_checkpoint_is_taken_up_again_and_one_of_another_recipe_refused(tokenizer, tmp_path):
    path, recipe = tmp_path / "checkpoint.pt", {"seed": 1}
    model, other = fresh_model(tokenizer, seed=1), fresh_model(tokenizer, seed=2)
    assert load_checkpoint(path, recipe=recipe, model=other) is None
    optimizer = torch.optim.AdamW(model.parameters())
    save_checkpoint(
        path, recipe=recipe, progress=Progress(step=7), model=model, optimizer=optimizer
    )
    loaded = load_checkpoint(path, recipe=recipe, model=other)
    assert loaded is not None
    assert loaded[0].step == 7
    state = other.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    with pytest.raises(UserError, match="another recipe"):
        load_checkpoint(path, recipe={"seed": 2}, model=other)


def test_the_committed_model_loads_and_is_small(tokenizer):
    model = load_model(MODEL, device="cpu", dtype="float32")
    assert model.config.num_layers >= 14
    assert model.config.mask_id == tokenizer.mask_token_id
    assert model.config.stop_tokens == (tokenizer.eos_token_id,)
    assert sum(file.stat().st_size for file in MODEL.iterdir()) <= MAX_FOLDER_BYTES
