"""Train the tiny model: `python -m training.train --out models/tiny --seed 2`.

Two phases, autoregressive and then block diffusion, about half an hour on one core. An interrupted
training goes on from its last checkpoint when the same command is typed again. The result is a
Hugging Face folder; the weights appear in it last, and only when training is complete.
"""

from __future__ import annotations

import argparse
import itertools
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import PreTrainedTokenizerBase

from fastdllm.common.errors import USER_ERROR_EXIT_CODE, UserError
from fastdllm.common.files import write_json_atomically
from fastdllm.model.plain import BlockDiffusionModel
from training import network
from training.checkpoint import Progress, load_checkpoint, save_checkpoint
from training.data import BATCH_SIZE, Batch, batches
from training.noise import two_views
from training.objectives import autoregressive_loss, diffusion_loss
from training.tokenizer import build_tokenizer, save_tokenizer

INTERRUPTED_EXIT_CODE = 130
LOG_EVERY, CHECKPOINT_EVERY, SNAPSHOT_EVERY = 20, 100, 500


@dataclass(frozen=True, slots=True)
class Phase:
    """One phase of the schedule; the learning rate decays linearly after `hold` of the steps.

    drills, multi_step: shares of batches of bare arithmetic and of multi-step problems.
    """

    name: str
    objective: Literal["autoregressive", "block_diffusion"]
    steps: int
    learning_rate: float
    warmup: int
    hold: float
    drills: float
    multi_step: float

    def rate_at(self, step: int) -> float:
        """Learning rate of 0-based `step`."""
        warm = min(1.0, (step + 1) / self.warmup)
        left = (self.steps - step) / (self.steps * (1 - self.hold)) if self.hold < 1 else 1.0
        return self.learning_rate * warm * min(1.0, left)


PHASES = (
    Phase("autoregressive", "autoregressive", 4000, 4e-3, 50, 1.0, drills=0.35, multi_step=0.0),
    Phase("block_diffusion", "block_diffusion", 4000, 3e-3, 30, 0.4, drills=0.35, multi_step=0.0),
)


def train(*, out: Path, work: Path, seed: int, threads: int, phases: tuple[Phase, ...]) -> None:
    """Run what is left of the training and write the model folder `out`.

    `work` holds the checkpoint and, every 500 steps, a snapshot of the weights. Same seed, threads
    and torch version: the same weights; another number of threads adds up in another order, which
    is as good but not bit-identical.
    """
    torch.set_num_threads(threads)
    tokenizer = build_tokenizer()
    config = network.build_config(
        mask_id=tokenizer.mask_token_id,
        stop_token=tokenizer.eos_token_id,
        pad_id=tokenizer.pad_token_id,
    )
    model = network.build_model(config, seed=seed)
    recipe = {"seed": seed, "batch_size": BATCH_SIZE, "phases": [asdict(p) for p in phases]}
    checkpoint = work / "checkpoint.pt"
    progress, optimizer_state = load_checkpoint(checkpoint, recipe=recipe, model=model) or (
        Progress(),
        None,
    )
    if optimizer_state is not None:
        phase = phases[min(progress.phase, len(phases) - 1)]
        say(f"going on from {checkpoint}: {phase.name}, step {progress.step}")
    while progress.phase < len(phases):
        run_phase(
            phases[progress.phase],
            model,
            tokenizer,
            seed=seed,
            work=work,
            recipe=recipe,
            progress=progress,
            optimizer_state=optimizer_state,
        )
        progress.phase, progress.step, optimizer_state = progress.phase + 1, 0, None
    save_tokenizer(tokenizer, out)
    network.write_config(config, out)
    write_json_atomically(
        out / "training_log.json", describe_run(recipe, progress, model, threads=threads)
    )
    network.write_weights(model, out / "model.safetensors")
    say(f"wrote {out} after {progress.elapsed_s / 60:.1f} minutes of training")


