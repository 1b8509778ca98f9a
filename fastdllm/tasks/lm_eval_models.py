"""The two language models that lm-eval sees: one collects requests, one replays answers.

Neither holds weights. Both render prompts with the same tokenizer and chat template, so scoring
finds exactly the requests that were planned; a prompt that changed in between
is a missing answer, never a wrong score.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lm_eval.api.model import LM

from fastdllm.common.errors import UserError
from fastdllm.model.tokenizer import conversation_text
from fastdllm.tasks.plan import request_id

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance


# A text, so that planning finds what scoring lacks: many metrics do nothing with an empty one.
DUMMY = "The answer is 1."
# The kind of tasks that no model here can answer.
ROLLING = "loglikelihood_rolling"


class PromptLM(LM):
    """Base of both: the chat template and the identity of a request."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__()
        self._template_source = tokenizer

    @property
    def tokenizer_name(self) -> str:
        return str(self._template_source.name_or_path).replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str:
        """The template's text, which lm-eval records.

        Raises:
            UserError: a template was asked for by name, and not the one that is used.
        """
        if isinstance(chat_template, str) and chat_template.lower() not in ("true", "default"):
            raise UserError(
                f"--apply_chat_template {chat_template}: lm-eval takes this for the name of a "
                "template, and only the default one is used; give the option without a value, or "
                "leave it out for prompts without a template"
            )
        return (self._template_source.chat_template or "") if chat_template else ""

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Render a conversation; an unfinished assistant turn stays open.

        Tasks that begin the answer themselves (gen_prefix) ask for no generation prompt; without
        continue_final_message the template would close their unfinished turn.
        """
        return conversation_text(
            self._template_source, chat_history, ends_open=not add_generation_prompt
        )

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        raise no_rolling(requests[0].task_name)


class Collect(PromptLM):
    """Records every request and answers with dummies."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__(tokenizer)
        self.collected: list[tuple[str, Instance]] = []

    def generate_until(self, requests: list[Instance]) -> list[str]:
        self.collected += zip(request_ids(requests), requests, strict=True)
        return [DUMMY] * len(requests)

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        self.collected += zip(request_ids(requests), requests, strict=True)
        return [(0.0, False)] * len(requests)


class Replay(PromptLM):
    """Answers from a store: `texts` for generation, `likelihoods` as (logprob, is_greedy)."""

    def __init__(
        self,
        tokenizer: Any,
        *,
        texts: Mapping[str, str],
        likelihoods: Mapping[str, tuple[float, bool]],
    ) -> None:
        super().__init__(tokenizer)
        self._texts, self._likelihoods = texts, likelihoods
        self._asked: set[str] = set()

    @property
    def unused(self) -> int:
        """How many stored answers were never requested."""
        return len((self._texts.keys() | self._likelihoods.keys()) - self._asked)

    def generate_until(self, requests: list[Instance]) -> list[str]:
        return self._look_up(requests, self._texts)

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        return self._look_up(requests, self._likelihoods)

    def _look_up(self, requests: list[Instance], answers: Mapping[str, Any]) -> list[Any]:
        results = []
        for key, request in zip(request_ids(requests), requests, strict=True):
            if key not in answers:
                raise UserError(
                    f"task {request.task_name!r}, item {request.doc_id}: no answer to this prompt; "
                    "the task gives other prompts than when it was planned; plan it again"
                )
            self._asked.add(key)
            results.append(answers[key])
        return results


def no_rolling(task_name: str | None) -> UserError:
    """Build the error for a task that asks for the perplexity of texts."""
    return UserError(
        f"task {task_name!r}: {ROLLING} (perplexity of a text) has no meaning for "
        "block diffusion; allowed: generate_until, multiple_choice, loglikelihood"
    )


def request_ids(requests: Sequence[Instance]) -> list[str]:
    """Return the identities of lm-eval requests in order; each repetition of one has its own.

    lm-eval lists a request with `repeats: n` n times in a row as the same object.
    """
    seen: Counter[int] = Counter()
    keys = []
    for request in requests:
        keys.append(request_id(request.request_type, request.args, seen[id(request)]))
        seen[id(request)] += 1
    return keys
