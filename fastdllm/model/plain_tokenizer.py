"""A tokenizer without transformers, whose import takes longer than an answer of a small model.

For folders whose files are plain, as the embedded model's: tokenizer.json says all, and the chat
template needs nothing but Jinja. All others are left to transformers (tokenizer.py); ids and texts
are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastdllm.common.files import read_json_object
from fastdllm.model.tokenizer_checks import CONFIG, TOKENIZER

if TYPE_CHECKING:
    from jinja2 import Environment
    from tokenizers import Tokenizer

TEMPLATE = "chat_template.jinja"
# All files that may say something about a tokenizer.
_FILES = ("*token*", "*template*", "*.model", "tekken*", "vocab.*", "merges.txt")
_NAMED = ("bos_token", "eos_token", "unk_token", "pad_token", "mask_token")
# Keys of tokenizer_config.json that change no id and no text, or are checked here.
_CONFIG_KEYS = {
    *_NAMED,
    "extra_special_tokens",
    "backend",
    "tokenizer_class",
    "model_max_length",
    "clean_up_tokenization_spaces",
}
# Of larger vocabularies, transformers corrects the rules of some.
_MOST_TOKENS = 100_000


class PlainTokenizer:
    """What encoding a prompt and showing an answer take of a tokenizer of transformers."""

    split_special_tokens = False

    def __init__(
        self, folder: str, tokenizer: Tokenizer, named: dict[str, str], chat_template: str
    ) -> None:
        self.name_or_path, self.backend_tokenizer = folder, tokenizer
        self.added_tokens_decoder = tokenizer.get_added_tokens_decoder()
        self.all_special_ids = list(self.added_tokens_decoder)
        self.chat_template, self._named = chat_template, named
        self.bos_token, self.eos_token = named.get("bos_token"), named.get("eos_token")
        self.bos_token_id, self.eos_token_id, self.unk_token_id = (
            tokenizer.token_to_id(named[name]) if name in named else None
            for name in ("bos_token", "eos_token", "unk_token")
        )

    def __call__(self, text: str, *, add_special_tokens: bool = True) -> dict[str, list[int]]:
        """Return the `input_ids` of a text."""
        encoded = self.backend_tokenizer.encode(text, add_special_tokens=add_special_tokens)
        return {"input_ids": encoded.ids}

    def convert_tokens_to_ids(self, token: str) -> int | None:
        """Return the id of a token; that of the unknown token if there is none."""
        number = self.backend_tokenizer.token_to_id(token)
        return self.unk_token_id if number is None else number

    def convert_ids_to_tokens(self, token: int) -> str | None:
        """Return the token of an id."""
        return self.backend_tokenizer.id_to_token(token)

    def decode(
        self,
        token_ids: Sequence[int],
        *,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool = False,
    ) -> str:
        """Return the text of ids, as it is: no plain file asks for it to be cleaned up."""
        assert not clean_up_tokenization_spaces
        return self.backend_tokenizer.decode(token_ids, skip_special_tokens=skip_special_tokens)

    def apply_chat_template(
        self,
        messages: Sequence[dict[str, str]],
        *,
        tokenize: bool,
        add_generation_prompt: bool,
        continue_final_message: bool,
    ) -> str:
        """Return a conversation that ends with a question, as the chat template writes it."""
        assert not tokenize
        assert not continue_final_message
        template = _environment().from_string(self.chat_template)
        return template.render(
            messages=messages, add_generation_prompt=add_generation_prompt, **self._named
        )


def read_plain(model_path: str) -> tuple[PlainTokenizer, dict[str, Any], dict[str, Any]] | None:
    """Return the tokenizer of a folder, and what its two files say; None unless they are plain."""
    folder = Path(model_path)
    found = {path.name for pattern in _FILES for path in folder.glob(pattern)}
    if found != {TOKENIZER, CONFIG, TEMPLATE}:
        return None
    from tokenizers import Tokenizer

    try:
        values, config = (read_json_object(folder / name) for name in (TOKENIZER, CONFIG))
        named = {name: config[name] for name in _NAMED if config.get(name) is not None}
        template = (folder / TEMPLATE).read_text(encoding="utf-8")
        if not (
            _is_plain_tokenizer(values)
            and _is_plain_config(config, values)
            and _is_plain_template(template, named)
        ):
            return None
        tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    except Exception:  # of tokenizers, which has no other; what is wrong is left to transformers
        return None
    return PlainTokenizer(model_path, tokenizer, named, template), values, config


def _is_plain_tokenizer(values: dict[str, Any]) -> bool:
    """Whether nothing is cut, padded or written before a text, and all added tokens are special."""
    model, after = values.get("model"), values.get("post_processor")
    if not isinstance(model, dict) or not isinstance(after, dict):
        return False
    vocabulary, added = model.get("vocab"), values.get("added_tokens")
    return (
        values.get("truncation") is None
        and values.get("padding") is None
        and model.get("type") == "BPE"
        and isinstance(vocabulary, dict)
        and isinstance(added, list)
        and len(vocabulary) + len(added) <= _MOST_TOKENS
        and all(isinstance(token, dict) and token.get("special") is True for token in added)
        and after.get("type") == "TemplateProcessing"
        and after.get("special_tokens") == {}
    )


def _is_plain_config(config: dict[str, Any], values: dict[str, Any]) -> bool:
    """Whether the configuration adds nothing to tokenizer.json but names for its tokens."""
    added = {token.get("content") for token in values["added_tokens"]}
    more = config.get("extra_special_tokens", [])
    tokens = [config[name] for name in _NAMED if config.get(name) is not None]
    return (
        config.keys() <= _CONFIG_KEYS
        and config.get("backend", "tokenizers") == "tokenizers"
        and isinstance(config.get("model_max_length", 0), int)
        and config.get("clean_up_tokenization_spaces", False) is False
        and isinstance(more, list)
        and all(isinstance(token, str) and token in added for token in (*tokens, *more))
    )


def _is_plain_template(text: str, named: dict[str, str]) -> bool:
    """Whether a chat template takes no more than messages, named tokens and what Jinja has."""
    from jinja2 import TemplateError, meta, nodes

    try:
        tree = _environment().parse(text)
        names = meta.find_undeclared_variables(tree)
    except TemplateError:
        return False  # transformers' rendering says so
    # transformers has a `tojson` of its own.
    filters = {found.name for found in tree.find_all(nodes.Filter)}
    return names <= {"messages", "add_generation_prompt", *named} and "tojson" not in filters


def _environment() -> Environment:
    """Return an environment for templates of strangers, with the whitespace of transformers'."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals.clear()  # transformers has a `namespace` and a `dict` of its own
    return environment
