"""The tokenizer of a checkpoint, from transformers: texts to ids, conversations to texts.

Prompts by hand and prompts of tasks become ids here. Remote code is never run.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastdllm.common.console import notice
from fastdllm.common.errors import UserError, error_line
from fastdllm.common.files import read_json_object
from fastdllm.model.plain_tokenizer import read_plain
from fastdllm.model.tokenizer_checks import CONFIG, TOKENIZER, begin_of_texts, check_files

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_OR_WITHOUT = "mend it, or ask without (--no-chat-template, or apply_chat_template: false)"
JSON_FILES = (TOKENIZER, CONFIG, "special_tokens_map.json", "added_tokens.json")


def load_tokenizer(
    model_path: str, revision: str | None = None, tell: Callable[[str], None] = notice
) -> Any:
    """Load the tokenizer of a model folder or hub id, without remote code.

    Of several named chat templates, it has the one named `default`. `tell` is given a line where
    another one counts than people may think.

    Raises:
        UserError: there is none, it cannot be read, or its files contradict each other.
    """
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    try:
        with warnings.catch_warnings():
            # Both complain about the model's config.json, whose type and keys transformers does
            # not know; only the tokenizer is read here.
            warnings.simplefilter("ignore", FutureWarning)
            logging.set_verbosity_error()
            values = _file_values(model_path, TOKENIZER, revision)
            config = _file_values(model_path, CONFIG, revision)
            loader = _loader(has_tokenizer_file=values is not None)
            tokenizer = loader.from_pretrained(
                model_path, revision=revision, trust_remote_code=False
            )
            tokenizer("")  # some options are looked at with the first text only
    except UserError:
        raise
    except Exception as error:  # a broken file may raise anything in transformers and tokenizers
        raise _unusable(model_path, error) from None
    finally:
        logging.set_verbosity(verbosity)
    tokenizer.chat_template = _default_template(tokenizer.chat_template)
    if not isinstance(tokenizer.chat_template, str | None):
        raise UserError(
            f"{model_path}/{CONFIG}: chat_template: {tokenizer.chat_template!r} is not allowed; it "
            "should be text"
        )
    unused = _default_template((config or {}).get("chat_template"))
    if isinstance(unused, str) and unused.rstrip() != (tokenizer.chat_template or "").rstrip():
        tell(
            f"{model_path}: the chat template in {CONFIG} is not used, but that of a .jinja file "
            "beside it, which differs"
        )
    check_files(tokenizer, model_path, values or {}, config or {})
    return tokenizer


def load_prompt_tokenizer(model_path: str, revision: str | None = None) -> Any:
    """Load what writes one prompt and shows its answer, of plain files without transformers.

    Arguments and errors are those of `load_tokenizer`, whose methods it has as far as `prompt_ids`
    and `decode` need them.
    """
    plain = read_plain(model_path)
    if plain is None:
        return load_tokenizer(model_path, revision)
    tokenizer, values, config = plain
    check_files(tokenizer, model_path, values, config)
    return tokenizer


def _loader(*, has_tokenizer_file: bool) -> Any:
    """Return what loads a tokenizer; each is imported only where it is used, as one imports torch.

    The class that a model names (Qwen2Tokenizer) would take the tokens of tokenizer.json only, and
    split texts by its own rules.
    """
    if has_tokenizer_file:
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast
    from transformers import AutoTokenizer

    return AutoTokenizer


def _default_template(templates: Any) -> Any:
    """Return the template named `default`, of a list or mapping of several; else what is given."""
    if isinstance(templates, list):
        named = [entry for entry in templates if isinstance(entry, dict)]
        return next((e.get("template") for e in named if e.get("name") == "default"), None)
    return templates.get("default") if isinstance(templates, dict) else templates


def _file_values(model_path: str, name: str, revision: str | None) -> dict[str, Any] | None:
    """Return what a JSON file of a model says; None if the model goes without it."""
    from transformers.utils import cached_file

    path = cached_file(
        model_path,
        name,
        revision=revision,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return read_json_object(Path(path)) if path else None


def _unusable(model_path: str, error: Exception) -> UserError:
    for file in (Path(model_path, name) for name in JSON_FILES):
        if file.is_file():
            try:
                read_json_object(file)
            except UserError as broken:
                return broken
    reason = " ".join(str(error).split())[:200]
    return UserError(
        f"{model_path}: no usable tokenizer ({reason}); a model folder needs tokenizer.json and "
        f"{CONFIG}"
    )


def encode(tokenizer: Any, text: str) -> tuple[int, ...]:
    """Return the token ids of a prompt.

    Nothing is added but the token that begins every text (BOS), where the tokenizer writes one and
    the text, such as that of a chat template, does not begin with it.
    """
    return begun(tokenizer, tuple(tokenizer(text, add_special_tokens=False)["input_ids"]))


def begun(tokenizer: Any, ids: tuple[int, ...]) -> tuple[int, ...]:
    """Return the token ids of a prompt, with the token that begins every text; see `encode`."""
    bos = tokenizer.bos_token_id
    if bos is None or ids[:1] == (bos,) or begin_of_texts(tokenizer) != [bos]:
        return ids
    return (bos, *ids)


def prompt_ids(tokenizer: Any, prompt: str, *, chat_template: bool = True) -> tuple[int, ...]:
    """Return the token ids of a prompt, as one user turn if `chat_template` is set.

    Special tokens in the turn are text, as in `conversation_ids`; without a template they are not.

    Raises:
        UserError: the tokenizer has no chat template, or one that cannot write the turn.
    """
    if not chat_template:
        return encode(tokenizer, prompt)
    if not tokenizer.chat_template:
        raise UserError("this model's tokenizer has no chat template; use --no-chat-template")
    return conversation_ids(tokenizer, [{"role": "user", "content": prompt}])


def special_tokens(tokenizer: Any) -> dict[str, int]:
    """Return the ids of the tokenizer's special tokens by their text."""
    special_ids = set(tokenizer.all_special_ids)
    return {
        str(token): token_id
        for token_id, token in tokenizer.added_tokens_decoder.items()
        if token.special or token_id in special_ids
    }


