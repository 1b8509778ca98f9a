"""Small tokenizers as LLaMA's, which mark the beginning of each word, with odd special tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Texts around which tokenizers begin and end words, with tokens that are special to one of them.
PIECES = [
    *("A", "(", "(A)", "the", "heart", "é", "e\u0301", "数", "😀", "7", ".", "'s"),
    *(" ", "  ", "\n", "\n\n", "\t", "\r\n"),
    *("<|im_start|>", "<|im_end|>", "<|im_start|>assistant\n", "<|im_", "|>", "<s>", "<pad>", "<p"),
    "\u0338",  # becomes one letter with the ">" before it
]
# How special tokens take the texts around them, and what texts begin with.
OF_WORDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "takes spaces before": {"lstrip": True},
    "takes spaces behind": {"rstrip": True},
    "whole words": {"single_word": True},
    "looked for in normalised texts": {"normalized": True},
    "one in another": {"more": ["<s><|im_start|>", "(<s>A"]},
    "overlapping": {"more": ["e<|im_s", "start|>"]},
    "begins texts": {"bos": True},
}


def of_words(*, bos: bool = False, more: Any = (), **how: bool) -> PreTrainedTokenizerFast:
    """Return a tokenizer with few tokens; `how` its special ones take the texts around them."""
    from tokenizers import AddedToken, Tokenizer, models, normalizers, processors
    from tokenizers import pre_tokenizers as split
    from transformers import PreTrainedTokenizerFast

    letters = sorted({letter for piece in PIECES for letter in piece} | {"▁"})
    words = ["▁the", "▁A", "(A", "he", "art", "▁(", "(<", "t|"]
    scores = [("<unk>", 0.0), *((p, -9.0) for p in letters), *((p, -3.0) for p in words)]
    tokenizer = Tokenizer(models.Unigram(scores, unk_id=0))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = split.Metaspace(prepend_scheme="first")
    special = ["<|im_start|>", "<|im_end|>", "<s>", "<pad>", *more]
    tokenizer.add_special_tokens([AddedToken(text, special=True, **how) for text in special])
    if bos:
        begin = tokenizer.token_to_id("<s>")
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", begin)]
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>" if bos else None)