def run_phase(
    phase: Phase,
    model: BlockDiffusionModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    seed: int,
    work: Path,
    recipe: dict[str, Any],
    progress: Progress,
    optimizer_state: dict[str, Any] | None,
) -> None:
    """Run the remaining steps of one phase on `model`, keeping `progress` up to date."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=phase.learning_rate, betas=(0.9, 0.98), weight_decay=0.0
    )
    if optimizer_state is not None:
        optimizer.load_state_dict(optimizer_state)
    recent: dict[str, list[float]] = {}
    for step, batch in remaining_batches(phase, tokenizer, seed=seed, done=progress.step):
        started = time.perf_counter()
        loss = loss_of(phase, model, batch, seed=seed, step=step)
        take_step(model, optimizer, loss, learning_rate=phase.rate_at(step))
        recent.setdefault(batch.kind, []).append(loss.item())
        progress.elapsed_s += time.perf_counter() - started
        progress.step = step + 1
        if progress.step % LOG_EVERY == 0:
            log_losses(phase, progress, recent)
            recent = {}
        if progress.step % CHECKPOINT_EVERY == 0 or progress.step == phase.steps:
            save_checkpoint(
                work / "checkpoint.pt",
                recipe=recipe,
                progress=progress,
                model=model,
                optimizer=optimizer,
            )
        if progress.step % SNAPSHOT_EVERY == 0 or progress.step == phase.steps:
            snapshot = f"{phase.name}-{progress.step:05d}.safetensors"
            network.write_weights(model, work / "snapshots" / snapshot)


def remaining_batches(
    phase: Phase, tokenizer: PreTrainedTokenizerBase, *, seed: int, done: int
) -> Iterator[tuple[int, Batch]]:
    """The phase's (step, batch) pairs after the first `done` ones."""
    drawn = batches(
        tokenizer,
        seed=seed,
        phase=phase.name,
        drills=phase.drills,
        multi_step=phase.multi_step,
        one_block=phase.objective == "block_diffusion",
    )
    return itertools.islice(enumerate(drawn), done, phase.steps)


def loss_of(
    phase: Phase, model: BlockDiffusionModel, batch: Batch, *, seed: int, step: int
) -> torch.Tensor:
    """The phase's loss on a batch; noise depends on seed and step alone."""
    if phase.objective == "autoregressive":
        return autoregressive_loss(model, batch)
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    masked = two_views(batch, generator)
    mask_id = model.config.mask_id
    assert mask_id is not None, "build_config sets the mask id"
    return diffusion_loss(model, batch, masked, mask_id=mask_id)


def take_step(
    model: BlockDiffusionModel,
    optimizer: torch.optim.Optimizer,
    loss: torch.Tensor,
    *,
    learning_rate: float,
) -> None:
    """One AdamW step with gradients clipped to norm 1."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


def log_losses(phase: Phase, progress: Progress, recent: dict[str, list[float]]) -> None:
    """Append the mean losses since the last call to the curve and print them."""
    means = {kind: round(sum(values) / len(values), 4) for kind, values in sorted(recent.items())}
    progress.losses.append({"phase": phase.name, "step": progress.step, **means})
    shown = "  ".join(f"{kind} {mean:.3f}" for kind, mean in means.items())
    say(f"{phase.name} {progress.step:5d}/{phase.steps}  {shown}  {progress.elapsed_s:.0f} s")


def say(line: str) -> None:
    """Write a line to the log at once: a training is watched while it runs."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def describe_run(
    recipe: dict[str, Any], progress: Progress, model: BlockDiffusionModel, *, threads: int
) -> dict[str, Any]:
    """The record of a finished training: recipe, loss curve, time, versions."""
    return {
        "recipe": recipe,
        "losses": progress.losses,
        "training_time_s": round(progress.elapsed_s, 1),
        "threads": threads,
        "parameters": network.count_parameters(model),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }


def main() -> int:
    """Parse the command line and train; a user's mistake is one line and exit code 2."""
    parser = argparse.ArgumentParser(prog="python -m training.train", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("models/tiny"), help="folder to write")
    parser.add_argument("--seed", type=int, default=2, help="seed of weights, data and noise")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument(
        "--work", type=Path, default=Path("results/training"), help="folder of checkpoints"
    )
    options = parser.parse_args()
    try:
        train(
            out=options.out,
            work=options.work / f"seed-{options.seed}",
            seed=options.seed,
            threads=options.threads,
            phases=PHASES,
        )
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return USER_ERROR_EXIT_CODE
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; the same command goes on from the last checkpoint\n")
        return INTERRUPTED_EXIT_CODE
    return 0


if __name__ == "__main__":
    sys.exit(main())
