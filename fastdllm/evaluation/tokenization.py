"""Between token ids and text: where an answer ends, how long it may get.

`until`, `max_gen_toks`, `temperature` and `do_sample` are lm-eval's names for what a task asks of a
generation; here they become what the decoder understands. Imports no transformers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastdllm.errors import UserError
from fastdllm.evaluation.requests import PlannedRequest


def tokenizer_digest(tokenizer: Any) -> str:
    """Digest of what turns text into ids and conversations into text."""
    digest = hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode())
    digest.update((tokenizer.chat_template or "").encode())
    return digest.hexdigest()


def answer_budget(gen_kwargs: Mapping[str, Any], max_new_tokens: int) -> int:
    """Most tokens of an answer: the task's `max_gen_toks`, else the setting."""
    return int(gen_kwargs.get("max_gen_toks", max_new_tokens))


def sampling_temperature(gen_kwargs: Mapping[str, Any], temperature: float) -> float:
    """The temperature of an answer: the task's wish, else the setting `temperature`.

    `do_sample: false` is greedy whatever the temperature; `do_sample: true` without a temperature
    samples with the setting, or at 1.0 where the setting is greedy.
    """
    if gen_kwargs.get("do_sample") is False:
        return 0.0
    if "temperature" in gen_kwargs:
        return float(gen_kwargs["temperature"])
    if gen_kwargs.get("do_sample"):
        return temperature or 1.0
    return temperature


def check_length(
    request: PlannedRequest, *, max_positions: int, max_new_tokens: int, block_size: int
) -> None:
    """Refuse a request that does not fit; a prompt is never cut in silence.

    `max_new_tokens` counts where the request itself names no `max_gen_toks`; a log-likelihood
    request needs room for its target and one block.

    Raises:
        UserError: naming the item and the numbers.
    """
    if request.kind == "loglikelihood":
        room, what = len(request.target_ids) + block_size, "target and block"
    else:
        room = answer_budget(request.gen_kwargs, max_new_tokens)
        what = "max_gen_toks" if "max_gen_toks" in request.gen_kwargs else "max_new_tokens"
    needed = len(request.prompt_ids) + room
    if needed > max_positions:
        raise UserError(
            f"item {request.item}: prompt of {len(request.prompt_ids)} tokens + {what} {room} = "
            f"{needed}, but the model holds {max_positions}; shorten it, or lower num_fewshot"
        )


class AnswerText:
    """Cuts answers at the first `until` string of a task.

    An `until` that is one special token (such as the stop token's text) is compared by id, since
    special tokens do not show in the text; any other is searched in the text.
    """

    def __init__(self, tokenizer: Any, until: Sequence[str] | str | None) -> None:
        wanted = [until] if isinstance(until, str) else list(until or ())
        special = special_tokens(tokenizer)
        self._tokenizer = tokenizer
        self._stop_ids = {special[text] for text in wanted if text in special}
        self._stop_texts = [text for text in wanted if text and text not in special]
        # A token has at least one byte, so a stop text ends within this many tokens; a few more,
        # because the first of them may be the tail of a character.
        self._reach = 4 + max((len(text.encode()) for text in self._stop_texts), default=0)

    def stop_when(self) -> Callable[[Sequence[int]], bool] | None:
        """The test that ends decoding early; None when only the model's stop token can.

        It is asked after each token, so it looks at the end of the answer only.
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

    def text(self, token_ids: Sequence[int]) -> str:
        """The answer without special tokens, up to and without the first `until`."""
        ids = list(token_ids)
        cut = next((i for i, token in enumerate(ids) if token in self._stop_ids), len(ids))
        text = self._decode(ids[:cut])
        ends = [at for stop in self._stop_texts if (at := text.find(stop)) >= 0]
        return text[: min(ends)] if ends else text

    def _decode(self, token_ids: Sequence[int]) -> str:
        return self._tokenizer.decode(
            list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )


def special_tokens(tokenizer: Any) -> dict[str, int]:
    """Text to id of the tokenizer's special tokens."""
    known = set(tokenizer.all_special_ids)
    return {
        str(token): token_id
        for token_id, token in tokenizer.added_tokens_decoder.items()
        if token.special or token_id in known
    }
