"""The figures of the model card: measured on a few items, and put between its markers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from fastdllm.common.errors import UserError
from fastdllm.model.loading import load_plain_model
from training.card import BEGIN, END, update_card
from training.measure import MAX_NEW_TOKENS, decode_items, measure_task, read_items

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "models/tiny"


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(MODEL)


@pytest.fixture(scope="module")
def model():
    return load_plain_model(MODEL, device="cpu", dtype="float32")


def items_of(name, tokenizer, count):
    return read_items(ROOT / f"tasks/data/{name}.jsonl", tokenizer)[:count]


def test_steps_and_number_are_scored_as_the_task_files_score_them(model, tokenizer):
    items = items_of("word_problems", tokenizer, 20)
    settings = {"threshold": 0.9, "max_new_tokens": 96}
    found = decode_items(model, tokenizer, items, **settings)
    assert 0.8 <= found["accuracy"] <= found["steps_right"] <= 1
    wrong = [item._replace(result=item.result + 1, answer="1+1=2") for item in items]
    found = decode_items(model, tokenizer, wrong, **settings)
    assert found["accuracy"] == found["steps_right"] == 0


def test_the_card_has_the_figures_of_both_tasks_between_its_markers(model, tokenizer, tmp_path):
    shutil.copy(MODEL / "training_log.json", tmp_path)
    card = tmp_path / "README.md"
    card.write_text(f"before\n{BEGIN}\nstale\n{END}\nafter\n")
    figures = {
        name: measure_task(model, tokenizer, items_of(name, tokenizer, 1), max_new_tokens=limit)
        for name, limit in MAX_NEW_TOKENS.items()
    }
    curve = [{"step": 500, **{name: figures[name]["threshold"][0] for name in figures}}]
    measured = {**figures, "choice": {"accuracy": 1.0, "items": 4}, "curve": curve}
    (tmp_path / "measurements.json").write_text(json.dumps(measured))
    update_card(tmp_path)
    text = card.read_text()
    assert text.startswith(f"before\n{BEGIN}\n") and text.endswith(f"{END}\nafter\n")
    assert "### Word problems\n\n1 held-out ones" in text
    assert "### Multi-step problems\n\n1 held-out ones" in text
    assert "stale" not in text
    card.write_text("no markers")
    with pytest.raises(UserError, match="the markers of the generated part are missing"):
        update_card(tmp_path)
