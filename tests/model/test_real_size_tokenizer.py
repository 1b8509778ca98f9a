"""The tokenizer of real size that tests make is loaded as a published one is, and stays exact."""

from __future__ import annotations

from pathlib import Path

from fastdllm.model.tokenizer import encode, load_tokenizer, prompt_ids
from tests.support.real_size_tokenizer import (
    IM_END,
    IM_START,
    MASK,
    VOCABULARY,
    real_size_tokenizer,
    save_real_size_tokenizer,
)

TEXT = "Is 1,250 m² the answer?  (A) Yes — über all\n\n\t(B) no, naïve 数学 😀\n"


def test_a_tokenizer_of_real_size_is_loaded_from_its_files(tmp_path: Path) -> None:
    save_real_size_tokenizer(tmp_path)
    loaded = load_tokenizer(str(tmp_path))
    assert len(loaded) == MASK + 1 < VOCABULARY
    ids = encode(loaded, TEXT)
    assert loaded.decode(ids) == TEXT
    assert ids == encode(real_size_tokenizer(), TEXT)
    assert loaded.tokenize("(A)") == ["(A", ")"], "as with the published one"
    assert loaded.convert_tokens_to_ids("|<MASK>|") == loaded.mask_token_id == MASK
    asked = prompt_ids(loaded, "Hello")
    assert asked.count(IM_START) == 3 and asked.count(IM_END) == 2
