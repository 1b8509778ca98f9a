"""Measure the tiny model: `python -m training.measure --model models/tiny`.

Decodes the items of the embedded tasks with the project's own decoder, over thresholds and over
output-mode reuse, and scores the multiple-choice items by log-likelihood. Writes
`measurements.json` beside the weights and puts its tables into the model card.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from fastdllm import DecodingSettings, generate
from fastdllm.common.errors import USER_ERROR_EXIT_CODE, UserError
from fastdllm.common.files import write_json_atomically
from fastdllm.decoding.likelihood import LikelihoodRequest, score
from fastdllm.model.loading import load_plain_model
from fastdllm.model.plain import BlockDiffusionModel
from tasks.multi_step_problems import CALCULATION, steps_right
from training.card import update_card
from training.tokenizer import render_prompt

# Tasks whose answers are written, and most tokens of one, as in their files.
MAX_NEW_TOKENS = {"word_problems": 96, "multi_step_problems": 256}
THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
REUSE = ((2, "middle"), (3, "middle"))
# Of each task, enough to see the curve.
CURVE_ITEMS = 300
BATCH_SIZE = 100
FINAL_NUMBER = re.compile(r"#### (-?\d+)")


class Item(NamedTuple):
    """A problem to answer: prompt ids, the right number, and the answer that leads to it."""

    prompt_ids: list[int]
    result: int
    answer: str


def measure(model_folder: Path, *, tasks: Path, snapshots: Path | None) -> dict[str, Any]:
    """Return every figure of the model card; accuracies and shares are in 0..1.

    `snapshots` holds block-diffusion weights kept during training; None measures no curve.
    """
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    model = load_plain_model(model_folder, device="cpu", dtype="float32")
    items_of = {name: read_items(tasks / f"{name}.jsonl", tokenizer) for name in MAX_NEW_TOKENS}
    figures = {
        **{
            name: measure_task(model, tokenizer, items, max_new_tokens=MAX_NEW_TOKENS[name])
            for name, items in items_of.items()
        },
        "choice": choice_accuracy(model, tokenizer, read_jsonl(tasks / "choice_problems.jsonl")),
    }
    if snapshots is not None:
        figures["curve"] = accuracy_curve(model, tokenizer, items_of, snapshots)
    return figures


def measure_task(
    model: BlockDiffusionModel,
    tokenizer: PreTrainedTokenizerBase,
    items: Sequence[Item],
    *,
    max_new_tokens: int,
) -> dict[str, Any]:
    """Return the figures of one task whose answers are written."""
    decode = partial(decode_items, model, tokenizer, items, max_new_tokens=max_new_tokens)
    return {
        "items": len(items),
        "threshold": [{"threshold": tau, **decode(threshold=tau)} for tau in THRESHOLDS],
        "reuse": [
            {
                "reuse_k": k,
                "layer_subset": subset,
                **decode(threshold=0.9, reuse_k=k, layer_subset=subset),
            }
            for k, subset in REUSE
        ],
        "no_block_cache": decode(threshold=0.9, use_block_cache=False),
    }


def decode_items(
    model: BlockDiffusionModel,
    tokenizer: PreTrainedTokenizerBase,
    items: Sequence[Item],
    **settings: Any,
) -> dict[str, float]:
    """Decode `items` with `settings`: accuracies, tokens per forward, passes per answer, tokens/s.

    `steps_right` is that of the task multi_step_problems.
    """
    resolved = DecodingSettings(**settings)
    started = time.perf_counter()
    answers = [
        answer
        for first in range(0, len(items), BATCH_SIZE)
        for answer in generate(
            model, [item.prompt_ids for item in items[first : first + BATCH_SIZE]], resolved
        )
    ]
    elapsed_s = time.perf_counter() - started
    texts = [tokenizer.decode(answer.token_ids) for answer in answers]
    right = [final_number(text) == item.result for text, item in zip(texts, items, strict=True)]
    steps = [
        steps_right(item.answer, CALCULATION.findall(text))
        for text, item in zip(texts, items, strict=True)
    ]
    tokens = sum(len(answer.token_ids) for answer in answers)
    forwards = sum(answer.passes.forwards for answer in answers)
    reused = sum(answer.passes.reused for answer in answers)
    return {
        "accuracy": round(sum(right) / len(right), 4),
        "steps_right": round(sum(steps) / len(steps), 4),
        "tokens_per_forward": round(tokens / forwards, 3),
        "forwards_per_answer": round(forwards / len(answers), 2),
        "reused_per_answer": round(reused / len(answers), 2),
        "tokens_per_answer": round(tokens / len(answers), 2),
        "tokens_per_s": round(tokens / elapsed_s, 1),
    }


def final_number(text: str) -> int | None:
    """The last number after `####`, or None when there is none."""
    found = FINAL_NUMBER.findall(text)
    return int(found[-1]) if found else None


def choice_accuracy(
    model: BlockDiffusionModel, tokenizer: PreTrainedTokenizerBase, entries: list[dict[str, Any]]
) -> dict[str, float]:
    """Share of multiple-choice items whose right number has the highest log-likelihood."""
    requests = []
    for entry in entries:
        prefix = tuple(tokenizer.encode(render_prompt(entry["question"]) + entry["begun"]))
        requests += [
            LikelihoodRequest(prefix, tuple(tokenizer.encode(option)))
            for option in entry["options"]
        ]
    logprobs = torch.tensor([found.logprob for found in score(model, requests, mode="chain")])
    chosen = logprobs.view(len(entries), -1).argmax(1).tolist()
    right = sum(c == entry["correct"] for c, entry in zip(chosen, entries, strict=True))
    return {"items": len(entries), "accuracy": round(right / len(entries), 4)}


def accuracy_curve(
    model: BlockDiffusionModel,
    tokenizer: PreTrainedTokenizerBase,
    items_of: Mapping[str, Sequence[Item]],
    snapshots: Path,
) -> list[dict[str, Any]]:
    """Figures at threshold 0.9 of each block-diffusion snapshot; `model` is left as it was.

    Raises:
        UserError: the folder has no snapshots.
    """
    files = sorted(snapshots.glob("block_diffusion-*.safetensors"))
    if not files:
        raise UserError(f"{snapshots}: no snapshots; run `python -m training.train` first")
    final = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    curve = []
    for file in files:
        model.load_state_dict(load_file(file))
        step = int(file.stem.rpartition("-")[2])
        figures = {
            name: decode_items(
                model,
                tokenizer,
                items[:CURVE_ITEMS],
                threshold=0.9,
                max_new_tokens=MAX_NEW_TOKENS[name],
            )
            for name, items in items_of.items()
        }
        curve.append({"step": step, **figures})
    model.load_state_dict(final)
    return curve


def read_items(path: Path, tokenizer: PreTrainedTokenizerBase) -> list[Item]:
    """Read the problems of a task."""
    return [
        Item(tokenizer.encode(render_prompt(entry["question"])), entry["result"], entry["answer"])
        for entry in read_jsonl(path)
    ]


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read one JSON object a line."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def main() -> int:
    """Parse the command line, measure, write the figures and the card's tables."""
    parser = argparse.ArgumentParser(prog="python -m training.measure", description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("models/tiny"), help="model folder")
    parser.add_argument("--tasks", type=Path, default=Path("tasks/data"), help="task data")
    parser.add_argument("--snapshots", type=Path, help="weights kept by training, for the curve")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    try:
        figures = measure(options.model, tasks=options.tasks, snapshots=options.snapshots)
        write_json_atomically(options.model / "measurements.json", figures)
        update_card(options.model)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return USER_ERROR_EXIT_CODE
    return 0


if __name__ == "__main__":
    sys.exit(main())