def conversation_ids(
    tokenizer: Any, messages: Sequence[dict[str, str]], *, ends_open: bool = False
) -> tuple[int, ...]:
    """Return the token ids of a conversation, of which only the chat template is special tokens.

    One that a message spells is encoded as the text that it is, so that nobody writes the turns of
    others. Where no message spells any, these are the ids of `encode`.

    Args:
        ends_open: whether the last message is the beginning of the answer, not the question.

    Raises:
        UserError: as of `conversation_text`, or the tokenizer cannot write such a message as text.
    """
    text = conversation_text(tokenizer, messages, ends_open=ends_open)
    special = special_tokens(tokenizer)
    # Of two that begin alike the tokenizer takes the longer one.
    token = "|".join(map(re.escape, sorted(special, key=len, reverse=True))) or "(?!)"
    spelled = sorted({t for message in messages for t in re.findall(token, message["content"])})
    refusal = UserError(
        f"{tokenizer.name_or_path}: a message spells a special token of the model "
        f"({', '.join(spelled) or 'with the chat template around it'}), and this tokenizer cannot "
        "write it as text; leave it out"
    )
    # With characters for private use in their place, those that are left are the template's.
    unused = (chr(code) for code in range(0xE000, 0xF900) if chr(code) not in text)
    hidden = dict(zip(spelled, unused, strict=False))
    shown, shown_text = messages, text
    if spelled:
        if len(hidden) < len(spelled):
            raise refusal
        shown = [
            {**one, "content": re.sub(token, lambda match: hidden[match[0]], one["content"])}
            for one in messages
        ]
        shown_text = conversation_text(tokenizer, shown, ends_open=ends_open)
    parts = re.split(f"({token})", shown_text)
    restored = [part.translate({ord(c): t for t, c in hidden.items()}) for part in parts]
    if "".join(restored) != text or _left_out("\0".join(parts[::2]), shown) is not None:
        raise refusal
    ids: list[int] = tokenizer(shown_text, add_special_tokens=False)["input_ids"]
    if spelled:
        if _apart(tokenizer, parts, special) != ids:  # parts depend on what is before them
            raise refusal
        ids = _apart(tokenizer, restored, special)
    # A character that the vocabulary lacks may be a special token, too.
    ours = set(special.values()) - {tokenizer.unk_token_id}
    if sum(i in ours for i in ids) > sum(special[mark] in ours for mark in parts[1::2]):
        raise refusal
    return begun(tokenizer, tuple(ids))


def _apart(tokenizer: Any, parts: Sequence[str], special: dict[str, int]) -> list[int]:
    """Return the token ids of texts, each encoded alone, and of the special tokens between them."""
    copy = _without_special_tokens(tokenizer)
    # Not `encode`, during which no other thread of Python runs.
    texts = copy.encode_batch(list(parts[::2]), add_special_tokens=False)
    ids = list(texts[0].ids)
    for mark, text in zip(parts[1::2], texts[1:], strict=True):
        ids += [special[mark], *text.ids]
    return ids


@lru_cache(maxsize=1)
def _without_special_tokens(tokenizer: Any) -> Tokenizer:
    """Return a copy that spells special tokens out.

    transformers' `split_special_tokens` changes the tokenizer itself, which other threads use.
    """
    from tokenizers import AddedToken, Tokenizer

    copy = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    copy.add_special_tokens([AddedToken(t, special=True) for t in special_tokens(tokenizer)])
    copy.encode_special_tokens = True
    return copy


def conversation_text(
    tokenizer: Any, messages: Sequence[dict[str, str]], *, ends_open: bool = False
) -> str:
    """Return a conversation as the chat template writes it.

    Args:
        ends_open: whether the last message is the beginning of the answer, not the question.

    Raises:
        UserError: the template is broken, refuses the conversation, or leaves out a message.
    """
    where = f"{tokenizer.name_or_path}: chat template (chat_template.jinja, or in {CONFIG})"
    try:
        text: str = tokenizer.apply_chat_template(
            messages,
            tokenize=False,
            add_generation_prompt=not ends_open,
            continue_final_message=ends_open,
        )
    except Exception as error:  # a template is a program, which may raise anything
        raise UserError(f"{where}: fails with {error_line(error)}; {_OR_WITHOUT}") from None
    role = _left_out(text, messages)
    if role is not None:
        raise UserError(f"{where}: leaves out what the {role} says; {_OR_WITHOUT}")
    return text


def _left_out(text: str, messages: Sequence[dict[str, str]]) -> str | None:
    """Return who says what is not in a text; None if all messages are, the turns in order."""
    end = 0  # of the turn before: a short answer may occur in other turns as well
    for message in messages:
        content, is_turn = message["content"].strip(), message["role"] != "system"
        start = text.find(content, end if is_turn else 0)
        if start < 0:
            return message["role"]
        if is_turn:
            end = start + len(content)
    return None
