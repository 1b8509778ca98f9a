"""The tokenizer: nothing is lost, digits are single tokens, the saved one agrees."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from transformers import AutoTokenizer

from training.problems import draw_problem
from training.tokenizer import VOCAB_SIZE, build_tokenizer, render_prompt

MODEL = Path(__file__).parents[2] / "models" / "tiny"


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def test_text_survives_a_round_trip(tokenizer):
    rng = Random(1)
    texts = [draw_problem(rng, held_out=False).answer for _ in range(50)]
    for text in [*texts, "Ünïcode, 数字 12\n\tand more"]:
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_digits_are_single_tokens(tokenizer):
    assert len(tokenizer.encode("3*12=36")) == 7
    for character in "0123456789":
        assert len(tokenizer.encode(character)) == 1


def test_special_tokens_end_the_vocabulary_and_the_model_has_room_for_it(tokenizer):
    assert len(tokenizer) <= VOCAB_SIZE
    assert sorted(tokenizer.all_special_ids) == list(range(len(tokenizer) - 4, len(tokenizer)))
    assert tokenizer.pad_token == "<|endoftext|>"
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.mask_token == "|<MASK>|"


def test_chat_template_is_the_training_prompt(tokenizer):
    messages = [{"role": "user", "content": "Tom has 12 pens."}]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert rendered == render_prompt("Tom has 12 pens.")


def test_committed_tokenizer_is_what_the_generator_makes(tokenizer):
    saved = AutoTokenizer.from_pretrained(MODEL)
    assert saved.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
    assert saved.chat_template == tokenizer.chat_template
    assert saved.all_special_ids == tokenizer.all_special_ids
