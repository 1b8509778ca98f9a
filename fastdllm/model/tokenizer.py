"""The tokenizer of a checkpoint, from transformers, and the ids of a prompt.

Remote code is never run.
"""

from __future__ import annotations

import warnings
from typing import Any

from fastdllm.common.errors import UserError


def load_tokenizer(model_path: str, revision: str | None = None) -> Any:
    """Load the tokenizer of a model folder or hub id, without remote code.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    from transformers import AutoTokenizer
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    try:
        with warnings.catch_warnings():
            # Both complain about the model's config.json, whose type and keys transformers does
            # not know; only the tokenizer is read here.
            warnings.simplefilter("ignore", FutureWarning)
            logging.set_verbosity_error()
            return AutoTokenizer.from_pretrained(
                model_path, revision=revision, trust_remote_code=False, use_fast=True
            )
    except (OSError, ValueError, KeyError) as error:
        line = " ".join(str(error).split())[:200]
        raise UserError(
            f"{model_path}: no usable tokenizer ({line}); a model folder needs tokenizer.json and "
            "tokenizer_config.json"
        ) from None
    finally:
        logging.set_verbosity(verbosity)


def prompt_ids(tokenizer: Any, prompt: str, *, chat_template: bool = True) -> list[int]:
    """Return the token ids of a prompt, as one user turn if `chat_template` is set.

    Raises:
        UserError: the tokenizer has no chat template.
    """
    if not chat_template:
        return list(tokenizer(prompt)["input_ids"])
    if not tokenizer.chat_template:
        raise UserError("this model's tokenizer has no chat template; use --no-chat-template")
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
    )
    return list(tokenizer(text)["input_ids"])
