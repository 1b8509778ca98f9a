"""Between token ids and text: where an answer ends, how long it may get.

`until`, `max_gen_toks`, `temperature`, `do_sample` and `top_p` are lm-eval's names for how a task
wants its answers generated; here they are checked and translated. Imports no transformers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, create_model

from fastdllm.common.errors import UserError
from fastdllm.model.tokenizer import special_tokens
from fastdllm.settings import DecodingSettings
from fastdllm.tasks.plan import ItemError, PlannedRequest
from fastdllm.validation import StrictModel, validated

# Names that lm-eval accepts for `max_gen_toks`. Not `max_length`: that counts the prompt as well.
BUDGET_ALIASES = ("max_new_tokens", "max_tokens", "max_completion_tokens")
BUDGET_NAMES = ("max_gen_toks", *BUDGET_ALIASES)
# Options without a counterpart in block diffusion, each with the value that has no effect.
WITHOUT_COUNTERPART = {
    "num_beams": 1,
    "top_k": 0,
    "min_p": 0,
    "repetition_penalty": 1,
    "no_repeat_ngram_size": 0,
}


def tokenizer_digest(tokenizer: Any) -> str:
    """Return the digest of the tokenizer and its chat template."""
    digest = hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode())
    digest.update((tokenizer.chat_template or "").encode())
    return digest.hexdigest()


def _setting(name: str) -> tuple[Any, Any]:
    """Return type and bounds of a decoding setting, for the task's option that means the same."""
    field = DecodingSettings.model_fields[name]
    return field.annotation, field


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


GenerationWishes = create_model(
    "GenerationWishes",
    __base__=StrictModel,
    until=(Annotated[list[str], BeforeValidator(_as_list)], ()),
    max_gen_toks=_setting("max_new_tokens"),
    temperature=_setting("temperature"),
    top_p=_setting("top_p"),
    do_sample=(bool, False),
)


def generation_wishes(gen_kwargs: Any, where: str) -> dict[str, Any]:
    """Check a task's `generation_kwargs`; return them as `GenerationWishes` names and types them.

    Keys without a value and keys without effect (`num_beams: 1`) are left out, and another
    name of the token budget becomes `max_gen_toks`. `where` opens the error line.

    Raises:
        UserError: an unknown key, one that block diffusion cannot obey, or a value out of range.
    """
    if not isinstance(gen_kwargs, Mapping):
        raise UserError(f"{where}: expected keys and values, got {type(gen_kwargs).__name__}")
    wishes: dict[str, Any] = {}
    for key, value in gen_kwargs.items():
        if value is None or (key in WITHOUT_COUNTERPART and value == WITHOUT_COUNTERPART[key]):
            continue
        if key in WITHOUT_COUNTERPART:
            raise UserError(
                f"{where}: {key} {value!r} has no meaning for block diffusion; leave it out, or "
                f"set it to {WITHOUT_COUNTERPART[key]}"
            )
        name = "max_gen_toks" if key in BUDGET_ALIASES else str(key)
        if name in wishes and wishes[name] != value:
            raise UserError(
                f"{where}: {key} {value!r} contradicts {name} {wishes[name]!r}; keep one of them"
            )
        wishes[name] = value
    checked = validated(GenerationWishes, wishes, where)
    return {name: getattr(checked, name) for name in wishes}


def largest_budget(values: Any) -> int:
    """Return the largest `max_gen_toks` anywhere in the YAML of a task; 0 if it names none."""
    if isinstance(values, list | tuple):
        return max(map(largest_budget, values), default=0)
    if not isinstance(values, Mapping):
        return 0
    wishes = values.get("generation_kwargs")
    named = [wishes.get(name) for name in BUDGET_NAMES] if isinstance(wishes, Mapping) else []
    budgets = [budget for budget in named if isinstance(budget, int)]
    return max([*budgets, *map(largest_budget, values.values())], default=0)


def sampling_temperature(gen_kwargs: Mapping[str, Any], temperature: float) -> float:
    """Return the temperature of an answer: the task's, else the setting `temperature`.

    `do_sample: false` is greedy whatever the temperature; `do_sample: true` without a temperature
    samples with the setting, or at 1.0 if the setting is greedy.
    """
    if gen_kwargs.get("do_sample") is False:
        return 0.0
    if "temperature" in gen_kwargs:
        return float(gen_kwargs["temperature"])
    if gen_kwargs.get("do_sample"):
        return temperature or 1.0
    return temperature


def check_length(request: PlannedRequest, *, max_positions: int, block_size: int) -> None:
    """Refuse a request that does not fit; a prompt is never silently truncated.

    A log-likelihood request needs room for its target and one block.

    Raises:
        UserError: naming the item and the numbers.
    """
    if request.kind == "loglikelihood":
        room, what = len(request.target_ids) + block_size, "target and block"
    else:
        room, what = request.gen_kwargs["max_gen_toks"], "max_gen_toks"
    needed = len(request.prompt_ids) + room
    if needed > max_positions:
        shorter = (
            "num_fewshot" if request.kind == "loglikelihood" else "num_fewshot or max_gen_toks"
        )
        raise ItemError(
            request.item,
            f"prompt of {len(request.prompt_ids)} tokens + {what} {room} = {needed}, but the model "
            f"holds {max_positions} positions; take a model that holds more, or lower {shorter}",
        )


class AnswerText:
    """Truncates answers at the first `until` string of a task.

    An `until` that is one special token (such as the stop token's text) is compared by id, since
    special tokens do not show in the text; any other is searched in the text.
    """

    def __init__(self, tokenizer: Any, until: Sequence[str] | str | None) -> None:
        stops = [until] if isinstance(until, str) else list(until or ())
        special = special_tokens(tokenizer)
        self._tokenizer = tokenizer
        self._stop_ids = {special[text] for text in stops if text in special}
        self._stop_texts = [text for text in stops if text and text not in special]
        # A token has at least one byte, so a stop text ends within this many tokens; a few more,
        # because the first of them may be the tail of a character.
        self._reach = 4 + max((len(text.encode()) for text in self._stop_texts), default=0)

    def stop_when(self) -> Callable[[Sequence[int]], bool] | None:
        """The test that ends decoding early; None when only the model's stop token can.

        It is called after each token, so it looks at the end of the answer only.
        """
        if not self._stop_texts and not self._stop_ids:
            return None

        def ended(token_ids: Sequence[int]) -> bool:
            if token_ids and token_ids[-1] in self._stop_ids:
                return True
            if not self._stop_texts:
                return False
            text = self._decode(token_ids[-self._reach :])
            return any(stop in text for stop in self._stop_texts)

        return ended

    def text(self, token_ids: Sequence[int], *, finish_reason: str | None = None) -> str:
        """The answer without special tokens, up to and without the first `until`.

        finish_reason: of the generation; "stop" ends it with a stop token of the model, which is no
            part of the answer, and not every tokenizer marks each as special.
        """
        ids = list(token_ids[:-1] if finish_reason == "stop" else token_ids)
        end = next((i for i, token in enumerate(ids) if token in self._stop_ids), len(ids))
        text = self._decode(ids[:end])
        ends = [at for stop in self._stop_texts if (at := text.find(stop)) >= 0]
        return text[: min(ends)] if ends else text

    def _decode(self, token_ids: Sequence[int]) -> str:
        return self._tokenizer.decode(
            list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
