"""What the files of a tokenizer say that is not followed, or that contradicts each other.

Of two values transformers takes one silently, not always that with which the model was trained.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastdllm.common.errors import UserError

TOKENIZER, CONFIG = "tokenizer.json", "tokenizer_config.json"
# Of an added token: what it takes from the text around it.
_REACHES = ("lstrip", "rstrip", "single_word")


def check_files(
    tokenizer: Any, model_path: str, values: dict[str, Any], config: dict[str, Any]
) -> None:
    """Refuse a tokenizer that does not do what its files say.

    Args:
        values, config: of tokenizer.json and tokenizer_config.json; empty without the file.

    Raises:
        UserError: naming file and key.
    """
    _check_rules(tokenizer, model_path, config)
    for key, said, found in _said_twice(tokenizer, values, config):
        if None not in (said, found) and said != found:
            raise UserError(
                f"{model_path}/{CONFIG}: {key} is {said}, but {found} in {TOKENIZER}; correct the "
                "one that is wrong"
            )
    _check_ids(tokenizer, model_path, values, config)


def begin_of_texts(tokenizer: Any) -> list[int]:
    """Return the tokens that a tokenizer writes before each text, such as BOS."""
    plain, full = (tokenizer("a", add_special_tokens=adds)["input_ids"] for adds in (False, True))
    starts = (at for at in range(len(full)) if full[at : at + len(plain)] == plain)
    return list(full[: next(starts, 0)])


def _check_rules(tokenizer: Any, model_path: str, config: dict[str, Any]) -> None:
    """Refuse rules of splitting that nothing here follows, or that harm every prompt."""
    where = f"{model_path}/{CONFIG}"
    if tokenizer.split_special_tokens:
        raise UserError(
            f"{where}: split_special_tokens: special tokens of the chat template would be spelled "
            "out, letter by letter; set it to false"
        )
    if config.get("auto_map"):
        import transformers

        if not hasattr(transformers, str(config.get("tokenizer_class"))):
            raise UserError(
                f"{where}: auto_map: the tokenizer is code of its own, which is never run; name "
                "one of transformers as tokenizer_class if that is the same"
            )
    dropout = getattr(tokenizer.backend_tokenizer.model, "dropout", None)
    if dropout:
        raise UserError(
            f"{model_path}/{TOKENIZER}: model.dropout: {dropout:g} splits texts at random, as for "
            "training; set it to null"
        )
    begin = begin_of_texts(tokenizer)
    if begin not in ([], [tokenizer.bos_token_id]):
        raise UserError(
            f"{model_path}/{TOKENIZER}: its post_processor begins texts with "
            f"{tokenizer.decode(begin)!r}, which is not the bos_token of {CONFIG}; name it there"
        )


def _said_twice(
    tokenizer: Any, values: dict[str, Any], config: dict[str, Any]
) -> Iterator[tuple[str, Any, Any]]:
    """Yield what both files say: key, value in tokenizer_config.json, value in tokenizer.json."""
    rule = values.get("pre_tokenizer") or {}
    for part in rule.get("pretokenizers", [rule]):
        yield "add_prefix_space", config.get("add_prefix_space"), part.get("add_prefix_space")
    if values and tokenizer.bos_token_id is not None:
        yield "add_bos_token", config.get("add_bos_token"), bool(begin_of_texts(tokenizer))
    of_file = {token["content"]: token for token in values.get("added_tokens") or ()}
    for token in (config.get("added_tokens_decoder") or {}).values():
        for key in _REACHES:
            found = of_file.get(token["content"], {}).get(key)
            yield f"{key} of {token['content']!r}", token.get(key), found


def _check_ids(
    tokenizer: Any, model_path: str, values: dict[str, Any], config: dict[str, Any]
) -> None:
    """Refuse a tokenizer that gives a token another id than its files, or invents a token.

    Both happen silently where two tokens share an id, or a name is misspelled.
    """
    file, config_file = f"{model_path}/{TOKENIZER}", f"{model_path}/{CONFIG}"
    added = [(file, token["content"], token["id"]) for token in values.get("added_tokens") or ()]
    decoder = config.get("added_tokens_decoder") or {}
    added += [(config_file, token["content"], int(key)) for key, token in decoder.items()]
    for place, text, token_id in added:
        found = tokenizer.convert_tokens_to_ids(text)
        if found != token_id:
            raise UserError(
                f"{place}: token {text!r} has the id {token_id}, but becomes {found}; do two "
                "tokens share an id, or is one missing? fetch the tokenizer again"
            )
    vocabulary = (values.get("model") or {}).get("vocab")
    if not isinstance(vocabulary, dict):
        return
    known = {*vocabulary, *(text for _, text, _ in added)}
    for name in ("bos_token", "eos_token"):
        text = getattr(tokenizer, name)
        if text is not None and text not in known:
            raise UserError(f"{config_file}: {name}: {text!r} is no token of {TOKENIZER}")
