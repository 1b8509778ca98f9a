"""A tokenizer of the size of the published ones, made by rule; no file of a model is needed.

Byte-level BPE with 151,387 merges, split as Qwen2's does: "(A)" is "(A" and ")", each digit is one
token, English text has about two letters a token. Ids of special tokens are those of Fast-dLLM v2.
"""

from __future__ import annotations

from functools import cache
from itertools import islice, product
from pathlib import Path
from typing import Any

BYTES, MERGES = 256, 151_387
ENDOFTEXT, IM_START, IM_END, MASK = 151_643, 151_644, 151_645, 151_665
# Rows of the embedding in the published checkpoints, of which the tokenizer uses the first 151,666.
VOCABULARY = 151_936
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# As Qwen2.5's, without tools: a conversation without a system message is given one.
CHAT_TEMPLATE = """\
{%- if messages[0]['role'] == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
{%- else %}
    {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role != 'system' or not loop.first %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
# By how often English uses them.
_LETTERS = "etaoinshrdlcumwfgypbvkjxqz"
_LIKELY = 194  # pairs of letters whose quadruples, in four forms, are just enough
_SPACE, _LINE_BREAK = "Ġ", "Ċ"  # as byte-level BPE writes the two


@cache
def real_size_tokenizer() -> Any:
    """Return the tokenizer, made once a process (in half a second); do not change it."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
    from tokenizers import pre_tokenizers as split
    from transformers import PreTrainedTokenizerFast

    merges = _merges()
    alphabet = sorted(split.ByteLevel.alphabet())
    pieces = [*alphabet, *(one + other for one, other in merges)]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    assert len(vocabulary) == len(pieces) == BYTES + MERGES == ENDOFTEXT
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = split.Sequence(
        [
            split.Split(Regex(SPLIT), "isolated"),
            split.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    names = {ENDOFTEXT: "<|endoftext|>", IM_START: "<|im_start|>", IM_END: "<|im_end|>"}
    names[MASK] = "|<MASK>|"
    tokenizer.add_special_tokens(
        [
            AddedToken(names.get(number, f"<|unused_{number}|>"), special=True, normalized=False)
            for number in range(ENDOFTEXT, MASK + 1)
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        mask_token="|<MASK>|",
        chat_template=CHAT_TEMPLATE,
    )


def save_real_size_tokenizer(folder: Path) -> None:
    """Write the tokenizer into the folder of a model, as transformers does."""
    real_size_tokenizer().save_pretrained(folder)


def _merges() -> list[tuple[str, str]]:
    """Return the merges in order: pairs of letters, then quadruples of the likeliest pairs.

    Both also behind a space, and with a capital in front.
    """
    ranks = sorted(product(range(len(_LETTERS)), repeat=2), key=sum)
    pairs = ["".join(_LETTERS[i] for i in pair) for pair in ranks]
    merges = [(_SPACE, _SPACE), (_LINE_BREAK, _LINE_BREAK)]
    merges += [(first, second) for first, second in pairs]
    merges += [(first.upper(), second) for first, second in pairs]
    merges += [(mark, letter) for mark in (_SPACE, "(") for letter in _LETTERS + _LETTERS.upper()]
    merges += [(_SPACE, pair) for pair in (*pairs, *map(str.capitalize, pairs))]
    likely = pairs[:_LIKELY]
    starts = [*likely, *map(str.capitalize, likely)]
    starts += [_SPACE + start for start in starts]
    return [*merges, *islice(product(starts, likely), MERGES - len(merges))]
